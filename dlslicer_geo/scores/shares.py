"""Scored chips in, shares that are right out: overall, per city, per site, and who is taken for whom."""

from __future__ import annotations

from typing import Any

import numpy as np
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from dlslicer_geo.scores.answers import Answers, sites
from dlslicer_geo.scores.intervals import Blocks, Floats, Integers, intervals, ratio

SHARES = ("accuracy", "balanced_accuracy", "macro_f1")
"""What can be said of any answers, ranked or not."""

RANKED = (*SHARES, "top3_accuracy", "top5_accuracy")
"""What can be said of probabilities."""

PAIRS = 20
"""Most confused pairs that are listed."""


def overall(found: Answers) -> tuple[dict[str, float], dict[str, list[float] | None]]:
    """The shares of ``RANKED`` by name, and their intervals."""
    top = found.blocks.sums(found.rank < 3, found.rank < 5)
    sums = np.hstack([_counts(found.blocks, found.truth, found.predicted, len(found.cities)), top])

    def statistic(totals: Floats) -> Floats:
        size = totals[..., : len(found.cities)].sum(axis=-1, keepdims=True)
        return np.concatenate([_shares(totals[..., :-2]), totals[..., -2:] / size], axis=-1)

    values = dict(zip(RANKED, statistic(sums.sum(axis=0)).tolist(), strict=True))
    bounds = intervals(statistic, sums, found.blocks.stratum, seed=found.blocks.seed)
    return values, {name: None if bounds is None else bounds[at] for at, name in enumerate(RANKED)}


def plain(blocks: Blocks, truth: Integers, predicted: Integers, cities: int) -> dict[str, float]:
    """The shares of ``SHARES`` by name, of answers (n,) that need not come from the model; -1 is no city."""
    totals = _counts(blocks, truth, predicted, cities).sum(axis=0)
    return dict(zip(SHARES, _shares(totals).tolist(), strict=True))


def per_city(found: Answers, confusion: Integers) -> dict[str, dict[str, Any]]:
    """By code: chips, sites, recall (as ``accuracy``) with its interval, precision and F1; None without chips."""
    size = len(found.cities)
    chips, hits = found.blocks.table(found.truth, size), found.blocks.table(found.truth, size, found.hit)
    right, truth, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    alone = np.zeros(len(found.blocks), np.int64)
    entries = {}
    for at, code in enumerate(found.cities):
        bounds = intervals(ratio, np.stack([hits[:, at], chips[:, at]], 1), alone, seed=found.blocks.seed)
        entries[code] = {
            "n": int(truth[at]),
            "accuracy": float(right[at] / truth[at]) if truth[at] else None,
            "interval": None if bounds is None else bounds[0],
            "precision": float(right[at] / predicted[at]) if predicted[at] else None,
            "f1": float(2 * right[at] / (truth[at] + predicted[at])) if truth[at] else None,
        }
    return entries


def per_site(found: Answers, chips: GeoDataFrame) -> list[dict[str, Any]]:
    """City, site, chips and accuracy of each (city, site), sorted by both."""
    number = sites(chips, found.row)
    first = np.unique(number, return_index=True)[1]
    count, hits = np.bincount(number), np.bincount(number, found.hit)
    names = chips["site"].iloc[found.row[first]]
    return [
        {"city": found.cities[city], "site": str(site), "n": int(n), "accuracy": float(hit / n)}
        for city, site, n, hit in zip(found.truth[first], names, count, hits, strict=True)
    ]


def similar_order(confusion: Integers, cities: tuple[str, ...]) -> list[str]:
    """City codes so that those taken for each other stand together.

    Average linkage on the symmetrised shares of the confusion, leaves ordered so that neighbours are most alike
    (Bar-Joseph et al. 2001, Bioinformatics 17, S22–S29).
    """
    if len(cities) < 3:
        return list(cities)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    alike = share + share.T
    np.fill_diagonal(alike, 0)
    apart = alike.max() - alike
    np.fill_diagonal(apart, 0)
    leaves = leaves_list(linkage(squareform(apart), "average", optimal_ordering=True))
    return [cities[at] for at in leaves]


def most_confused(confusion: Integers, cities: tuple[str, ...]) -> list[dict[str, Any]]:
    """Up to 20 pairs of truth and prediction with count and share of the truth's chips, most frequent first."""
    wrong = confusion - np.diag(confusion.diagonal())
    truth, predicted = np.nonzero(wrong)
    names = np.array(cities)
    order = np.lexsort((names[predicted], names[truth], -wrong[truth, predicted]))[:PAIRS]
    return [
        {
            "truth": cities[row],
            "predicted": cities[col],
            "count": int(wrong[row, col]),
            "share": float(wrong[row, col] / confusion[row].sum()),
        }
        for row, col in zip(truth[order], predicted[order], strict=True)
    ]


def _counts(blocks: Blocks, truth: Integers, predicted: Integers, cities: int) -> Floats:
    """(units, 3 × cities) chips of a city, chips said to be of it, and chips of which both hold."""
    hit = blocks.table(np.where(truth == predicted, truth, -1), cities)
    return np.hstack([blocks.table(truth, cities), blocks.table(predicted, cities), hit])


def _shares(totals: Floats) -> Floats:
    """Totals (..., 3 × cities) → accuracy, balanced accuracy, macro F1 (..., 3)."""
    chips, said, hit = np.split(totals, 3, axis=-1)
    accuracy = hit.sum(axis=-1) / chips.sum(axis=-1)
    return np.stack([accuracy, _mean(hit, chips), _mean(2 * hit, chips + said)], axis=-1)


def _mean(above: Floats, below: Floats) -> NDArray[np.float64]:
    """Mean of the ratios along the last axis, of those that exist."""
    share = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return np.asarray(share.sum(axis=-1) / (below > 0).sum(axis=-1))
