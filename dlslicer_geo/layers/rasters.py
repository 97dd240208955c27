"""Bands with their grid in, Cloud Optimized GeoTIFFs out, the style and the category names beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from dlslicer_geo import files
from dlslicer_geo.layers import styles

BLOCK = 256
"""Edge of a block in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raster:
    """Bands that know where they are.

    Args:
        values: (bands, rows, cols), uint8 or float32.
        crs: authority and code, or WKT.
        transform: pixel to map.
        nodata: value of cells that hold nothing.
        names: description of each band.
        tags: metadata of the file.
        answers: names of the values 0, 1, ... of a uint8 raster and their colours (``#rrggbb``); empty for numbers.
    """

    values: NDArray[Any]
    crs: str
    transform: Affine
    nodata: float
    names: Sequence[str]
    tags: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)


def write_cog(path: Path, raster: Raster, *, qml: str) -> Path:
    """Write a COG atomically, its QGIS style and, for categories, their names beside it.

    A tiled GeoTIFF is made in memory with palette, nodata and tags, then copied by GDAL's COG driver, which lays out
    the overviews. The names of categories stand in the sidecar that GDAL reads (``.aux.xml``, PAM).

    Args:
        path: ends in ``.tif``.
        raster: what is written.
        qml: the style, written with the suffix ``.qml``.
    """
    categories = bool(raster.answers)
    with MemoryFile() as memory:
        _write_tiff(memory, raster)
        with memory.open() as source, files.atomic(path) as temporary:
            options = {
                "COMPRESS": "ZSTD",
                "PREDICTOR": "NO" if categories else "FLOATING_POINT",
                "BLOCKSIZE": str(BLOCK),
                "OVERVIEW_RESAMPLING": "MODE" if categories else "AVERAGE",
            }
            rasterio.shutil.copy(source, temporary, driver="COG", **options)
    if categories:
        files.write_text(path.with_name(path.name + ".aux.xml"), _category_names(raster.answers))
    files.write_text(path.with_suffix(".qml"), qml)
    return path


def file_name(*parts: str) -> str:
    """Parts joined by dots, every character that a file system may refuse replaced by ``-``."""
    return ".".join(re.sub(r"[^A-Za-z0-9._-]", "-", part) for part in parts)


def _write_tiff(memory: MemoryFile, raster: Raster) -> None:
    count, height, width = raster.values.shape
    profile = {"count": count, "height": height, "width": width, "dtype": raster.values.dtype, "crs": raster.crs}
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "BIGTIFF": "IF_SAFER"}
    with memory.open(**profile, **layout, transform=raster.transform, nodata=raster.nodata) as target:
        if raster.answers:
            target.colorinterp = [ColorInterp.palette]
            target.write_colormap(1, _colours(raster.answers))
        target.write(raster.values)
        target.descriptions = tuple(raster.names)
        target.update_tags(**raster.tags)


def _colours(answers: Mapping[str, str]) -> dict[int, tuple[int, int, int, int]]:
    used = {index: (*styles.rgb(colour), 255) for index, colour in enumerate(answers.values())}
    return {index: (0, 0, 0, 0) for index in range(256)} | used


def _category_names(answers: Iterable[str]) -> str:
    document = ET.Element("PAMDataset")
    names = ET.SubElement(ET.SubElement(document, "PAMRasterBand", band="1"), "CategoryNames")
    for answer in answers:
        ET.SubElement(names, "Category").text = answer
    ET.indent(document)
    return ET.tostring(document, encoding="unicode") + "\n"


def percentiles(values: NDArray[np.floating[Any]]) -> str:
    """Five percentiles of the finite values, as text for a tag; empty when there are none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    shares = (1, 25, 50, 75, 99)
    found = np.percentile(finite, shares)
    return ", ".join(f"p{share} {value:.6g}" for share, value in zip(shares, found, strict=True))
