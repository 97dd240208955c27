"""Batches of chips in the order of the chip table in, their pixels out; every scene is read once, from top to bottom.

Chips of a grid overlap: by half, every pixel lies in four of them. A rolling strip of rows is read once and
resampled across once for each column of chips; a chip is then resampled along its rows from what the strip holds. As
the kernel itself works across first and along the rows after, in whole grey levels, the bytes are those of the
reference read of each window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dlslicer_geo.data.chips import ChipDataset
from dlslicer_geo.data.images import resize
from dlslicer_geo.data.scenes import SceneReader

STRIP_BYTES = 256 << 20
"""Largest strip that is held; chips of wider scenes are read window by window."""

READ_BYTES = 64 << 20
"""Pixels that are read at a time, as gathered for the columns of chips."""

CACHED_BYTES = 1 << 20
"""Pixels that are resampled across at a time, from the processor's cache."""

Integers = NDArray[np.int64]


class OnePass(Dataset[dict[str, Tensor]]):
    """Batches of chips, each read once, as a dataset whose item i is batch i.

    Neighbouring batches of a scene share rows, which one process holds and several read each for itself.

    Args:
        dataset: the chips.
        batches: (B,) positions in the chip table for each batch. What lies in the order of the table is read by
            strips, what does not, or covers little of its scene, window by window: the pixels are the same.
    """

    def __init__(self, dataset: ChipDataset, batches: Sequence[Integers]) -> None:
        self.dataset, self.batches = dataset, batches
        wanted = np.concatenate([*batches, np.zeros(0, np.int64)])
        self._wanted = wanted[np.argsort(dataset.scene_of[wanted], kind="stable")]
        self._begins = np.searchsorted(dataset.scene_of[self._wanted], np.arange(len(dataset.records) + 1))
        self._strip: tuple[int, Strip | None] = (-1, None)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.batch(np.asarray(self.batches[index], np.int64))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the strip behind: every worker reads its own."""
        return self.__dict__ | {"_strip": (-1, None)}

    def batch(self, indices: Integers) -> dict[str, Tensor]:
        """These chips as one batch, as ``ChipDataset.batch`` gives it."""
        images = self.dataset.blank(indices)
        scenes = self.dataset.scene_of[indices]
        missing = np.arange(len(indices))
        if self.dataset.shelf is not None:
            missing = self.dataset.shelf.fill(images, indices)
        for run in np.split(missing, np.flatnonzero(np.diff(scenes[missing])) + 1):
            if len(run):
                self._fill(images, indices, run)
        return self.dataset.labelled(images, indices)

    def _fill(self, images: NDArray[np.uint8], indices: Integers, run: Integers) -> None:
        """The chips at ``run``, which are of one scene."""
        windows = self.dataset.windows[indices[run]]
        strip = self._strip_of(int(self.dataset.scene_of[indices[run[0]]]), images.shape[1])
        if strip is None or (np.diff(windows[:, 0]) < 0).any():
            part = np.empty((len(run), *images.shape[1:]), np.uint8)
            self.dataset.fill(part, indices[run])
            images[run] = part
            return
        with self.dataset.reading(self._strip[0]) as reader:
            for level in np.split(np.arange(len(run)), np.flatnonzero(np.diff(windows[:, 0])) + 1):
                images[run[level]] = strip.take(reader, windows[level])

    def _strip_of(self, number: int, size: int) -> Strip | None:
        """The strip of a scene; None where its chips are read sooner by window."""
        if self._strip[0] != number:
            own = self.dataset.windows[self._wanted[self._begins[number] : self._begins[number + 1]]]
            self._strip = (number, Strip(own, size) if _worth_a_strip(own, size) else None)
        return self._strip[1]


class Strip:
    """Rows of a scene, resampled across for every column of chips.

    Args:
        windows: (n, 4) row, col, height and width of the chips that will be asked for, all of one height and width.
        size: edge of a chip.
    """

    def __init__(self, windows: Integers, size: int) -> None:
        self.size, self.height, self.width = size, int(windows[0, 2]), int(windows[0, 3])
        self.columns = np.unique(windows[:, 1])
        self.top = self.bottom = 0
        self.rows = np.empty((len(self.columns), 0, size, 3), np.uint8)

    def take(self, reader: SceneReader, windows: Integers) -> NDArray[np.uint8]:
        """The chips (k, size, size, 3) of windows that begin at one row.

        Args:
            reader: of the scene.
            windows: (k, 4) as the strip was told, no higher up than those before without reading anew.
        """
        row = int(windows[0, 0])
        self._roll(reader, row, row + self.height)
        at = np.searchsorted(self.columns, windows[:, 1])
        return _resized(self.rows[at, row - self.top : row - self.top + self.height], (self.size, self.size))

    def _roll(self, reader: SceneReader, top: int, bottom: int) -> None:
        """Hold the rows from ``top`` to ``bottom``, of which those are kept that are there."""
        if not self.top <= top < self.bottom:
            self.top = self.bottom = top
            self.rows = self.rows[:, :0]
        kept = self.rows[:, top - self.top :] if self.rows.shape[1] else self.rows
        missing = [self._across(reader, *rows) for rows in self._portions(max(self.bottom, top), bottom, READ_BYTES)]
        self.rows = np.concatenate([kept, *missing], axis=1) if missing else kept
        self.top, self.bottom = top, max(bottom, self.bottom)

    def _portions(self, first: int, last: int, most_bytes: int) -> list[tuple[int, int]]:
        """First row and number of rows of what is done at a time, of bytes gathered for all columns of chips."""
        across = max(len(self.columns) * self.width, int(np.ptp(self.columns)) + self.width)
        most = max(1, most_bytes // (across * 3))
        return [(row, min(most, last - row)) for row in range(first, last, most)]

    def _across(self, reader: SceneReader, first: int, count: int) -> NDArray[np.uint8]:
        """Rows read and resampled across: (columns of chips, count, size, 3)."""
        left, right = int(self.columns[0]), int(self.columns[-1]) + self.width
        native = reader.native(first, left, count, right - left)
        across = np.empty((len(self.columns), count, self.size, 3), np.uint8)
        for row, some in self._portions(0, count, CACHED_BYTES):
            gathered = np.empty((len(self.columns), some, self.width, 3), np.uint8)
            for one, col in zip(gathered, self.columns.tolist(), strict=True):
                one[:] = native[row : row + some, col - left : col - left + self.width]
            across[:, row : row + some] = _resized(gathered, (some, self.size))
        return across


def _resized(images: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    resampled = resize(torch.from_numpy(images).permute(0, 3, 1, 2), shape)
    return np.asarray(resampled.permute(0, 2, 3, 1).numpy(), np.uint8)


def _worth_a_strip(windows: Integers, size: int) -> bool:
    """Whether a strip through these (n, 4) chips touches no more pixels than their windows, and may be held."""
    if len(windows) < 2 or len(np.unique(windows[:, 2:], axis=0)) > 1:
        return False
    height, width = windows[0, 2:].tolist()
    rows, columns = np.unique(windows[:, 0]), len(np.unique(windows[:, 1]))
    across = max(columns * width, int(np.ptp(windows[:, 1])) + width)  # columns between chips are read as well
    touched = across * (height + np.minimum(np.diff(rows), height).sum())
    return bool(touched <= len(windows) * height * width and columns * height * size * 3 <= STRIP_BYTES)
