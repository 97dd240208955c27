"""The summary of explained chips and the chip table in, the windows of every city's portrait out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from dlslicer_geo.errors import RelevanceError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

TOUCHING = 1e-3
"""Share of a window that another may cover and still only touch it: corners in degrees are rounded."""

SEAM = -33.0
"""Longitude where the map is cut open: open ocean, where 180° would cut land."""

CHIP = ("row", "col", "height", "width")
WINDOW = ("window_row", "window_col", "window_height", "window_width")

Polygons = NDArray[Any]
Ints = NDArray[np.int64]


def choose_windows(table: pd.DataFrame, chips: GeoDataFrame, *, number: int = 10) -> GeoDataFrame:
    """Choose for the portrait of every city the windows with the highest mean relevance, none twice on the ground.

    Every chip offers its best window. Candidates are the chips that lie in the explained city, or in none that is
    known, with relevance above 0. No two windows of a city share ground, not in two overlapping chips and not in
    another year; where a position is approximate, another scene of the same site counts as the same ground.

    Args:
        table: what :func:`summarize` gives, of all explained chips.
        chips: the chip table; outlines in EPSG:4326, their corners counter-clockwise from the lower left.
        number: windows of a city at most.

    Returns:
        a row per window, cities sorted and the highest first: ``city``, ``rank`` (from 1), ``chip_id``, ``scene_id``,
        ``site``, ``acquired``, the chip (``row``, ``col``, ``height``, ``width``), ``window_row``, ``window_col``,
        ``window_height``, ``window_width``, ``window_mean``, ``approximate``, and ``geometry``, the window on the
        ground in EPSG:4326.

    Raises:
        RelevanceError: if a summarized chip is not in the chip table.
    """
    joined = _candidates(table, chips)
    polygons = _window_polygons(joined)
    chosen: list[Ints] = []
    for _, rows in joined.groupby("city", sort=True).indices.items():
        order = np.lexsort((joined["chip_id"].to_numpy()[rows], -joined["window_mean"].to_numpy()[rows]))
        chosen.append(_apart(joined, polygons, np.asarray(rows)[order], number))
    at = np.concatenate([np.zeros(0, np.int64), *chosen])
    rank = np.concatenate([np.zeros(0, np.int64), *(np.arange(1, len(one) + 1) for one in chosen)])
    return _portrait_table(joined.iloc[at], polygons[at], rank)


def _candidates(table: pd.DataFrame, chips: GeoDataFrame) -> pd.DataFrame:
    """Summarized chips of the city itself with relevance in their favour, beside their rows of the chip table."""
    wanted = table.loc[table["window_mean"] > 0]
    place = pd.Index(chips["chip_id"]).get_indexer(pd.Index(wanted["chip_id"]))
    if (place < 0).any():
        raise RelevanceError(
            f"{int((place < 0).sum())} of {len(wanted)} summarized chips are not in the chip table, such as chip "
            f"{wanted['chip_id'].iloc[int((place < 0).argmax())]}: give the chips that were explained"
        )
    names = ["site", "acquired", *CHIP, "approximate", "geometry"]
    own = pd.DataFrame(chips[["city", *names]].iloc[place]).reset_index(drop=True)
    joined = pd.concat([wanted.reset_index(drop=True), own[names]], axis=1)
    at_home = own["city"].isna() | (own["city"] == wanted["city"].reset_index(drop=True))
    return joined[at_home].reset_index(drop=True)


def _window_polygons(joined: pd.DataFrame) -> NDArray[Any]:
    """Windows on the ground, from the corners of their chips: lower left, lower right, upper right, upper left."""
    if not len(joined):
        return np.zeros(0, object)
    corners = shapely.get_coordinates(joined["geometry"].to_numpy()).reshape(len(joined), -1, 2)[:, :4]
    corners[..., 0] = (corners[..., 0] - SEAM) % 360 + SEAM
    chip, window = (joined[list(names)].to_numpy(np.float64) for names in (CHIP, WINDOW))
    top, left = ((window[:, at] - chip[:, at]) / chip[:, at + 2] for at in (0, 1))
    bottom, right = (at + window[:, side] / chip[:, side] for at, side in ((top, 2), (left, 3)))
    x, y = np.stack([left, right, right, left], axis=1), np.stack([bottom, bottom, top, top], axis=1)
    parts = [(1 - x) * y, x * y, x * (1 - y), (1 - x) * (1 - y)]  # of the four corners, in their order
    return np.asarray(shapely.polygons(sum(part[..., None] * corners[:, [at]] for at, part in enumerate(parts))))


def _apart(joined: pd.DataFrame, polygons: Polygons, order: Ints, number: int) -> Ints:
    """The first ``number`` of the rows, in their order, that share no ground with one before them."""
    taken: list[int] = []
    while len(order) and len(taken) < number:
        best, order = int(order[0]), order[1:]
        taken.append(best)
        order = order[~_share_ground(joined, polygons, best, order)]
    return np.array(taken, np.int64)


def _share_ground(joined: pd.DataFrame, polygons: Polygons, one: int, others: Ints) -> NDArray[np.bool_]:
    """(m,) whether window ``one`` and each of the others have ground in common."""
    shapely.prepare(polygons[one])
    shared = shapely.intersects(polygons[one], polygons[others])
    near = others[shared]
    common = shapely.area(shapely.intersection(polygons[one], polygons[near]))
    smaller = np.minimum(shapely.area(polygons[one]), shapely.area(polygons[near]))
    shared[shared] = common > TOUCHING * smaller
    vague, scene, site = (joined[name].to_numpy() for name in ("approximate", "scene_id", "site"))
    nowhere = (vague[others] | vague[one]) & (scene[others] != scene[one])
    return np.where(nowhere, site[others] == site[one], shared).astype(bool)


def _portrait_table(chosen: pd.DataFrame, polygons: Polygons, rank: Ints) -> GeoDataFrame:
    import geopandas as gpd

    east = shapely.bounds(polygons)[:, 0] > 180 if len(polygons) else np.zeros(0, bool)
    polygons[east] = shapely.transform(polygons[east], lambda xy: xy - [360, 0])
    names = ["chip_id", "scene_id", "site", "acquired", *CHIP, *WINDOW, "window_mean", "approximate"]
    table = chosen[names].reset_index(drop=True)
    table = table.astype({name: np.int64 for name in WINDOW})
    table.insert(0, "city", chosen["city"].to_numpy())
    table.insert(1, "rank", rank)
    return gpd.GeoDataFrame(table, geometry=polygons, crs="EPSG:4326")
