"""Small real files for every test: a factory that writes any raster, and the data that ship with the project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def data_root() -> Path:
    """The folder of real imagery that ships with the project."""
    return DATA


@pytest.fixture
def raster(tmp_path: Path) -> Callable[..., Path]:
    """Write a GeoTIFF: ``raster("a/b.tif", crs="EPSG:32643", origin=(x, y), gsd=0.6, size=(rows, cols))``."""

    def write(
        name: str,
        *,
        crs: str | None = "EPSG:26911",
        origin: tuple[float, float] = (420_000.0, 3_750_000.0),
        gsd: float = 0.6,
        size: tuple[int, int] = (256, 256),
        pixels: Any = None,
        nodata: float | None = None,
        **profile: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = np.random.default_rng(len(name)).integers(1, 255, (3, *size), dtype=np.uint8)
        options = {
            "driver": "GTiff",
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "count": pixels.shape[0],
            "dtype": pixels.dtype,
            "crs": crs,
            "transform": Affine(gsd, 0, origin[0], 0, -gsd, origin[1]),
            "nodata": nodata,
        } | profile
        with rasterio.open(path, "w", **options) as target:
            target.write(pixels)
        return path

    return write


@pytest.fixture
def two_zones(raster: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with scenes of two cities in two UTM zones; each scene holds several 64 px chips."""
    root = tmp_path / "scenes"
    for site in range(6):
        for city, crs, x in (("almaty", "EPSG:32643", 650_000.0), ("new_york", "EPSG:32618", 580_000.0)):
            seed = [site, ord(city[0])]  # no two images alike: what looks alike stays together in a split
            base = np.random.default_rng(seed).integers(0, 90, (3, 160, 160), dtype=np.uint8)
            base[0 if city == "almaty" else 2] += 120
            raster(
                f"scenes/{city}_2020_{site}.tif",
                crs=crs,
                origin=(x + 4000 * site + 0.3, 4_700_000.1),
                gsd=2.0,
                pixels=base,
            )
    return root


@pytest.fixture
def tiny(two_zones: Path, tmp_path: Path) -> Path:
    """An experiment file that runs every station in seconds: two cities, a random network, three epochs."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "data: {root: scenes}\n"
        "chips: {size: 64, stride: 32, metres: 128}\n"
        "split: {kind: site, fractions: [0.5, 0.25, 0.25]}\n"
        "model: {name: resnet18, weights: false, input_size: 64}\n"
        "fit: {max_epochs: 3, batch_size: 16}\n"
        "predict: {split: test, chips_per_part: 10}\n"
        "explain: {per_city: 2}\n"
    )
    return path
