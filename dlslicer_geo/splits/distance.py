"""Chips with their splits in, the smallest distances in metres between two splits out."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import shapely
from pyproj import Transformer

from dlslicer_geo.splits.ground import Floats, Ground, Integers, Polygons, project
from dlslicer_geo.types import SPLITS


def min_distances(ground: Ground, split: Integers) -> dict[str, Any]:
    """Smallest distance between chips of two splits: per city, and between any two chips.

    Measured in an azimuthal equidistant projection around the city, or around the midpoint of two cities.

    Args:
        ground: the chips; those of approximate position have no distance.
        split: (n,) index of each chip's split, one past the last for unused chips, which count for nothing.

    Returns:
        ``overall`` and ``per_city`` (city → metres), rounded to millimetres; None where fewer than two splits have
        chips.
    """
    used = np.flatnonzero((split < len(SPLITS)) & ground.exact)
    rows_of = [used[ground.city[used] == city] for city in range(len(ground.cities))]
    within = [_gap(ground, split, rows, rows) for rows in rows_of]
    overall = min([_between_cities(ground, split, rows_of, min(within, default=np.inf)), *within], default=np.inf)
    return {
        "overall": _millimetres(overall),
        "per_city": {city: _millimetres(gap) for city, gap in zip(ground.cities, within, strict=True)},
    }


def _between_cities(ground: Ground, split: Integers, rows_of: list[Integers], best: float) -> float:
    """Smallest distance between chips of two cities and two splits, as far as it is below ``best``."""
    rows_of = [rows for rows in rows_of if len(rows)]
    to_space = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    centre, reach = [], []
    for rows in rows_of:
        lon, lat = ground.box[rows][:, [0, 2, 0, 2]].ravel(), ground.box[rows][:, [1, 1, 3, 3]].ravel()
        corner = np.column_stack(to_space.transform(lon, lat, np.zeros(len(lon))))
        centre.append(corner.mean(axis=0))
        reach.append(np.linalg.norm(corner - centre[-1], axis=1).max())
    pairs = list(combinations(range(len(rows_of)), 2))
    # two cities cannot be nearer than the balls around them: a chord is never longer than the way over the ground
    floor = [np.linalg.norm(centre[a] - centre[b]) - reach[a] - reach[b] for a, b in pairs]
    for at in np.argsort(floor, kind="stable"):
        if max(floor[at], 0) >= best:
            break
        best = min(best, _gap(ground, split, rows_of[pairs[at][0]], rows_of[pairs[at][1]]))
    return best


def _gap(ground: Ground, split: Integers, one: Integers, two: Integers) -> float:
    """Smallest distance in metres between a chip of ``one`` and a chip of ``two`` of another split, or infinity."""
    if len(np.unique(split[np.concatenate([one, two])])) < 2:
        return float("inf")
    lon, lat = _midpoint(ground.box[one], ground.box[two])
    crs = f"+proj=aeqd +lon_0={lon:.6f} +lat_0={lat:.6f} +datum=WGS84 +units=m"
    left = project(ground.polygon[one], crs)
    right = left if one is two else project(ground.polygon[two], crs)
    best = float("inf")
    for first in range(len(SPLITS)):
        others = split[two] > first if one is two else split[two] != first
        few, many = sorted((left[split[one] == first], right[others]), key=len)
        if len(few):
            best = _nearest(shapely.STRtree(many), few, best)
    return best


def _nearest(tree: shapely.STRtree, polygon: Polygons, best: float) -> float:
    """Smallest distance of a polygon to one of the tree, or ``best`` where none is smaller."""
    # what one and then a few have found spares the others the search beyond it
    for rows in (polygon[:1], polygon[:: len(polygon) // 64 + 1], polygon):
        if best > 0:
            reach = best if np.isfinite(best) else None
            near = tree.query_nearest(rows, max_distance=reach, return_distance=True, all_matches=False)[1]
            best = min(best, float(near.min(initial=np.inf)))
    return best


def _midpoint(one: Floats, two: Floats) -> tuple[float, float]:
    """Longitude and latitude halfway between the middles of two sets of boxes, on the sphere."""
    vectors = []
    for box in (one, two):
        lon, lat = np.deg2rad((box[:, :2] + box[:, 2:]).mean(axis=0) / 2)
        vectors.append([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    x, y, z = np.sum(vectors, axis=0)
    return float(np.rad2deg(np.arctan2(y, x))), float(np.rad2deg(np.arctan2(z, np.hypot(x, y))))


def _millimetres(metres: float) -> float | None:
    return round(metres, 3) if np.isfinite(metres) else None
