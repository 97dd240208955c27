"""Chips with their splits in, every pair of chips or scenes that shares something across two splits out.

Pairs are found a few chips at a time, counted, added up, and only the worst are kept, so that a table of which
millions of pairs leak takes no more memory than one that is clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from dlslicer_geo.errors import TableError
from dlslicer_geo.splits.ground import Ground, Integers, Polygons, shared_m2
from dlslicer_geo.splits.hashes import BITS, nearest_pair
from dlslicer_geo.splits.units import TOLERANCE_M2, link
from dlslicer_geo.types import SPLITS

PAIRS_AT_ONCE = 1 << 21
"""Pairs of chips looked at together."""

CHIPS_AT_ONCE = 1 << 13
"""Chips whose pairs are looked at together, at most."""


class Pairs(NamedTuple):
    """Pairs of rows of a table, and what each pair shares."""

    one: Integers
    two: Integers
    amount: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leaks:
    """What is shared across splits.

    Args:
        number: of pairs.
        total: of what they share, summed over pairs.
        worst: the pairs that share most, as many as were asked for, the worst first; ``one`` before ``two``.
    """

    number: int
    total: int | float
    worst: Pairs


def shared_pixels(chips: GeoDataFrame, ground: Ground, split: Integers, limit: int | None = None) -> Leaks:
    """Pairs of chips of one scene in two splits that share pixels, and how many.

    Args:
        chips: chip table.
        ground: of these chips.
        split: (n,) index of each chip's split, one past the last for unused chips, which count for nothing.
        limit: pairs to keep; None keeps all.
    """
    row, col, height, width = (chips[name].to_numpy(np.int64) for name in ("row", "col", "height", "width"))
    # scenes laid side by side in one plane of pixels: whole numbers, exact in float64
    apart = int((col + width).max(initial=0) - col.min(initial=0)) + 1
    x = col + ground.scene * apart
    window = shapely.box(x, row, x + width, row + height)

    def pairs() -> Iterator[Pairs]:
        for one, two in _meeting(window, split, np.ones(len(chips), bool)):
            high = np.minimum(row[one] + height[one], row[two] + height[two]) - np.maximum(row[one], row[two])
            wide = np.minimum(x[one] + width[one], x[two] + width[two]) - np.maximum(x[one], x[two])
            yield Pairs(one, two, np.maximum(high, 0) * np.maximum(wide, 0))

    return _tally(pairs(), limit)


def shared_ground(ground: Ground, split: Integers, limit: int | None = None) -> Leaks:
    """Pairs of chips of two scenes in two splits that share more than the tolerance of ground, and square metres.

    Args:
        ground: the chips; those of approximate position share nothing.
        split: (n,) index of each chip's split, one past the last for unused chips, which count for nothing.
        limit: pairs to keep; None keeps all.
    """

    def pairs() -> Iterator[Pairs]:
        for one, two in _meeting(ground.polygon, split, ground.exact):
            between = ground.scene[one] != ground.scene[two]  # within a scene the windows settle it
            one, two = one[between], two[between]
            area = shared_m2(ground, one, two)
            yield Pairs(one, two, np.where(area > TOLERANCE_M2, area, 0.0))

    return _tally(pairs(), limit)


def same_images(scenes: pd.DataFrame, limit: int | None = None) -> Leaks:
    """Pairs of scenes in two splits that are one image: the same file, or said to show the same.

    A scene that is the same as two others makes these the same too.

    Args:
        scenes: ``sha256``, and ``scene_id`` and ``duplicate_of`` where it is known; ``splits`` as bits, bit 0 for
            the first split.
        limit: pairs to keep; None keeps all.

    Returns:
        the pairs, as rows of ``scenes``; each shares 1 image.
    """
    splits = scenes["splits"].to_numpy(np.int64)
    used = np.flatnonzero(splits)  # a scene in no split leaks nothing, but it can make two others the same
    group, splits = _groups(scenes)[used], splits[used]
    # two scenes that lie wholly in one split, the same one, are no leak; any other two of a group are
    single = (splits & (splits - 1)) == 0
    members = np.bincount(group)
    alike = np.unique(np.column_stack([group, splits])[single], axis=0, return_counts=True)[1]
    number = int((members * (members - 1) // 2).sum() - (alike * (alike - 1) // 2).sum())
    one, two = _pairs_of_groups(group, splits, number if limit is None else min(number, limit))
    return Leaks(number=number, total=number, worst=Pairs(used[one], used[two], np.ones(len(one), np.int64)))


def nearest_images(scenes: pd.DataFrame) -> dict[str, Any] | None:
    """The two scenes in two splits whose perceptual hashes differ least.

    Args:
        scenes: ``scene_id``, ``phash`` (16 hexadecimal digits, null where there is none) where it is known, and
            ``splits`` as for :func:`same_images`.

    Returns:
        ``bits`` in which they differ, 0 to 64, and the two scene ids; None where nothing can be compared.

    Raises:
        TableError: if a hash is none.
    """
    if "phash" not in scenes:
        return None
    scenes = scenes[scenes["phash"].notna()]
    code, splits = _hashes(scenes), scenes["splits"].to_numpy(np.int64)
    rows = [np.flatnonzero(splits >> at & 1) for at in range(len(SPLITS))]
    bits, one, two = min(nearest_pair(code, first, second) for first, second in combinations(rows, 2))
    names = scenes["scene_id"].to_numpy(object)
    return None if bits > BITS else {"bits": bits, "scenes": sorted([str(names[one]), str(names[two])])}


def _meeting(polygon: Polygons, split: Integers, part: NDArray[np.bool_]) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of chips of two splits whose boxes meet, some at a time; ``part`` says which chips count."""
    for first, second in combinations(range(len(SPLITS)), 2):
        few, many = sorted((np.flatnonzero(part & (split == at)) for at in (first, second)), key=len)
        tree = shapely.STRtree(polygon[many])
        start, step = 0, CHIPS_AT_ONCE // 32
        while start < len(few):
            rows = few[start : start + step]
            left, right = tree.query(polygon[rows])
            yield rows[left], many[right]
            start += len(rows)
            # as many chips as have about so many pairs, judged by the last ones
            step = int(np.clip(PAIRS_AT_ONCE * len(rows) // max(1, len(left)), 1, min(4 * step, CHIPS_AT_ONCE)))


def _tally(found: Iterable[Pairs], limit: int | None) -> Leaks:
    number, total, kept = 0, 0, [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for pairs in found:
        leaking = Pairs(*(values[pairs.amount > 0] for values in pairs))
        number += len(leaking.one)
        total += leaking.amount.sum().item()
        kept.append(_worst(leaking, limit))
    parts = [part for part in kept if len(part.one)] or kept[:1]
    worst = _worst(Pairs(*(np.concatenate(values) for values in zip(*parts, strict=True))), limit)
    return Leaks(number=number, total=total, worst=worst)


def _worst(pairs: Pairs, limit: int | None) -> Pairs:
    one, two = np.minimum(pairs.one, pairs.two), np.maximum(pairs.one, pairs.two)
    order = np.lexsort((two, one, -pairs.amount))[:limit]
    return Pairs(one[order], two[order], pairs.amount[order])


def _groups(scenes: pd.DataFrame) -> Integers:
    """Number the groups of scenes that are one image."""
    names, digest = scenes["scene_id"].to_numpy(object), scenes["sha256"].to_numpy(object)
    first = names
    if "duplicate_of" in scenes:
        first = scenes["duplicate_of"].where(scenes["duplicate_of"].notna(), scenes["scene_id"]).to_numpy(object)
    # each scene stands here twice, by its own name and by that of the scene it repeats; its file holds both together
    return link(np.column_stack([np.tile(digest, 2), np.concatenate([names, first])]))[: len(scenes)]


def _pairs_of_groups(group: Integers, splits: Integers, wanted: int) -> tuple[Integers, Integers]:
    """So many leaking pairs, one group after the other."""
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    one, two, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for rows in np.split(order, ends) if wanted else ():
        for at in range(len(rows) - 1):
            if found == wanted:
                break
            others = rows[at + 1 :]
            both = splits[rows[at]] | splits[others]
            others = others[(both & (both - 1)) > 0][: wanted - found]
            one.append(np.full(len(others), rows[at]))
            two.append(others)
            found += len(others)
    first, second = np.concatenate(one), np.concatenate(two)
    order = np.lexsort((second, first))
    return first[order], second[order]


def _hashes(scenes: pd.DataFrame) -> NDArray[np.uint64]:
    good = scenes["phash"].astype(str).str.fullmatch(r"[0-9a-fA-F]{16}")
    if not good.all():
        lost = scenes[~good.to_numpy(bool)].iloc[0]
        raise TableError(
            f"the phash of scene {lost['scene_id']} is {lost['phash']!r}, not 16 hexadecimal digits: scan again"
        )
    return np.array([int(value, 16) for value in scenes["phash"]], np.uint64)
