"""Maps of overlapping chips in, one seamless lattice of raw relevance out. Pure: opens no file.

The lattice claims no detail that the network does not have: its cell is the stride divided into the cells of the
shallowest layer, and it is laid from pixel (0, 0) of the scene. Every chip's map is resampled bilinearly (its samples
standing where they look) at the cell centres inside its window, weighted by a half-sample Hann window and divided by
the sum of the weights, so that a lone chip and a ragged edge keep their values. Both steps are separable: two thin
matrices per row of chips, no loop over chips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """A grid of saliency cells over a scene.

    Args:
        cell: rows and columns of scene pixels in one cell.
        origin: first row and column of cells, counted from pixel (0, 0) of the scene.
        shape: number of rows and columns of cells.
        per_stride: cells in one stride, down and across.
    """

    cell: tuple[float, float]
    origin: tuple[int, int]
    shape: tuple[int, int]
    per_stride: tuple[int, int]

    @classmethod
    def over(cls, windows: Ints, stride: int, cells: tuple[int, int]) -> Lattice:
        """The lattice that covers the windows, snapped outwards.

        Args:
            windows: (n, 4) row, col, height, width in pixels, all of one size.
            stride: pixels to the next chip.
            cells: rows and columns of the finest map of one chip.
        """
        size = windows[0, 2:]
        per_stride = tuple(int(np.ceil(c * stride / s - 1e-9)) for c, s in zip(cells, size, strict=True))
        cell = np.array([stride / number for number in per_stride])
        first = np.floor(windows[:, :2].min(axis=0) / cell + 1e-9).astype(int)
        last = np.ceil((windows[:, :2] + windows[:, 2:]).max(axis=0) / cell - 1e-9).astype(int)
        return cls(
            cell=(float(cell[0]), float(cell[1])),
            origin=(int(first[0]), int(first[1])),
            shape=(int(last[0] - first[0]), int(last[1] - first[1])),
            per_stride=(per_stride[0], per_stride[1]),
        )

    def first_row(self, pixel: int) -> int:
        """Row of the first cell that a chip from this row of pixels on can reach."""
        return int(np.floor(pixel / self.cell[0] + 1e-9)) - self.origin[0]

    def transform(self, scene: Affine) -> Affine:
        """Cell to map coordinates, from the pixel to map transform of the scene."""
        rows, cols = self.cell
        return scene * Affine.scale(cols, rows) * Affine.translation(self.origin[1], self.origin[0])


def hann(position: Floats) -> Floats:
    """Weight sin²(πu) of the relative position u (0 to 1) in a window; two half-overlapping windows sum to 1."""
    return np.asarray(np.sin(np.pi * position) ** 2)


def blend(
    maps: NDArray[np.float32], windows: Ints, lattice: Lattice, *, shift: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lay the maps of chips on a lattice.

    Args:
        maps: (n, h, w) raw relevance.
        windows: (n, 4) row, col, height, width in scene pixels, all of one size.
        lattice: the cells to fill.
        shift: as of the maps' layer in :class:`~dlslicer_geo.types.Saliency`.

    Returns:
        float32 cells, NaN where there is no chip, and int64 number of chips that cover the cell, both of the
        lattice's shape.
    """
    strip = Strip(lattice, shifts=(shift,), edge=int(windows[0, 2]))
    rows: list[NDArray[np.float32]] = []
    for row in np.unique(windows[:, 0]):
        here = windows[:, 0] == row
        rows += strip.take(lattice.first_row(row))
        strip.add([maps[here]], windows[here])
    done = np.concatenate([*rows, *strip.take(lattice.shape[0])])
    return done[:, 0], done[:, 1].astype(np.int64)


