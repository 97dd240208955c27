"""A split chip table in, the figures that prove its splits disjoint out, or the pairs that are not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from pandas import DataFrame

from dlslicer_geo.errors import LeakError, SplitError, TableError
from dlslicer_geo.splits.distance import min_distances
from dlslicer_geo.splits.ground import Ground, Integers, ground_of
from dlslicer_geo.splits.leaks import Leaks, nearest_images, same_images, shared_ground, shared_pixels
from dlslicer_geo.splits.units import TOLERANCE_M2
from dlslicer_geo.types import SPLITS

APPROXIMATE_NOTE = (
    "these chips lie somewhere in their city only: nothing is known of the ground they share and of their distances, "
    "and only their pixels and their images were compared, the images byte for byte and by the near-duplicates that "
    "the scan has found (duplicate_of)"
)

NOT_CHECKED = "not checked: no scene table was given"

HASHED = ["chip_id", "scene_id", "row", "col", "height", "width", "split"]

HASHED_OF_SCENES = ["scene_id", "sha256", "crs", "transform", "georef", "duplicate_of"]

VIOLATION = [
    "kind", "chip_id", "other_chip_id", "scene_id", "other_scene_id", "split", "other_split", "amount"
]  # fmt: skip
"""Columns of :func:`violations`."""


def verify(chips: GeoDataFrame, *, scenes: DataFrame | None = None) -> dict[str, Any]:
    """Prove from the tables alone that train, val and test share no pixel, no ground and no image.

    What is compared, and how, is said at :func:`measure`.

    Args:
        chips: chip table with ``split``; unused chips count for nothing.
        scenes: scene table; without it the images cannot be compared.

    Returns:
        the figures of :func:`measure`.

    Raises:
        SplitError: if the table has no split, or one that is not train, val, test or unused.
        LeakError: naming the two chips, or the two scenes, that share most, and how many more pairs share something.
        TableError: if the scene table lacks scenes of the chips.
    """
    figures = measure(chips, scenes=scenes)
    if not figures["proven"]:
        worst = violations(chips, scenes=scenes, limit=1).iloc[0].to_dict()
        raise LeakError(_sentence(worst, figures["leaks"][worst["kind"]] - 1))
    return figures


def measure(chips: GeoDataFrame, *, scenes: DataFrame | None = None) -> dict[str, Any]:
    """What train, val and test share, measured from the tables alone, whether it is nothing or not.

    Within a scene, pixel windows are compared as integers. Between scenes, whatever their dates, the chips' outlines
    are intersected in the UTM zone of their city; two chips share ground when more than 0.01 m² lies in both, and
    what is below that is rounding of coordinates. Chips that only touch share nothing. Two scenes are one image when
    their files are equal byte for byte, or the scan has found that they show the same (``duplicate_of``). Distances
    are measured in an azimuthal equidistant projection around the city, or around the midpoint of two cities.

    Args:
        chips: chip table with ``split``; unused chips count for nothing.
        scenes: scene table; without it the images cannot be compared.

    Returns:
        ``proven`` (whether nothing is shared), ``leaks`` (number of pairs by kind: ``pixels``, ``ground``, and
        ``image``, None when not checked), ``chips_hash``, ``scenes_hash``, ``chips`` (per city and split),
        ``shared_pixels`` and ``shared_ground_m2`` (summed over pairs; the latter None where no chip has a position),
        ``tolerance_m2``, ``duplicate_images`` (pairs of scenes, None when not checked), ``duplicate_images_note``,
        ``nearest_images`` (the two scenes in two splits that look most alike, and in how many ``bits`` of 64 their
        perceptual hashes differ; no leak by itself), ``approximate_chips`` and ``approximate_note`` (chips without a
        position, of which no ground or distance is claimed), ``min_distance_m`` (``overall`` and ``per_city``, None
        where fewer than two splits have chips); ready for JSON.

    Raises:
        SplitError: if the table has no split, or one that is not train, val, test or unused.
        TableError: if the scene table lacks scenes of the chips.
    """
    split, ground = _split_of(chips), ground_of(chips)
    table = None if scenes is None else _with_splits(scenes, chips, split)
    leaks = _find(chips, table, ground, split, 0)
    number = {kind: leaks[kind].number if kind in leaks else None for kind in ("pixels", "ground", "image")}
    return {
        "proven": not any(number.values()),
        "leaks": number,
        "chips_hash": chips_hash(chips),
        "scenes_hash": None if scenes is None else scenes_hash(scenes),
        "chips": chips_per_city(ground, split),
        "shared_pixels": int(leaks["pixels"].total),
        "shared_ground_m2": float(leaks["ground"].total) if ground.exact.any() else None,
        "tolerance_m2": TOLERANCE_M2,
        "duplicate_images": number["image"],
        "duplicate_images_note": NOT_CHECKED if scenes is None else None,
        "nearest_images": None if table is None else nearest_images(table),
        "approximate_chips": int((~ground.exact).sum()),
        "approximate_note": None if ground.exact.all() else APPROXIMATE_NOTE,
        "min_distance_m": min_distances(ground, split),
    }


def violations(chips: GeoDataFrame, *, scenes: DataFrame | None = None, limit: int | None = None) -> DataFrame:
    """List every pair of chips or scenes in two splits that shares something, as :func:`measure` compares them.

    Args:
        chips: chip table with ``split``; unused chips count for nothing.
        scenes: scene table; without it the images cannot be compared.
        limit: at most so many pairs of each kind, the worst; None lists all, which can be millions.

    Returns:
        One row per pair with the columns :data:`VIOLATION`, the worst of each kind first: ``kind`` (``pixels``,
        ``ground`` or ``image``), ``chip_id`` and ``other_chip_id`` (-1 for images), both scenes and splits (for an
        image the first two splits that differ), and ``amount``: pixels, square metres, or 1 image.

    Raises:
        SplitError: if the table has no split, or one that is not train, val, test or unused.
        TableError: if the scene table lacks scenes of the chips.
    """
    split = _split_of(chips)
    table = None if scenes is None else _with_splits(scenes, chips, split)
    leaks = _find(chips, table, ground_of(chips), split, limit)
    rows = [_chip_rows(kind, leaks[kind], chips) for kind in ("pixels", "ground")]
    rows += [] if table is None else [_scene_rows(leaks["image"], table)]
    return pd.concat(rows, ignore_index=True)


def chips_hash(chips: GeoDataFrame) -> str:
    """SHA-256 over chip_id, scene_id, row, col, height, width and split, in the order of the chip ids.

    Raises:
        SplitError: if the table has no split.
    """
    _split_of(chips)
    return _hash_of(DataFrame(chips[HASHED]), "chip_id")


def scenes_hash(scenes: DataFrame) -> str:
    """SHA-256 over scene_id and sha256, in the order of the scene ids.

    Where the table has them, also over what the proof rests on: crs, transform, georef and duplicate_of.
    """
    table = DataFrame({name: scenes[name] for name in HASHED_OF_SCENES if name in scenes})
    if "transform" in table:
        table["transform"] = [" ".join(repr(float(value)) for value in values) for values in table["transform"]]
    return _hash_of(table, "scene_id")


def chips_per_city(ground: Ground, split: Integers) -> dict[str, dict[str, int]]:
    """Chips of every city in each split and in none (``unused``)."""
    names = (*SPLITS, "unused")
    shape = (len(ground.cities), len(names))
    count = np.bincount(ground.city * len(names) + split, minlength=shape[0] * shape[1]).reshape(shape)
    return {city: dict(zip(names, row.tolist(), strict=True)) for city, row in zip(ground.cities, count, strict=True)}


def _find(
    chips: GeoDataFrame, table: DataFrame | None, ground: Ground, split: Integers, limit: int | None
) -> dict[str, Leaks]:
    """Leaks by kind, as rows of the chip table or of the table of :func:`_with_splits`."""
    found = {"pixels": shared_pixels(chips, ground, split, limit), "ground": shared_ground(ground, split, limit)}
    if table is not None:
        found["image"] = same_images(table, limit)
    return found


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


def _with_splits(scenes: DataFrame, chips: GeoDataFrame, split: Integers) -> DataFrame:
    """The scene table in the order of its ids, with ``splits``: bit 0 where a chip is train, 1 val, 2 test."""
    table = DataFrame(scenes).drop_duplicates("scene_id").sort_values("scene_id", ignore_index=True)
    at = pd.Index(table["scene_id"]).get_indexer(pd.Index(chips["scene_id"]))
    lost = (at < 0) | table["sha256"].isna().to_numpy(bool)[at]
    if lost.any():
        raise TableError(
            f"the scene table has no sha256 for scene {chips['scene_id'].to_numpy(object)[lost][0]}: give the table "
            "that the chips were cut from"
        )
    there = np.zeros((len(table), len(SPLITS) + 1), np.int64)
    there[at, split] = 1
    return table.assign(splits=there[:, : len(SPLITS)] @ (1 << np.arange(len(SPLITS))))


def _chip_rows(kind: str, found: Leaks, chips: GeoDataFrame) -> DataFrame:
    sides = {
        prefix + name: chips[name].to_numpy()[rows]
        for prefix, rows in (("", found.worst.one), ("other_", found.worst.two))
        for name in ("chip_id", "scene_id", "split")
    }
    return DataFrame({"kind": kind, **sides, "amount": found.worst.amount.astype(np.float64)})[VIOLATION]


def _scene_rows(found: Leaks, table: DataFrame) -> DataFrame:
    names, splits = table["scene_id"].to_numpy(object), table["splits"].to_numpy(np.int64)
    one, two, amount = found.worst
    mine, theirs = ((splits[rows][:, None] >> np.arange(len(SPLITS)) & 1) > 0 for rows in (one, two))
    # a scene cut into blocks lies in several splits: named are the first two that differ
    differ = mine[:, :, None] & theirs[:, None, :] & ~np.eye(len(SPLITS), dtype=bool)
    first, second = np.divmod(differ.reshape(len(one), len(SPLITS) ** 2).argmax(axis=1), len(SPLITS))
    label = np.array(SPLITS, object)
    columns = {
        "scene_id": names[one], "other_scene_id": names[two], "split": label[first], "other_split": label[second],
        "amount": amount.astype(np.float64),
    }  # fmt: skip
    return DataFrame(columns).assign(kind="image", chip_id=-1, other_chip_id=-1)[VIOLATION]


def _sentence(worst: Mapping[Any, Any], more: int) -> str:
    scenes = [(worst[side + "scene_id"], worst[side + "split"]) for side in ("", "other_")]
    if worst["kind"] == "image":
        one, two = (f"{scene} ({split})" for scene, split in scenes)
        return (
            f"scenes {one} and {two} are the same image, and {more} more pairs of scenes in two splits are: remove "
            "one of the two"
        )
    numbers = (worst["chip_id"], worst["other_chip_id"])
    one, two = (f"chip {chip} (scene {at[0]}, {at[1]})" for chip, at in zip(numbers, scenes, strict=True))
    amount = f"{worst['amount']:.2f} m²" if worst["kind"] == "ground" else f"{worst['amount']:.0f} pixels"
    return (
        f"{one} and {two} share {amount}, and {more} more pairs in two splits share some: split the table again by "
        "place, or leave one of the two out"
    )


def _hash_of(table: DataFrame, key: str) -> str:
    lines = table.sort_values(key).to_csv(index=False, header=False, lineterminator="\n")
    return hashlib.sha256(lines.encode()).hexdigest()
