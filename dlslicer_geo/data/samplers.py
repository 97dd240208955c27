"""Labels and scenes of chips in, the order they are read in out; seeded, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from torchgeo.samplers import GeoSampler

from dlslicer_geo.types import Scene

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Integers = NDArray[np.int64]


class ChipSampler(GeoSampler):
    """The chips of one scene as ``GeoSlice``, for a plain TorchGeo ``DataLoader``.

    TorchGeo's own grid samplers round up and read beyond the region; these slices are the chip table's windows.

    Args:
        scene: the scene.
        chips: chip table; rows of other scenes are left out.
        shuffle: draw in random order, another one each time round.
        seed: seeds the order, so that every rank draws the same.
    """

    def __init__(self, scene: Scene, chips: GeoDataFrame, *, shuffle: bool = False, seed: int = 0) -> None:
        own = chips[chips["scene_id"] == scene.scene_id]
        self.windows = own[["row", "col", "height", "width"]].to_numpy(np.int64)
        self.grid = scene.grid
        self.shuffle = shuffle
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Any]:
        count = len(self.windows)
        order = torch.randperm(count, generator=self.generator) if self.shuffle else torch.arange(count)
        for i in order.tolist():
            row, col, height, width = (int(v) for v in self.windows[i])
            box = self.grid[row : row + height, col : col + width].boundingbox
            yield slice(box.left, box.right), slice(box.bottom, box.top)


class ShuffledSampler(Sampler[int]):
    """Every chip once an epoch, in random order.

    Args:
        labels: (n,) city index of every chip.
        seed: with the epoch, seeds the order: the same on every rank and after a resume.
        scenes: (n,) number of the scene of every chip; needed with ``local``.
        local: draws within which each city is read from few scenes, as :func:`lay_locally` orders them; 0 reads any
            scene at any time.
    """

    def __init__(self, labels: Integers, *, seed: int = 0, scenes: Integers | None = None, local: int = 0) -> None:
        self.labels, self.scenes, self.local = labels, scenes, local
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        drawn = self.draw(torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        if self.local and self.scenes is not None:
            random = np.random.default_rng([self.seed, self.epoch])
            drawn = drawn[lay_locally(self.labels[drawn], self.scenes[drawn], self.local, random)]
        yield from drawn.tolist()

    def draw(self, generator: torch.Generator) -> Integers:
        """What an epoch reads: (n,) positions."""
        return np.asarray(torch.randperm(len(self), generator=generator).numpy(), np.int64)


class BalancedSampler(ShuffledSampler):
    """Draw a city uniformly, then one of its chips, with replacement; one epoch has as many draws as chips.

    Args:
        labels: (n,) city index of every chip.
        seed: with the epoch, seeds the draw: the same on every rank and after a resume.
        scenes: (n,) number of the scene of every chip; needed with ``local``.
        local: draws within which each city is read from few scenes: the same draws in another order.
    """

    def __init__(self, labels: Integers, *, seed: int = 0, scenes: Integers | None = None, local: int = 0) -> None:
        super().__init__(labels, seed=seed, scenes=scenes, local=local)
        self.weights = torch.from_numpy(1.0 / np.bincount(labels)[labels])

    def draw(self, generator: torch.Generator) -> Integers:
        """What an epoch reads: (n,) positions, some of them more than once."""
        drawn = torch.multinomial(self.weights, len(self), replacement=True, generator=generator)
        return np.asarray(drawn.numpy(), np.int64)


def lay_locally(labels: Integers, scenes: Integers, local: int, random: np.random.Generator) -> Integers:
    """Order draws so that few scenes are read at a time while every city keeps its share all along.

    The scenes of each city follow each other in random order, the cities are merged evenly, and the result is
    shuffled within windows of ``local`` draws, so that a batch has no order left.

    Args:
        labels: (n,) city index of every draw.
        scenes: (n,) scene of every draw.
        local: draws in a window.
        random: what decides.

    Returns:
        (n,) an order of the draws.
    """
    scene = np.unique(scenes, return_inverse=True)[1]
    city = np.unique(labels, return_inverse=True)[1]
    turn = random.permutation(scene.max(initial=0) + 1)[scene]
    by_city = np.lexsort((turn, city))
    counts = np.bincount(city)
    begins = np.cumsum(counts) - counts
    within = np.arange(len(city)) - begins[city[by_city]]  # how many of its city come before it
    due = (within + random.random(len(counts))[city[by_city]]) / counts[city[by_city]]
    even = by_city[np.argsort(due, kind="stable")]
    window = np.arange(len(even)) // local
    return np.asarray(even[np.lexsort((random.random(len(even)), window))], np.int64)