class Strip:
    """The rows of a lattice that chips can still be added to: a buffer one chip high that moves down.

    Rows of chips are added from the top down; before each, the cells above it are taken, which no chip will reach
    any more. The result is that of :func:`blend` to the last bit, wherever the buffer starts.
    """

    def __init__(self, lattice: Lattice, *, shifts: Sequence[float], edge: int, first: int = 0) -> None:
        """Begin.

        Args:
            lattice: the cells to fill.
            shifts: for every band, as of its layer in :class:`~dlslicer_geo.types.Saliency`.
            edge: rows of a chip in scene pixels.
            first: row of the lattice that is the first unfinished one.
        """
        height, width = int(np.ceil(edge / lattice.cell[0])) + 1, lattice.shape[1]
        self.first = first
        self.lattice = lattice
        self._shifts, self._total = shifts, np.zeros((len(shifts), height, width))
        self._weight, self._count = np.zeros((height, width)), np.zeros((height, width), np.int64)

    def add(self, maps: Sequence[NDArray[np.float32]], windows: Ints) -> None:
        """Add chips that all begin in one row of pixels; what reaches above the buffer is finished and left out.

        Args:
            maps: for every band (n, h, w) raw relevance.
            windows: (n, 4) row, col, height, width in scene pixels.
        """
        down = _Axis.of(windows[:1, 0], int(windows[0, 2]), self.lattice, axis=0)
        across = _Axis.of(windows[:, 1], int(windows[0, 3]), self.lattice, axis=1)
        rows = slice(max(down.first, self.first), down.last)
        if rows.start >= rows.stop:
            return
        here = slice(rows.start - self.first, rows.stop - self.first)
        for total, values, shift in zip(self._total, maps, self._shifts, strict=True):
            left = down.matrix(values.shape[1], shift)[rows].toarray()
            tall = np.einsum("kh,chw->kcw", left, values.astype(np.float64), optimize=True)
            total[here] += (across.matrix(values.shape[2], shift) @ tall.reshape(len(left), -1).T).T
        self._weight[here] += np.outer(down.weights()[rows], across.weights())
        self._count[here] += np.outer(down.count()[rows], across.count())

    def take(self, until: int) -> Iterator[NDArray[np.float32]]:
        """Finish the rows of the lattice above ``until`` and move the buffer there.

        Yields:
            (rows, bands + 1, cols) float32, NaN where there is no chip, the number of chips over a cell as the last
            band; never more rows than the buffer has.
        """
        while self.first < until:
            rows = min(until - self.first, len(self._weight))
            with np.errstate(invalid="ignore"):  # 0/0 where there is no chip
                blended = self._total[:, :rows] / self._weight[:rows]
            yield np.concatenate([blended, self._count[None, :rows]], dtype=np.float32).transpose(1, 0, 2)
            for values in (*self._total, self._weight, self._count):
                values[:-rows] = values[rows:]
                values[-rows:] = 0
            self.first += rows


@dataclass(frozen=True, slots=True)
class _Axis:
    """Which cells of one axis lie in which windows: pairs of cell and chip with a position u in (0, 1)."""

    cell: Ints
    chip: Ints
    position: Floats
    cells: int
    chips: int

    @classmethod
    def of(cls, starts: Ints, size: int, lattice: Lattice, *, axis: int) -> _Axis:
        step, origin, cells = lattice.cell[axis], lattice.origin[axis], lattice.shape[axis]
        first = np.floor(starts / step).astype(np.int64) - origin
        reach = np.arange(int(np.ceil(size / step)) + 1)
        cell = (first[:, None] + reach).ravel()
        chip = np.repeat(np.arange(len(starts)), len(reach))
        position = ((cell + origin + 0.5) * step - starts[chip]) / size
        inside = (position >= 0) & (position < 1) & (cell >= 0) & (cell < cells)
        return cls(cell[inside], chip[inside], position[inside], cells, len(starts))

    @property
    def first(self) -> int:
        return int(self.cell.min())

    @property
    def last(self) -> int:
        return int(self.cell.max()) + 1

    def matrix(self, samples: int, shift: float) -> Any:
        """Sparse (cells, chips · samples): bilinear interpolation of every chip's samples, times its Hann weight."""
        at = np.clip((self.position - shift) * samples - 0.5, 0, samples - 1)
        low = np.minimum(at.astype(np.int64), max(samples - 2, 0))
        high = np.minimum(low + 1, samples - 1)
        weight, share = self._hann(), at - low
        rows = np.concatenate([self.cell, self.cell])
        cols = np.concatenate([low, high]) + np.tile(self.chip * samples, 2)
        values = np.concatenate([weight * (1 - share), weight * share])
        return sparse.csr_array((values, (rows, cols)), shape=(self.cells, self.chips * samples))

    def weights(self) -> Floats:
        return np.bincount(self.cell, self._hann(), self.cells).astype(np.float64)

    def count(self) -> Ints:
        return np.bincount(self.cell, minlength=self.cells).astype(np.int64)

    def _hann(self) -> Floats:
        # a centre exactly on the edge of a lone chip would weigh nothing and leave a hole
        return np.maximum(hann(self.position), 1e-12)
