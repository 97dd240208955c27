"""World files, ``.prj`` and ``.aux.xml`` beside an image in, the transform, CRS and control points they give out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar
from xml.etree import ElementTree

from affine import Affine
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.places.companions import LARGEST, beside, stem_and_suffix, world_suffixes
from dlslicer_geo.scenes.places.crs import crs_text

T = TypeVar("T")

LONGEST_WORLD = 4096  # bytes
FARTHEST = 1e9  # map units: nothing on Earth lies beyond
COARSEST = 1e6  # map units a pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the files beside an image say.

    Args:
        name: the file that gives the transform, or the control points.
        transform: pixel to CRS units; a pixel's centre is at +0.5.
        gcps: control points as (row, col, x, y).
        crs: CRS as ``crs_text`` gives it, None where none of the files has one.
    """

    name: str
    transform: Affine | None = None
    gcps: tuple[tuple[float, float, float, float], ...] = ()
    crs: str | None = None


def read_world(path: str) -> World | None:
    """What lies beside an image: a world file, else the transform or the control points of an ``.aux.xml``.

    The CRS is that of ``.prj``, else of ``.aux.xml``.

    Args:
        path: the image as GDAL opens it.

    Returns:
        None where nothing gives a position.

    Raises:
        SceneError: with the reason alone, if a file cannot be used.
    """
    stem, suffix = stem_and_suffix(path)
    file = beside(path, _either_case(stem, world_suffixes(suffix)))
    notes = beside(path, _either_case(stem + suffix, (".aux.xml",)) + _either_case(stem, (".aux.xml",)))
    if file is None and notes is None:
        return None
    if file:
        world = World(name=file[0], transform=_named(file, parse_world))
    elif notes:
        world = replace(_named(notes, parse_aux), name=notes[0])
    if world.transform is None and not world.gcps:
        return None
    projection = beside(path, _either_case(stem, (".prj",)) + _either_case(stem + suffix, (".prj",)))
    if projection:
        return replace(world, crs=_named(projection, parse_prj))
    return replace(world, crs=_named(notes, parse_aux).crs) if notes else world


def parse_world(content: bytes) -> Affine:
    """The transform of a world file: six numbers, the last two being the centre of the upper left pixel.

    Raises:
        SceneError: with the reason alone, if they are not six usable numbers.
    """
    words = content[: LONGEST_WORLD + 1].decode("utf-8-sig", errors="replace").split()
    if len(content) > LONGEST_WORLD or len(words) != 6:
        raise SceneError(f"it holds {len(words)} words: a world file holds six numbers")
    a, d, b, e, x, y = (_number(word) for word in words)
    return checked(Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2))


def parse_prj(content: bytes) -> str:
    """The CRS of a ``.prj``: WKT of any version and dialect.

    Raises:
        SceneError: with the reason alone, if it cannot be read.
    """
    return crs_text(content.decode("utf-8-sig", errors="replace").strip("\0 \t\r\n"))


def parse_aux(content: bytes) -> World:
    """What GDAL's or ArcGIS's ``.aux.xml`` says of a position.

    Raises:
        SceneError: with the reason alone, if it cannot be read.
    """
    root = parse_xml(content)
    numbers = _text(root, "GeoTransform")
    transform = None
    if numbers is not None:
        c, a, b, f, d, e = _six(numbers.split(","))
        transform = checked(Affine(a, b, c, d, e, f))
    points: tuple[tuple[float, float, float, float], ...] = ()
    projection = _text(root, "SRS") or _text(root, "WKT")
    listed = root.find("GCPList")
    if listed is not None:
        points = tuple(_control_points(listed))
        projection = listed.get("Projection") or projection
    return World(
        name="", transform=transform, gcps=points, crs=crs_text(projection.strip()) if projection else None
    )  # fmt: skip


def parse_xml(content: bytes, largest: int = LARGEST) -> ElementTree.Element:
    """The root of an XML document without entities and document types.

    Raises:
        SceneError: with the reason alone, if it is none, or larger than ``largest`` bytes.
    """
    if len(content) > largest:
        raise SceneError(f"it has more than {largest:,} bytes")
    try:
        return fromstring(content, forbid_dtd=True)
    except DefusedXmlException:
        raise SceneError("it declares entities or a document type: remove them") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise SceneError(f"it is no XML ({error}): write it anew") from None


def checked(transform: Affine) -> Affine:
    """The transform itself.

    Raises:
        SceneError: with the reason alone, if it has no inverse or numbers that no map has.
    """
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    for number in (c, f):
        if not abs(number) <= FARTHEST:
            raise SceneError(f"it gives the coordinate {number:g}: write the position in the units of the CRS")
    for number in (a, b, d, e):
        if not abs(number) <= COARSEST:
            raise SceneError(f"it gives the pixel size {number:g}: write it in the units of the CRS")
    longest = max(math.hypot(a, d), math.hypot(b, e))
    if not abs(a * e - b * d) > 1e-9 * longest**2 or longest < 1e-12:
        raise SceneError(f"it gives pixels without area ({a:g}, {d:g}, {b:g}, {e:g}): correct them")
    return transform


def _either_case(stem: str, suffixes: tuple[str, ...]) -> list[str]:
    return [stem + written for suffix in suffixes for written in (suffix, suffix.upper())]


def _named(file: tuple[str, bytes], parse: Callable[[bytes], T]) -> T:
    """What a file says; an error names it."""
    try:
        return parse(file[1])
    except SceneError as error:
        raise SceneError(f"{file[0]}: {error}") from None


def _number(word: str) -> float:
    """A number with a point or a comma, whatever the locale."""
    try:
        number = float(word.replace(",", ".") if "." not in word and word.count(",") == 1 else word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in word:
        raise SceneError(f"it holds {word[:40]!r}: a world file holds six finite numbers")
    return number


def _six(words: list[str]) -> list[float]:
    if len(words) != 6:
        raise SceneError(f"its GeoTransform has {len(words)} numbers: it needs six")
    return [_number(word.strip()) for word in words]


def _text(root: ElementTree.Element, tag: str) -> str | None:
    element = next(root.iter(tag), None)
    return None if element is None or not (element.text or "").strip() else element.text


def _control_points(listed: ElementTree.Element) -> Iterator[tuple[float, float, float, float]]:
    for point in listed.iter("GCP"):
        row, col, x, y = (_number(point.get(key) or "") for key in ("Line", "Pixel", "X", "Y"))
        yield row, col, x, y
