"""Scenes described in, chip tables with known ground out, and a slow check that shares no code with ours."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer

UTM = {"ALA": 32643, "LAX": 32611}
HOME = {"ALA": (655_000.0, 4_790_000.0), "LAX": (420_000.0, 3_750_000.0)}
ALL = ("*",)


def scene_chips(
    scene_id: str,
    city: str | None,
    origin: tuple[float, float],
    *,
    site: str = "S1",
    epsg: int = 32643,
    gsd: float = 0.5,
    size: int = 400,
    stride: int = 200,
    grid: tuple[int, int] = (3, 3),
) -> gpd.GeoDataFrame:
    """Chips of one north-up scene whose upper left corner is ``origin``, cut by the rule of the tables."""
    row, col = (axis.ravel() * stride for axis in np.mgrid[: grid[0], : grid[1]])
    x = origin[0] + gsd * (col[:, None] + np.array([0, size, size, 0]))
    y = origin[1] - gsd * (row[:, None] + np.array([0, 0, size, size]))
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
    columns = {
        "scene_id": scene_id,
        "city": city,
        "site": site,
        "row": row,
        "col": col,
        "height": size,
        "width": size,
    }
    return gpd.GeoDataFrame(columns, geometry=shapely.polygons(np.stack([lon, lat], axis=-1)), crs="EPSG:4326")


def table(*parts: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    chips = pd.concat(parts, ignore_index=True).sort_values("scene_id", kind="stable", ignore_index=True)
    return gpd.GeoDataFrame(chips.assign(chip_id=np.arange(len(chips))), geometry="geometry", crs="EPSG:4326")


def apart(number: int, city: str = "ALA", **options: Any) -> list[gpd.GeoDataFrame]:
    """Scenes of a city, a kilometre of empty ground between them."""
    x, y = HOME[city]
    return [
        scene_chips(f"{city}_{i}", city, (x + 2000 * i, y), site=f"S{i}", epsg=UTM[city], **options)
        for i in range(number)
    ]


def brute_force(chips: gpd.GeoDataFrame) -> tuple[int, float]:
    """Shared pixels within scenes and shared ground between any chips of two splits: every pair, nothing clever."""
    used = chips[chips["split"] != "unused"]
    pixels, ground = 0, 0.0
    for epsg, east in ((UTM["ALA"], True), (UTM["LAX"], False)):
        half = used[(used.geometry.bounds["minx"] > 0) == east]
        shapes = half.geometry.to_crs(epsg).tolist()
        for (a, one), (b, two) in combinations(enumerate(half.to_dict("records")), 2):
            if one["split"] == two["split"]:
                continue
            if one["scene_id"] == two["scene_id"]:
                high = min(one["row"] + one["height"], two["row"] + two["height"]) - max(one["row"], two["row"])
                wide = min(one["col"] + one["width"], two["col"] + two["width"]) - max(one["col"], two["col"])
                pixels += max(high, 0) * max(wide, 0)
            area = shapes[a].intersection(shapes[b]).area
            ground += area if area > 0.01 else 0
    return pixels, ground


def planted(chips: gpd.GeoDataFrame, splits: dict[int, str]) -> gpd.GeoDataFrame:
    return chips.assign(split=[splits.get(chip, "unused") for chip in chips["chip_id"]])


def nearest(chips: gpd.GeoDataFrame) -> float:
    """Smallest distance in metres between any two chips of two splits in ALA's zone: every pair, nothing clever."""
    used = chips[chips["split"] != "unused"]
    best = float("inf")
    for epsg, east in ((UTM["ALA"], True), (UTM["LAX"], False)):
        half = used[(used.geometry.bounds["minx"] > 0) == east]
        shapes = half.geometry.to_crs(epsg).to_numpy()
        names = half["split"].to_numpy()
        for shape, name in zip(shapes, names, strict=True):
            best = min([best, *shapely.distance(shape, shapes[names != name]).tolist()])
    # a UTM zone shrinks what lies near its middle by up to 0.04 %
    return best / 0.9996
