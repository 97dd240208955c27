"""Path of one image in, what its header says, or what its pixels say, out; or the reason why it is no scene."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import rasterio
import shapely
from affine import Affine
from rasterio import features
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from shapely.geometry.base import BaseGeometry

from dlslicer_geo import pixels
from dlslicer_geo.errors import SceneError
from dlslicer_geo.files import PROVENANCE_KEY
from dlslicer_geo.scenes.names import iso_date
from dlslicer_geo.scenes.rasters import grid, raw
from dlslicer_geo.scenes.rasters.tally import Tally, quality, samples, scale, tally, thumbnail
from dlslicer_geo.scenes.sources.addresses import redact
from dlslicer_geo.scenes.values import Header, Placement
from dlslicer_geo.types import Reading

__all__ = ["PLAIN", "SLOW", "header", "inspect", "reading_errors", "scale"]

PLAIN = ("JPEG", "PNG", "WEBP", "GIF", "BIGGIF", "BMP")
"""Drivers whose files are decoded from the top, whatever window is asked for, and hold no position themselves."""

SLOW = ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JPEG2000", "JP2Grok")
"""Drivers that read windows, but at a few chips a second (6 to 13 of 480 px, measured with OpenJPEG)."""

RAW_BYTES = 512 << 20  # pixels of a file that cannot be read in pieces, ...
RATIO = 200  # ... and their share of its size on disk: beyond both it is a bomb
BLOCK_BYTES = 1 << 30
SPECKLE = 16  # holes and islands of fewer cells are not drawn
EDGE_PX = 256  # straight pixel edges up to here stay within 0.5 px when drawn straight in degrees, below 200 m GSD


def header(path: str) -> Header:
    """Read what an image says about itself, without its pixels.

    World files and ``.aux.xml`` beside it do not count: the position is given only where it is in the file itself.

    Args:
        path: a file name or any GDAL path.

    Raises:
        SceneError: with the reason alone, if it cannot be opened, if its bands cannot be read as real numbers, or if
            its pixels would fill the memory.
    """
    alone = rasterio.Env(GDAL_GEOREF_SOURCES="INTERNAL", GDAL_PAM_ENABLED="NO")
    with reading_errors(), alone, pixels.opened(path) as source:
        _check_types(source)
        _check_size(source, path)
        _check_bits(source)
        placed = source.driver not in PLAIN
        gcps, gcps_crs = source.gcps if placed else ([], None)
        return Header(
            driver=source.driver,
            width=source.width,
            height=source.height,
            bands=source.count,
            dtype=str(source.dtypes[0]),
            block=tuple(source.block_shapes[0]),
            crs=_crs_text(source.crs) if placed and source.crs else None,
            transform=source.transform if placed and source.transform != Affine.identity() else None,
            gcps=tuple((float(g.row), float(g.col), float(g.x), float(g.y)) for g in gcps),
            gcps_crs=_crs_text(gcps_crs) if gcps_crs else None,
            rpcs=placed and source.rpcs is not None,
            tags=source.tags(),
        )


def inspect(path: str, placement: Placement, reading: Reading) -> dict[str, Any]:
    """Read all pixels of an image by strips: once, or twice where it has undeclared holes.

    Args:
        path: a file name or any GDAL path that can be read by window.
        placement: where it lies, on a grid that :func:`grid.fits`.
        reading: bands, and whether holes are looked for.

    Returns:
        The columns of the scene table that the pixels and the placement give; ``low`` and ``high`` stay None. Beside
        them ``tagged`` (ISO date of its TIFF tags, or None), ``samples`` (float32 (3, n) colours, None for uint8) and
        ``thumbnail`` (uint8 (rows, columns, 3)).

    Raises:
        SceneError: with the reason alone, if it cannot be a scene.
    """
    with reading_errors(), pixels.opened(path) as source:
        _check_types(source)
        grid.check_reach(placement.crs, placement.transform, source.shape)
        misfit = grid.fits(placement, source.shape)
        if misfit:
            raise SceneError(f"{misfit}: let it be warped, with data.prepare auto")
        gsd_m = grid.one_gsd(*grid.gsd_m(placement.crs, placement.transform, source.shape))
        channels = pixels.default_channels(source, reading.bands)
        found = tally(source, channels, holes=reading.holes)
        measured = quality(found)
        measured["holes_fraction"] += _masked_before(source)
        return {
            "crs": placement.crs,
            "transform": tuple(float(value) for value in placement.transform[:6]),
            "width": source.width,
            "height": source.height,
            "bands": source.count,
            "dtype": "uint8" if pixels.palette(source, channels.bands[0]) is not None else str(source.dtypes[0]),
            "nodata": None if source.nodata is None else float(source.nodata),
            "channels": list(channels.bands),
            "low": None,
            "high": None,
            "gsd_m": gsd_m,
            "tagged": iso_date(source.tags().get("TIFFTAG_DATETIME", "")[:10]),
            "georef": placement.georef,
            "accuracy_m": placement.accuracy_m,
            **measured,
            "geometry": _outline(found, placement),
            "samples": samples(found, channels),
            "thumbnail": thumbnail(found, channels),
        }


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turn what GDAL and PROJ raise about one image into a ``SceneError`` with the reason alone."""
    try:
        yield
    except (RasterioError, CRSError, pyproj.exceptions.ProjError, OSError) as error:
        raise SceneError(f"it cannot be read ({redact(pixels.words(error))})") from None


