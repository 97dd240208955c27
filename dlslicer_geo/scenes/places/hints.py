"""The name of an image in, the map tile it is out; its EXIF header in, the camera's position out."""

from __future__ import annotations

import io
import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from PIL import ExifTags, Image
from PIL import JpegImagePlugin as _jpeg  # noqa: F401 - Pillow knows a format once its part is loaded
from PIL import PngImagePlugin as _png  # noqa: F401
from PIL import TiffImagePlugin as _tiff  # noqa: F401
from PIL import WebPImagePlugin as _webp  # noqa: F401

from dlslicer_geo.scenes.names import iso_date
from dlslicer_geo.scenes.places.plane import box_grid, metric_grid, pixel_m
from dlslicer_geo.scenes.values import Found, Header, Placement

logger = logging.getLogger(__name__)

COARSEST_ZOOM = 10  # below, a tile of 256 pixels is coarser than 150 m: numbers in names are then no tiles
FINEST_ZOOM = 24  # of the tile matrix set
STANDING_M = 50.0  # the camera stands there, but where it looks at is unknown
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")  # that carry EXIF
FARTHEST_M = 1e6  # an error above says that the position is unknown

_CHIP = re.compile(r"OAM-([0-9]{1,9})-([0-9]{1,9})-([0-9]{1,2})(?:-.*)?", re.IGNORECASE | re.DOTALL)
_GARBAGE = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError, EOFError,
    SyntaxError, RuntimeError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where a camera stood.

    Args:
        lon: longitude in degrees.
        lat: latitude in degrees.
        accuracy_m: metres between this and the centre of the image, as far as one can know.
        acquired: ISO 8601 day, None when unknown.
    """

    lon: float
    lat: float
    accuracy_m: float
    acquired: str | None


def tile_of(name: PurePosixPath) -> tuple[int, int, int] | None:
    """Column, row (counted southwards) and zoom of the tile that a path names; None where it names none.

    ``…/z/x/y.png``, ``OAM-x-y-z.tif`` and ``OAM-x-y-z-anything.tif`` name tiles.
    """
    chip = _CHIP.fullmatch(name.stem)
    if chip:
        x, y, z = (int(number) for number in chip.groups())
    else:
        parts = (*name.parent.parts[-2:], name.stem)
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            return None
        z, x, y = (int(part) for part in parts)
    if not COARSEST_ZOOM <= z <= FINEST_ZOOM or max(x, y) >= 1 << z:
        return None
    return x, y, z


def tile_placement(found: Found, header: Header) -> Placement | None:
    """Where the tile lies that the name of an image gives; None where it gives none, or the image is not square.

    Its accuracy is half a pixel: tiles are cut on whole ones.
    """
    tile = tile_of(PurePosixPath(found.source.replace("\\", "/")))
    if tile is None:
        return None
    if header.width != header.height:
        logger.warning(
            "%s is named like a map tile, but has %d×%d pixels: its name is not taken for a position",
            found.source, header.width, header.height,
        )  # fmt: skip
        return None
    shape = header.height, header.width
    transform = box_grid(*_bounds(*tile), shape)
    crs = "EPSG:3857"
    return Placement(
        crs=crs, transform=transform, georef="tile-name", accuracy_m=pixel_m(crs, transform, shape) / 2
    )  # fmt: skip


def exif_placement(camera: Camera, shape: tuple[int, int], gsd_m: float) -> Placement:
    """A grid around the camera, north up."""
    crs, transform = metric_grid(camera.lon, camera.lat, gsd_m, shape)
    facts = {"acquired": camera.acquired} if camera.acquired else {}
    return Placement(crs=crs, transform=transform, georef="exif", accuracy_m=camera.accuracy_m, facts=facts)


def exif_centre(found: Found) -> Camera | None:
    """The GPS position in the EXIF header of a local image; None without one, or where it makes no sense."""
    if found.path.startswith("/vsi") or found.remote:
        return None
    return read_exif(found.path, found.source)


def read_exif(image: str | io.BytesIO, name: str) -> Camera | None:
    """The GPS position in the EXIF header of an image, of which no pixel is read.

    Args:
        image: a file name, or the bytes.
        name: what a logged line calls it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about headers
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(image, formats=FORMATS) as opened:
                if opened.format == "PNG" and "exif" not in opened.info:
                    return None  # Pillow would decode all pixels in search of it
                gps = dict(opened.getexif().get_ifd(ExifTags.IFD.GPSInfo))
                return _camera(gps, name) if gps else None
    except _GARBAGE as error:
        logger.debug("%s: no EXIF position (%s)", name, error)
        return None


def _camera(gps: Mapping[int, Any], name: str) -> Camera | None:
    tags = ExifTags.GPS
    lat = _angle(gps.get(tags.GPSLatitude), _letter(gps, tags.GPSLatitudeRef), "NS", 90.0)
    lon = _angle(gps.get(tags.GPSLongitude), _letter(gps, tags.GPSLongitudeRef), "EW", 180.0)
    if lat is None and lon is None and tags.GPSLatitude not in gps:
        return None  # a date or an altitude alone
    if lat is None or lon is None or lat == lon == 0:
        logger.info("%s: its EXIF position makes no sense and is not used", name)
        return None
    error = _real(gps.get(tags.GPSHPositioningError))
    date = gps.get(tags.GPSDateStamp)
    return Camera(
        lon=lon,
        lat=lat,
        accuracy_m=max(STANDING_M, error) if error is not None and error < FARTHEST_M else STANDING_M,
        acquired=iso_date(date.strip("\0 ")) if isinstance(date, str) else None,
    )


def _angle(value: Any, letter: str, letters: str, largest: float) -> float | None:
    """Degrees, above 0 for the first letter; None for what is no angle."""
    if not isinstance(value, tuple | list) or len(value) != 3 or len(letter) != 1 or letter not in letters:
        return None
    degrees, minutes, seconds = (_real(part) for part in value)
    if degrees is None or minutes is None or seconds is None or minutes >= 60 or seconds > 60:
        return None
    angle = degrees + minutes / 60 + seconds / 3600
    return (angle if letter == letters[0] else -angle) if angle <= largest else None


def _letter(gps: Mapping[int, Any], tag: int) -> str:
    value = gps.get(tag)
    text = value.decode("ascii", errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip("\0 ").upper()


def _real(value: Any) -> float | None:
    """A number from 0 upwards; None for everything else, such as a fraction over 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


@lru_cache(maxsize=4096)
def _bounds(x: int, y: int, z: int) -> tuple[float, float, float, float]:
    """West, south, east and north of a tile in EPSG:3857."""
    import morecantile

    west, south, east, north = morecantile.tms.get("WebMercatorQuad").xy_bounds(morecantile.Tile(x, y, z))
    return west, south, east, north
