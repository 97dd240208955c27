"""The chip table in, the same table with train, val and test and a proof that they share nothing out.

Opens no file. ``units`` decides what stays together and where it goes, ``proof`` checks the result from the tables
alone, ``ground`` measures both.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from pandas import DataFrame

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.ground import Ground, Integers, ground_of
from dlslicer_geo.splits.proof import chips_hash, chips_per_city, scenes_hash, verify
from dlslicer_geo.splits.units import assign, blocks_of, join_scenes, link, scenes_of
from dlslicer_geo.types import SPLITS, SplitRule

__all__ = ["chips_hash", "scenes_hash", "split", "verify"]

STRADDLES = "touches blocks of two splits"


def split(
    chips: GeoDataFrame, rule: SplitRule, *, scenes: DataFrame | None = None
) -> tuple[GeoDataFrame, dict[str, Any]]:
    """Share out chips between train, val and test so that no two splits share ground, and prove it.

    What stays together is the rule's ``kind``: a place (all scenes whose chips share ground, of any date, also
    across cities; where the position is approximate, all scenes of a site), a site (joined with other sites it shares
    ground with), or a square block of the city's UTM grid,
    where a chip that reaches into a block of another split is left ``unused``. When ``scenes`` are given, files
    that are equal byte for byte stay together too, except with blocks.

    What counts as shared ground is said at :func:`verify`, which runs on the result.

    Args:
        chips: chip table; a split that it has already is drawn anew.
        rule: what stays together, in which shares, with which seed.
        scenes: scene table, for the hashes of the images.

    Returns:
        the table with ``split``, and the certificate: ``rule``, ``seed``, ``units`` (per split), ``joined_units``
        (units that others were merged into by shared ground or equal files: scenes for ``place``, sites for
        ``site``), ``dropped`` (chips by reason) and everything :func:`verify` returns; ready for JSON.

    Raises:
        SplitError: if there is no chip, a city would lack chips in a wanted split, or a chip is larger than a block.
        LeakError: if the result is not disjoint, which can happen where two cities cut into blocks overlap.
    """
    if chips.empty:
        raise SplitError("the chip table is empty: cut chips before splitting them")
    ground = ground_of(chips)
    draw = _by_block if rule.kind == "block" else _by_scene
    code, facts = draw(chips, ground, rule, scenes)
    _check_cities(chips_per_city(ground, code), rule)
    done = chips.assign(split=pd.Series(np.array([*SPLITS, "unused"], object)[code], index=chips.index, dtype=object))
    asked = {**asdict(rule), "fractions": list(rule.fractions), "allow_empty": list(rule.allow_empty)}
    return done, {"rule": asked, "seed": rule.seed, **facts, **verify(done, scenes=scenes)}


def _by_scene(
    chips: GeoDataFrame, ground: Ground, rule: SplitRule, scenes: DataFrame | None
) -> tuple[Integers, dict[str, Any]]:
    """Keep the scenes of a place or site together."""
    table = scenes_of(chips)
    sites = table["city"].fillna("") + "\n" + table["site"]
    names = table["scene_id"].where(table["exact"], sites) if rule.kind == "place" else sites
    labels = [names.to_numpy(object)]
    if scenes is not None:
        digest = scenes.drop_duplicates("scene_id").set_index("scene_id")["sha256"]
        labels.append(table["scene_id"].map(digest).to_numpy(object))
    unit = join_scenes(ground, link(np.column_stack(labels)))[ground.scene]
    placed = _assign_chips(unit, ground.city, np.ones(len(chips), np.int64), rule)
    facts = {
        "units": _count(placed),
        "joined_units": int(names.nunique() - len(placed)),
        "dropped": {},
    }
    return placed[unit], facts


def _by_block(
    chips: GeoDataFrame, ground: Ground, rule: SplitRule, scenes: DataFrame | None
) -> tuple[Integers, dict[str, Any]]:
    """Keep the chips of a block together, and drop those that reach into a block of another split."""
    blocks = blocks_of(ground, rule.block_m)
    inside = (blocks == blocks[:, :1]).all(axis=1)
    # a block counts by the chips that it is sure to keep; one that only holds parts of chips counts nothing
    weight = np.zeros(blocks.shape, np.int64)
    weight[:, 0] = inside
    placed = _assign_chips(blocks.ravel(), np.repeat(ground.city, 4), weight.ravel(), rule)
    touched = placed[blocks]
    code = np.where((touched == touched[:, :1]).all(axis=1), touched[:, 0], len(SPLITS))
    facts = {
        "units": _count(placed),
        "joined_units": 0,
        "dropped": {STRADDLES: int((code == len(SPLITS)).sum())},
    }
    return code, facts


def _assign_chips(unit: Integers, city: Integers, chips: Integers, rule: SplitRule) -> Integers:
    table = DataFrame({"unit": unit, "city": city, "chips": chips})
    return assign(table.groupby(["unit", "city"], as_index=False).sum(), rule.fractions, rule.seed)


def _count(placed: Integers) -> dict[str, int]:
    return dict(zip(SPLITS, np.bincount(placed, minlength=len(SPLITS)).tolist(), strict=True))


def _check_cities(chips: dict[str, dict[str, int]], rule: SplitRule) -> None:
    wanted = [name for name, share in zip(SPLITS, rule.fractions, strict=True) if share > 0]
    allowed = set(chips) if "*" in rule.allow_empty else set(rule.allow_empty)
    short = {
        city: ", ".join(f"{name} {count[name]}" for name in (*SPLITS, "unused"))
        for city, count in chips.items()
        if city not in allowed and not all(count[name] for name in wanted)
    }
    if short:
        unit = f"block of {rule.block_m:g} m" if rule.kind == "block" else rule.kind
        raise SplitError(
            f"{len(short)} of {len(chips)} cities lack chips in a wanted split when every {unit} stays together "
            f"({'; '.join(f'{city}: {counts}' for city, counts in short.items())}): add scenes, take smaller units, "
            "set a fraction to 0, or list these cities in split.allow_empty"
        )
