"""Bands with their grid in, Cloud Optimized GeoTIFFs out, the style and the category names beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from dlslicer_geo import files
from dlslicer_geo.colours import rgb
from dlslicer_geo.layers.styles import xml

BLOCK = 256
"""Edge of a block in pixels."""

CACHE_MB = 128
"""GDAL's block cache while a file is made; it would take 5 % of the machine's memory."""

LONGEST = 180
"""Characters of a file's name; temporary ones are longer, and file systems end at 255."""

_MARK = 12
"""Characters of a hash that tells names apart."""

_MARKED = re.compile(f"-[0-9a-f]{{{_MARK}}}$")

SAMPLE = 1_000_000
"""Percentiles of larger rasters are those of about so many cells, drawn at random."""


TILED = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "BIGTIFF": "IF_SAFER"}
"""Layout of a GeoTIFF that is written block by block."""


class Bands(Protocol):
    """Bands that may lie on disk: read where they are sliced, a few rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Bands, rows, columns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[Any]:
        """Some rows of some bands."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raster:
    """Bands that know where they are.

    Args:
        values: (bands, rows, cols), uint8 or float32, in memory or on disk.
        crs: authority and code, or WKT.
        transform: pixel to map.
        nodata: value of cells that hold nothing.
        names: description of each band.
        tags: metadata of the file.
        answers: names of the values 0, 1, ... of a uint8 raster and their colours (``#rrggbb``); empty for numbers.
        statistics: what is known of each band; empty where nothing is said.
    """

    values: Bands
    crs: str
    transform: Affine
    nodata: float
    names: Sequence[str]
    tags: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    statistics: Sequence[Statistics] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """What is known of the finite values of one band: all NaN where there is none.

    Args:
        minimum: the smallest.
        maximum: the largest.
        mean: over all.
        deviation: standard deviation of all, as of a whole population.
        share: finite cells of all cells, 0 to 1.
        sample: (n,) finite values, all of them or a random sample of about :data:`SAMPLE`.
        complete: whether the sample is all.
    """

    minimum: float
    maximum: float
    mean: float
    deviation: float
    share: float
    sample: NDArray[np.float32]
    complete: bool

    def tags(self) -> dict[str, str]:
        """The names under which GDAL and QGIS look for them; none for a band without values."""
        if not self.share:
            return {}
        return {
            "STATISTICS_MINIMUM": f"{self.minimum:.9g}",
            "STATISTICS_MAXIMUM": f"{self.maximum:.9g}",
            "STATISTICS_MEAN": f"{self.mean:.12g}",
            "STATISTICS_STDDEV": f"{self.deviation:.12g}",
            "STATISTICS_VALID_PERCENT": f"{100 * self.share:.4g}",
        }


def measure(values: Bands, *, nodata: float = np.nan) -> list[Statistics]:
    """Statistics of every band without its nodata, a block of rows at a time; the draw of the sample is seeded."""
    bands, height, width = values.shape
    keep = min(1.0, SAMPLE / (height * width))
    random = np.random.default_rng(0)
    tallies = [_Tally() for _ in range(bands)]
    for top in range(0, height, BLOCK):
        block = values[:, top : top + BLOCK]
        drawn = random.random(block.shape[1:], np.float32) < keep
        for tally, cells in zip(tallies, block, strict=True):
            tally.add(cells[cells != nodata], drawn[cells != nodata])
    return [tally.statistics(height * width, complete=keep == 1) for tally in tallies]


def write_cog(path: Path, raster: Raster, *, qml: str) -> Path:
    """Write a COG atomically, its QGIS style and, for categories, their names beside it.

    A tiled GeoTIFF is made beside it with palette, nodata, statistics and tags, block row by block row, then copied
    by GDAL's COG driver, which lays out the overviews; so neither holds more than GDAL's cache in memory. The names
    of categories stand in the sidecar that GDAL reads (``.aux.xml``, PAM).

    Args:
        path: ends in ``.tif``.
        raster: what is written.
        qml: the style, written with the suffix ``.qml`` before the raster, which never lacks it.
    """
    categories = bool(raster.answers)
    files.write_text(path.with_suffix(".qml"), qml)
    if categories:
        files.write_text(path.with_name(path.name + ".aux.xml"), _category_names(raster.answers))
    options = {
        "PREDICTOR": "NO" if categories else "FLOATING_POINT",
        "OVERVIEW_RESAMPLING": "MODE" if categories else "AVERAGE",
    }
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), tiled(path) as temporary:
        _write_tiff(temporary, raster)
        copy_cog(temporary, path, options)
    return path


