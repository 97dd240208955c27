"""Perceptual hashes of two sets of scenes in, the two that differ in fewest bits out.

Hashes are cut into four bands of 16 bits. Two that differ in fewer than 4 × (r + 1) bits differ in at most r bits of
some band (pigeonhole: Norouzi, Punjani and Fleet 2014, IEEE TPAMI 36, 1107–1119), so that hashes are looked up by the
values near their own bands, nearest first, and most pairs are never compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.splits.ground import Integers

BITS = 64
"""Length of a perceptual hash."""

BANDS, WIDTH = 4, 16
"""Bands of a hash, and bits of a band."""

RADIUS = 2
"""Bits in which bands may differ: beyond that, comparing all with all is cheaper."""

CELLS = 1 << 21
"""Comparisons made together."""

Hashes = NDArray[np.uint64]
Found = tuple[int, int, int]
"""Bits in which two hashes differ, and the rows of both, the smaller one first."""


def nearest_pair(code: Hashes, one: Integers, two: Integers) -> Found:
    """The two rows, one of each set, whose hashes differ in fewest bits; of equals, the first rows.

    Args:
        code: (n,) hashes.
        one: (k,) rows of the one set.
        two: (m,) rows of the other; a row in both is not compared with itself.

    Returns:
        bits and both rows; 65 bits where there is nothing to compare.
    """
    few, many = sorted((one, two), key=len)
    if len(few) * len(many) > CELLS:
        best = _by_bands(code, few, many)
        if best is not None:
            return best
    return _of_all(code, few, many)


def _by_bands(code: Hashes, few: Integers, many: Integers) -> Found | None:
    """The nearest pair, or None where it takes as long as comparing all with all."""
    best, work = (BITS + 1, 0, 0), 0
    for radius in range(RADIUS + 1):
        for left, right in _candidates(code, few, many, radius):
            work += len(left)
            if work > len(few) * len(many) // 8:  # looking up is so much slower than comparing
                return None
            best = min(best, _least(code, left, right))
        if best[0] < BANDS * (radius + 1):
            return best
    return None


def _candidates(code: Hashes, few: Integers, many: Integers, radius: int) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of rows of which one band differs in ``radius`` bits."""
    values = np.arange(1 << WIDTH)
    flips = values[np.bitwise_count(values) == radius]
    for band in range(BANDS):
        mine, theirs = (_band(code[rows], band) for rows in (few, many))
        order = np.argsort(theirs, kind="stable")
        start = np.searchsorted(theirs[order], np.arange((1 << WIDTH) + 1))
        for flip in flips:
            first, count = start[mine ^ flip], np.diff(start)[mine ^ flip]
            ends = np.cumsum(count)
            for rows in np.split(np.arange(len(few)), np.searchsorted(ends, np.arange(CELLS, ends[-1], CELLS))):
                number = count[rows]
                at = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
                yield np.repeat(few[rows], number), many[order[np.repeat(first[rows], number) + at]]


def _band(code: Hashes, band: int) -> Integers:
    return np.asarray(code >> np.uint64(band * WIDTH) & np.uint64((1 << WIDTH) - 1), np.int64)


def _of_all(code: Hashes, few: Integers, many: Integers) -> Found:
    best = (BITS + 1, 0, 0)
    if len(many):
        for rows in np.array_split(few, max(1, len(few) * len(many) // CELLS)):
            left, right = np.repeat(rows, len(many)), np.tile(many, len(rows))
            best = min(best, _least(code, left, right))
    return best


def _least(code: Hashes, left: Integers, right: Integers) -> Found:
    bits = np.where(left == right, BITS + 1, np.bitwise_count(code[left] ^ code[right]))
    least = int(bits.min(initial=BITS + 1))
    if least > BITS:
        return BITS + 1, 0, 0
    at = np.flatnonzero(bits == least)
    low, high = np.minimum(left[at], right[at]), np.maximum(left[at], right[at])
    first = np.lexsort((high, low))[0]
    return least, int(low[first]), int(high[first])
