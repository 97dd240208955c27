"""Scene table and chip table in, a Lightning data module with loaders for training and for one pass out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dlslicer_geo.data.chips import ChipDataset
from dlslicer_geo.data.images import flip
from dlslicer_geo.data.samplers import BalancedSampler, ShuffledSampler
from dlslicer_geo.data.strips import OnePass
from dlslicer_geo.errors import SplitError
from dlslicer_geo.types import SPLITS

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

PREFETCHED = 4
"""Batches that every reading process has ready."""

T = TypeVar("T")

Integers = NDArray[np.int64]


class ChipDataModule(LightningDataModule):
    """Chips of train, val and test for Lightning; batches stay uint8 until they are on the device.

    Args:
        scenes: scene table.
        chips: chip table with a ``split`` column and dense ``chip_id`` (chip_id i is row i).
        cities: codes in label order; None takes the codes of the scene table, sorted.
        batch_size: chips per batch.
        workers: processes that read chips.
        balanced: draw training chips with equal chance for every city.
        seed: seeds order and draws.
        store: folder with chips as they are read; those that are not in it are read from their scenes.
        local: without a store, draws within which each city is read from few scenes; 0 reads any scene any time.

    Raises:
        SplitError: on ``fit`` when train or val is empty.
    """

    def __init__(
        self,
        scenes: GeoDataFrame,
        chips: GeoDataFrame,
        *,
        cities: Sequence[str] | None = None,
        batch_size: int = 32,
        workers: int = 0,
        balanced: bool = True,
        seed: int = 0,
        store: str | Path | None = None,
        local: int = 0,
    ) -> None:
        super().__init__()
        self.scenes, self.chips = scenes, chips
        self.cities: tuple[str, ...] = tuple(cities or sorted({str(c) for c in scenes["city"].dropna()}))
        self.batch_size, self.workers, self.balanced, self.seed = batch_size, workers, balanced, seed
        self.local = local
        self.dataset = ChipDataset(scenes, chips, self.cities, store=store)

    def chip_ids(self, split: str) -> Integers:
        """Sorted (n,) int64 ids of the chips of a split, or of all of them for ``all``.

        Raises:
            SplitError: if there is none.
        """
        if split != "all" and split not in SPLITS:
            raise SplitError(f"there is no split {split!r}: take one of {', '.join((*SPLITS, 'all'))}")
        keep = np.ones(len(self.chips), bool) if split == "all" else (self.chips["split"] == split).to_numpy()
        if not keep.any():
            raise SplitError(f"no chip is in the split {split!r}: run the split again with another rule or fractions")
        return np.flatnonzero(keep).astype(np.int64)

    def labels(self, chip_ids: Integers) -> Integers:
        """(n,) int64 index into ``cities``, -1 where the city is unknown."""
        return np.asarray(self.dataset.labels[chip_ids], np.int64)

    def loader(
        self, chip_ids: Integers, *, sampler: Sampler[int] | None = None, batches: Sequence[Integers] | None = None
    ) -> DataLoader[Any]:
        """Batches of chips, as ``ChipDataset.batch`` gives them.

        Without a sampler every scene is read once, from top to bottom, as far as its chips come in the order of the
        chip table.

        Args:
            chip_ids: (n,) int64, read in this order or in the sampler's.
            sampler: yields positions in ``chip_ids``; chips are then read one by one.
            batches: chip ids of each batch, in this order, instead of ``batch_size`` of ``chip_ids`` at a time.
        """
        options: dict[str, Any] = {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "prefetch_factor": PREFETCHED if self.workers else None,
            "pin_memory": torch.accelerator.is_available(),
            "collate_fn": _as_it_is,
        }
        if sampler is not None:
            chips = _Positions(self.dataset, chip_ids)
            return DataLoader(chips, batch_size=self.batch_size, sampler=sampler, **options)
        if batches is None:
            batches = np.split(chip_ids, np.arange(self.batch_size, len(chip_ids), self.batch_size))
        return DataLoader(OnePass(self.dataset, batches), batch_size=None, **options)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches, balanced over cities or shuffled; seeded either way."""
        ids = self.chip_ids("train")
        sampler = self.train_sampler(self.labels(ids), scenes=self.dataset.scene_of[ids])
        trainer = self.trainer
        if trainer is not None and trainer.world_size > 1:  # Lightning's own wrapping would shuffle, and undo local
            share = {"num_replicas": trainer.world_size, "rank": trainer.global_rank, "shuffle": False}
            return self.loader(ids, sampler=DistributedSamplerWrapper(sampler, **share))
        return self.loader(ids, sampler=sampler)

    def train_sampler(self, labels: Integers, *, scenes: Integers | None = None) -> Sampler[int]:
        """The order of training: positions in ``labels`` (n,); local where ``scenes`` (n,) are given."""
        kind = BalancedSampler if self.balanced else ShuffledSampler
        local = self.local if self.dataset.shelf is None else 0
        return kind(labels, seed=self.seed, scenes=scenes, local=local)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in chip order; of several processes each has its share, and no chip is seen twice."""
        ids, trainer = self.chip_ids("val"), self.trainer
        if trainer is not None and len(ids) >= trainer.world_size:
            ids = np.array_split(ids, trainer.world_size)[trainer.global_rank]
        return self.loader(ids)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in chip order."""
        return self.loader(self.chip_ids("test"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Flip training chips at random, on the device they are on."""
        if self.trainer is not None and self.trainer.training and batch["image"].ndim == 4:
            return batch | {"image": flip(batch["image"])}
        return batch


class _Positions(Dataset[dict[str, Tensor]]):
    """Some chips by their position, a batch at a time."""

    def __init__(self, dataset: ChipDataset, chip_ids: Integers) -> None:
        self.dataset, self.chip_ids = dataset, chip_ids

    def __len__(self) -> int:
        return len(self.chip_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.dataset[int(self.chip_ids[index])]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self.dataset.batch(self.chip_ids[np.asarray(indices, np.int64)])


def _as_it_is(batch: T) -> T:
    return batch
