"""Strips of pixels in, large white or black areas that no mask declares out.

Mosaics are filled up with white or black where there was no picture, and often nothing in the file says so. Such an
area is found as a connected group of cells that are white (or black) throughout, together with the white (or black)
pixels of the cells around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage

LEAST_PX = 4096
"""Pixels of the smallest area that counts as a hole; saturated roofs and shadows are smaller."""

CELLS = 2048
"""Valid areas and holes are drawn on at most this many cells a side."""

STRIP_VALUES = 1 << 22  # pixel values in memory at once
STRIP_ROWS = 256  # strips start at multiples of this, so that tiles are read once and cells are not cut
STRIP_COLS = 1 << 14
_AROUND = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """Areas that were found.

    Args:
        cell: edge of a cell in pixels.
        cells: (2, rows, columns) bool: cells with pixels of white holes, and of black ones.
        limits: smallest white and largest black value.
        pixels: number of pixels in all holes.
    """

    cell: int
    cells: NDArray[np.bool_]
    limits: tuple[float, float]
    pixels: int

    def mask(self, pixels: NDArray[Any], window: Window) -> NDArray[np.bool_]:
        """(rows, columns) where a window lies in a hole, from its colours (bands, rows, columns)."""
        rows = (np.arange(pixels.shape[1]) + int(window.row_off)) // self.cell
        cols = (np.arange(pixels.shape[2]) + int(window.col_off)) // self.cell
        found = np.zeros(pixels.shape[1:], bool)
        for cells, constant in zip(self.cells, _constant(pixels, self.limits), strict=True):
            near = cells[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            if near.any():
                found |= near[np.ix_(rows - rows[0], cols - cols[0])] & constant
        return found


class Search:
    """Looks for holes while the strips of an image go by.

    Args:
        shape: rows and columns of the image.
        dtype: pixel type.
        bits: bits in use of an integer type, as some files declare.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], bits: int | None = None) -> None:
        self.shape, self.cell = shape, cell_of(shape)
        self.limits = _limits(dtype, bits)
        self.count = np.zeros((2, *(-(-side // self.cell) for side in shape)), np.int32)

    def add(self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None, window: Window) -> None:
        """Count the white and the black pixels of a strip; its window starts at whole cells.

        Args:
            pixels: (bands, rows, columns).
            valid: (rows, columns), None where everything is.
            window: of the strip.
        """
        if self.limits is None:
            return
        row, col = int(window.row_off) // self.cell, int(window.col_off) // self.cell
        for count, constant in zip(self.count, _constant(pixels, self.limits), strict=True):
            inside = constant if valid is None else constant & valid
            if inside.any():
                cells = per_cell(inside, self.cell)
                count[row : row + cells.shape[0], col : col + cells.shape[1]] = cells

    def found(self) -> Holes | None:
        """The holes, once all strips went by; None where there are none."""
        if self.limits is None or self.count.sum(axis=(1, 2)).max() < LEAST_PX:
            return None
        cells = np.stack([_large(count, self.cell, self.shape) for count in self.count])
        pixels = int(self.count[cells].sum())
        return Holes(cell=self.cell, cells=cells, limits=self.limits, pixels=pixels) if pixels else None


def cell_of(shape: tuple[int, int]) -> int:
    """Edge in pixels, a power of two, of cells of which an image has at most ``CELLS`` a side."""
    return 1 << max(0, math.ceil(math.log2(max(shape) / CELLS)))


def per_cell(marked: NDArray[np.bool_], cell: int) -> NDArray[np.int64]:
    """Number of marked pixels in each cell of a strip that starts at a whole cell."""
    if cell == 1:
        return marked.astype(np.int64)
    down, across = (np.arange(0, length, cell) for length in marked.shape)
    return np.add.reduceat(np.add.reduceat(marked, down, axis=0, dtype=np.int64), across, axis=1)


def strips(shape: tuple[int, int], bands: int, unit: int = STRIP_ROWS) -> Iterator[Window]:
    """Windows of bounded size, at multiples of ``unit`` rows and of ``STRIP_COLS`` columns, that cover an image."""
    height, width = shape
    across = max(unit, STRIP_COLS // unit * unit)
    rows = max(1, STRIP_VALUES // (min(width, across) * bands * unit)) * unit
    for row in range(0, height, rows):
        for col in range(0, width, across):
            yield Window(col, row, min(across, width - col), min(rows, height - row))


def _limits(dtype: np.dtype[Any], bits: int | None) -> tuple[float, float] | None:
    """Smallest white and largest black value of a type; None for types so narrow that areas are constant anyway."""
    if dtype.kind == "f":
        return math.inf, 0.0
    white = float(np.iinfo(dtype).max if bits is None else (1 << bits) - 1)
    if white < 128 and dtype.kind != "i":
        return None
    return (white - 1, 1.0) if dtype == np.uint8 and bits is None else (white, 0.0)


def _constant(pixels: NDArray[Any], limits: tuple[float, float]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(rows, columns) where all bands are white, and where all are black."""
    light, dark = limits
    nothing = np.zeros(pixels.shape[1:], bool)
    white = nothing if light == math.inf else _all(band >= pixels.dtype.type(light) for band in pixels)
    if pixels.dtype == np.uint8:
        return white, _all(band <= np.uint8(dark) for band in pixels)
    return white, _all(band == 0 for band in pixels)


def _all(bands: Iterator[NDArray[np.bool_]] | Any) -> NDArray[np.bool_]:
    first = next(bands)
    for band in bands:
        first &= band
    return np.asarray(first)


def _large(count: NDArray[np.int32], cell: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells of the areas that hold at least ``LEAST_PX`` constant pixels, given how many each cell holds."""
    down, across = (np.minimum(cell, side - np.arange(0, side, cell)) for side in shape)
    labels, number = ndimage.label((count > 0) & (count == np.outer(down, across)))
    if not number:
        return np.zeros(count.shape, bool)
    around = ndimage.maximum_filter(labels, footprint=_AROUND)  # the cells cut by an edge belong to it
    labels = np.where((labels == 0) & (count > 0), around, labels)
    large = np.bincount(labels.ravel(), weights=count.ravel()) >= LEAST_PX
    large[0] = False
    return np.asarray(large[labels])