@contextmanager
def tiled(path: Path) -> Iterator[Path]:
    """A place beside ``path`` for the GeoTIFF that the COG driver copies; removed when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tiled.tif")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def copy_cog(source: Path, path: Path, options: Mapping[str, str]) -> None:
    """Copy a tiled GeoTIFF as COG, atomically: ZSTD, blocks of :data:`BLOCK`, overviews."""
    with files.atomic(path) as temporary:
        rasterio.shutil.copy(
            source, temporary, driver="COG", COMPRESS="ZSTD", BLOCKSIZE=str(BLOCK), BIGTIFF="IF_SAFER", **options
        )


def file_name(*parts: str) -> str:
    """Parts joined by dots, every character that a file system may refuse replaced by ``-``."""
    return ".".join(re.sub(r"[^A-Za-z0-9._-]", "-", part) for part in parts)


def unique_name(*parts: str) -> str:
    """As :func:`file_name`, but as many other parts never give the same: what is changed or looks so gets a hash.

    Looks so: capitals, which macOS and Windows take for small letters; a dot in any part but the first, since names
    are told apart from their end; a dot at the beginning; an ending like a hash; more than :data:`LONGEST`
    characters.
    """
    name = ".".join(parts)
    safe = file_name(*parts)[:LONGEST]
    plain = safe == name == name.lower() and not safe.startswith(".") and not _MARKED.search(safe)
    if plain and safe and not any("." in part for part in parts[1:]):
        return safe
    mark = sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:_MARK]
    return f"{safe.lstrip('.')}-{mark}"


def _write_tiff(path: Path, raster: Raster) -> None:
    count, height, width = raster.values.shape
    profile = {"count": count, "height": height, "width": width, "dtype": raster.values.dtype, "crs": raster.crs}
    with rasterio.open(path, "w", **profile, **TILED, transform=raster.transform, nodata=raster.nodata) as target:
        if raster.answers:
            target.colorinterp = [ColorInterp.palette]
            target.write_colormap(1, _colours(raster.answers))
        for top in range(0, height, BLOCK):
            rows = raster.values[:, top : top + BLOCK]
            target.write(rows, window=Window(0, top, width, rows.shape[1]))
        target.descriptions = tuple(raster.names)
        target.scales, target.offsets = (1.0,) * count, (0.0,) * count  # values are what they say, not packed
        for band, known in enumerate(raster.statistics, start=1):
            target.update_tags(band, **known.tags())
        target.update_tags(**raster.tags)


class _Tally:
    """Sums over the finite cells of one band."""

    def __init__(self) -> None:
        self.number, self.sum, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf
        self.sample: list[NDArray[np.float32]] = []

    def add(self, cells: NDArray[Any], drawn: NDArray[np.bool_]) -> None:
        """Count some cells in, and keep the drawn ones."""
        finite = np.isfinite(cells)
        inside = cells[finite].astype(np.float64)
        self.number += inside.size
        self.sum += float(inside.sum())
        self.squares += float(np.square(inside).sum())
        self.low, self.high = inside.min(initial=self.low), inside.max(initial=self.high)
        self.sample.append(cells[finite & drawn])

    def statistics(self, cells: int, *, complete: bool) -> Statistics:
        """What is known of the band, of so many cells in all."""
        mean = self.sum / self.number if self.number else np.nan
        variance = self.squares / self.number - mean**2 if self.number else np.nan
        return Statistics(
            minimum=float(self.low) if self.number else np.nan,
            maximum=float(self.high) if self.number else np.nan,
            mean=mean,
            deviation=float(np.sqrt(np.maximum(variance, 0))),
            share=self.number / cells,
            sample=np.concatenate(self.sample),
            complete=complete,
        )


def _colours(answers: Mapping[str, str]) -> dict[int, tuple[int, int, int, int]]:
    used = {index: (*rgb(colour), 255) for index, colour in enumerate(answers.values())}
    return {index: (0, 0, 0, 0) for index in range(256)} | used


def _category_names(answers: Iterable[str]) -> str:
    document = ET.Element("PAMDataset")
    names = ET.SubElement(ET.SubElement(document, "PAMRasterBand", band="1"), "CategoryNames")
    for answer in answers:
        ET.SubElement(names, "Category").text = answer
    ET.indent(document)
    return xml(document) + "\n"


def percentiles(values: NDArray[np.floating[Any]]) -> str:
    """Five percentiles of the finite values, as text for a tag; empty when there are none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    shares = (1, 25, 50, 75, 99)
    found = np.percentile(finite, shares)
    return ", ".join(f"p{share} {value:.6g}" for share, value in zip(shares, found, strict=True))
