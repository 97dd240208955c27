"""A model, its data and chip numbers in; the rows of these chips and what the network sees of them out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.types import Progress

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

CHIPS_AT_ONCE = 16
"""Images in one sweep on a CPU, whose caches more would leave: they take longer each."""

MOST_AT_ONCE = 256
"""Images in one sweep on an accelerator at most; more are not faster."""

ACTIVATIONS = 61 * 2**20
"""Bytes that a ResNet-50 keeps of each image of 224 px until relevance has gone through."""


class Classifier(Protocol):
    """What is needed of a model: the timm network, the city of each output, and how chips become its input."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...

    @property
    def cities(self) -> Sequence[str]:
        """City codes in the order of the outputs."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...

    def prepare(self, images: Tensor) -> Tensor:
        """Chips (B, 3, H, W) uint8 as the network wants them."""
        ...


class Loader(Protocol):
    """Batches with ``image`` uint8 (B, 3, H, W) and ``chip_id`` int64 (B,)."""

    def __iter__(self) -> Iterator[Any]:
        """Batch by batch."""
        ...

    def __len__(self) -> int:
        """Number of batches."""
        ...


class Chips(Protocol):
    """What is needed of the data: both tables, and a loader of chips by number."""

    @property
    def scenes(self) -> GeoDataFrame:
        """The scene table."""
        ...

    @property
    def chips(self) -> GeoDataFrame:
        """The chip table."""
        ...

    def loader(self, chip_ids: NDArray[np.int64], *, batches: Sequence[NDArray[np.int64]] | None = None) -> Loader:
        """The chips in this order, and in these batches where they are given."""
        ...


def chip_rows(table: pd.DataFrame, chips: NDArray[np.int64]) -> pd.DataFrame:
    """The rows of the asked chips, in the asked order, of a table with the chip id as index."""
    unknown = chips[table.index.get_indexer(pd.Index(chips)) < 0]
    if not len(chips) or len(unknown):
        first = f"chip {unknown[0]} is not" if len(unknown) else "none was asked for"
        raise RelevanceError(
            f"of {len(chips)} chips {len(unknown)} are unknown ({first}): take ids of the chip table"
        )
    if len(np.unique(chips)) < len(chips):
        raise RelevanceError(f"{len(chips) - len(np.unique(chips))} chips are asked for twice: name each once")
    return table.loc[chips]


def inputs(
    model: Classifier, data: Chips, rows: pd.DataFrame, progress: Progress, label: str
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Positions in the rows and network input, few chips at a time."""
    for _, chips, x in sweeps(model, data, [rows.index.to_numpy(np.int64)], progress, label):
        yield rows.index.get_indexer(pd.Index(chips)), x


def sweeps(
    model: Classifier, data: Chips, groups: Sequence[NDArray[np.int64]], progress: Progress, label: str
) -> Iterator[tuple[int, NDArray[np.int64], Tensor]]:
    """Number of the group, chip ids and network input, few chips at a time and never of two groups.

    All groups are read by one loader, so that its processes read the next ones meanwhile.
    """
    size = chips_at_once(model.device)
    numbered = [(number, ids) for number, group in enumerate(groups) for ids in _cut(group, size)]
    if not numbered:
        return
    loader = data.loader(np.concatenate(groups), batches=[ids for _, ids in numbered])
    batches = progress(loader, total=len(numbered), label=label)
    for (number, ids), batch in zip(numbered, batches, strict=True):
        with torch.no_grad():
            x = model.prepare(batch["image"].to(model.device, non_blocking=True))
        yield number, ids, x


def chips_at_once(device: torch.device) -> int:
    """Images in one sweep: a power of two whose activations fill a quarter of the accelerator's memory at most.

    The quarter leaves room for larger images than 224 px and for whoever else uses the device. The memory there is
    decides, and not what is free of it, because the last bits of relevance depend on the batch.
    """
    if device.type == "cpu":
        return CHIPS_AT_ONCE
    tells = getattr(torch.get_device_module(device), "mem_get_info", None)
    memory = tells(device)[1] if tells is not None else 0
    fits = memory // (4 * ACTIVATIONS)
    return min(max(1 << fits.bit_length() >> 1, CHIPS_AT_ONCE), MOST_AT_ONCE)


def _cut(ids: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return np.split(ids, range(size, len(ids), size))


def weights_sha256(net: nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, values in net.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
