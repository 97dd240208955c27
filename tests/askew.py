"""Photographs to prepare, and the places and grids they are said to have."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from PIL import Image

from dlslicer_geo.scenes.rasters import prepare
from dlslicer_geo.scenes.values import Found, Placement
from dlslicer_geo.types import ChipGrid, Reading

Array = np.ndarray[Any, Any]
UTM = Placement(crs="EPSG:32645", transform=Affine(0.4, 0, 400_000.0, 0, -0.4, 3_000_000.0), georef="sidecar")
CHIPS = ChipGrid(size=480, stride=240, metres=None)


def metric(transform: Affine, crs: str = "EPSG:32645") -> Placement:
    return Placement(crs=crs, transform=transform, georef="sidecar", accuracy_m=3.0)


ASKEW = {
    "rotated": metric(Affine.translation(4e5, 3e6) * Affine.rotation(5) * Affine.scale(0.4, -0.4)),
    "upside down": metric(Affine.translation(4e5, 3e6) * Affine.rotation(180) * Affine.scale(0.4, -0.4)),
    "south up": metric(Affine(0.4, 0, 4e5, 0, 0.4, 3e6)),
    "mirrored": metric(Affine(-0.4, 0, 4e5, 0, -0.4, 3e6)),
    "oblong": metric(Affine(0.4, 0, 4e5, 0, -0.5, 3e6)),
    "degrees at 60 north": metric(Affine(1e-5, 0, 25.0, 0, -1e-5, 60.0), "EPSG:4326"),
    "degrees in the south": metric(Affine(1e-5, 0, -58.0, 0, -1e-5, -34.6), "EPSG:4326"),
    "feet": metric(Affine.translation(6.48e6, 1.84e6) * Affine.rotation(3) * Affine.scale(2, -2), "EPSG:2229"),
    "near the pole": metric(Affine(5e-4, 0, 30.0, 0, -1e-5, 86.0), "EPSG:4326"),
    "near the south pole": metric(Affine(5e-4, 0, 30.0, 0, -1e-5, -86.0), "EPSG:4326"),
}


def found_at(path: Path | str, **more: Any) -> Found:
    return Found(path=str(path), relative=PurePosixPath(Path(path).name), source=str(path), **more)


def photo(size: int = 700, seed: int = 0) -> Array:
    """(rows, columns, 3) with large and small structure, neither black nor white."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(30, 200, (size // 20 + 1, size // 20 + 1, 3)), np.ones((20, 20, 1)))
    return np.clip(coarse[:size, :size] + rng.normal(0, 10, (size, size, 3)), 5, 250).astype(np.uint8)


def jpg(path: Path, size: int = 700, seed: int = 0) -> Path:
    Image.fromarray(photo(size, seed)).save(path, quality=90)
    return path


def prepared(path: Path, tmp_path: Path, placement: Placement = UTM, **reading: Any) -> prepare.Prepared:
    target = tmp_path / "out" / f"{path.stem}.tif"
    return prepare.prepare(found_at(path), placement, Reading(**reading), target, CHIPS)


def read(path: Path) -> tuple[Array, Array]:
    with rasterio.open(path) as source:
        return source.read(), source.dataset_mask() > 0
