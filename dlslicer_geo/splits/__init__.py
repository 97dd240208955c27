"""The chip table in, the same table with train, val and test and a proof that they share nothing out.

Opens no file. A rule makes a ``draft``: ``deals`` deals ``units`` or ``blocks`` in ``balance`` and holds ``dates``
apart, ``paper`` and ``given`` take splits as they are given, ``gaps`` keeps a distance. ``proof`` checks the result
from the tables alone, ``ground`` measures all of them.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from pandas import DataFrame

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.deals import by_block, by_chip, by_scene
from dlslicer_geo.splits.draft import UNUSED, Draft
from dlslicer_geo.splits.gaps import keep_gap
from dlslicer_geo.splits.given import by_given
from dlslicer_geo.splits.ground import Ground, ground_of
from dlslicer_geo.splits.paper import by_paper, regions
from dlslicer_geo.splits.proof import chips_hash, chips_per_city, measure, scenes_hash, verify, violations
from dlslicer_geo.types import SPLITS, SplitRule

__all__ = ["chips_hash", "measure", "regions", "scenes_hash", "split", "verify", "violations"]

logger = logging.getLogger(__name__)

NAMES = (*SPLITS, "unused")


def split(
    chips: GeoDataFrame, rule: SplitRule, *, scenes: DataFrame | None = None, given: DataFrame | None = None
) -> tuple[GeoDataFrame, dict[str, Any]]:
    """Share out chips between train, val and test so that no two splits share ground, and prove it.

    What stays together is the rule's ``kind``: a place (all scenes whose chips share ground, of any date, also
    across cities; where the position is approximate, all scenes of a site), a site (joined with other sites it shares
    ground with), or a square block of the city's UTM grid, where a chip that reaches into a block of another split is
    left ``unused``. When ``scenes`` are given, scenes that show the same image (files that are equal byte for byte,
    or ``duplicate_of``) stay together too, except with blocks. ``paper`` and ``given`` take splits as they are
    published or given, and raise if those leak. ``random`` keeps nothing together and leaks: its certificate says
    ``proven: false``, and by how much.

    What counts as shared ground is said at :func:`measure`, which runs on the result.

    Args:
        chips: chip table; a split that it has already is drawn anew.
        rule: what stays together, in which shares, with which seed.
        scenes: scene table, for the images; ``paper`` needs it for the width of the scenes.
        given: for ``given``: a table with ``split`` and ``scene_id``, ``city`` and ``site``, or ``site``, or polygons
            in any CRS with ``split``. A chip belongs to a split when it lies wholly inside its polygons.

    Returns:
        the table with ``split``, ``unit`` and ``fold``, and the certificate: ``rule``, ``seed``, ``units`` (per
        split), ``joined_units`` (units that others were merged into by shared ground or equal images: scenes for
        ``place``, sites for ``site``), ``dropped`` (chips by reason), with blocks ``blocks`` (the lattices), and
        everything :func:`measure` returns; ready for JSON.

    Raises:
        SplitError: if there is no chip, a city would lack chips in a wanted split, a chip is larger than a block, or
            the rule cannot be met as asked.
        LeakError: if the result is not disjoint, which can happen with ``paper`` and ``given``, and where two cities
            cut into blocks overlap.
        TableError: if a table lacks what the rule needs.
    """
    if chips.empty:
        raise SplitError("the chip table is empty: cut chips before splitting them")
    ground = ground_of(chips)
    draft = keep_gap(_draft(chips, ground, rule, scenes, given), ground, rule.gap_m)
    counts = chips_per_city(ground, draft.code)
    _log(counts, draft.dropped)
    _check_cities(counts, rule, draft.wanted)
    done = chips.assign(
        split=pd.Series(np.array(NAMES, object)[draft.code], index=chips.index, dtype=object),
        fold=np.full(len(chips), -1, np.int64) if draft.fold is None else draft.fold,
        unit=draft.unit,
    )
    asked = {**asdict(rule), "fractions": list(rule.fractions), "allow_empty": list(rule.allow_empty)}
    facts = {"units": _units(draft), "joined_units": draft.joined, "dropped": draft.dropped, **draft.facts}
    prove = verify if rule.proven else measure
    # a rule that keeps nothing together proves nothing, even where its draw happens to share nothing
    proof = prove(done, scenes=scenes) | ({} if rule.proven else {"proven": False})
    return done, {"rule": asked, "seed": rule.seed, **facts, **proof}


def _draft(
    chips: GeoDataFrame, ground: Ground, rule: SplitRule, scenes: DataFrame | None, given: DataFrame | None
) -> Draft:
    if rule.kind == "paper":
        return by_paper(chips, ground, scenes)
    if rule.kind == "given":
        return by_given(chips, ground, given, scenes)
    if rule.kind == "random":
        return by_chip(chips, ground, rule)
    return by_block(chips, ground, rule) if rule.kind == "block" else by_scene(chips, ground, rule, scenes)


def _units(draft: Draft) -> dict[str, int]:
    """Units of which chips are used, per split."""
    pairs = np.unique(np.column_stack([draft.code, draft.unit]), axis=0)
    return dict(zip(SPLITS, np.bincount(pairs[:, 0], minlength=len(NAMES))[:UNUSED].tolist(), strict=True))


def _log(counts: dict[str, dict[str, int]], dropped: dict[str, int]) -> None:
    table = DataFrame.from_dict(counts, orient="index", columns=list(NAMES))
    table.loc["all"] = table.sum()
    logger.info("chips per city and split:\n%s", table.to_string())
    if dropped:
        reasons = "; ".join(f"{number} {reason}" for reason, number in dropped.items())
        logger.info("left out %d chips: %s", sum(dropped.values()), reasons)


def _check_cities(counts: dict[str, dict[str, int]], rule: SplitRule, wanted: tuple[str, ...]) -> None:
    allowed = set(counts) if "*" in rule.allow_empty else set(rule.allow_empty)
    short = {
        city: ", ".join(f"{name} {count[name]}" for name in NAMES)
        for city, count in counts.items()
        if city not in allowed and not all(count[name] for name in wanted)
    }
    if short:
        raise SplitError(
            f"{len(short)} of {len(counts)} cities lack chips in a wanted split when {_condition(rule)} "
            f"({'; '.join(f'{city}: {numbers}' for city, numbers in short.items())}): add scenes, take smaller "
            "units, set a fraction to 0, or list these cities in split.allow_empty"
        )


def _condition(rule: SplitRule) -> str:
    """What the rule asks for, in words."""
    words = {
        "paper": "the last site of a city is halved and the others are train",
        "given": "the splits are as given",
        "random": "chips are drawn one by one",
        "block": f"every block of {rule.block_m:g} m stays together",
    }.get(rule.kind, f"every {rule.kind} stays together")
    words += f" in {rule.folds} folds" if rule.folds else ""
    words += f", test is from {rule.test_from} on" if rule.test_from else ""
    return words + (f", {rule.gap_m:g} m apart" if rule.gap_m else "")
