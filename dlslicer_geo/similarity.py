"""Predictions and the chip table in, how alike cities are and which chips elsewhere look alike out."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import geopandas as gpd
import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.spatial.distance import pdist, squareform

from dlslicer_geo.errors import TableError
from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

LARGEST = 2**15
"""Chips that all others are compared with at most: with more, a table of neighbours takes hours."""

BLOCK = 2**23
"""Cosines held at once; bounds the memory to some hundred megabytes whatever the number of chips."""

DECIMALS = 6
"""Cosines are rounded before they are ranked, so that equal embeddings tie whatever order they are multiplied in."""


def similar(found: Predictions, chips: GeoDataFrame, *, neighbours: int = 5) -> tuple[DataFrame, GeoDataFrame]:
    """Compare cities by what the model says about their chips, and chips by what the model sees in them.

    A chip belongs to its true city, or to the predicted one where the truth is unknown.

    The matrix says how differently the model answers for two cities: 0 when its mean answer is the same, 1 when the
    two answers share no city. It measures this model's confusion, not the cities: a model that has learnt its cities
    perfectly finds all of them equally far apart, and one that has learnt colours finds alike what has one colour.
    It needs the probabilities of chips that the model has not trained on.

    Look-alikes of a chip are looked for among all chips. Where these are more than 32,768, time would grow with their
    square: then they are looked for among so many, drawn with a fixed seed and equally many from each city as far as
    it has them, and the log says so.

    Args:
        found: predictions with embeddings.
        chips: chip table with ``chip_id``, ``site`` and geometry.
        neighbours: look-alikes wanted for each chip.

    Returns:
        - city × city Jensen-Shannon distances between the mean probabilities of the cities' chips (base 2, square
          root of the divergence, 0 to 1; Endres and Schindelin 2003), symmetric, zero diagonal; cities that have
          chips, in the model's order, then cities that the model does not know.
        - the nearest chips of other cities for each chip: ``chip_id``, ``city``, ``site``, ``like_chip_id``,
          ``like_city``, ``like_site``, ``rank`` (from 1), ``cosine`` (of the embeddings, -1 to 1) and the geometry of
          the chip. Exact among the chips that are compared; of equals to six decimals the lowest chip id comes
          first. No rows where all chips are of one city.

    Raises:
        TableError: if there are no predictions or no embeddings, or chips are not in the table.
    """
    if not len(found):
        raise TableError("there are no predictions to compare: predict some chips first")
    if found.embedding is None:
        raise TableError(
            f"the {len(found)} predictions have no embeddings: predict again with `--predict.embedding true`"
        )
    order = np.argsort(found.chip_id, kind="stable")
    chip_id, city = found.chip_id[order], found.home[order]
    group = pd.factorize(city)[0]
    pairs = list(_nearest(found.embedding[order], group, _compared(found, chip_id), neighbours))
    one, two, rank, cosine = (np.concatenate(part) for part in zip(*pairs, strict=True))
    frame = _look_alikes(chips, chip_id, city, one, two)
    frame.insert(len(frame.columns) - 1, "rank", rank)
    frame.insert(len(frame.columns) - 1, "cosine", cosine)
    return _distances(found), frame


def _compared(found: Predictions, chip_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending places among the sorted chip ids at which look-alikes are looked for."""
    if len(found) <= LARGEST:
        return np.arange(len(found))
    each = max(1, LARGEST // len(set(found.home.tolist())))
    drawn = np.searchsorted(chip_id, found.draw(each))
    message = "look-alikes of %d chips are looked for among %d of them, at most %d from each city"
    logger.warning(message, len(found), len(drawn), each)
    return drawn


def _distances(found: Predictions) -> DataFrame:
    group, there = pd.factorize(found.home, sort=True)
    sums = np.stack([np.bincount(group, column, len(there)) for column in found.probabilities.T], axis=1)
    known = [code for code in found.cities if code in set(there)]
    names = [*known, *sorted(set(there) - set(known))]
    mean = sums[np.searchsorted(there.astype(str), names)]
    mean = mean / mean.sum(axis=1, keepdims=True)
    # rounding can take a divergence of zero below zero, whose root is no number
    apart = np.nan_to_num(pdist(mean, "jensenshannon")) / np.sqrt(np.log(2))
    return DataFrame(squareform(apart.clip(0, 1)), index=names, columns=names)


def _nearest(
    embedding: NDArray[np.float32], group: NDArray[np.int64], among: NDArray[np.int64], neighbours: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Row, row of those in ``among`` and of another group, rank and cosine, a block of rows at a time."""
    others = _unit(embedding[among])
    number = min(neighbours, len(others))
    step = max(1, BLOCK // len(others))
    for start in range(0, len(embedding), step):
        cosine = np.round((_unit(embedding[start : start + step]) @ others.T).astype(np.float64), DECIMALS)
        cosine[group[start : start + step, None] == group[among]] = -np.inf
        least = np.partition(cosine, -number, axis=1)[:, -number, None]
        row, col = np.nonzero((cosine >= least) & (cosine > -np.inf))
        value = cosine[row, col]
        order = np.lexsort((col, -value, row))
        row, col, value = row[order], col[order], value[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row) + 1
        keep = rank <= neighbours
        yield row[keep] + start, among[col[keep]], rank[keep], value[keep].clip(-1, 1)


def _unit(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1, or 0."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.where(length > 0, length, 1))


def _look_alikes(
    chips: GeoDataFrame,
    chip_id: NDArray[np.int64],
    city: NDArray[np.object_],
    one: NDArray[np.int64],
    two: NDArray[np.int64],
) -> GeoDataFrame:
    row = pd.Index(chips["chip_id"]).get_indexer(pd.Index(chip_id))
    if (row < 0).any():
        raise TableError(f"chip {chip_id[row < 0][0]} was predicted but is not in the chip table: give its own table")
    site = chips["site"].to_numpy(object)[row]
    columns = {
        "chip_id": chip_id[one],
        "city": city[one],
        "site": site[one],
        "approximate": chips["approximate"].to_numpy()[row[one]],
        "like_chip_id": chip_id[two],
        "like_city": city[two],
        "like_site": site[two],
    }
    return gpd.GeoDataFrame(columns, geometry=chips.geometry.array[row[one]], crs=chips.crs)
