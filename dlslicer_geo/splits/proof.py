"""A split chip table in, the figures that prove its splits disjoint out, or the two chips that are not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas import DataFrame
from pyproj import Transformer

from dlslicer_geo.errors import LeakError, SplitError, TableError
from dlslicer_geo.splits.ground import Floats, Ground, Integers, Polygons, ground_of, project, shared_m2
from dlslicer_geo.splits.units import TOLERANCE_M2
from dlslicer_geo.types import SPLITS

APPROXIMATE_NOTE = (
    "these chips lie somewhere in their city only: nothing is known of the ground they share and of their distances, "
    "and only their pixels and the bytes of their images were compared"
)

HASHED = ["chip_id", "scene_id", "row", "col", "height", "width", "split"]


def verify(chips: GeoDataFrame, *, scenes: DataFrame | None = None) -> dict[str, Any]:
    """Prove from the tables alone that train, val and test share no pixel, no ground and no image.

    Within a scene, pixel windows are compared as integers. Between scenes, whatever their dates, the chips' outlines
    are intersected in the UTM zone of their city; two chips share ground when more than 0.01 m² lies in both, and
    what is below that is rounding of coordinates. Chips that only touch share nothing. Distances are measured
    in an azimuthal equidistant projection around the city, or around the midpoint of two cities.

    Args:
        chips: chip table with ``split``; unused chips count for nothing.
        scenes: scene table; without it the hashes of the images cannot be compared.

    Returns:
        ``chips_hash``, ``scenes_hash``, ``chips`` (per city and split), ``shared_pixels``, ``shared_ground_m2`` (None
        where no chip has a position), ``tolerance_m2``, ``duplicate_images`` (None when not checked),
        ``duplicate_images_note``, ``approximate_chips`` and ``approximate_note`` (chips without a position, of which
        no ground or distance is claimed), ``min_distance_m`` (``overall`` and ``per_city``, None where fewer than two
        splits have chips); ready for JSON.

    Raises:
        SplitError: if the table has no split, or one that is not train, val, test or unused.
        LeakError: naming both chips, or both scenes, and what they share.
        TableError: if the scene table lacks scenes of the chips.
    """
    split = _split_of(chips)
    ground = ground_of(chips)
    pixels = _shared_pixels(chips, ground, split)
    area = _shared_ground(chips, ground, split)
    duplicates = None if scenes is None else _no_duplicates(chips, scenes, split)
    return {
        "chips_hash": chips_hash(chips),
        "scenes_hash": None if scenes is None else scenes_hash(scenes),
        "chips": chips_per_city(ground, split),
        "shared_pixels": int(pixels),
        "shared_ground_m2": float(area) if ground.exact.any() else None,
        "tolerance_m2": TOLERANCE_M2,
        "duplicate_images": duplicates,
        "duplicate_images_note": "not checked: no scene table was given" if scenes is None else None,
        "approximate_chips": int((~ground.exact).sum()),
        "approximate_note": None if ground.exact.all() else APPROXIMATE_NOTE,
        "min_distance_m": _distances(ground, split),
    }


def chips_hash(chips: GeoDataFrame) -> str:
    """SHA-256 over chip_id, scene_id, row, col, height, width and split, in the order of the chip ids.

    Raises:
        SplitError: if the table has no split.
    """
    _split_of(chips)
    lines = DataFrame(chips[HASHED]).sort_values("chip_id").to_csv(index=False, header=False, lineterminator="\n")
    return hashlib.sha256(lines.encode()).hexdigest()


def scenes_hash(scenes: DataFrame) -> str:
    """SHA-256 over scene_id and sha256, in the order of the scene ids."""
    lines = (
        DataFrame(scenes[["scene_id", "sha256"]])
        .sort_values("scene_id")
        .to_csv(index=False, header=False, lineterminator="\n")
    )
    return hashlib.sha256(lines.encode()).hexdigest()


def chips_per_city(ground: Ground, split: Integers) -> dict[str, dict[str, int]]:
    """Chips of every city in each split and in none (``unused``)."""
    names = (*SPLITS, "unused")
    shape = (len(ground.cities), len(names))
    count = np.bincount(ground.city * len(names) + split, minlength=shape[0] * shape[1]).reshape(shape)
    return {city: dict(zip(names, row.tolist(), strict=True)) for city, row in zip(ground.cities, count, strict=True)}


def _split_of(chips: GeoDataFrame) -> Integers:
    """Index of each chip's split, one past the last for unused chips."""
    names = (*SPLITS, "unused")
    if "split" not in chips.columns:
        raise SplitError("the chip table has no column split: split it before asking for the proof")
    code = np.full(len(chips), -1, np.int64)
    values = chips["split"].to_numpy(object)
    for index, name in enumerate(names):
        code[values == name] = index
    if (code < 0).any():
        odd = values[code < 0]
        raise SplitError(f"{len(odd)} chips have the split {odd[0]!r}: it must be one of {', '.join(names)}")
    return code


