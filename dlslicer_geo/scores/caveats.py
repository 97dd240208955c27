"""Scored chips and the chip table in, sentences that a reader of the numbers must know out."""

from __future__ import annotations

import numpy as np
from geopandas import GeoDataFrame

from dlslicer_geo.scores.answers import Answers
from dlslicer_geo.scores.places import any_approximate
from dlslicer_geo.types import Predictions

FEW, NAMED = 5, 10
"""Units of a city below which its interval says little, and how many such cities are named."""


def caveats(found: Predictions, scored: Answers, chips: GeoDataFrame) -> list[str]:
    """What follows from the data alone; empty where there is nothing to say."""
    said = [_split(scored, chips), _leak(scored, chips), *_units(scored), *_few(scored)]
    train = np.flatnonzero((chips["split"] == "train").to_numpy(bool))
    if any_approximate(chips, np.append(train, scored.row)):
        said.append(
            "Positions of some chips say no more than their city: accuracy against distance is left out, and that "
            "splits are apart rests on the images alone."
        )
    unlabelled = int((~found.labelled).sum())
    if unlabelled:
        said.append(f"{unlabelled} predicted chips have no true city and do not count.")
    absent = len(scored.cities) - len(np.unique(scored.truth))
    if absent:
        said.append(
            f"{absent} of {len(scored.cities)} cities have no scored chips: balanced accuracy is over the others."
        )
    return [sentence for sentence in said if sentence]


def _split(scored: Answers, chips: GeoDataFrame) -> str:
    own = int((chips["split"].iloc[scored.row] == "train").sum())
    if not own:
        return ""
    return f"{own} of {len(scored)} scored chips are train chips: these scores say nothing about other places."


def _leak(scored: Answers, chips: GeoDataFrame) -> str:
    """Units with train chips are no secret to the model."""
    if scored.by_site:
        return ""
    train = chips["unit"].to_numpy()[(chips["split"] == "train").to_numpy(bool)]
    other = (chips["split"].iloc[scored.row] != "train").to_numpy(bool)
    shared = other & np.isin(chips["unit"].to_numpy()[scored.row], train)
    if not shared.any():
        return ""
    return (
        f"LEAK: {int(shared.sum())} of {len(scored)} scored chips lie in units that also hold train chips, so that "
        "the scores are too good."
    )


def _units(scored: Answers) -> list[str]:
    said = []
    if scored.by_site:
        said.append(
            "The chip table has no units, so intervals draw (city, site) as a whole: overlapping sites count twice."
        )
    if len(scored.blocks) < 2:
        said.append(
            "All chips lie in one unit: there are no intervals, and the scores say nothing about other places."
        )
    return said


def _few(scored: Answers) -> list[str]:
    pairs = np.unique(np.stack([scored.truth, scored.blocks.unit]), axis=1)
    units = np.bincount(pairs[0], minlength=len(scored.cities))
    few = np.flatnonzero((units > 0) & (units < FEW))
    if not len(few) or len(scored.blocks) < 2:
        return []
    first = few[np.argsort(units[few], kind="stable")][:NAMED]
    names = ", ".join(f"{scored.cities[at]} {units[at]}" for at in first)
    more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
    said = [
        f"{len(few)} of {int((units > 0).sum())} cities have fewer than {FEW} units ({names}{more}): their own "
        "intervals are very wide."
    ]
    alone = int((units == 1).sum())
    if alone:
        said.append(
            f"{alone} cities have a single unit: they have no interval, and the overall interval treats them as one "
            "group, which makes it wider."
        )
    return said
