"""The values that pass between the parts of this room; no input, no output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from affine import Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file that may be a scene.

    Args:
        path: what GDAL opens: an absolute file name, ``/vsicurl/https://…``, ``/vsis3/…``, ``/vsizip/…``. May carry a
            credential, and is never written or logged where ``secret`` is true.
        relative: the path below the root, POSIX, with its suffix: what names and scene ids are read from.
        source: address for tables and messages: without user, password and query.
        secret: whether ``path`` carries a credential that ``source`` lacks.
        facts: what a catalogue says about it: ``acquired`` (ISO 8601), ``city``, ``city_name``, ``site``; keys may
            be missing.
    """

    path: str
    relative: PurePosixPath
    source: str
    secret: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def remote(self) -> bool:
        """Whether it is read over a network."""
        return any(word in self.path for word in ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "://"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What GDAL says about an image without reading its pixels; positions only where they are in the file itself.

    Args:
        driver: GDAL's short name, such as ``GTiff`` or ``JPEG``.
        width: columns.
        height: rows.
        bands: number of bands.
        dtype: numpy name of the type of the first band.
        block: rows and columns of a block of the first band.
        crs: the file's own CRS as authority:code or WKT2, None without one.
        transform: the file's own pixel to CRS transform, None where it is absent or the identity.
        gcps: ground control points as (row, col, x, y), empty when there are none; their CRS is ``gcps_crs``.
        gcps_crs: like ``crs``.
        rpcs: whether the file has rational polynomial coefficients.
        tags: metadata of the default domain.
    """

    driver: str
    width: int
    height: int
    bands: int
    dtype: str
    block: tuple[int, int]
    crs: str | None = None
    transform: Affine | None = None
    gcps: tuple[tuple[float, float, float, float], ...] = ()
    gcps_crs: str | None = None
    rpcs: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where an image lies.

    Args:
        crs: authority:code, or WKT2 where no authority knows it.
        transform: pixel (column, row; a pixel's centre is at +0.5) to CRS units.
        georef: ``geotiff``, ``gcp``, ``world-file``, ``sidecar``, ``tile-name``, ``exif`` or ``approximate``.
        accuracy_m: metres by which it may be off, None when unknown.
        facts: what the source says beside the position: ``city``, ``city_name``, ``site``, ``acquired``.
    """

    crs: str
    transform: Affine
    georef: str
    accuracy_m: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
