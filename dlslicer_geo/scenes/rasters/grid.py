"""Where an image lies in, ground metres per pixel and the grid it can be read on out."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.values import Placement

TOLERANCE = 0.01
"""Share by which the ground height of a pixel may differ from its width on a grid that is read as it is."""

EDGE_POINTS = 64  # points along each edge of an image that stand for its border
_GEOD = pyproj.Geod(ellps="WGS84")


def gsd_m(crs: str, transform: Affine, shape: tuple[int, int]) -> tuple[float, float]:
    """Ground metres per pixel at the centre of an image, along its rows and along its columns.

    Measured with ``pyproj.Geod`` on the WGS84 ellipsoid between points half a pixel to both sides, so that it holds
    in degrees, in feet, on rotated and mirrored grids.

    Args:
        crs: of the transform.
        transform: pixel (column, row) to CRS units.
        shape: rows and columns.

    Raises:
        SceneError: with the reason alone, if the centre lies outside the CRS.
    """
    row, col = shape[0] / 2, shape[1] / 2
    beside = np.array([(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)])
    lon, lat = degrees(beside, transform, crs).T
    if not np.isfinite([lon, lat]).all():
        raise SceneError(f"its position ({transform.c:g}, {transform.f:g}) lies outside its CRS")
    _, _, (across, down) = _GEOD.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    if not (across > 0 and down > 0):
        raise SceneError(f"its pixels have no size on the ground (transform {_six(transform)})")
    return float(across), float(down)


def one_gsd(across: float, down: float) -> float:
    """One ground resolution for both directions, in metres.

    Within ``TOLERANCE`` the width speaks for both, because EPSG:3857 is up to 0.7 % off square on the ellipsoid;
    beyond, it is the geometric mean.
    """
    return across if abs(across / down - 1) <= TOLERANCE else math.sqrt(across * down)


def fits(placement: Placement, shape: tuple[int, int]) -> str | None:
    """Why the native grid of an image cannot be read as it is; None when it can.

    It can when it is level (rotation moves no pixel of the image by more than half a pixel), has north up and east
    right, and the ground width and height of a pixel agree within ``TOLERANCE``.

    Raises:
        SceneError: with the reason alone, if the position lies outside its CRS.
    """
    a, b, _, d, e, _ = placement.transform[:6]
    if abs(b) * shape[0] > abs(a) / 2 or abs(d) * shape[1] > abs(e) / 2:
        along, across = math.degrees(math.atan2(d, a)), math.degrees(math.atan2(-b, -e))
        turn = max(along, across, key=abs)
        return f"it is rotated by {abs(turn):.1f}°" if abs(turn) >= 0.1 else f"it is rotated by {abs(turn):.2g}°"
    if a < 0 and e > 0:
        return "it is rotated by 180°"
    if a < 0:
        return "it is mirrored"
    if e > 0:
        return "it is south up"
    east, south = gsd_m(placement.crs, placement.transform, shape)
    if abs(east / south - 1) > TOLERANCE:
        return f"its pixels measure {east:.4g} by {south:.4g} m on the ground"
    return None


def target(placement: Placement, shape: tuple[int, int]) -> tuple[str, Affine, tuple[int, int]]:
    """The metric grid an image is warped to: UTM, or UPS beyond 84° N and 80° S.

    Its pixels are as large on the ground, at the centre, as the smaller side of the native ones; its origin lies on
    a whole pixel; it holds the whole image.

    Returns:
        CRS, transform, (rows, columns).

    Raises:
        SceneError: with the reason alone, if there is no such grid.
    """
    check_reach(placement.crs, placement.transform, shape)
    middle = np.array([[shape[1] / 2, shape[0] / 2]])
    lon, lat = (float(value) for value in degrees(middle, placement.transform, placement.crs)[0])
    crs = _metric_crs(lon, lat)
    scale = pyproj.Proj(crs).get_factors(lon, lat).meridional_scale
    size = min(gsd_m(placement.crs, placement.transform, shape)) * scale
    x, y = _transformer(placement.crs, crs).transform(*_map(_border(shape), placement.transform))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise SceneError(f"it does not fit into {crs}: cut it into smaller images")
    # a millionth of a pixel is noise of the transformation, and no further row
    west, north = math.floor(x.min() / size + 1e-6), math.ceil(y.max() / size - 1e-6)
    cols, rows = math.ceil(x.max() / size - 1e-6) - west, north - math.floor(y.min() / size + 1e-6)
    return crs, Affine(size, 0.0, west * size, 0.0, -size, north * size), (max(rows, 1), max(cols, 1))


def check_reach(crs: str, transform: Affine, shape: tuple[int, int]) -> None:
    """Refuse what has no outline in longitude and latitude.

    Raises:
        SceneError: with the reason alone, if an image lies outside its CRS, across the 180th meridian or around a
            pole.
    """
    lon, lat = degrees(_border(shape), transform, crs).T
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.abs(lat).max() > 90:
        raise SceneError(f"its position ({transform.c:g}, {transform.f:g}) lies outside its CRS")
    steps = (np.diff(lon) + 180) % 360 - 180
    advice = "cut it into parts, for instance with gdalwarp -te, and give these"
    if abs(steps.sum()) > 180:
        raise SceneError(f"it lies around the {'North' if lat.mean() > 0 else 'South'} pole: {advice}")
    course = lon[0] + np.concatenate([[0.0], np.cumsum(steps)])
    course -= 360 * np.floor((course.mean() + 180) / 360)
    if course.min() < -180 - 1e-9 or course.max() > 180 + 1e-9:
        raise SceneError(f"it lies across the 180th meridian: {advice}")


def degrees(pixels: NDArray[np.float64], transform: Affine, crs: str) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of (n, 2) columns and rows."""
    return np.column_stack(_transformer(crs, "EPSG:4326").transform(*_map(pixels, transform)))


def pixels_of(lonlat: NDArray[np.float64], transform: Affine, crs: str) -> NDArray[np.float64]:
    """(n, 2) columns and rows of (n, 2) longitude and latitude."""
    x, y = _transformer("EPSG:4326", crs).transform(*lonlat.T)
    return np.column_stack(_map(np.column_stack([x, y]), ~transform))


def _map(points: NDArray[np.float64], transform: Affine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    col, row = points.T
    a, b, c, d, e, f = transform[:6]
    return a * col + b * row + c, d * col + e * row + f


def _border(shape: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 2) columns and rows once around an image, closed."""
    rows, cols = shape
    part = np.linspace(0, 1, EDGE_POINTS, endpoint=False)
    zero, one = np.zeros_like(part), np.ones_like(part)
    col = np.concatenate([part, one, 1 - part, zero, [0.0]]) * cols
    row = np.concatenate([zero, part, one, 1 - part, [0.0]]) * rows
    return np.column_stack([col, row])


def _metric_crs(lon: float, lat: float) -> str:
    if lat > 84:
        return "EPSG:5041"  # UPS North with east before north; EPSG:32661 has them the other way round
    if lat < -80:
        return "EPSG:5042"
    zone = int(((lon + 180) % 360) // 6) + 1
    return f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"


def _six(transform: Affine) -> str:
    return ", ".join(f"{value:g}" for value in transform[:6])


@lru_cache(maxsize=256)
def _transformer(source: str, to: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source, to, always_xy=True)
