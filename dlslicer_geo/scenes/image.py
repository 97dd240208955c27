"""Path of one image in, its grid, ground resolution, valid area and quality out; or the reason why it is no scene."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio import features
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from dlslicer_geo.errors import SceneError
from dlslicer_geo.files import sha256_file
from dlslicer_geo.scenes.names import iso_date

TOLERANCE = 0.01  # of squareness
STRIP_VALUES = 1 << 22  # pixel values in memory at once
STRIP_ROWS = 256  # strips start at multiples of this, so that tiles are read once and cells are not cut
CELLS = 2048  # the valid area is drawn on at most this many cells a side
SPECKLE = 16  # holes and islands of fewer cells are not drawn
EDGE_PX = 256  # straight pixel edges up to here stay within 0.5 px when drawn straight in degrees, below 200 m GSD
_GEOD = pyproj.Geod(ellps="WGS84")


@dataclass(slots=True)
class _Tally:
    """Sums over the valid pixels of an image, and the number of invalid pixels in each cell of the outline."""

    invalid: NDArray[np.int64]
    cell: int
    valid: int = 0
    saturated: int = 0
    grey: float = 0.0
    grey_squared: float = 0.0


def inspect(path: Path) -> dict[str, Any]:
    """Read an image once, block by block.

    Returns:
        The columns of the scene table that come from the file itself, and ``tagged``, the ISO date in its TIFF tags.

    Raises:
        SceneError: with the reason alone, if it cannot be a scene.
    """
    try:
        with opened(path) as source:
            crs, transform = source.crs, source.transform
            _check_grid(crs, transform, source.shape)
            if any("complex" in dtype for dtype in source.dtypes):
                raise SceneError(f"its pixels are {source.dtypes[0]}: turn them into real numbers")
            gsd_m = _gsd(_crs_text(crs), transform, source.shape)
            tally = _tally(source)
            return {
                "crs": _crs_text(crs),
                "transform": tuple(float(value) for value in transform[:6]),
                "width": source.width,
                "height": source.height,
                "bands": source.count,
                "dtype": str(source.dtypes[0]),
                "nodata": None if source.nodata is None else float(source.nodata),
                "gsd_m": gsd_m,
                "tagged": iso_date(source.tags().get("TIFFTAG_DATETIME", "")[:10]),
                "georef": "geotiff",
                "accuracy_m": None,
                "sha256": sha256_file(path),
                **_quality(tally, source),
                "geometry": _outline(tally, source),
            }
    except (RasterioError, CRSError, pyproj.exceptions.ProjError, OSError) as error:
        cause = error.__cause__ or error  # rasterio hides GDAL's words behind "Read failed"
        raise SceneError(f"it cannot be read ({' '.join(str(cause).split())})") from None


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A raster open for reading; that it lacks a georeference is for the caller to say, in its own words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        source = rasterio.open(path)
    with source:
        yield source


def colour_bands(source: Any) -> list[int]:
    """Numbers, from 1, of the bands that show colour: the first three without alpha, or the first one."""
    shown = [band for band, kind in zip(source.indexes, source.colorinterp, strict=True) if kind != ColorInterp.alpha]
    return shown[:3] if len(shown) >= 3 else shown[:1] or [1]


def valid_pixels(source: Any, pixels: NDArray[Any], window: Window) -> NDArray[np.bool_] | None:
    """(rows, columns) where a window holds data, by nodata, mask, alpha and NaN; None where it does all over."""
    valid = None
    if any(MaskFlags.all_valid not in flags for flags in source.mask_flag_enums):
        valid = source.dataset_mask(window=window) != 0
    if np.issubdtype(pixels.dtype, np.inexact):
        finite = np.isfinite(pixels).all(axis=0)
        valid = finite if valid is None else valid & finite
    return None if valid is None or valid.all() else valid


def _check_grid(crs: CRS | None, transform: Affine, shape: tuple[int, int]) -> None:
    if crs is None:
        raise SceneError("it has no CRS")
    if transform == Affine.identity():
        raise SceneError("it has a CRS but no position")
    a, b, _, d, e, _ = transform[:6]
    if abs(b) * shape[0] > abs(a) / 2 or abs(d) * shape[1] > abs(e) / 2:
        raise SceneError(f"its grid is rotated (transform {a:g}, {b:g}, {d:g}, {e:g}): warp it to north up")
    if a <= 0 or e >= 0:
        raise SceneError(f"its grid is mirrored (pixel {a:g} by {e:g}): warp it to north up")


@lru_cache(maxsize=256)
def _crs_text(crs: CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt(version="WKT2_2019"))


@lru_cache(maxsize=256)
def _to_degrees(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def _gsd(crs: str, transform: Affine, shape: tuple[int, int]) -> float:
    """Ground metres per pixel on the ellipsoid at the centre, measured to the neighbouring pixels."""
    row, col = shape[0] / 2, shape[1] / 2
    beside = np.array([(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)])
    lon, lat = _degrees(beside, transform, crs).T
    if not np.isfinite([lon, lat]).all():
        raise SceneError(f"its position ({transform.c:g}, {transform.f:g}) lies outside its CRS")
    _, _, (across, down) = _GEOD.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    a, e = abs(transform.a), abs(transform.e)
    if min(abs(a / e - 1), abs(across / down - 1)) > TOLERANCE:  # degrees are square as numbers or on the ground
        raise SceneError(f"its pixels are not square ({a:g} by {e:g}): warp it to square pixels")
    # within the tolerance the width speaks for both: EPSG:3857 is up to 0.7 % off square on the ellipsoid
    return float(across) if abs(across / down - 1) <= TOLERANCE else math.sqrt(across * down)


def _tally(source: Any) -> _Tally:
    """Go through all pixels once, in strips of bounded size."""
    height, width = source.shape
    cell = 1 << max(0, math.ceil(math.log2(max(height, width) / CELLS)))
    tally = _Tally(np.zeros((-(-height // cell), -(-width // cell)), np.int64), cell)
    unit = max(STRIP_ROWS, cell)
    rows = max(1, STRIP_VALUES // (width * source.count * unit)) * unit
    colour = [band - 1 for band in colour_bands(source)]
    for start in range(0, height, rows):
        window = Window(0, start, width, min(rows, height - start))
        pixels = source.read(window=window)  # all bands, for a file may be cut off in the last one
        _count(tally, pixels[colour], valid_pixels(source, pixels, window), start)
    return tally


def _count(tally: _Tally, pixels: NDArray[Any], valid: NDArray[np.bool_] | None, start: int) -> None:
    values = pixels.reshape(len(pixels), -1) if valid is None else pixels[:, valid]
    high = value_range(pixels.dtype)
    tally.valid += values.shape[1]
    tally.saturated += int(((values <= 0).all(axis=0) | (values >= high).all(axis=0)).sum())
    grey = values.sum(axis=0, dtype=np.float64) / len(values)
    tally.grey += float(grey.sum())
    tally.grey_squared += float(np.dot(grey, grey))
    if valid is not None:
        down, across = (np.arange(0, length, tally.cell) for length in valid.shape)
        cells = np.add.reduceat(np.add.reduceat(~valid, down, axis=0, dtype=np.int64), across, axis=1)
        tally.invalid[start // tally.cell :][: len(cells)] = cells


def value_range(dtype: np.dtype[Any]) -> float:
    """White in a pixel type: the largest integer, or 1 for floats, which are taken for reflectance."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def _quality(tally: _Tally, source: Any) -> dict[str, float]:
    if not tally.valid:
        raise SceneError("it has no valid pixel")
    variance = tally.grey_squared / tally.valid - (tally.grey / tally.valid) ** 2
    return {
        "valid_fraction": tally.valid / (source.width * source.height),
        "saturated_fraction": tally.saturated / tally.valid,
        "contrast": math.sqrt(max(0.0, variance)) / value_range(np.dtype(source.dtypes[0])),
    }


