"""Chips in, units that stay together and the split of each unit out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.ground import Floats, Ground, Integers, project, shared_m2

TOLERANCE_M2 = 0.01
"""Two chips share ground when more than this many square metres lie in both; less is rounding of coordinates."""

EDGE_M = 1e-7
"""A chip ends on the edge of a block when it passes it by no more than this: coordinates come back from degrees
to about 1e-8 m, and this much along the edge of a chip stays far below :data:`TOLERANCE_M2`."""


def join_scenes(ground: Ground, same: Integers) -> Integers:
    """Number the connected components of scenes that share ground, whatever their date, name or city.

    Args:
        ground: the chips.
        same: (number of scenes,) scenes with the same number belong together from the start.

    Returns:
        (number of scenes,) component of each scene, numbered from 0.
    """
    parent = _Forest(same)
    rows = np.argsort(ground.scene, kind="stable")
    chips_of = np.split(rows, np.flatnonzero(np.diff(ground.scene[rows])) + 1)
    for scene, others in _meeting_scenes(ground, chips_of):
        apart = [other for other in others if parent.root(other) != parent.root(scene)]
        if apart:
            for other in _sharing(ground, chips_of[scene], np.concatenate([chips_of[o] for o in apart])):
                parent.join(scene, int(other))
    roots = np.array([parent.root(scene) for scene in range(len(chips_of))], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def link(labels: NDArray[np.object_]) -> Integers:
    """Number groups of rows: rows that agree in any column belong together, directly or through others.

    Args:
        labels: (n, c) values; None agrees with nothing.
    """
    graph = coo_array((len(labels), len(labels)), dtype=np.int8)
    for column in labels.T:
        code = pd.factorize(column)[0]
        known = np.flatnonzero(code >= 0)
        _, first = np.unique(code[known], return_index=True)
        ends = (known, known[first][code[known]])
        graph = graph + coo_array((np.ones(len(known), np.int8), ends), shape=graph.shape)
    group: Integers = connected_components(graph, directed=False)[1].astype(np.int64)
    return group


def blocks_of(ground: Ground, block_m: float) -> Integers:
    """Number the blocks that each chip's bounding box touches, in the UTM grid of its city.

    Args:
        ground: the chips.
        block_m: edge of a block in metres.

    Returns:
        (n, 4) block under the four corners of the box; all equal for a chip wholly inside one block.

    Raises:
        SplitError: if a chip is larger than a block, or lies somewhere in its city only.
    """
    box = np.empty_like(ground.box)
    for epsg in np.unique(ground.epsg):
        at = ground.epsg == epsg
        box[at] = shapely.bounds(project(ground.polygon[at], int(epsg)))
    largest = float((box[:, 2:] - box[:, :2]).max())
    if not ground.exact.all():
        raise SplitError(
            f"{int((~ground.exact).sum())} of {len(box)} chips lie somewhere in their city only (approximate "
            "position), so that blocks of ground mean nothing for them: take split.kind site"
        )
    if largest > block_m + 2 * EDGE_M:
        raise SplitError(
            f"split.block_m is {block_m:g} m and the largest chip covers {largest:.1f} m: take blocks of at least "
            "several chips' edges"
        )
    low = np.floor((box[:, :2] + EDGE_M) / block_m).astype(np.int64)
    high = np.maximum(low, np.floor((box[:, 2:] - EDGE_M) / block_m).astype(np.int64))
    corner = [(x, y) for x in (low[:, 0], high[:, 0]) for y in (low[:, 1], high[:, 1])]
    (west, south), (width, height) = low.min(axis=0), np.ptp(np.vstack([low, high]), axis=0) + 1
    key = [(ground.city * width + x - west) * height + y - south for x, y in corner]
    return pd.factorize(np.column_stack(key).ravel(), sort=True)[0].reshape(-1, 4).astype(np.int64)


def assign(table: pd.DataFrame, fractions: tuple[float, ...], seed: int) -> Integers:
    """Give every unit a split so that each city comes near the wanted fractions.

    Units that span cities come first, then larger units before smaller, ties in an order drawn from the seed; each
    goes to the split that its cities are most short of. A split that is wanted and would otherwise stay empty in a
    city gets one of the last units.

    Args:
        table: ``unit`` (numbered from 0), ``city`` (numbered from 0) and ``chips``, one row per pair.
        fractions: wanted share of each split, 0 for a split that is not wanted.
        seed: seeds the order of ties.

    Returns:
        (number of units,) split of each unit, an index into ``fractions``.
    """
    table = table.sort_values(["unit", "city"])
    unit, city, size = (table[name].to_numpy(np.int64) for name in ("unit", "city", "chips"))
    wanted = np.array(fractions) > 0
    missing = np.outer(np.bincount(city, size), np.array(fractions))
    empty = np.tile(wanted, (len(missing), 1))
    left = np.bincount(city[size > 0], minlength=len(missing))
    parts = np.split(np.arange(len(unit)), np.flatnonzero(np.diff(unit)) + 1)
    found = np.zeros(len(parts), np.int64)
    for number in _largest_first(unit, city, size, seed):
        cities, chips = city[parts[number]], size[parts[number]]
        last = empty[cities] & ((left[cities] <= empty[cities].sum(axis=1)) & (chips > 0))[:, None]
        open_to = last.any(axis=0) if last.any() else wanted
        choice = int(np.where(open_to, missing[cities].sum(axis=0), -np.inf).argmax())
        found[number] = choice
        missing[cities, choice] -= chips
        left[cities] -= chips > 0
        empty[cities[chips > 0], choice] = False
    return found


class _Forest:
    """Disjoint sets of scenes that can be joined."""

    def __init__(self, same: Integers) -> None:
        _, first, code = np.unique(same, return_index=True, return_inverse=True)
        self.parent: list[int] = first[code].tolist()

    def root(self, scene: int) -> int:
        while self.parent[scene] != scene:
            self.parent[scene] = scene = self.parent[self.parent[scene]]
        return scene

    def join(self, one: int, two: int) -> None:
        low, high = sorted((self.root(one), self.root(two)))
        self.parent[high] = low


def _meeting_scenes(ground: Ground, chips_of: list[Integers]) -> Iterator[tuple[int, list[int]]]:
    """Every scene with the later scenes whose bounding boxes meet its own; approximate scenes meet nothing."""
    west_south = np.array([ground.box[rows, :2].min(axis=0) for rows in chips_of])
    east_north = np.array([ground.box[rows, 2:].max(axis=0) for rows in chips_of])
    hulls = shapely.box(*west_south.T, *east_north.T)
    one, two = shapely.STRtree(hulls).query(hulls)
    exact = np.array([ground.exact[rows].all() for rows in chips_of])
    keep = (one < two) & exact[one] & exact[two]
    one, two = one[keep], two[keep]
    order = np.lexsort((two, one))
    one, two = one[order], two[order]
    for pairs in np.split(np.arange(len(one)), np.flatnonzero(np.diff(one)) + 1):
        if len(pairs):
            yield int(one[pairs[0]]), two[pairs].tolist()


def _sharing(ground: Ground, mine: Integers, theirs: Integers) -> Integers:
    """Scenes among those of the chips ``theirs`` that share ground with the chips ``mine``."""
    right, left = shapely.STRtree(ground.polygon[mine]).query(ground.polygon[theirs])
    one, two = mine[left], theirs[right]
    # most pairs of scenes are settled by the two chips whose boxes share most, and need no other
    order = np.lexsort((-_box_overlap(ground, one, two), ground.scene[two]))
    one, two = one[order], two[order]
    likely = np.unique(ground.scene[two], return_index=True)[1]
    sure = ground.scene[two[likely]][shared_m2(ground, one[likely], two[likely]) > TOLERANCE_M2]
    rest = np.flatnonzero(~np.isin(ground.scene[two], sure))
    more = ground.scene[two[rest]][shared_m2(ground, one[rest], two[rest]) > TOLERANCE_M2]
    return np.unique(np.concatenate([sure, more]))


def _box_overlap(ground: Ground, one: Integers, two: Integers) -> Floats:
    low = np.maximum(ground.box[one, :2], ground.box[two, :2])
    high = np.minimum(ground.box[one, 2:], ground.box[two, 2:])
    area: Floats = np.prod(np.maximum(high - low, 0), axis=1)
    return area


def _largest_first(unit: Integers, city: Integers, size: Integers, seed: int) -> Integers:
    count = int(unit.max()) + 1
    whole = np.bincount(unit, size, minlength=count)
    spans = np.bincount(unit, minlength=count) > 1
    home = np.zeros(count, np.int64)
    home[unit] = city
    tie = np.random.default_rng(seed).permutation(count)
    return np.lexsort((tie, -whole, np.where(spans, -1, home)))


def scenes_of(chips: GeoDataFrame) -> pd.DataFrame:
    """``city``, ``site`` and ``exact`` of each scene, in sorted order of the scene ids.

    Raises:
        SplitError: if the chips of one scene have two cities or sites.
    """
    exact = ~chips["approximate"] if "approximate" in chips else True
    table = chips[["scene_id", "city", "site"]].assign(exact=exact).drop_duplicates()
    twice = table["scene_id"][table["scene_id"].duplicated()]
    if len(twice):
        raise SplitError(f"chips of scene {twice.iloc[0]} have several cities or sites: give a scene one of each")
    return table.sort_values("scene_id").reset_index(drop=True)
