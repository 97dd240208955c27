"""Chips, scenes, saliency and imagery at Almaty in, for the tests of large maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely.geometry import Polygon, box

from dlslicer_geo.types import Layer

EVIL = "<img src=x onerror=window.pwned=1>"
CITIES = ["almaty", "banepa", EVIL]
COLOURS = ["#e69f00", "#56b4e9", "#009e73"]
SIDE, STRIDE, ACROSS = 200, 100, 12
"""Metres along a chip and between chips, and chips along the scene."""

HALF = 20_037_508.342789
"""Metres from the middle of a Web Mercator map to its edge."""

ZONE, WEST, NORTH = "EPSG:32643", 653_000, 4_791_000
"""A scene at Almaty."""


def chip_layer(folder: Path) -> Layer:
    """Overlapping chips at Almaty; all of row 0 unknown to the model, of the last row without a truth."""
    row, col = (axis.ravel() for axis in np.indices((ACROSS, ACROSS)))
    to_degrees = Transformer.from_crs(ZONE, 4326, always_xy=True)
    x, y = WEST + col * STRIDE, NORTH - row * STRIDE
    corners = [to_degrees.transform(x + dx, y - dy) for dx, dy in ((0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE))]
    rings = np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
    said = np.where(col < 7, 0, 2)
    table: dict[str, Any] = {
        "chip_id": np.arange(len(row)) + 1000, "scene_id": EVIL, "site": "../../x", "acquired": "2020-05-01",
        "width": 480, "stride": 240, "split": np.where(col < 3, "train", "test"),
        "truth": [None if at == ACROSS - 1 else "almaty" for at in row], "city": np.array(CITIES, object)[said],
        "answer": np.where(row == 0, "unknown", np.array(CITIES, object)[said]),
        "confidence": 0.5 + col / 100, "colour": np.array(COLOURS, object)[said],
        **{f"prob_{name}": np.where(said == i, 0.5 + col / 100, 0.2) for i, name in enumerate(CITIES)},
    }  # fmt: skip
    path = folder / "predictions.gpkg"
    gpd.GeoDataFrame(table, geometry=[Polygon(ring) for ring in rings], crs=4326).to_file(path, layer="predictions")
    return Layer(kind="chips", path=path, title="Predicted city", cities=tuple(CITIES))


def saliency_layer(folder: Path) -> Layer:
    values = np.full((3, 60, 60), np.nan, np.float32)
    values[:2, :, :30], values[:2, :, 30:], values[2] = -2, 2, 1
    values[0] *= 10
    path = folder / "s.tif"
    options: dict[str, Any] = {"driver": "GTiff", "dtype": "float32", "crs": ZONE, "nodata": np.nan, "count": 3}
    with rasterio.open(
        path, "w", width=60, height=60, transform=Affine(20, 0, WEST, 0, -20, NORTH), **options
    ) as made:
        made.write(values)
        made.descriptions = ("layer2", "../layer4", "coverage")
    return Layer(kind="saliency", path=path, title="s", group="almaty", limits=(-2, 2))


def image_layer(folder: Path) -> Layer:
    """Imagery under all chips: red grows from west to east, green from north to south, 0 to 255."""
    pixels = (ACROSS + 1) * STRIDE // 2
    ramp = np.broadcast_to(np.linspace(0, 255, pixels).astype(np.uint8), (pixels, pixels))
    options: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "crs": ZONE, "count": 3}
    path = folder / "i.tif"
    with rasterio.open(
        path, "w", width=pixels, height=pixels, transform=Affine(2, 0, WEST, 0, -2, NORTH), **options
    ) as made:
        made.write(np.stack([ramp, ramp.T, np.full_like(ramp, 90)]))
    return Layer(kind="image", path=path, title="i", group="almaty")


def layers(folder: Path) -> list[Layer]:
    scenes = gpd.GeoDataFrame(
        {"scene_id": [EVIL], "city": ["almaty"], "site": ["a"], "path": ["s.tif"]},
        geometry=[box(76.85, 43.2, 76.9, 43.27)],
        crs=4326,
    )
    scenes.to_parquet(folder / "scenes.parquet")
    return [
        Layer(kind="scenes", path=folder / "scenes.parquet", title="Scenes"),
        chip_layer(folder),
        saliency_layer(folder),
        image_layer(folder),
    ]