def _outline(tally: _Tally, source: Any) -> BaseGeometry:
    """Valid area in EPSG:4326, or the whole footprint where everything is valid."""
    height, width = source.shape
    whole = tally.valid == height * width
    # the corners counter-clockwise from the lower left, seen on the ground: rows run south
    footprint = shapely.Polygon([(0, height), (width, height), (width, 0), (0, 0)])
    area = shapely.segmentize(footprint if whole else _valid_area(tally, width, height), EDGE_PX)
    crs = _crs_text(source.crs)
    degrees = shapely.transform(area, lambda xy: _degrees(xy, source.transform, crs))
    west, _, east, _ = degrees.bounds
    if not all(math.isfinite(value) for value in degrees.bounds) or east - west > 180:
        raise SceneError("its outline lies outside its CRS or across the 180th meridian")
    return degrees


def _valid_area(tally: _Tally, width: int, height: int) -> BaseGeometry:
    """Valid area in pixels, drawn on the cells of which at least half is valid."""
    down, across = (np.minimum(tally.cell, n - np.arange(0, n, tally.cell)) for n in (height, width))
    pixels = np.outer(down, across)
    half = (2 * tally.invalid <= pixels).astype(np.uint8)
    cells, slack = features.sieve(half, SPECKLE, connectivity=4) if half.size > SPECKLE else half, tally.cell
    if not cells.any():  # few and scattered valid pixels: wherever there is any
        cells, slack = (tally.invalid < pixels).astype(np.uint8), 0
    found = features.shapes(cells, mask=cells == 1, connectivity=4, transform=Affine.scale(tally.cell))
    parts = [shapely.geometry.shape(outline) for outline, _ in found]
    # the staircase along a slanted edge goes, its area stays
    area = shapely.union_all(shapely.simplify(parts, slack))
    return shapely.intersection(area, shapely.box(0, 0, width, height))  # the last cells may overhang


def _degrees(pixels: NDArray[np.float64], transform: Affine, crs: str) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of (n, 2) columns and rows."""
    col, row = pixels.T
    a, b, c, d, e, f = transform[:6]
    return np.column_stack(_to_degrees(crs).transform(a * col + b * row + c, d * col + e * row + f))
