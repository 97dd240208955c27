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
"""Images in one sweep: a ResNet-50 keeps 61 MiB of activations for each at 224 px, so batches are cut smaller."""


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

    def loader(self, chip_ids: NDArray[np.int64]) -> Loader:
        """The chips in the order of their numbers."""
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
    loader = data.loader(rows.index.to_numpy(np.int64))
    for batch in progress(loader, total=len(loader), label=label):
        parts = zip(batch["chip_id"].split(CHIPS_AT_ONCE), batch["image"].split(CHIPS_AT_ONCE), strict=True)
        for ids, images in parts:
            with torch.no_grad():
                x = model.prepare(images.to(model.device))
            yield rows.index.get_indexer(pd.Index(ids.cpu().numpy())), x


def weights_sha256(net: nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, values in net.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
