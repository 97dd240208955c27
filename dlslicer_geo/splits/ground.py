"""The chip table in, its ground out: polygons that meet where the ground meets, measured in metres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from dlslicer_geo.errors import TableError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Polygons = NDArray[Any]

SEAM = -33.0
"""Longitude where the map is cut open: open ocean, where 180° would cut land."""

WIDE = 12.0
"""Degrees of longitude over which one UTM zone does not measure well: two zones."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """Where chips lie.

    Args:
        polygon: (n,) chip outlines, longitude from :data:`SEAM` eastwards and latitude in degrees.
        box: (n, 4) west, south, east, north of each, in the same degrees.
        scene: (n,) number of the scene, in sorted order of the ids.
        city: (n,) number of the city, in sorted order of the names.
        cities: the city names; chips without a city count as a city called ``unknown``.
        exact: (n,) whether the chip lies where its polygon is, and not just somewhere in its city.
        epsg: (n,) EPSG code of the UTM zone around the middle of the chip's city, or of its scene where there is no
            city, or one wider than :data:`WIDE`.
    """

    polygon: Polygons
    box: Floats
    scene: Integers
    city: Integers
    cities: tuple[str, ...]
    exact: NDArray[np.bool_]
    epsg: Integers


def ground_of(chips: GeoDataFrame) -> Ground:
    """Read a chip table's ground.

    Raises:
        TableError: if the geometry is not in degrees, or a chip has none.
    """
    if chips.crs is None or not chips.crs.is_geographic:
        raise TableError(f"the chip table's geometry is in {chips.crs}: give it in EPSG:4326")
    polygon = shapely.transform(np.asarray(chips.geometry.array), _open_at_seam)
    box = shapely.bounds(polygon)
    lost = ~np.isfinite(box).all(axis=1)
    if lost.any():
        raise TableError(
            f"{int(lost.sum())} of {len(chips)} chips have no outline on the ground, such as that in row "
            f"{lost.argmax()}: cut the chips again"
        )
    _, scene = np.unique(chips["scene_id"].to_numpy(str), return_inverse=True)
    cities, city = np.unique(chips["city"].fillna("unknown").to_numpy(str), return_inverse=True)
    exact = ~chips["approximate"].to_numpy(bool) if "approximate" in chips else np.ones(len(chips), bool)
    names = tuple(cities.tolist())
    return Ground(
        polygon=polygon, box=box, scene=scene, city=city, cities=names, exact=exact,
        epsg=_zones(box, scene, np.where(chips["city"].isna(), -1, city)),
    )  # fmt: skip


def project(polygon: Polygons, crs: int | str) -> Polygons:
    """Polygons with their corners in a metric CRS, straight edges between them."""
    flat: Polygons = shapely.transform(polygon, _to_metres(crs))
    return flat


def shared_m2(ground: Ground, one: Integers, two: Integers) -> Floats:
    """Area that chips share, pair by pair.

    Measured in the UTM zone of the city of the pair's first chip in table order, so that a pair has one answer
    whichever way round it is asked, and chips cut along the lines of that zone only touch.

    Args:
        ground: the chips.
        one: (p,) rows of the chip table.
        two: (p,) rows of the chip table.

    Returns:
        (p,) square metres.
    """
    first, second = np.minimum(one, two), np.maximum(one, two)
    area = np.zeros(len(first))
    for epsg in np.unique(ground.epsg[first]):
        at = np.flatnonzero(ground.epsg[first] == epsg)
        rows, place = np.unique(np.concatenate([first[at], second[at]]), return_inverse=True)
        left, right = np.split(project(ground.polygon[rows], int(epsg))[place], 2)
        area[at] = shapely.area(shapely.intersection(left, right))
    return area


def _zones(box: Floats, scene: Integers, city: Integers) -> Integers:
    """UTM zone of each chip; ``city`` is -1 where there is none."""
    # a box across the seam is as wide as the world, and lies at the seam
    lon = np.where(box[:, 2] - box[:, 0] > 180, SEAM, (box[:, 0] + box[:, 2]) / 2)
    lat = (box[:, 1] + box[:, 3]) / 2
    west, east = np.full(city.max(initial=-1) + 2, np.inf), np.full(city.max(initial=-1) + 2, -np.inf)
    np.minimum.at(west, city, lon)
    np.maximum.at(east, city, lon)
    # chips without a city have nothing in common: each scene of them is a place of its own
    alone = (city < 0) | (east - west > WIDE)[city]
    place = np.unique(np.where(alone, -1 - scene, city), return_inverse=True)[1]
    count = np.bincount(place)
    lon, lat = np.bincount(place, lon) / count, np.bincount(place, lat) / count
    zone = 32601 + ((lon + 180) // 6 % 60).astype(np.int64) + np.where(lat < 0, 100, 0)
    return np.asarray(zone[place], np.int64)


@lru_cache(maxsize=128)
def _to_metres(crs: int | str) -> Callable[[Floats], Floats]:
    transformer = Transformer.from_crs("EPSG:4326", CRS.from_user_input(crs), always_xy=True)

    def apply(points: Floats) -> Floats:
        x, y = transformer.transform(points[:, 0], points[:, 1])
        return np.column_stack([x, y])

    return apply


def _open_at_seam(points: Floats) -> Floats:
    west = points[:, 0] < SEAM
    return np.column_stack([points[:, 0] + np.where(west, 360.0, 0.0), points[:, 1]])
