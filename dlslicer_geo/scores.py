"""Predictions and the chip table in, a report of how good they are beside what is cheap to have out.

Pure: opens no file, loads no network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas import DataFrame, Index
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dlslicer_geo.errors import TableError
from dlslicer_geo.types import Predictions, Report

Integers = NDArray[np.int64]
Codes = NDArray[np.str_]

DRAWS = 1000
"""Bootstrap draws behind the interval."""

PAIRS = 20
"""Most confused pairs that are listed."""


def score(found: Predictions, chips: GeoDataFrame, *, colour: DataFrame | None = None, seed: int = 0) -> Report:
    """Measure predictions against the true cities; chips without a truth do not count.

    Args:
        found: what a model said.
        chips: chip table with ``chip_id``, ``city``, ``site`` and ``split``.
        colour: ``chip_id``, ``mean_1``, ``std_1`` ...: statistics of the bands of the train chips and of the found
            ones, for the baseline that sees nothing else.
        seed: seeds the bootstrap.

    Returns:
        a report whose ``metrics``, shares between 0 and 1 and ready for JSON, are

        - ``n`` (chips), ``n_sites`` ((city, site) groups), ``n_cities``, ``chance`` (1 / ``n_cities``);
        - ``accuracy``, ``top5_accuracy`` (among the five most probable cities, or all where there are fewer);
        - ``accuracy_interval``: 95 % bootstrap interval, low and high, with whole sites drawn, because chips of a
          site are alike; None for a single site, which says nothing about others;
        - ``balanced_accuracy``: mean recall of the cities that have chips;
        - ``macro_f1``: mean F1 of the cities that occur as truth or as prediction;
        - ``per_city``: code → ``n``, ``accuracy``, ``f1``, the last two None for a city without chips;
        - ``most_confused``: up to 20 of ``truth``, ``predicted``, ``count``, ``share`` (of the chips of that truth),
          most frequent first;
        - ``baselines``: ``most_frequent`` (always the city with most train chips) and ``colour`` (logistic
          regression on ``colour``, fitted on the train chips), scored on the same chips: ``accuracy``,
          ``balanced_accuracy``, ``macro_f1``; None where there is nothing to fit on.

    Raises:
        TableError: if no chip has a truth, a truth is no city of the model, or a table lacks chips or columns.
    """
    known, truth = _truth(found)
    predicted = np.array(found.city)[known]
    rows = _rows(chips, found.chip_id[known])
    sites = chips.iloc[rows].groupby(["city", "site"], dropna=False).ngroup().to_numpy()
    confusion = confusion_matrix(truth, predicted, labels=list(found.cities)).astype(np.int64)
    baselines = {"most_frequent": _most_frequent(chips, truth)}
    if colour is not None:
        baselines["colour"] = _by_colour(chips, rows, truth, colour)
    metrics = {
        "n": len(truth),
        "n_sites": len(np.unique(sites)),
        "n_cities": len(found.cities),
        "chance": 1 / len(found.cities),
        **_summary(truth, predicted),
        "accuracy_interval": _interval(truth == predicted, sites, seed),
        "top5_accuracy": _top(found.probabilities[known], np.array([found.cities.index(code) for code in truth]), 5),
        "per_city": _per_city(confusion, found.cities),
        "most_confused": _most_confused(confusion, found.cities),
        "baselines": baselines,
    }
    return Report(metrics=metrics, confusion=confusion, cities=found.cities)


def confusion_frame(report: Report) -> DataFrame:
    """The confusion with city codes on both axes.

    Returns:
        int64 counts; row = true city (index ``truth``), column = predicted city (columns ``predicted``).
    """
    frame = DataFrame(report.confusion, index=list(report.cities), columns=list(report.cities))
    return frame.rename_axis(index="truth", columns="predicted")


def _truth(found: Predictions) -> tuple[Integers, Codes]:
    """Places of the predictions that have a truth, and those truths."""
    known = np.flatnonzero([truth is not None for truth in found.truth])
    if not len(known):
        raise TableError(f"none of the {len(found)} predictions has a true city: score chips of known cities")
    truth = np.array([found.truth[at] for at in known])
    strange = sorted(set(truth.tolist()) - set(found.cities))
    if strange:
        raise TableError(
            f"the model has no city {', '.join(strange)}, where {int(np.isin(truth, strange).sum())} chips lie: "
            "score it on its own cities, or leave those chips out"
        )
    return known, truth


def _rows(chips: GeoDataFrame, chip_id: Integers) -> Integers:
    rows: Integers = Index(chips["chip_id"]).get_indexer(Index(chip_id)).astype(np.int64)
    if (rows < 0).any():
        raise TableError(
            f"chip {chip_id[rows < 0][0]} was predicted but is not in the chip table: give its own table"
        )
    return rows


def _summary(truth: Codes, predicted: Codes) -> dict[str, float]:
    there = np.unique(truth)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall_score(truth, predicted, labels=there, average="macro", zero_division=0)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
    }


def _interval(hit: NDArray[np.bool_], sites: NDArray[Any], seed: int) -> list[float] | None:
    _, group = np.unique(sites, return_inverse=True)
    hits, chips = np.bincount(group, hit), np.bincount(group)
    if len(chips) < 2:
        return None
    random = np.random.default_rng(seed)
    draws = (random.integers(0, len(chips), len(chips)) for _ in range(DRAWS))
    accuracy = [hits[drawn].sum() / chips[drawn].sum() for drawn in draws]
    return [float(bound) for bound in np.quantile(accuracy, [0.025, 0.975])]


def _top(values: NDArray[np.float32], truth: Integers, number: int) -> float:
    """Share of the chips whose true column is among the ``number`` largest; of equals, the first column wins."""
    own = np.take_along_axis(values, truth[:, None], axis=1)
    before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < truth[:, None]))
    return float((before.sum(axis=1) < number).mean())


def _per_city(confusion: Integers, cities: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    right, truth, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        code: {
            "n": int(n),
            "accuracy": float(hit / n) if n else None,
            "f1": float(2 * hit / (n + said)) if n else None,
        }
        for code, hit, n, said in zip(cities, right, truth, predicted, strict=True)
    }


def _most_confused(confusion: Integers, cities: tuple[str, ...]) -> list[dict[str, Any]]:
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


def _train_rows(chips: GeoDataFrame) -> Integers:
    if "split" not in chips.columns:
        raise TableError("the chip table has no column split: split it, so that baselines know what to learn from")
    return np.flatnonzero((chips["split"] == "train").to_numpy(bool) & chips["city"].notna().to_numpy(bool))


def _most_frequent(chips: GeoDataFrame, truth: Codes) -> dict[str, float] | None:
    cities = chips["city"].iloc[_train_rows(chips)].to_numpy(str)
    if not len(cities):
        return None
    names, count = np.unique(cities, return_counts=True)
    return _summary(truth, np.full(len(truth), names[count.argmax()]))


def _by_colour(chips: GeoDataFrame, rows: Integers, truth: Codes, colour: DataFrame) -> dict[str, float] | None:
    train = _train_rows(chips)
    cities = chips["city"].iloc[train].to_numpy(str)
    if len(np.unique(cities)) < 2:
        return None
    names = [name for name in colour.columns if str(name).startswith(("mean_", "std_"))]
    if not names:
        raise TableError("the colour table has no column mean_* or std_*: make it with scenes.channel_statistics")
    table = colour.drop_duplicates("chip_id").set_index("chip_id")[names]
    features = table.reindex(chips["chip_id"].to_numpy()[np.concatenate([train, rows])]).to_numpy(np.float64)
    lost = int((~np.isfinite(features).all(axis=1)).sum())
    if lost:
        raise TableError(
            f"the colour table has no values for {lost} of {len(features)} train and scored chips: make it from the "
            "same scenes and chips"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=10_000))
    model.fit(features[: len(train)], cities)
    return _summary(truth, model.predict(features[len(train) :]))