def _check_types(source: Any) -> None:
    kinds = sorted(set(source.dtypes))
    if not kinds:
        raise SceneError("it has no bands of pixels of its own: give one of the images inside it")
    if any("complex" in kind for kind in kinds):
        raise SceneError(f"its pixels are {source.dtypes[0]}: turn them into real numbers")
    if len(kinds) > 1:
        raise SceneError(f"its bands are of several types ({', '.join(kinds)}): write them with one type")


def _check_bits(source: Any) -> None:
    bits = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    if bits is not None and int(bits) < 8 and pixels.palette(source, 1) is None:
        raise SceneError(f"its pixels have {bits} bit(s), too few to tell colours: turn them into 8 bits")


def _check_size(source: Any, path: str) -> None:
    """Refuse files of which a few bytes become gigabytes, before anything is allocated."""
    values = source.count * np.dtype(source.dtypes[0]).itemsize
    rows, cols = source.block_shapes[0]
    block = rows * cols * values
    if block > BLOCK_BYTES:
        raise SceneError(
            f"one of its blocks takes {block / 2**30:.1f} GiB ({rows} by {cols} px): write it with tiles first"
        )
    total = source.width * source.height * values
    if total <= RAW_BYTES or (source.driver not in PLAIN and block <= RAW_BYTES):
        return
    size = raw.size_of(path)
    if size is not None and total > RATIO * size:
        raise SceneError(
            f"its {source.width} by {source.height} pixels would take {total / 2**30:.1f} GiB, {total // size} times "
            "its size on disk, which no photograph does: write it as a tiled GeoTIFF if they are meant"
        )


@lru_cache(maxsize=256)
def _crs_text(crs: CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt(version="WKT2_2019"))


def _masked_before(source: Any) -> float:
    """Share of holes that were found when the scene was prepared, and are declared since then."""
    share = raw.note_of(source.tags().get(PROVENANCE_KEY)).get("holes_fraction", 0.0)
    return float(share) if isinstance(share, int | float) else 0.0


def _outline(found: Tally, placement: Placement) -> BaseGeometry:
    """Valid area in EPSG:4326, or the whole footprint where everything is valid."""
    height, width = found.shape
    # the corners counter-clockwise from the lower left, seen on the ground: rows run south
    footprint = shapely.Polygon([(0, height), (width, height), (width, 0), (0, 0)])
    area = shapely.segmentize(_valid_area(found) if found.outside else footprint, EDGE_PX)
    outline = shapely.transform(area, lambda xy: grid.degrees(xy, placement.transform, placement.crs))
    west, _, east, _ = outline.bounds
    if not all(math.isfinite(value) for value in outline.bounds) or east - west > 180:
        raise SceneError("its outline lies outside its CRS or across the 180th meridian")
    turns = math.floor(((west + east) / 2 + 180) / 360)  # degrees from 0 to 360
    return outline if not turns else shapely.transform(outline, lambda xy: xy - [360.0 * turns, 0.0])


def _valid_area(found: Tally) -> BaseGeometry:
    """Valid area in pixels, drawn on the cells of which at least half is valid."""
    height, width = found.shape
    down, across = (np.minimum(found.cell, n - np.arange(0, n, found.cell)) for n in (height, width))
    size = np.outer(down, across)
    half = (2 * found.invalid <= size).astype(np.uint8)
    with pixels.HUSH:  # rasterio's own silence around arrays without a place is not safe with threads
        cells, slack = features.sieve(half, SPECKLE, connectivity=4) if half.size > SPECKLE else half, found.cell
    if not cells.any():  # few and scattered valid pixels: wherever there is any
        cells, slack = (found.invalid < size).astype(np.uint8), 0
    with pixels.HUSH:
        scaled = Affine.scale(found.cell)
        outlines = list(features.shapes(cells, mask=cells == 1, connectivity=4, transform=scaled))
    parts = [shapely.geometry.shape(outline) for outline, _ in outlines]
    # the staircase along a slanted edge goes, its area stays
    area = shapely.union_all(shapely.simplify(parts, slack))
    return shapely.intersection(area, shapely.box(0, 0, width, height))  # the last cells may overhang
