"""A draft of a split in, the same without the chips that lie too near to a chip of another split out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.draft import UNUSED, Draft, drop
from dlslicer_geo.splits.ground import Floats, Ground, Integers, Polygons, project
from dlslicer_geo.types import SPLITS

DEGREE_M = 110_000.0
"""Less than the metres in any degree of latitude."""

MARGIN = 1e-4
"""Share by which a gap is kept wider than asked: more than the projections of the proof and of this file differ."""

TRAIN, VAL, TEST = range(len(SPLITS))


def keep_gap(draft: Draft, ground: Ground, gap_m: float) -> Draft:
    """Leave out chips of val near test, then chips of train near what is left of val and test.

    Distances are those between the outlines of chips, in an azimuthal equidistant projection around each
    neighbourhood: all scenes that come within the gap of one another, directly or through others.

    Args:
        draft: where the chips go.
        ground: the chips.
        gap_m: metres; 0 leaves out nothing.

    Raises:
        SplitError: if chips lie somewhere in their city only.
    """
    if gap_m == 0:
        return draft
    if not ground.exact.all():
        raise SplitError(
            f"split.gap_m is {gap_m:g} and {int((~ground.exact).sum())} of {len(ground.exact)} chips lie "
            "somewhere in their city only (approximate position), so that distances mean nothing for them: "
            "set split.gap_m to 0"
        )
    rows_of = _neighbourhoods(ground, np.flatnonzero(draft.code != UNUSED), gap_m)
    metres = [project(ground.polygon[rows], _around(ground.box[rows])) for rows in rows_of]
    for split, others in ((VAL, (TEST,)), (TRAIN, (VAL, TEST))):
        near = np.zeros(len(draft.code), np.bool_)
        for rows, polygon in zip(rows_of, metres, strict=True):
            mine, theirs = draft.code[rows] == split, np.isin(draft.code[rows], others)
            near[rows[mine]] = _nearer(polygon[mine], polygon[theirs], gap_m * (1 + MARGIN))
        names = " or ".join(SPLITS[other] for other in others)
        draft = drop(draft, near, f"{SPLITS[split]} nearer than {gap_m:g} m to {names}")
    return draft


def _nearer(polygon: Polygons, others: Polygons, gap_m: float) -> NDArray[np.bool_]:
    near = np.zeros(len(polygon), np.bool_)
    if len(polygon) and len(others):
        found = shapely.STRtree(others).query_nearest(polygon, max_distance=gap_m, all_matches=False)
        near[found[0]] = True
    return near


def _neighbourhoods(ground: Ground, rows: Integers, gap_m: float) -> list[Integers]:
    """Rows of the chips of each group of scenes whose boxes, a gap wider, meet."""
    if not len(rows):
        return []
    box = pd.DataFrame(ground.box[rows]).groupby(ground.scene[rows])
    low, high = box.min()[[0, 1]].to_numpy(), box.max()[[2, 3]].to_numpy()
    lat = np.minimum(np.abs(np.column_stack([low[:, 1], high[:, 1]])).max(axis=1), 89)
    reach = 0.51 * gap_m * (1 + MARGIN) / DEGREE_M * np.column_stack([1 / np.cos(np.deg2rad(lat)), np.ones(len(lat))])
    hulls: Polygons = np.asarray(shapely.box(*(low - reach).T, *(high + reach).T))
    pairs = shapely.STRtree(hulls).query(hulls)
    graph = coo_array((np.ones(pairs.shape[1], np.int8), tuple(pairs)), shape=(len(hulls), len(hulls)))
    group = connected_components(graph, directed=False)[1][np.unique(ground.scene[rows], return_inverse=True)[1]]
    order = np.argsort(group, kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(group[order])) + 1)


def _around(box: Floats) -> str:
    lon, lat = (box[:, :2].min(axis=0) + box[:, 2:].max(axis=0)) / 2
    return f"+proj=aeqd +lon_0={lon:.6f} +lat_0={lat:.6f} +datum=WGS84 +units=m"
