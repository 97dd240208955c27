"""Predictions and the chip table in, the chips that are scored out: numbers instead of names, units, ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores.intervals import Blocks, Integers
from dlslicer_geo.types import Predictions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Chips with a truth and what was said about them.

    Args:
        cities: city codes; truth and prediction are numbers in their order.
        at: (n,) places among the predictions.
        row: (n,) rows of the chip table.
        chip_id: (n,) ids of the chips.
        truth: (n,) number of the true city.
        predicted: (n,) number of the most probable city.
        probabilities: (n, cities) float32.
        rank: (n,) number of cities that are more probable than the true one.
        blocks: the units that are drawn.
        by_site: the chip table has no units, so (city, site) is one.
    """

    cities: tuple[str, ...]
    at: Integers
    row: Integers
    chip_id: Integers
    truth: Integers
    predicted: Integers
    probabilities: NDArray[np.float32]
    rank: Integers
    blocks: Blocks
    by_site: bool

    def __len__(self) -> int:
        """Number of scored chips."""
        return len(self.truth)

    @property
    def hit(self) -> NDArray[np.bool_]:
        """(n,) whether the most probable city is the true one."""
        return np.asarray(self.truth == self.predicted)


def answers(found: Predictions, chips: GeoDataFrame, *, per_city: int | None = None, seed: int = 0) -> Answers:
    """The chips that can be scored.

    Args:
        found: what a model said.
        chips: chip table.
        per_city: draw so many chips of each true city, without replacement; None takes all.
        seed: seeds this draw and those of the bootstrap.

    Raises:
        TableError: if no chip has a truth, a truth is no city of the model, or the table lacks a predicted chip.
    """
    at, truth = _truth(found)
    if per_city is not None:
        drawn = _draw(truth, per_city, seed)
        at, truth = at[drawn], truth[drawn]
    row = rows(chips, found.chip_id[at])
    unit, by_site = _units(chips, row)
    probabilities = found.probabilities[at]
    return Answers(
        cities=found.cities,
        at=at,
        row=row,
        chip_id=found.chip_id[at],
        truth=truth,
        predicted=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities,
        rank=_rank(probabilities, truth),
        blocks=Blocks.of(unit, truth, seed),
        by_site=by_site,
    )


def rows(chips: GeoDataFrame, chip_id: Integers) -> Integers:
    """Rows of the chip table in which these chips stand.

    Raises:
        TableError: if a chip is not in the table.
    """
    found: Integers = pd.Index(chips["chip_id"]).get_indexer(pd.Index(chip_id)).astype(np.int64)
    if (found < 0).any():
        raise TableError(
            f"chip {chip_id[found < 0][0]} was predicted but is not in the chip table: give its own table"
        )
    return found


def numbers(codes: Any, cities: tuple[str, ...]) -> Integers:
    """Places of codes among the cities, -1 where they are none of them."""
    return np.asarray(pd.Index(cities).get_indexer(pd.Index(codes, dtype=object)), np.int64)


def _truth(found: Predictions) -> tuple[Integers, Integers]:
    """Places of the predictions that have a truth, and the numbers of those truths."""
    codes = found.truth
    at = np.flatnonzero(~pd.isna(codes))
    if not len(at):
        raise TableError(f"none of the {len(found)} predictions has a true city: score chips of known cities")
    truth = numbers(codes[at], found.cities)
    if (truth < 0).any():
        strange = ", ".join(sorted(set(codes[at][truth < 0].tolist())))
        raise TableError(
            f"the model has no city {strange}, where {int((truth < 0).sum())} chips lie: "
            "score it on its own cities, or leave those chips out"
        )
    return at, truth


def _draw(truth: Integers, number: int, seed: int) -> Integers:
    """Sorted places of ``number`` chips of each city, or of all where it has fewer."""
    if number < 1:
        raise TableError(f"{number} chips per city are to be drawn: give 1 or more")
    order = np.lexsort((np.random.default_rng(seed).random(len(truth)), truth))
    first = np.searchsorted(truth[order], truth[order])
    return np.sort(order[np.arange(len(truth)) - first < number]).astype(np.int64)


def _units(chips: GeoDataFrame, row: Integers) -> tuple[Integers, bool]:
    """Unit of each chip, and whether (city, site) had to stand in for one."""
    if "unit" in chips.columns:
        unit = chips["unit"].to_numpy(np.int64)[row]
        if (unit >= 0).all():
            return unit, False
    return sites(chips, row), True


def sites(chips: GeoDataFrame, row: Integers) -> Integers:
    """Number of the (city, site) of each chip, in sorted order; a site name is unique within its city only."""
    return (
        chips[["city", "site"]].iloc[row].groupby(["city", "site"], dropna=False).ngroup().to_numpy().astype(np.int64)
    )


def _rank(probabilities: NDArray[np.float32], truth: Integers) -> Integers:
    """Cities that come before the true one; of equals, the first column comes first."""
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)
    before = (probabilities > own).sum(axis=1)
    equal = (probabilities == own) & (np.arange(probabilities.shape[1]) < truth[:, None])
    return np.asarray(before + equal.sum(axis=1), np.int64)
