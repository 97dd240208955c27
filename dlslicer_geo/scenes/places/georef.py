"""What is known of one image in, where it lies out.

Every source is read, and the first of these that is complete decides:

===============  ===============================================================================  ============
``georef``       source                                                                           accuracy
===============  ===============================================================================  ============
``geotiff``      transform and CRS in the file itself, whatever its format                        unknown
``gcp``          ground control points in the file, or in its ``.aux.xml``: an affine fit         its residual
``world-file``   world file, else the transform of an ``.aux.xml``; CRS of ``.prj``, of           unknown
                 ``.aux.xml``, of the file itself, of the settings
``sidecar``      a row of a table (see ``rows``)                                                  as it says
``tile-name``    ``z/x/y`` or ``OAM-x-y-z``                                                       half a pixel
``exif``         GPS position of the camera, with the ground resolution of the settings           50 m or more
===============  ===============================================================================  ============

Another complete source whose centre differs by more than the sum of both accuracies (unknown counts as one pixel on
the ground) is named in a warning, with the distance. A source that lacks something (a world file without CRS) gives
way to a complete one; alone, it is an error that says what is missing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.places.crs import Incomplete, crs_text, is_geographic, to_degrees
from dlslicer_geo.scenes.places.hints import exif_centre, exif_placement, tile_placement
from dlslicer_geo.scenes.places.plane import GEOD, centre_of, distance_m, fit_affine, metric_grid, pixel_m, unwrapped
from dlslicer_geo.scenes.places.rows import placement as row_placement
from dlslicer_geo.scenes.places.sidecar import Sidecars
from dlslicer_geo.scenes.places.world import FARTHEST, checked, read_world
from dlslicer_geo.scenes.values import Found, Header, Placement
from dlslicer_geo.types import Reading

__all__ = ["Incomplete", "crs_text", "metric_grid", "place"]

logger = logging.getLogger(__name__)

LARGEST_RESIDUAL = 0.05
"""Residual of control points, as a share of the image's diagonal, beyond which no affine fit is taken."""

FINEST_M, COARSEST_M = 1e-4, 1e5  # ground size of a pixel: beyond, the numbers do not fit the CRS

NAMES = {
    "geotiff": "the position in the file",
    "gcp": "its control points",
    "world-file": "its world file",
    "sidecar": "its sidecar",
    "tile-name": "its tile name",
    "exif": "its EXIF position",
}

Control = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """Everything that is known of an image."""

    found: Found
    header: Header
    sidecars: Sidecars
    reading: Reading

    @property
    def shape(self) -> tuple[int, int]:
        return self.header.height, self.header.width

    @property
    def given_crs(self) -> str | None:
        """The CRS of the settings."""
        if self.reading.crs is None:
            return None
        try:
            return crs_text(self.reading.crs)
        except SceneError as error:
            raise ConfigError(f"data.crs: {error}") from None


def place(found: Found, header: Header, sidecars: Sidecars, reading: Reading) -> Placement | None:
    """Where an image lies.

    Args:
        found: the image.
        header: what GDAL says of it.
        sidecars: tables of positions.
        reading: ``crs`` and ``gsd_m`` stand in where a source lacks them.

    Returns:
        the placement by the highest source that is complete, with the facts of all of them; None where nothing says
        anything.

    Raises:
        ConfigError: if ``reading.crs`` cannot be read.
        SceneError: with the reason alone, if what there is cannot be used, or is not enough.
    """
    image = _Image(found=found, header=header, sidecars=sidecars, reading=reading)
    placed: list[Placement] = []
    lacking: list[tuple[str, SceneError]] = []
    for georef, source in _SOURCES.items():
        try:
            placement = source(image)
            if placement is not None:
                placed.append(_sane(placement, image.shape))
        except Incomplete as error:
            lacking.append((georef, error))
        except SceneError as error:
            if not placed:
                raise
            logger.warning("%s: %s cannot be used: %s", found.source, NAMES[georef], error)
    _add_exif(image, placed, lacking)
    if not placed:
        if lacking:
            raise SceneError(str(lacking[0][1]))
        return None
    best = placed[0]
    _tell(image, best, placed[1:], lacking)
    facts: dict[str, str] = {}
    for placement in reversed(placed):
        facts |= placement.facts
    return replace(best, facts=facts)


def _embedded(image: _Image) -> Placement | None:
    header = image.header
    if header.transform is None:
        if header.rpcs and not header.gcps:
            raise Incomplete(
                "it has RPCs but no grid: orthorectify it first, for instance with gdalwarp -rpc -to RPC_DEM=dem.tif"
            )
        if header.crs is not None and not header.gcps:
            raise Incomplete("it has a CRS but no position: add a world file or a sidecar")
        return None
    crs = header.crs or image.given_crs
    if crs is None:
        raise Incomplete("it has a position but no CRS: set data.crs, or assign one with gdal_edit.py -a_srs")
    return Placement(crs=crs_text(crs), transform=checked(header.transform), georef="geotiff")


def _control_points(image: _Image) -> Placement | None:
    header = image.header
    if not header.gcps:
        return None
    crs = header.gcps_crs or header.crs or image.given_crs
    if crs is None:
        raise Incomplete(f"it has {len(header.gcps)} ground control points but no CRS: set data.crs")
    return _fitted(header.gcps, crs_text(crs), image.shape)


def _world(image: _Image) -> Placement | None:
    world = read_world(image.found.path)
    if world is None:
        return None
    crs = world.crs or image.header.crs or image.given_crs
    if crs is None:
        raise Incomplete(f"it has the world file {world.name} but no CRS: add a .prj beside it, or set data.crs")
    if world.transform is None:
        return _fitted(world.gcps, crs_text(crs), image.shape)
    return Placement(crs=crs_text(crs), transform=world.transform, georef="world-file")


