"""Chips in, the scenes that must stay together out."""

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
from dlslicer_geo.splits.ground import Floats, Ground, Integers, shared_m2

TOLERANCE_M2 = 0.01
"""Two chips share ground when more than this many square metres lie in both; less is rounding of coordinates."""


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


def copies_of(scenes: pd.DataFrame) -> pd.Series:
    """Number the groups of scenes that show the same image, as the scan has found (``duplicate_of``).

    Args:
        scenes: scene table; the column may be missing, and names may stand for scenes that are not in the table.

    Returns:
        group by ``scene_id``.
    """
    table = scenes.drop_duplicates("scene_id")
    of = table["duplicate_of"].fillna(table["scene_id"]) if "duplicate_of" in table else table["scene_id"]
    code, names = pd.factorize(pd.concat([table["scene_id"], of]))
    one, two = np.split(code, 2)
    graph = coo_array((np.ones(len(one), np.int8), (one, two)), shape=(len(names), len(names)))
    return pd.Series(connected_components(graph, directed=False)[1][one], index=table["scene_id"])


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
