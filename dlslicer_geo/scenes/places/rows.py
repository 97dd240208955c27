"""One row of a sidecar table in, the position and the facts it gives out.

The columns, in any case and any order; empty cells count as absent:

======================================  ==========================================================================
``file`` (filename, path, image, name)  the image: a path relative to the table, or its name, with or without
                                        suffix
``lon, lat`` (longitude, latitude)      centre in degrees
``x, y``                                centre in ``crs``
``gsd_m``                               ground metres per pixel, for a centre; else ``width_m``, else the setting
``width_m, height_m``                   ground size of the image, for a centre; pixels are square without height
``west, south, east, north``            extent in degrees, or in ``crs``
``ul_lon, ul_lat, ur_…, lr_…, ll_…``    corners of the image in degrees: upper left, upper right, lower right, ...
a point                                 centre, where no column gives a position
a polygon of four corners               footprint, where no column gives a position
``rotation_deg``                        where the top of the image points to, clockwise from true north; for a
                                        centre or a polygon
``crs``                                 CRS of ``x, y`` and of an extent
``accuracy_m``                          metres by which the position may be off
``city, city_name, site``               what names and maps call it
``date`` (acquired)                     day, month or year
======================================  ==========================================================================

A position is given in one of these ways. A row may also have none: then it tells facts only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.names import iso_date
from dlslicer_geo.scenes.places.crs import Incomplete, crs_text, is_geographic, to_degrees
from dlslicer_geo.scenes.places.plane import box_grid, fit_corners, metric_grid, order_corners
from dlslicer_geo.scenes.values import Placement
from dlslicer_geo.types import Reading

Point = tuple[float, float]

WAYS: Mapping[str, tuple[str, ...]] = {
    "a centre": ("lon", "lat"),
    "a centre in crs": ("x", "y"),
    "an extent": ("west", "south", "east", "north"),
    "corners": tuple(f"{corner}_{axis}" for corner in ("ul", "ur", "lr", "ll") for axis in ("lon", "lat")),
}
"""The ways to give a position, and their columns."""

FACTS = {"city": "city", "city_name": "city_name", "site": "site", "date": "acquired"}

ALIASES = {
    "filename": "file",
    "path": "file",
    "image": "file",
    "name": "file",
    "longitude": "lon",
    "latitude": "lat",
    "acquired": "date",
}

GEOMETRY = "geometry type"
"""Column under which a geometry that gives no position is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a sidecar says of one image, not yet understood.

    Args:
        origin: the table and the number of the row, for messages.
        values: column in lower case → text; no empty ones.
        points: corners of its geometry, one for a point; empty without geometry.
        crs: CRS of ``points``.
    """

    origin: str
    values: Mapping[str, str]
    points: tuple[Point, ...] = ()
    crs: str = "EPSG:4326"


def make_row(
    origin: str, cells: Iterable[tuple[str, str | None]], points: Sequence[Point] = (), crs: str = "EPSG:4326"
) -> Row:
    """A row of cells, each a column and its text.

    Args:
        origin: the table and the number of the row, for messages.
        cells: empty ones are left out; columns that mean nothing are kept.
        points: the geometry: one point, or a ring, closed or not.
        crs: CRS of ``points``.

    Raises:
        SceneError: naming the row, if a column is there twice with different texts.
    """
    values: dict[str, str] = {}
    for column, given in cells:
        key, text = column.strip().lower(), (given or "").strip()
        if text and values.setdefault(key, text) != text:
            raise SceneError(f"{origin}: {key[:40]} is {values[key][:40]!r} and {text[:40]!r}: leave one of them")
    for alias, key in ALIASES.items():
        text = values.pop(alias, "")
        if text:
            values.setdefault(key, text)
    ring = points[:-1] if len(points) > 1 and points[0] == points[-1] else points
    return Row(origin=origin, values=values, points=tuple(ring), crs=crs)


def facts(row: Row) -> dict[str, str]:
    """City, its name, site and date (``acquired``) that a row gives.

    Raises:
        SceneError: naming the row, if its date is none.
    """
    found = {fact: row.values[column] for column, fact in FACTS.items() if column in row.values}
    if "acquired" in found:
        text = found["acquired"]
        date = iso_date(text) or iso_date(text[:10] if text[10:11] in ("T", " ") else "")
        if date is None:
            raise SceneError(f"{row.origin}: date is {text[:40]!r}: write it as 2018, 2018-07 or 2018-07-15")
        found["acquired"] = date
    return found


def placement(row: Row, shape: tuple[int, int], reading: Reading) -> Placement | None:
    """Where a row says that an image of ``shape`` rows and columns lies; None where it says nothing.

    Raises:
        SceneError: naming the row, the column and the value, if it cannot be understood.
        Incomplete: if something is missing that other settings or columns would give.
    """
    try:
        grid = _grid(row, shape, reading)
        if grid is None:
            return None
        accuracy_m = _number(row, "accuracy_m", low=0.0) if "accuracy_m" in row.values else None
    except SceneError as error:
        raise type(error)(f"{row.origin}: {error}") from None
    return Placement(crs=grid[0], transform=grid[1], georef="sidecar", accuracy_m=accuracy_m, facts=facts(row))


def _grid(row: Row, shape: tuple[int, int], reading: Reading) -> tuple[str, Affine] | None:
    way = _way(row)
    if way is None:
        return None
    rotation = _number(row, "rotation_deg", low=-360.0, high=360.0) if "rotation_deg" in row.values else None
    if way in ("an extent", "corners") and rotation:
        raise SceneError(f"rotation_deg is {rotation:g}, which goes with a centre only: leave it out")
    if way == "an extent":
        return _extent(row, shape)
    if way == "corners":
        corners = [_degrees(row, f"{corner}_lon", f"{corner}_lat") for corner in ("ul", "ur", "lr", "ll")]
        return fit_corners("EPSG:4326", np.array(corners), shape)
    if way == "a polygon":
        ring = np.array([_inside(row.crs, *point) for point in row.points])
        return fit_corners(row.crs, order_corners(row.crs, ring, rotation), shape)
    lon, lat = _centre(row, way, reading)
    return metric_grid(lon, lat, _gsd(row, shape, reading), shape, rotation or 0.0)


def _way(row: Row) -> str | None:
    """How a row gives a position, as in ``WAYS``, or by its geometry."""
    begun = {way: [column for column in columns if column in row.values] for way, columns in WAYS.items()}
    ways = [way for way, columns in begun.items() if columns]
    if len(ways) > 1:
        shown = " and ".join(f"{way} ({begun[way][0]})" for way in ways[:2])
        raise SceneError(f"it gives {shown}: give its position in one way")
    if ways:
        missing = [column for column in WAYS[ways[0]] if column not in row.values]
        if missing:
            raise SceneError(f"it gives {begun[ways[0]][0]} but no {missing[0]}: add it")
        return ways[0]
    if GEOMETRY in row.values:
        raise SceneError(f"its geometry is a {row.values[GEOMETRY][:40]}: give a point or a polygon of four corners")
    if len(row.points) not in (0, 1, 4):
        raise SceneError(f"its geometry has {len(row.points)} corners: give a point or a polygon of four corners")
    return {0: None, 1: "a point", 4: "a polygon"}[len(row.points)]


def _extent(row: Row, shape: tuple[int, int]) -> tuple[str, Affine]:
    crs = crs_text(row.values["crs"]) if "crs" in row.values else "EPSG:4326"
    west, south, east, north = (_number(row, column) for column in WAYS["an extent"])
    for low, high, names in ((west, east, ("west", "east")), (south, north, ("south", "north"))):
        if not low < high:
            hint = " (across the 180th meridian east is above 180)" if names[0] == "west" else ""
            raise SceneError(f"{names[0]} is {low:g} and {names[1]} is {high:g}: the first is to be smaller{hint}")
    _inside(crs, west, south)
    _inside(crs, east, north)
    return crs, box_grid(west, south, east, north, shape)


def _centre(row: Row, way: str, reading: Reading) -> tuple[float, float]:
    if way == "a centre":
        return _degrees(row, "lon", "lat")
    if way == "a point":
        crs, (x, y) = row.crs, row.points[0]
    else:
        given = row.values.get("crs") or reading.crs
        if given is None:
            raise Incomplete("it gives x and y but no crs: add the column, or set data.crs")
        crs, x, y = crs_text(given), _number(row, "x"), _number(row, "y")
    _inside(crs, x, y)
    lon, lat = to_degrees(crs).transform(x, y)
    return float(lon), float(lat)


def _gsd(row: Row, shape: tuple[int, int], reading: Reading) -> tuple[float, float]:
    if "gsd_m" in row.values and "width_m" in row.values:
        raise SceneError("it gives gsd_m and width_m: give one of them")
    if "height_m" in row.values and "width_m" not in row.values:
        raise SceneError("it gives height_m but no width_m: add it")
    if "width_m" in row.values:
        across = _above_0(row, "width_m") / shape[1]
        return across, _above_0(row, "height_m") / shape[0] if "height_m" in row.values else across
    gsd_m = _above_0(row, "gsd_m") if "gsd_m" in row.values else reading.gsd_m
    if gsd_m is None:
        raise Incomplete("it gives a centre but no ground resolution: add the column gsd_m, or set data.gsd_m")
    return gsd_m, gsd_m


def _degrees(row: Row, lon: str, lat: str) -> tuple[float, float]:
    return _number(row, lon, low=-180.0, high=360.0), _number(row, lat, low=-90.0, high=90.0)


def _inside(crs: str, x: float, y: float) -> tuple[float, float]:
    """The point itself, which must be one in the CRS."""
    if is_geographic(crs) and not (-180 <= x <= 540 and -90 <= y <= 90):
        raise SceneError(f"it gives the longitude {x:g} and the latitude {y:g}: these are none")
    if not all(math.isfinite(value) for value in to_degrees(crs).transform(x, y)):
        raise SceneError(f"it gives x {x:g} and y {y:g}, which lie outside {crs[:40]}")
    return x, y


def _above_0(row: Row, column: str) -> float:
    number = _number(row, column)
    if number <= 0:
        raise SceneError(f"{column} is {number:g}: it must be above 0")
    return number


def _number(row: Row, column: str, low: float = -1e9, high: float = 1e9) -> float:
    text = row.values[column]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise SceneError(f"{column} is {text[:40]!r}: write a number with a decimal point")
    if not low <= number <= high:
        raise SceneError(f"{column} is {text[:40]}: it must be from {low:g} to {high:g}")
    return number