def _sidecar(image: _Image) -> Placement | None:
    row = image.sidecars.row_of(image.found)
    return None if row is None else row_placement(row, image.shape, image.reading)


def _tile(image: _Image) -> Placement | None:
    return tile_placement(image.found, image.header)


_SOURCES: Mapping[str, Callable[[_Image], Placement | None]] = {
    "geotiff": _embedded,
    "gcp": _control_points,
    "world-file": _world,
    "sidecar": _sidecar,
    "tile-name": _tile,
}


def _add_exif(image: _Image, placed: list[Placement], lacking: list[tuple[str, SceneError]]) -> None:
    camera = exif_centre(image.found)
    if camera is None:
        return
    gsd_m = image.reading.gsd_m
    if gsd_m is None and placed:  # any will do: only the centre is compared
        gsd_m = pixel_m(placed[0].crs, placed[0].transform, image.shape)
    if gsd_m is None:
        lacking.append(("exif", Incomplete("it has a GPS position but no ground resolution: set data.gsd_m")))
    else:
        placed.append(exif_placement(camera, image.shape, gsd_m))


def _fitted(points: Control, crs: str, shape: tuple[int, int]) -> Placement:
    """The affine fit of control points; its residual on the ground is the accuracy."""
    table = np.array(points, float)
    if not np.abs(table).max() <= FARTHEST:
        raise SceneError(f"its ground control points hold the number {np.abs(table).max():g}: correct it")
    pixels, ground = table[:, [1, 0]], unwrapped(crs, table[:, 2:])
    fitted = checked(fit_affine(pixels, ground))
    there = np.column_stack([fitted.a * pixels[:, 0] + fitted.b * pixels[:, 1] + fitted.c,
                             fitted.d * pixels[:, 0] + fitted.e * pixels[:, 1] + fitted.f])  # fmt: skip
    residual_m = math.sqrt(float(np.mean(np.square(_apart_m(crs, there, ground)))))
    rows, cols = shape
    corners = np.array([fitted * (0, 0), fitted * (cols, rows)])
    diagonal_m = float(_apart_m(crs, corners[:1], corners[1:])[0])
    if not residual_m <= LARGEST_RESIDUAL * diagonal_m:
        raise SceneError(
            f"its {len(points)} control points are {residual_m:.3g} m off an affine grid, "
            f"{residual_m / diagonal_m:.1%} of its diagonal: warp it first with gdalwarp -tps or -order 2"
        )
    return Placement(crs=crs, transform=fitted, georef="gcp", accuracy_m=residual_m if len(points) > 3 else None)


def _apart_m(crs: str, one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = to_degrees(crs).transform(*one.T)
    other_lon, other_lat = to_degrees(crs).transform(*two.T)
    if not np.isfinite([lon, lat, other_lon, other_lat]).all():
        raise SceneError(f"its control points lie outside {crs[:40]}: correct them or the CRS")
    return np.asarray(GEOD.inv(lon, lat, other_lon, other_lat)[2])


def _sane(placement: Placement, shape: tuple[int, int]) -> Placement:
    """The placement itself, which must be somewhere on Earth."""
    a, b, c, d, e, f = placement.transform[:6]
    if is_geographic(placement.crs) and 180 < c + a * shape[1] / 2 <= 360:  # degrees that run from 0 to 360
        placement = replace(placement, transform=Affine(a, b, c - 360, d, e, f))
    lon, lat = centre_of(placement.crs, placement.transform, shape)
    where = placement.transform * (shape[1] / 2, shape[0] / 2)
    crs = placement.crs if len(placement.crs) < 40 else "its CRS"
    fits = math.isfinite(lon) and math.isfinite(lat) and abs(lat) <= 90 and abs(lon) <= 540
    size_m = pixel_m(placement.crs, placement.transform, shape) if fits else math.nan
    if not FINEST_M <= size_m <= COARSEST_M:
        shown = f" with pixels of {size_m:.3g} m" if fits else ""
        raise SceneError(
            f"{NAMES[placement.georef]} puts its centre at {where[0]:g}, {where[1]:g}{shown}, which does not fit "
            f"{crs}: correct one of them"
        )
    return placement


def _tell(
    image: _Image, best: Placement, others: list[Placement], lacking: list[tuple[str, SceneError]]
) -> None:  # fmt: skip
    """Warn of sources that contradict the one that decides, and of better ones that lack something."""
    source, order = image.found.source, list(NAMES)
    for georef, error in lacking:
        bare = georef == "geotiff" and image.header.transform is None  # a CRS alone promises no position
        if order.index(georef) < order.index(best.georef) and not bare:
            logger.warning("%s: %s; %s is taken", source, error, NAMES[best.georef])
    centre = centre_of(best.crs, best.transform, image.shape)
    for other in others:
        apart_m = distance_m(centre, centre_of(other.crs, other.transform, image.shape))
        if apart_m > _accuracy_m(best, image.shape) + _accuracy_m(other, image.shape):
            logger.warning(
                "%s: %s (%s) and %s (%s) are %.1f m apart; the first is taken",
                source, NAMES[best.georef], best.georef, NAMES[other.georef], other.georef, apart_m,
            )  # fmt: skip


def _accuracy_m(placement: Placement, shape: tuple[int, int]) -> float:
    if placement.accuracy_m is not None:
        return placement.accuracy_m
    return pixel_m(placement.crs, placement.transform, shape)
