"""Windows of a scene's chips in, where their pixels lie in a flat array out: overlapping chips share what is equal.

Chips of ``window`` pixels, resampled to ``size``, that begin a whole number of resampled pixels apart have the same
lattice, and where they overlap the same pixels: all but the outermost, for which the filter is cut off at the edge
of the window. Such chips lie in one *sheet* of their interiors, and the *rim* of each is kept beside it.
Half-overlapping chips take a quarter of the room that way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the chips of a scene lie.

    Args:
        at: (n, 2) int64: for each chip the first byte of its interior, and the bytes from one row of it to the next.
        size: edge of a chip.
        rim: width of the rim in pixels; the interior measures ``size - 2 * rim``.
        interiors: bytes of all interiors.
    """

    at: Integers
    size: int
    rim: int
    interiors: int

    @property
    def rims(self) -> tuple[int, int, int, int, int]:
        """Shape of the rims: chips; top, bottom, left and right; width, length, colours."""
        return len(self.at), 4, self.rim, self.size, 3

    @property
    def bytes(self) -> int:
        """Bytes of everything."""
        return self.interiors + math.prod(self.rims) + self.at.nbytes


def smallest(windows: Integers, size: int) -> Layout:
    """Sheets, or a stack where that is no larger: where chips hardly overlap, or lie far apart.

    Args:
        windows: (n, 4) row, col, height and width of the chips.
        size: edge of a chip after resampling.
    """
    sheets, stack = in_sheets(windows, size), in_a_stack(len(windows), size)
    return sheets if sheets.bytes < stack.bytes else stack


def in_a_stack(number: int, size: int) -> Layout:
    """Every chip whole, one after the other."""
    chip = size * size * 3
    at = np.stack([np.arange(number) * chip, np.full(number, size * 3)], axis=1)
    return Layout(at=at, size=size, rim=0, interiors=number * chip)


def in_sheets(windows: Integers, size: int) -> Layout:
    """One sheet for the chips of each lattice, which the paper's cut, for one, makes two of."""
    starts, edges = windows[:, :2], windows[:, 2:]
    phase = np.concatenate([edges, starts * size % edges], axis=1)
    sheet = np.unique(phase, axis=0, return_inverse=True)[1].ravel()
    first = np.full((sheet.max() + 1, 2), np.iinfo(np.int64).max)
    np.minimum.at(first, sheet, starts)
    place = (starts - first[sheet]) * size // edges
    extent = np.zeros_like(first)
    np.maximum.at(extent, sheet, place + size)
    areas = extent.prod(axis=1) * 3
    begins, pitch = np.cumsum(areas) - areas, extent[:, 1] * 3
    rim = _rim(windows, size)
    at = begins[sheet] + (place[:, 0] + rim) * pitch[sheet] + (place[:, 1] + rim) * 3
    return Layout(at=np.stack([at, pitch[sheet]], axis=1), size=size, rim=rim, interiors=int(areas.sum()))


def _rim(windows: Integers, size: int) -> int:
    """Pixels that the edge of the window reaches into: the filter is one pixel wide of the coarser lattice."""
    if (windows[:, 2:] == size).all():
        return 0
    return max(1, math.ceil(size / int(windows[:, 2:].min()) / 2))