def _meeting(polygon: Polygons, split: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of chips of two splits whose boxes meet, one pair of splits after the other."""
    for first, second in combinations(range(len(SPLITS)), 2):
        few, many = sorted((np.flatnonzero(split == first), np.flatnonzero(split == second)), key=len)
        if len(few):
            left, right = shapely.STRtree(polygon[many]).query(polygon[few])
            yield few[left], many[right]


def _shared_pixels(chips: GeoDataFrame, ground: Ground, split: Integers) -> float:
    """Pixels in chips of two splits, summed over pairs: raises at the first pair of splits that has any."""
    row, col, height, width = (chips[name].to_numpy(np.int64) for name in ("row", "col", "height", "width"))
    # scenes laid side by side in one plane of pixels: whole numbers, exact in float64
    apart = int((col + width).max(initial=0) - col.min(initial=0)) + 1
    x = col + ground.scene * apart
    window = shapely.box(x, row, x + width, row + height)
    total = 0.0
    for one, two in _meeting(window, split):
        high = np.minimum(row[one] + height[one], row[two] + height[two]) - np.maximum(row[one], row[two])
        wide = np.minimum(x[one] + width[one], x[two] + width[two]) - np.maximum(x[one], x[two])
        total += _raise_if_any(chips, one, two, np.maximum(high, 0) * np.maximum(wide, 0), "pixels")
    return total


def _shared_ground(chips: GeoDataFrame, ground: Ground, split: Integers) -> float:
    """Square metres in chips of two splits, summed over pairs above the tolerance; raises like the pixels."""
    total = 0.0
    for one, two in _meeting(ground.polygon, split):
        # within a scene the windows have settled it
        between = (ground.scene[one] != ground.scene[two]) & ground.exact[one] & ground.exact[two]
        one, two = one[between], two[between]
        area = shared_m2(ground, one, two)
        total += _raise_if_any(chips, one, two, np.where(area > TOLERANCE_M2, area, 0), "m²")
    return total


def _raise_if_any(chips: GeoDataFrame, one: Integers, two: Integers, shared: NDArray[Any], unit: str) -> float:
    """Sum of what the pairs share; anything above 0 is raised, naming the worst pair."""
    pairs = np.flatnonzero(shared)
    if not len(pairs):
        return float(shared.sum())
    worst = pairs[shared[pairs].argmax()]
    table = chips.iloc[sorted((one[worst], two[worst]))]
    names = [
        f"chip {chip} (scene {scene}, {split})"
        for chip, scene, split in zip(table["chip_id"], table["scene_id"], table["split"], strict=True)
    ]
    amount = f"{shared[worst]:.2f}" if unit == "m²" else f"{shared[worst]}"
    raise LeakError(
        f"{names[0]} and {names[1]} share {amount} {unit}, and {len(pairs) - 1} more pairs in two splits share some: "
        "split the table again by place, or leave one of the two out"
    )


def _no_duplicates(chips: GeoDataFrame, scenes: DataFrame, split: Integers) -> int:
    """Compare file hashes; different scenes with one hash must not be in two splits."""
    digest = chips["scene_id"].map(scenes.drop_duplicates("scene_id").set_index("scene_id")["sha256"])
    if digest.isna().any():
        lost = chips["scene_id"][digest.isna()].iloc[0]
        raise TableError(
            f"the scene table has no sha256 for scene {lost}: give the table that the chips were cut from"
        )
    used = split < len(SPLITS)
    table = DataFrame({"digest": digest, "scene": chips["scene_id"], "split": chips["split"]})[used].drop_duplicates()
    pairs = table.merge(table, on="digest", suffixes=("", "_2"))
    pairs = pairs[(pairs["scene"] < pairs["scene_2"]) & (pairs["split"] != pairs["split_2"])]
    if len(pairs):
        pair = pairs.sort_values(["scene", "scene_2", "split"]).iloc[0]
        raise LeakError(
            f"scenes {pair['scene']} ({pair['split']}) and {pair['scene_2']} ({pair['split_2']}) are the same file "
            f"byte for byte, one of {pairs['digest'].nunique()} such files in two splits: remove one of the two"
        )
    return 0


def _distances(ground: Ground, split: Integers) -> dict[str, Any]:
    """Smallest distance in metres between chips of two splits: per city, and between any two chips."""
    used = np.flatnonzero((split < len(SPLITS)) & ground.exact)
    rows_of = [used[ground.city[used] == city] for city in range(len(ground.cities))]
    within = [_gap(ground, split, rows, rows) for rows in rows_of]
    overall = min([_between_cities(ground, split, rows_of, min(within, default=np.inf)), *within], default=np.inf)
    return {
        "overall": _millimetres(overall),
        "per_city": {city: _millimetres(gap) for city, gap in zip(ground.cities, within, strict=True)},
    }


def _between_cities(ground: Ground, split: Integers, rows_of: list[Integers], best: float) -> float:
    """Smallest distance between chips of two cities and two splits, as far as it is below ``best``."""
    rows_of = [rows for rows in rows_of if len(rows)]
    to_space = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    centre, reach = [], []
    for rows in rows_of:
        lon, lat = ground.box[rows][:, [0, 2, 0, 2]].ravel(), ground.box[rows][:, [1, 1, 3, 3]].ravel()
        corner = np.column_stack(to_space.transform(lon, lat, np.zeros(len(lon))))
        centre.append(corner.mean(axis=0))
        reach.append(np.linalg.norm(corner - centre[-1], axis=1).max())
    pairs = list(combinations(range(len(rows_of)), 2))
    # two cities cannot be nearer than the balls around them: a chord is never longer than the way over the ground
    floor = [np.linalg.norm(centre[a] - centre[b]) - reach[a] - reach[b] for a, b in pairs]
    for at in np.argsort(floor, kind="stable"):
        if max(floor[at], 0) >= best:
            break
        best = min(best, _gap(ground, split, rows_of[pairs[at][0]], rows_of[pairs[at][1]]))
    return best


def _gap(ground: Ground, split: Integers, one: Integers, two: Integers) -> float:
    """Smallest distance in metres between a chip of ``one`` and a chip of ``two`` of another split, or infinity."""
    if len(np.unique(split[np.concatenate([one, two])])) < 2:
        return float("inf")
    lon, lat = _midpoint(ground.box[one], ground.box[two])
    crs = f"+proj=aeqd +lon_0={lon:.6f} +lat_0={lat:.6f} +datum=WGS84 +units=m"
    left = project(ground.polygon[one], crs)
    right = left if one is two else project(ground.polygon[two], crs)
    best = float("inf")
    for first in range(len(SPLITS)):
        others = split[two] > first if one is two else split[two] != first
        few, many = sorted((left[split[one] == first], right[others]), key=len)
        if len(few):
            near = shapely.STRtree(many).query_nearest(few, return_distance=True, all_matches=False)[1]
            best = min(best, float(near.min()))
    return best


def _midpoint(one: Floats, two: Floats) -> tuple[float, float]:
    """Longitude and latitude halfway between the middles of two sets of boxes, on the sphere."""
    vectors = []
    for box in (one, two):
        lon, lat = np.deg2rad((box[:, :2] + box[:, 2:]).mean(axis=0) / 2)
        vectors.append([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    x, y, z = np.sum(vectors, axis=0)
    return float(np.rad2deg(np.arctan2(y, x))), float(np.rad2deg(np.arctan2(z, np.hypot(x, y))))


def _millimetres(metres: float) -> float | None:
    return round(metres, 3) if np.isfinite(metres) else None
