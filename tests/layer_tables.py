"""Chip tables, made-up predictions and saliency of real and invented grids, for the tests of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import Polygon

from dlslicer_geo.types import Predictions, Saliency

CITIES = ("chico", "claremont", "riverside")


def grid_at(crs: str, left: float, top: float, size: tuple[int, int], step: float, turn: float = 0.0) -> GeoBox:
    cos, sin = step * np.cos(np.radians(turn)), step * np.sin(np.radians(turn))
    return GeoBox(size, Affine(cos, sin, left, sin, -cos, top), crs)


ALMATY = grid_at("EPSG:32643", 653_000, 4_791_000, (4800, 4800), 2000 / 4800)
ONE_CHIP = grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 2000 / 4800)


def map_points(affine: Affine, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    a, b, c, d, e, f = affine[:6]
    return [(a * col + b * row + c, d * col + e * row + f) for col, row in points]


def chip_table(grids: dict[str, GeoBox], *, size: int, stride: int, city: str | None = "chico") -> gpd.GeoDataFrame:
    rows: list[tuple[Any, ...]] = []
    outlines: list[Polygon] = []
    for scene_id, grid in grids.items():
        to_degrees = Transformer.from_crs(str(grid.crs), 4326, always_xy=True)
        for row in range(0, grid.shape[0] - size + 1, stride):
            for col in range(0, grid.shape[1] - size + 1, stride):
                corners = [(col, row), (col + size, row), (col + size, row + size), (col, row + size)]
                outlines.append(Polygon([to_degrees.transform(*xy) for xy in map_points(grid.affine, corners)]))
                rows.append((len(rows), scene_id, city, "a", "2018", row, col, size, size, stride, "test"))
    names = ["chip_id", "scene_id", "city", "site", "acquired", "row", "col", "height", "width", "stride", "split"]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return gpd.GeoDataFrame({**columns, "approximate": False}, geometry=outlines, crs=4326)


def naip_grids(data_root: Path, names: Sequence[str]) -> dict[str, GeoBox]:
    grids = {}
    for name in names:
        with rasterio.open(data_root / "naip_cities" / f"{name}.tif") as source:
            grids[name] = GeoBox(source.shape, source.transform, source.crs)
    return grids


def predictions(chips: gpd.GeoDataFrame, seed: int = 0) -> Predictions:
    draws = np.random.default_rng(seed).dirichlet(np.full(len(CITIES), 0.4), len(chips)).astype(np.float32)
    return Predictions(
        cities=CITIES,
        chip_id=chips["chip_id"].to_numpy(np.int64),
        scene_id=tuple(chips["scene_id"]),
        truth=tuple(chips["city"]),
        probabilities=draws,
    )


def doubting(found: Predictions, unknown: NDArray[np.bool_]) -> Predictions:
    """The same predictions by a model that does not know some of the chips; another detector says the opposite."""
    scores = {name: np.where(unknown == (name == "knn"), 0.9, 0.1).astype(np.float32) for name in ("softmax", "knn")}
    return replace(found, unknown_scores=scores, detector="knn", threshold=0.5)


def saliency(
    chips: gpd.GeoDataFrame, grids: dict[str, GeoBox], maps: dict[str, NDArray[np.float32]], city: str = "chico"
) -> Saliency:
    return Saliency(
        method="relevance-cam-margin",
        layers=tuple(maps),
        maps=maps,
        chip_id=chips["chip_id"].to_numpy(np.int64),
        scene_id=tuple(chips["scene_id"]),
        city=(city,) * len(chips),
        windows=chips[["row", "col", "height", "width"]].to_numpy(np.int64),
        stride=chips["stride"].to_numpy(np.int64),
        grids=grids,
        input_size=224,
        notes={"start": "margin", "model": "abc"},
    )
