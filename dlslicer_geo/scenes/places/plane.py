"""Points, corners and centres in, pixel grids out: the geometry that all sources of positions share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.places.crs import is_geographic, to_degrees

GEOD = pyproj.Geod(ellps="WGS84")
FLATTEST = 1e-3  # of points: their spread across the best line, as a share of that along it
SKEWEST = 0.02  # of four corners: how far they may be from a parallelogram, as a share of the diagonal
LEVEL_PX = 0.1  # four corners this near a box parallel to the axes are that box
UNDECIDED_DEG = 1.0  # two sides of an outline that point equally near to where the top should point

Points = NDArray[np.float64]


def metric_grid(
    lon: float, lat: float, gsd_m: float | tuple[float, float], shape: tuple[int, int], rotation_deg: float = 0.0
) -> tuple[str, Affine]:
    """A grid of ground metres around a centre, in a transverse Mercator projection of its own.

    Args:
        lon: longitude of the image's centre in degrees.
        lat: latitude of the image's centre in degrees.
        gsd_m: ground metres per pixel, one number or across and down.
        shape: rows and columns.
        rotation_deg: where the top of the image points to, clockwise from true north.

    Returns:
        the CRS as WKT2:2019, with the centre at (0, 0), and the transform from columns and rows.
    """
    across, down = gsd_m if isinstance(gsd_m, tuple) else (gsd_m, gsd_m)
    centred = Affine.scale(across, -down) * Affine.translation(-shape[1] / 2, -shape[0] / 2)
    return local_crs(lon, lat), Affine.rotation(-rotation_deg) * centred if rotation_deg else centred


def local_crs(lon: float, lat: float) -> str:
    """Transverse Mercator around a point, true to scale there, as WKT2:2019."""
    return _local_crs(round(lon, 9) + 0.0, round(lat, 9) + 0.0)  # + 0.0: there is no minus zero in a name


def box_grid(west: float, south: float, east: float, north: float, shape: tuple[int, int]) -> Affine:
    """The transform of an image that fills a box."""
    rows, cols = shape
    return Affine((east - west) / cols, 0.0, west, 0.0, (south - north) / rows, north)


def fit_affine(pixels: Points, ground: Points) -> Affine:
    """The affine transform of least squares from pixels to the ground.

    Args:
        pixels: (n, 2) columns and rows, at least three not on a line.
        ground: (n, 2) x and y.

    Raises:
        SceneError: with the reason alone, if the points do not determine it.
    """
    if len(pixels) < 3:
        raise SceneError(f"it has {len(pixels)} control points: three or more are needed")
    for points, where in ((pixels, "in the image"), (ground, "on the ground")):
        along, across = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if not across > FLATTEST * along:
            share = across / along if along > 0 else 0.0
            raise SceneError(
                f"its {len(points)} control points lie on a line {where} (spread across it {share:.1%} of that along "
                "it): give points all over the image"
            )
    centre, scale = pixels.mean(axis=0), np.abs(pixels - pixels.mean(axis=0)).max(axis=0)
    design = np.column_stack([(pixels - centre) / scale, np.ones(len(pixels))])
    middle = ground.mean(axis=0)
    (a, d), (b, e), (c, f) = np.linalg.lstsq(design, ground - middle, rcond=None)[0]
    fitted = Affine(a / scale[0], b / scale[1], c, d / scale[0], e / scale[1], f)
    moved = Affine.translation(*middle.tolist()) * fitted * Affine.translation(*(-centre).tolist())
    return Affine(*(float(value) for value in moved[:6]))


def fit_corners(crs: str, corners: Points, shape: tuple[int, int]) -> tuple[str, Affine]:
    """The grid of an image whose four corners are known.

    A box parallel to the axes gives a grid in the CRS itself; so do other parallelograms in a projected CRS. In
    degrees they are fitted in a transverse Mercator projection around them, where a rectangle on the ground is one.

    Args:
        crs: CRS of the corners.
        corners: (4, 2) x and y of the upper left, upper right, lower right and lower left corner.
        shape: rows and columns.

    Raises:
        SceneError: with the reason alone, if they are no parallelogram.
    """
    corners = unwrapped(crs, corners)
    plane, flat = _flat(crs, corners)
    rows, cols = shape
    diagonal = float(max(np.hypot(*(flat[2] - flat[0])), np.hypot(*(flat[3] - flat[1]))))
    if not abs(_signed_area(flat)) > FLATTEST * diagonal**2:
        raise SceneError("its four corners lie on a line: correct them, or give the centre")
    (west, south), (east, north) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    box = _flat(crs, np.array([(west, north), (east, north), (east, south), (west, south)]), plane)[1]
    if np.hypot(*(box - flat).T).max() <= LEVEL_PX * diagonal / math.hypot(rows, cols):
        return crs, box_grid(west, south, east, north, shape)
    residual = float(np.hypot(*(flat[0] - flat[1] + flat[2] - flat[3]))) / 4
    if residual > SKEWEST * diagonal:
        raise SceneError(
            f"its four corners are no parallelogram: they are {residual:.3g} m off, {residual / diagonal:.1%} of the "
            "diagonal: correct them, or give the centre"
        )
    pixels = np.array([(0, 0), (cols, 0), (cols, rows), (0, rows)], float)
    return (plane, fit_affine(pixels, flat)) if is_geographic(crs) else (crs, fit_affine(pixels, corners))


def order_corners(crs: str, ring: Points, rotation_deg: float | None) -> Points:
    """Corners of an outline as upper left, upper right, lower right and lower left.

    The image is not mirrored, and its top is the side that faces nearest to ``rotation_deg``.

    Args:
        crs: CRS of the corners.
        ring: (4, 2) x and y in the order of the outline, either way round.
        rotation_deg: where the top of the image points to, clockwise from true north; None takes north.

    Raises:
        SceneError: with the reason alone, if two sides are equally near.
    """
    ring = unwrapped(crs, ring)
    flat = _flat(crs, ring, local_crs(*_degrees(crs, ring).mean(axis=0).tolist()))[1]
    if _signed_area(flat) > 0:  # counter-clockwise
        ring, flat = ring[::-1], flat[::-1]
    turns = [np.roll(np.arange(4), -start) for start in range(4)]
    off = [_off(flat[turn], rotation_deg or 0.0) for turn in turns]
    best, second, *_ = sorted(off)
    if rotation_deg is None and second - best < UNDECIDED_DEG:
        raise SceneError(f"two sides of its outline face north equally ({best:.1f}° off): give rotation_deg")
    return ring[turns[off.index(best)]]


def unwrapped(crs: str, points: Points) -> Points:
    """Points on both sides of the 180th meridian, counted on eastwards."""
    if is_geographic(crs) and np.ptp(points[:, 0]) > 180:
        return np.column_stack([np.where(points[:, 0] < 0, points[:, 0] + 360, points[:, 0]), points[:, 1]])
    return points


def centre_of(crs: str, transform: Affine, shape: tuple[int, int]) -> tuple[float, float]:
    """Longitude and latitude of the centre of an image; infinite where it lies outside the CRS."""
    lon, lat = to_degrees(crs).transform(*(transform * (shape[1] / 2, shape[0] / 2)))
    return float(lon), float(lat)


def pixel_m(crs: str, transform: Affine, shape: tuple[int, int]) -> float:
    """Ground metres between neighbouring pixels at the centre, the geometric mean of across and down."""
    row, col = shape[0] / 2, shape[1] / 2
    beside = [(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)]
    lon, lat = to_degrees(crs).transform(*np.array([transform * point for point in beside]).T)
    _, _, (across, down) = GEOD.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    return math.sqrt(across * down)


def distance_m(one: Sequence[float], two: Sequence[float]) -> float:
    """Geodesic distance of two points in longitude and latitude."""
    return float(GEOD.inv(one[0], one[1], two[0], two[1])[2])


@lru_cache(maxsize=1024)
def _local_crs(lon: float, lat: float) -> str:
    from pyproj.crs import ProjectedCRS
    from pyproj.crs.coordinate_operation import TransverseMercatorConversion

    mercator = TransverseMercatorConversion(lat, lon, 0, 0, 1)
    return str(
        ProjectedCRS(mercator, name=f"metres around {lon} {lat}", geodetic_crs="EPSG:4326").to_wkt("WKT2_2019")
    )


def _degrees(crs: str, points: Points) -> Points:
    found = np.column_stack(to_degrees(crs).transform(*points.T))
    if not np.isfinite(found).all():
        raise SceneError(f"its corners, the first at {points[0, 0]:g}, {points[0, 1]:g}, lie outside their CRS")
    return unwrapped("EPSG:4326", found)


def _flat(crs: str, points: Points, plane: str | None = None) -> tuple[str, Points]:
    """A plane in metres around points, and the points on it."""
    degrees = _degrees(crs, points)
    plane = plane or local_crs(*degrees.mean(axis=0).tolist())
    flat = np.column_stack(to_degrees(plane).transform(degrees[:, 0], degrees[:, 1], direction="INVERSE"))
    if not np.isfinite(flat).all():
        raise SceneError("its corners are too far apart for one image")
    return plane, flat


def _signed_area(points: Points) -> float:
    """Twice the area, above 0 counter-clockwise."""
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _off(corners: Points, rotation_deg: float) -> float:
    """Degrees between where the top of the image should point to and where it does."""
    east, north = corners[:2].mean(axis=0) - corners[2:].mean(axis=0)
    return abs((math.degrees(math.atan2(east, north)) - rotation_deg + 180) % 360 - 180)
