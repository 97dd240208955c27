"""A coordinate reference system in any notation in, one notation and the way to degrees out."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

import pyproj
from pyproj.exceptions import ProjError

from dlslicer_geo.errors import SceneError

LONGEST = 1 << 16  # characters; the longest definition in PROJ's database has 13,000
_NOTATION = re.compile(
    r"\s*(?:[A-Za-z_]{2,12}\d*:[A-Za-z0-9_]+\s*\Z|urn:ogc:def:crs|https?://|\+\w|\{|[A-Za-z_]{3,20}\s*[\[(])"
)
_OTHER_AXES = {"OGC:CRS84": "EPSG:4326", "OGC:CRS83": "EPSG:4269"}  # here x is always east: these are the same
_TOO_LOW = 70  # PROJ's confidence below which a code and a definition are not the same system


class Incomplete(SceneError):
    """A source says something about a position, but not enough: another one may do."""


@lru_cache(maxsize=1024)
def crs_text(value: str) -> str:
    """One notation for a CRS that positions on the ground can be given in.

    A compound or three-dimensional system is reduced to its horizontal part. A definition with its own shift to WGS
    84 keeps it, unless an authority knows the system.

    Args:
        value: ``EPSG:32643``, an OGC name, WKT of any version, a PROJ string or PROJJSON.

    Returns:
        ``authority:code`` where an authority knows it, else WKT2:2019.

    Raises:
        SceneError: with the reason alone, if it cannot be read, or has no two-dimensional positions on Earth.
    """
    shown = " ".join(value[:80].split())
    if len(value) > LONGEST or not _NOTATION.match(value):
        raise SceneError(f"the CRS {shown!r} cannot be read: give it as authority:code or as WKT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # +init= is out of fashion, and some names are
        try:
            crs = _horizontal(pyproj.CRS.from_user_input(value.strip()))
            if not (crs.is_geographic or crs.is_projected) or len(crs.axis_info) != 2:
                raise SceneError(f"the CRS {shown!r} is a {crs.type_name}: give a geographic or projected one")
            text = _text(crs)
            to_degrees(text)
        except (ProjError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            why = " ".join(str(error).split())[:200]
            raise SceneError(f"the CRS {shown!r} cannot be read ({why}): give it as authority:code or WKT") from None
    return text


@lru_cache(maxsize=1024)
def to_degrees(crs: str) -> pyproj.Transformer:
    """The way from x and y in a CRS to longitude and latitude (WGS 84), in this order whatever its axes are."""
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


@lru_cache(maxsize=1024)
def is_geographic(crs: str) -> bool:
    """Whether x and y of a CRS are angles."""
    return bool(pyproj.CRS.from_user_input(crs).is_geographic)


def _horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    while crs.is_compound and crs.sub_crs_list:
        crs = crs.sub_crs_list[0]
    if crs.is_bound and crs.source_crs is not None and _code(crs.source_crs.to_2d()):
        crs = crs.source_crs
    return crs.to_2d() if len(crs.axis_info) == 3 and (crs.is_geographic or crs.is_projected) else crs


def _text(crs: pyproj.CRS) -> str:
    return _code(crs) or str(crs.to_wkt("WKT2_2019"))


def _code(crs: pyproj.CRS) -> str | None:
    authority = crs.to_authority(min_confidence=_TOO_LOW)
    code = ":".join(authority) if authority else None
    return _OTHER_AXES.get(code, code) if code else None
