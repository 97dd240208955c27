"""The bytes of a KML or KMZ in, one row for each ground overlay out."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote
from xml.etree import ElementTree

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.places.plane import distance_m
from dlslicer_geo.scenes.places.rows import Row, make_row
from dlslicer_geo.scenes.places.world import parse_xml

LARGEST = 50_000_000
"""Bytes of KML that is read, uncompressed."""

MOST_MEMBERS = 10_000
LARGEST_RATIO = 200
"""Uncompressed by compressed size of a KML beyond which an archive is refused, from ``SMALL`` bytes on."""

SMALL = 1_000_000

_BOX = ("west", "south", "east", "north")
_QUAD = ("ll", "lr", "ur", "ul")  # counter-clockwise from the lower left, as KML has it


def parse_kml(content: bytes, name: str) -> list[Row]:
    """One row for each ``GroundOverlay``, in any namespace; ``Icon/href`` is the file.

    A ``LatLonBox`` with a rotation is read as Google Earth draws it: the box is measured on the ground and turned
    counter-clockwise about its centre, in a plane there.

    Raises:
        SceneError: with the reason, if it cannot be read.
    """
    root = parse_xml(content, LARGEST)
    overlays = [element for element in root.iter() if _tag(element) == "GroundOverlay"]
    if not overlays:
        raise SceneError("it has no GroundOverlay: give a KML with one, or another table")
    rows = []
    for number, overlay in enumerate(overlays, 1):
        origin = f"{name}, overlay {number}"
        try:
            rows.append(make_row(origin, list(_cells(overlay))))
        except SceneError as error:
            reason = str(error)
            raise SceneError(reason if reason.startswith(origin) else f"{origin}: {reason}") from None
    return rows


def parse_kmz(content: bytes, name: str) -> list[Row]:
    """The rows of the KML in a KMZ; an image inside the archive has the column ``member``.

    Raises:
        SceneError: with the reason, if it cannot be read, or is made to fill the memory.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise SceneError(f"it has {len(members):,} members, above {MOST_MEMBERS:,}")
            kml = _document(members)
            with archive.open(kml) as handle:
                document = handle.read(LARGEST + 1)
    except (
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
        OverflowError,
    ) as error:  # fmt: skip
        raise SceneError(f"it is no KMZ that can be read ({error}): write it anew") from None
    inside = {member.filename for member in members}
    return [_inside(row, kml.filename, inside) for row in parse_kml(document, name)]


def member_name(kml: str, href: str) -> str | None:
    """The name within an archive that a reference in a KML means; None where it leads out of the archive."""
    if not href or "\\" in href or "\0" in href or ":" in href or href.startswith("/"):
        return None
    parts: list[str] = list(PurePosixPath(kml).parent.parts)
    for part in PurePosixPath(href).parts:
        if part == ".." and not parts:
            return None
        parts = parts[:-1] if part == ".." else [*parts, part]
    safe = parts and not any(part in (".", "..", "/") or part.startswith("/") for part in parts)
    return "/".join(parts) if safe else None


def _document(members: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """``doc.kml``, or the first KML, after its size was looked at."""
    found = [member for member in members if member.filename.lower().endswith(".kml")]
    if not found:
        raise SceneError("it holds no .kml: write it anew")
    kml = next((member for member in found if member.filename == "doc.kml"), found[0])
    if kml.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or kml.flag_bits & 1:
        raise SceneError(f"its {kml.filename[:80]} is encrypted or packed in an unusual way: write it anew")
    if kml.file_size > LARGEST:
        raise SceneError(f"its {kml.filename[:80]} has {kml.file_size:,} bytes, above {LARGEST:,}")
    if kml.file_size > max(SMALL, LARGEST_RATIO * kml.compress_size):
        ratio = kml.file_size / max(1, kml.compress_size)
        raise SceneError(f"its {kml.filename[:80]} is packed {ratio:,.0f} to 1, above {LARGEST_RATIO}: unpack it")
    return kml


def _inside(row: Row, kml: str, inside: set[str]) -> Row:
    href = row.values.get("file", "")
    member = member_name(kml, href)
    if member is None or member not in inside:
        return row
    return Row(origin=row.origin, values={**row.values, "member": member})


def _cells(overlay: ElementTree.Element) -> Iterator[tuple[str, str | None]]:
    icon = _child(overlay, "Icon")
    href = _text(icon, "href") if icon is not None else None
    if href and "://" not in href:
        yield "file", unquote(href)
    stamp = _child(overlay, "TimeStamp")
    if stamp is not None:
        yield "date", _text(stamp, "when")
    quad, box = _child(overlay, "LatLonQuad"), _child(overlay, "LatLonBox")
    if quad is not None:
        yield from _quad(quad)
    elif box is not None:
        yield from _box(box)
    else:
        raise SceneError("it has neither LatLonBox nor LatLonQuad: add one")


def _quad(quad: ElementTree.Element) -> Iterator[tuple[str, str]]:
    points = [point.split(",") for point in (_text(quad, "coordinates") or "").split()]
    if len(points) != 4 or any(len(point) < 2 for point in points):
        raise SceneError(f"its LatLonQuad has {len(points)} points: it needs four of longitude,latitude")
    for corner, (lon, lat, *_) in zip(_QUAD, points, strict=True):
        yield f"{corner}_lon", lon
        yield f"{corner}_lat", lat


def _box(box: ElementTree.Element) -> Iterator[tuple[str, str]]:
    sides = {side: _text(box, side) or "" for side in _BOX}
    turned = _float("rotation", _text(box, "rotation") or "0")
    if not turned:
        yield from sides.items()
        return
    west, south, east, north = (_float(side, text) for side, text in sides.items())
    if not (west < east and south < north):
        raise SceneError(f"its LatLonBox runs from {west:g} to {east:g} and {south:g} to {north:g}: swap the sides")
    lon, lat = (west + east) / 2, (south + north) / 2
    yield "lon", repr(lon)
    yield "lat", repr(lat)
    yield "width_m", repr(distance_m((west, lat), (east, lat)))
    yield "height_m", repr(distance_m((lon, south), (lon, north)))
    yield "rotation_deg", repr(-turned)


def _float(side: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= (90.0 if side in ("south", "north") else 540.0):
        raise SceneError(f"its {side} is {text[:40]!r}: write degrees")
    return number


def _tag(element: ElementTree.Element) -> str:
    """Name without namespace; comments have none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element | None:
    return next((child for child in element if _tag(child) == tag), None)


def _text(element: ElementTree.Element, tag: str) -> str | None:
    child = _child(element, tag)
    return None if child is None else (child.text or "").strip() or None
