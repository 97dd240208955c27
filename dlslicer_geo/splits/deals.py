"""Chips and the units that they lie in in, a draft out: units dealt to splits or folds, and dates held apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas import DataFrame

from dlslicer_geo.errors import SplitError, TableError
from dlslicer_geo.splits.balance import assign
from dlslicer_geo.splits.blocks import blocks_of
from dlslicer_geo.splits.dates import BEFORE, LATER, UNCLEAR, UNDATED, sides
from dlslicer_geo.splits.draft import UNUSED, Draft, drop
from dlslicer_geo.splits.ground import Ground, Integers
from dlslicer_geo.splits.units import copies_of, join_scenes, link, scenes_of
from dlslicer_geo.types import SPLITS, SplitRule

STRADDLES = "touches blocks of two splits"


def by_scene(chips: GeoDataFrame, ground: Ground, rule: SplitRule, scenes: DataFrame | None) -> Draft:
    """Keep the scenes of a place or site together, and scenes that show the same image."""
    table = scenes_of(chips)
    sites = table["city"].fillna("") + "\n" + table["site"]
    names = table["scene_id"].where(table["exact"], sites) if rule.kind == "place" else sites
    labels = [names.to_numpy(object)]
    if scenes is not None:
        digest = scenes.drop_duplicates("scene_id").set_index("scene_id")["sha256"]
        labels += [table["scene_id"].map(column).to_numpy(object) for column in (digest, copies_of(scenes))]
    unit = join_scenes(ground, link(np.column_stack(labels)))
    draft = _deal(unit[ground.scene][:, None], ground, _sides(chips, rule), rule)
    return replace(draft, joined=int(names.nunique() - unit.max() - 1))


def by_block(chips: GeoDataFrame, ground: Ground, rule: SplitRule) -> Draft:
    """Keep the chips of a block together, and drop those that reach into a block of another split."""
    blocks, lattices = blocks_of(ground, rule.block_m)
    return replace(_deal(blocks, ground, _sides(chips, rule), rule), facts={"blocks": lattices})


def by_chip(chips: GeoDataFrame, ground: Ground, rule: SplitRule) -> Draft:
    """Draw every chip by itself, in each city: nothing stays together, so that splits share pixels."""
    draw = np.empty(len(chips))
    draw[np.argsort(chips["chip_id"].to_numpy(), kind="stable")] = np.random.default_rng(rule.seed).random(len(chips))
    order = np.lexsort((draw, ground.city))
    count = np.bincount(ground.city)
    rank = np.empty(len(chips), np.int64)
    rank[order] = np.arange(len(chips)) - np.repeat(np.cumsum(count) - count, count)
    if rule.folds:
        _check_folds(rule, len(chips), "chips")
        fold = rank % rule.folds
        return Draft(code=_roles(rule)[fold], unit=ground.scene, fold=fold)
    ends = np.rint(np.outer(count, np.cumsum(rule.fractions)[:-1]))[ground.city]
    return Draft(code=(rank[:, None] >= ends).sum(axis=1), unit=ground.scene, wanted=_wanted(rule))


def _deal(units: Integers, ground: Ground, side: Integers | None, rule: SplitRule) -> Draft:
    """Deal units to splits or folds.

    Args:
        units: (n, u) units that each chip lies in; it counts where they are one.
        ground: the chips.
        side: (n,) side of each chip's date, None where all dates are taken everywhere.
        rule: fractions, folds and seed.
    """
    _check_folds(rule, int(units.max()) + 1, f"{rule.kind}s")
    roles = _roles(rule)
    shares = (1 / rule.folds,) * rule.folds if rule.folds else rule.fractions
    inside = (units == units[:, :1]).all(axis=1)
    part = assign(*_sizes(units, ground.city, _usable(inside, side, rule)), shares, rule.seed)[units]
    role = roles[part]
    one = (role == role[:, :1]).all(axis=1)
    fold = np.where((part == part[:, :1]).all(axis=1), part[:, 0], -1) if rule.folds else None
    wanted = SPLITS if rule.folds else _wanted(rule)
    draft = drop(Draft(code=role[:, 0], unit=units[:, 0], fold=fold, wanted=wanted), ~one, STRADDLES)
    return draft if side is None else _hold_apart(draft, side, rule)


def _check_folds(rule: SplitRule, number: int, what: str) -> None:
    if rule.folds > number:
        raise SplitError(f"split.folds is {rule.folds} and there are {number} {what}: take at most one fold for each")


def _roles(rule: SplitRule) -> Integers:
    """Split of each part that units are dealt to: the splits themselves, or the folds."""
    if not rule.folds:
        return np.arange(len(SPLITS))
    roles = np.zeros(rule.folds, np.int64)
    roles[[(rule.fold + 1) % rule.folds, rule.fold]] = SPLITS.index("val"), SPLITS.index("test")
    return roles


def _wanted(rule: SplitRule) -> tuple[str, ...]:
    return tuple(name for name, share in zip(SPLITS, rule.fractions, strict=True) if share > 0)


def _usable(inside: NDArray[np.bool_], side: Integers | None, rule: SplitRule) -> NDArray[np.bool_]:
    """(n, parts) whether a part could use a chip: it lies in one unit, and has a date that the part takes."""
    parts = rule.folds or len(SPLITS)
    usable = np.tile(inside[:, None], (1, parts))
    if side is None:
        return usable
    early, late = (side == BEFORE)[:, None], (side == LATER)[:, None]
    takes = early | late if rule.folds else np.where(_roles(rule) == SPLITS.index("test"), late, early)
    return np.asarray(usable & takes)


def _sizes(units: Integers, city: Integers, usable: NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    """Unit, city and chips per part of every pair of unit and city, in the order of the units."""
    cities = int(city.max()) + 1
    pair = np.unique(units * cities + city[:, None])
    home = np.searchsorted(pair, units[:, 0] * cities + city)
    chips = np.stack([np.bincount(home[take], minlength=len(pair)) for take in usable.T], axis=1)
    return pair // cities, pair % cities, chips


def _sides(chips: GeoDataFrame, rule: SplitRule) -> Integers | None:
    if rule.test_from is None:
        return None
    if "acquired" not in chips:
        raise TableError("the chip table has no column acquired: split.test_from needs the date of every chip")
    return sides(chips["acquired"], rule.test_from)


def _hold_apart(draft: Draft, side: Integers, rule: SplitRule) -> Draft:
    """Leave out what was taken on the wrong side of the date for its split."""
    test = draft.code == SPLITS.index("test")
    draft = drop(draft, side == UNDATED, "has no date")
    draft = drop(draft, side == UNCLEAR, f"has a date too coarse to say whether it is before {rule.test_from}")
    draft = drop(draft, test & (side == BEFORE), f"taken before {rule.test_from} at a test {rule.kind}")
    return drop(
        draft,
        ~test & (draft.code != UNUSED) & (side == LATER),
        f"taken from {rule.test_from} on at a train or val {rule.kind}",
    )
