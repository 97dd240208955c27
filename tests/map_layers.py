"""Layers of real scenes with made-up relevance and predictions, for the tests of the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely.geometry import box

from dlslicer_geo.types import Layer

CITIES = ("chico", "claremont", "riverside", "eureka", "<img src=x onerror=window.pwned=1>")
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2")


def write(path: Path, values: Any, crs: str, transform: Affine, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    options = {"count": count, "height": height, "width": width, "dtype": values.dtype, "crs": crs} | profile
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **options) as target:
        target.write(values)
        if values.dtype == np.float32:
            target.descriptions = (*("layer4", "layer2")[: count - 1][::-1], "coverage")
    return path


def chip_layer(path: Path, rows: list[tuple[str, str, int, Any]]) -> Layer:
    shares = np.sort(np.random.default_rng(0).dirichlet(np.full(5, 0.5), len(rows)), axis=1)[:, ::-1]
    order = np.array([[first, *(i for i in range(5) if i != first)] for _, _, first, _ in rows])
    table = {
        "chip_id": range(len(rows)),
        "scene_id": [scene for scene, *_ in rows],
        "site": "a",
        "acquired": "2018",
        "width": 256,
        "stride": 256,
        "split": "test",
        "truth": [truth for _, truth, *_ in rows],
        "city": [CITIES[first] for _, _, first, _ in rows],
        "confidence": shares[:, 0],
        "colour": [COLOURS[first] for _, _, first, _ in rows],
    }
    table |= {f"prob_{code}": np.take_along_axis(shares, order.argsort(1), 1)[:, i] for i, code in enumerate(CITIES)}
    frame = gpd.GeoDataFrame(table, geometry=[outline for *_, outline in rows], crs=4326)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_file(path, layer="predictions", driver="GPKG")
    return Layer(kind="chips", path=path, title="Predicted city", cities=CITIES, note="Only <b>listed</b> cities.")


def naip_layers(data_root: Path, out: Path) -> list[Layer]:
    """Twelve real scenes of three cities with made-up relevance and predictions."""
    rows, pictures = [], []
    random = np.random.default_rng(0)
    for number, city in enumerate(CITIES[:3]):
        for at, path in enumerate(sorted((data_root / "naip_cities").glob(f"{city}_2018_*.tif"))[:4]):
            with rasterio.open(path) as source:
                crs, place, bounds = str(source.crs), source.transform, source.bounds
            to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
            outline = box(*to_degrees.transform_bounds(*bounds))
            rows.append(
                (path.stem, city, 4 if (number, at) == (0, 1) else (number if at else (number + 1) % 3), outline)
            )
            waves = np.sin(
                np.linspace(0, random.uniform(3, 7), 28)[:, None] + np.linspace(0, random.uniform(3, 7), 28)
            )
            bands = np.stack([3 * waves.T, waves, np.ones((28, 28))]).astype(np.float32)
            cells = Affine(place.a * 256 / 28, 0, place.c, 0, place.e * 256 / 28, place.f)
            made = write(out / f"{path.stem}.tif", bands, crs, cells, nodata=np.nan)
            options: dict[str, Any] = {
                "group": city,
                "limits": (-1.0 - at, 1.0 + at),
                "note": "Red speaks for the city.",
            }
            pictures.append(Layer(kind="saliency", path=made, title=f"{path.stem}: why {city}", **options))
            pictures.append(Layer(kind="image", path=path, title=path.stem, group=city))
    return [chip_layer(out / "predictions.gpkg", rows), *pictures]


def scene_layer(layers: list[Layer], path: Path) -> Layer:
    """The scenes under the chips, each with the file that shows it."""
    chips = gpd.read_file(layers[0].path, layer="predictions")
    files = {layer.path.stem: str(layer.path) for layer in layers if layer.kind == "image"}
    table = chips[["scene_id", "truth", "site", "geometry"]].rename(columns={"truth": "city"})
    table["city_name"], table["path"] = table["city"].str.title(), table["scene_id"].map(files)
    table["acquired"], table["georef"] = "2018", "geotiff"
    table.to_parquet(path)
    return Layer(kind="scenes", path=path, title="Scenes")
