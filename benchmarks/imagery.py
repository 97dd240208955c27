"""A folder in; photographs of scenes, their tables, and the files that the published way reads out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import dlslicer_geo as dl
from dlslicer_geo import pixels

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

BANEPA = Path(__file__).parents[1] / "data/banepa/banepa_oam_z19.tif"
SIDE, WINDOW, SIZE = 4800, 480, 224
"""Edges in pixels of a scene, of the window of a chip in it, and of a chip as the model reads it."""

CITIES = ("east", "west")
GSD_M, CRS, QUALITY = 0.4, "EPSG:32645", 90

GRID = dl.ChipGrid(size=SIZE, stride=SIZE // 2, metres=WINDOW * GSD_M)
"""Chips that overlap by half."""


def photographs(folder: Path, number: int, side: int = SIDE) -> list[Path]:
    """JPG files of ``side``² px with world files, in two cities: one drone image, turned and shifted.

    It is mirrored where it is too small.
    """
    with pixels.opened(BANEPA) as source:
        image: NDArray[np.uint8] = source.read().transpose(1, 2, 0)
    down, across = (np.r_[:length, length - 1 : -1 : -1] for length in image.shape[:2])
    paths = []
    for i in range(number):
        at = np.arange(side) + 577 * (i // 4)
        shifted = image[np.ix_(down[at % len(down)], across[at % len(across)])]
        path = folder / f"{CITIES[i % 2]}_2020_{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(np.rot90(shifted, i % 4))).save(path, quality=QUALITY)
        path.with_suffix(".jgw").write_text(f"{GSD_M}\n0\n0\n-{GSD_M}\n{300_000 + 3000 * i}\n3000000\n")
        paths.append(path)
    return paths


def world(folder: Path, number: int, side: int = SIDE) -> tuple[GeoDataFrame, GeoDataFrame]:
    """Scene table and chip table of photographs, prepared as tiled rasters; read again where they are in the folder.

    Args:
        folder: gets ``raw``, ``prepared``, ``scenes.parquet`` and ``chips.parquet``.
        number: of scenes.
        side: of a scene in pixels.
    """
    if not (folder / "chips.parquet").exists():
        photographs(folder / "raw", number, side)
        scenes = scanned(folder / "raw", folder / "prepared")
        scenes.to_parquet(folder / "scenes.parquet")
        dl.cut(scenes, GRID).assign(split="train").to_parquet(folder / "chips.parquet")
    return gpd.read_parquet(folder / "scenes.parquet"), gpd.read_parquet(folder / "chips.parquet")


def scanned(root: Path, prepared: Path) -> GeoDataFrame:
    """The scene table of a folder of photographs."""
    return dl.scan(root, reading=dl.Reading(crs=CRS), prepared=prepared, grid=GRID)


def published(photograph: Path, windows: Sequence[Any], folder: Path) -> Path:
    """Windows (row, col, height, width) of a photograph as JPG files in an ``ImageFolder`` of one class."""
    image = np.asarray(Image.open(photograph))
    (folder / "city").mkdir(parents=True)
    for i, (row, col, height, width) in enumerate(windows):
        chip = Image.fromarray(np.ascontiguousarray(image[row : row + height, col : col + width]))
        chip.save(folder / "city" / f"{i:05d}.jpg", quality=QUALITY)
    return folder


def megabytes(folder: Path, pattern: str = "*") -> float:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file()) / 1e6


def room(folder: Path, number: int) -> None:
    """See that the disk holds so many scenes, raw and prepared.

    Raises:
        SystemExit: if it does not.
    """
    need, free = number * 0.15e9, shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(f"{folder} has {free / 1e9:.1f} GB free and {need / 1e9:.1f} are needed: set TMPDIR")
