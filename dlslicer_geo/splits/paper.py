"""Scenes in, the halves that the published split cuts them into out (protocol.md; Buildings 2024, 14(2), 551)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from pandas import DataFrame

from dlslicer_geo.errors import SplitError, TableError
from dlslicer_geo.splits.draft import UNUSED, Draft, drop
from dlslicer_geo.splits.ground import Ground
from dlslicer_geo.types import SplitRule

ACROSS = "lies across the cut between val and test"


def regions(scenes: DataFrame, rule: SplitRule) -> dict[str, list[tuple[int, int, int, int]]]:
    """Say which parts of the scenes have to be cut into chips by themselves, for ``chips.cut``.

    Args:
        scenes: scene table.
        rule: only ``paper`` needs any: the two halves of every scene of the last site of each city.

    Returns:
        by ``scene_id``, pixel windows as first row, first column, height and width; scenes that are not named are
        cut as a whole.
    """
    if rule.kind != "paper":
        return {}
    half = _halves(scenes)
    last = scenes.drop_duplicates("scene_id").set_index("scene_id").loc[half.index]
    sizes = zip(half.index, half, last["height"].tolist(), last["width"].tolist(), strict=True)
    return {
        str(name): [(0, 0, height, cut), (0, cut, height, width - cut)] for name, cut, height, width in sizes
    }  # fmt: skip


def by_paper(chips: GeoDataFrame, ground: Ground, scenes: DataFrame | None) -> Draft:
    """The last site of a city, in sorted order, is val left of the middle of each scene and test right of it."""
    if scenes is None:
        raise SplitError("split.kind paper cuts scenes at half their width: give the scene table with the chips")
    lost = ~chips["scene_id"].isin(scenes["scene_id"])
    if lost.any():
        name = chips["scene_id"][lost].iloc[0]
        raise TableError(f"the scene table has no scene {name}: give the table that the chips were cut from")
    cut = chips["scene_id"].map(_halves(scenes)).to_numpy(np.float64, na_value=np.nan)
    col, end = chips["col"].to_numpy(), (chips["col"] + chips["width"]).to_numpy()
    code = np.select([np.isnan(cut), end <= cut, col >= cut], [0, 1, 2], UNUSED)
    draft = Draft(code=np.where(code == UNUSED, 0, code), unit=ground.scene)
    return drop(draft, code == UNUSED, ACROSS)


def _halves(scenes: DataFrame) -> pd.Series:
    """Column at which each scene of the last site of its city is cut; halves round to even, as Python does."""
    table = scenes.drop_duplicates("scene_id").set_index("scene_id")
    last = table.groupby(table["city"].fillna("unknown"))["site"].transform("max")
    width = table["width"][table["site"] == last]
    half: pd.Series = np.rint(width / 2).astype(np.int64)
    return half
