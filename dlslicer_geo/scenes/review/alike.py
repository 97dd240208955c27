"""Thumbnails, hashes and outlines of scenes in, the pairs that show or cover the same out.

The thresholds were chosen on the 1291 NAIP scenes that ship with the project. The same image at JPEG quality 50, at
half the size, 10 % brighter or all of these together stays within 4 bits and above a correlation of 0.996; the same
place photographed in another year comes as near as 2 bits, but never above 0.977.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from dlslicer_geo.types import APPROXIMATE

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

BITS = 10
"""Two perceptual hashes of 64 bits may differ in so many."""

CORRELATION = 0.985
"""Two pictures of the same image correlate at least so much."""

SLIVER_M2 = 1.0
"""Scenes that share less ground than this only touch."""

PICTURE = 32  # pixels a side
PLAIN = 2.0  # standard deviation in grey levels below which a picture shows nothing to compare
CELLS = 1 << 21  # comparisons at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two scenes that show the same image.

    Args:
        one: the scene id that comes first.
        two: the other one.
        kind: ``identical`` files, or ``near``: the same image in another size, brightness or compression.
        correlation: of two small grey pictures, 1 for identical files.
    """

    one: str
    two: str
    kind: Literal["identical", "near"]
    correlation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two scenes that share ground.

    Args:
        one: the scene id that comes first.
        two: the other one.
        area_m2: shared valid area on the ellipsoid.
        share: the same as a share of the smaller scene's valid area, 0 to 1.
    """

    one: str
    two: str
    area_m2: float
    share: float


def fingerprint(thumbnail: NDArray[np.uint8]) -> tuple[str, NDArray[np.float32]]:
    """What is compared of an image.

    Args:
        thumbnail: (h, w, 3) uint8 RGB, about 96 pixels a side.

    Returns:
        the perceptual hash, 16 hexadecimal digits, and a (32, 32) grey picture of mean 0 and variance 1, which is all
        zeros where there is next to nothing to see.
    """
    import imagehash
    from PIL import Image

    image = Image.fromarray(thumbnail)
    grey = np.asarray(image.convert("L").resize((PICTURE, PICTURE), Image.Resampling.BOX), np.float64)
    spread = float(grey.std())
    picture = (grey - grey.mean()) / spread if spread >= PLAIN else np.zeros_like(grey)
    return str(imagehash.phash(image)), picture.astype(np.float32)


def duplicates(
    scene_ids: Sequence[str],
    sha256: Sequence[str],
    hashes: Sequence[str],
    pictures: Sequence[NDArray[np.float32]] | NDArray[np.float32],
) -> list[Pair]:
    """Pair every scene with the first one that shows the same image, if there is one.

    All hashes are compared with each other, and pairs within ``BITS`` are verified by the correlation of their
    pictures; pictures of zeros match nothing.

    Args:
        scene_ids: n scene ids; the first of two is the one that sorts first.
        sha256: n hashes of the raw files.
        hashes: n perceptual hashes of :func:`fingerprint`.
        pictures: n (32, 32) pictures of :func:`fingerprint`.

    Returns:
        at most n - 1 pairs in the order of ``two``; a scene that is alike to several is paired with the first.
    """
    order = sorted(range(len(scene_ids)), key=lambda at: scene_ids[at])
    names = [scene_ids[at] for at in order]
    found = _identical(names, [sha256[at] for at in order])
    rest = [at for at, name in zip(order, names, strict=True) if name not in found and pictures[at].any()]
    bits = np.array([int(hashes[at], 16) for at in rest], np.uint64)
    for one, two, correlation in _near(bits, [pictures[at] for at in rest]):
        first, second = scene_ids[rest[one]], scene_ids[rest[two]]
        found.setdefault(second, Pair(one=first, two=second, kind="near", correlation=correlation))
    return [found[name] for name in names if name in found]


def first_of(pairs: Iterable[Pair]) -> dict[str, str]:
    """For every scene that repeats another one: the first scene of its group (the column ``duplicate_of``)."""
    first: dict[str, str] = {}
    for pair in sorted(pairs, key=lambda pair: pair.two):
        first[pair.two] = first.get(pair.one, pair.one)
    return first


def overlaps(scenes: GeoDataFrame) -> list[Overlap]:
    """Find the scenes whose valid outlines share ground.

    Args:
        scenes: ``scene_id``, ``georef`` and outlines in EPSG:4326; scenes whose position is approximate take no part.

    Returns:
        the pairs, ordered by ``one`` and ``two``.
    """
    placed = scenes[~scenes["georef"].isin(APPROXIMATE)].sort_values("scene_id")
    names = placed["scene_id"].tolist()
    outlines = shapely.make_valid(placed.geometry.to_numpy())
    one, two = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    one, two = one[one < two], two[one < two]
    shared = shapely.intersection(outlines[one], outlines[two])
    whole = {int(at): area_m2(outlines[at]) for at in np.unique(np.concatenate([one, two]))}
    found = []
    for at in np.lexsort([two, one]):
        first, second, area = int(one[at]), int(two[at]), area_m2(shared[at])
        if area >= SLIVER_M2:
            share = min(1.0, area / min(whole[first], whole[second]))
            found.append(Overlap(one=names[first], two=names[second], area_m2=area, share=share))
    return found


def area_m2(outline: Any) -> float:
    """Area on the WGS 84 ellipsoid, in square metres, of a geometry in degrees; lines and points have none."""
    from pyproj import Geod

    ellipsoid = Geod(ellps="WGS84")
    parts = shapely.get_parts(shapely.get_parts(outline))  # a collection may hold multipolygons
    polygons = [part for part in parts if part.geom_type == "Polygon"]
    return float(sum(_polygon_m2(polygon, ellipsoid) for polygon in polygons))


def _polygon_m2(polygon: Any, ellipsoid: Any) -> float:
    rings = [abs(ellipsoid.geometry_area_perimeter(ring)[0]) for ring in (polygon.exterior, *polygon.interiors)]
    return float(rings[0] - sum(rings[1:]))


def _identical(names: Sequence[str], sha256: Sequence[str]) -> dict[str, Pair]:
    first: dict[str, str] = {}
    found = {}
    for name, digest in zip(names, sha256, strict=True):
        if first.setdefault(digest, name) != name:
            found[name] = Pair(one=first[digest], two=name, kind="identical", correlation=1.0)
    return found


def _near(bits: NDArray[np.uint64], pictures: Sequence[NDArray[np.float32]]) -> Iterable[tuple[int, int, float]]:
    """Verified pairs (i, j, correlation) with i < j, ordered by i."""
    step = max(1, CELLS // max(1, len(bits)))
    for start in range(0, len(bits), step):
        block = bits[start : start + step, None] ^ bits[None, start:]
        rows, columns = np.nonzero(np.bitwise_count(block) <= BITS)
        for row, column in zip(rows[rows < columns].tolist(), columns[rows < columns].tolist(), strict=True):
            one, two = start + row, start + column
            correlation = float(np.vdot(pictures[one], pictures[two])) / pictures[one].size
            if correlation >= CORRELATION:
                yield one, two, min(1.0, correlation)
