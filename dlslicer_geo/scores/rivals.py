"""Scored chips and other answers to them in, paired differences out: baselines, probes, another run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores.answers import Answers, numbers
from dlslicer_geo.scores.intervals import Integers, intervals, ratio, sign_flip
from dlslicer_geo.scores.shares import plain
from dlslicer_geo.types import Predictions

Mask = NDArray[np.bool_]


def baselines(
    found: Answers, chips: GeoDataFrame, colour: DataFrame | None, frozen: DataFrame | None
) -> dict[str, dict[str, Any] | None]:
    """What is cheap to have, on the same chips, and what the model gains over it; None with nothing to fit on.

    Raises:
        TableError: if a table lacks chips or columns.
    """
    said = {"most_frequent": _most_frequent(found, chips)}
    if colour is not None:
        said["colour"] = _by_colour(found, chips, colour)
    if frozen is not None:
        said["frozen"] = _all_chips(found, frozen)
    return {name: None if other is None else _baseline(found, other) for name, other in said.items()}


def probes(found: Answers, table: DataFrame) -> dict[str, dict[str, Any]]:
    """The model on changed chips, beside the model on the same chips unchanged.

    Args:
        found: scored chips.
        table: ``chip_id``, ``probe`` (name of the change) and ``city`` (the model's answer); not all chips need one.

    Returns:
        by name, in the order of the table: ``n``, ``accuracy``, ``interval``, and ``drop`` (unchanged minus changed)
        with ``accuracy`` and ``interval``.

    Raises:
        TableError: if the table lacks a column, or none of a probe's chips was scored.
    """
    _need(table, ("chip_id", "probe", "city"), "probe")
    return {str(name): _probe(found, str(name), rows) for name, rows in table.groupby("probe", sort=False)}


def against(found: Answers, name: str, other: Predictions) -> dict[str, Any]:
    """A paired test between two runs on the chips that both answered.

    Args:
        found: scored chips of this run.
        name: what the other run is called.
        other: its predictions, of the same chip table.

    Returns:
        ``name``, ``n``, ``accuracy``, ``other_accuracy``, ``difference`` (this minus other) with its ``interval``,
        ``p`` (random sign flips of whole units), ``mcnemar`` (``only_this``, ``only_other``: chips that one alone has
        right; the exact ``p`` of McNemar 1947, Psychometrika 12; ``note``).

    Raises:
        TableError: if the runs share no chips, or do not agree on the truth.
    """
    at = pd.Index(other.chip_id).get_indexer(pd.Index(found.chip_id))
    here = at >= 0
    if not here.any():
        raise TableError(f"this run and {name} predicted no chip in common: compare runs of one chip table")
    truth = other.truth[at[here]]
    strange = ~pd.isna(truth) & (numbers(truth, found.cities) != found.truth[here])
    if strange.any():
        raise TableError(
            f"this run and {name} differ in the true city of {int(strange.sum())} of {int(here.sum())} chips: "
            "compare runs of one chip table"
        )
    said = np.full(len(found), -1, np.int64)
    said[here] = numbers(np.array(other.cities, object), found.cities)[other.probabilities[at[here]].argmax(axis=1)]
    difference, p = _paired(found, said, here)
    right = said == found.truth
    return {
        "name": name,
        "n": int(here.sum()),
        "accuracy": float(found.hit[here].mean()),
        "other_accuracy": float(right[here].mean()),
        "difference": difference["accuracy"],
        "interval": difference["interval"],
        "p": p,
        "mcnemar": _mcnemar(int((found.hit & ~right)[here].sum()), int((right & ~found.hit)[here].sum())),
    }


def _paired(found: Answers, said: Integers, here: Mask) -> tuple[dict[str, Any], float | None]:
    """Model minus other accuracy on the chips ``here``, its interval, and the p-value of no difference."""
    change = np.where(here, found.hit.astype(np.int64) - (said == found.truth), 0)
    sums = found.blocks.sums(change, here)
    bounds = intervals(ratio, sums, found.blocks.stratum, seed=found.blocks.seed, share=False)
    value = float(change.sum() / here.sum())
    p = sign_flip(sums[sums[:, 1] > 0, 0], found.blocks.seed)
    return {"accuracy": value, "interval": None if bounds is None else bounds[0]}, p


def _baseline(found: Answers, said: Integers) -> dict[str, Any]:
    gain, p = _paired(found, said, np.ones(len(found), bool))
    return {
        **plain(found.blocks, found.truth, said, len(found.cities)),
        "interval": found.blocks.share(said == found.truth),
        "gain": {**gain, "p": p},
    }


def _probe(found: Answers, name: str, table: DataFrame) -> dict[str, Any]:
    said, here = _answers_of(found, table)
    if not here.any():
        raise TableError(f"none of the {len(table)} chips of the probe {name} was scored: probe chips that are")
    right = (said == found.truth) & here
    return {
        "n": int(here.sum()),
        "accuracy": float(right.sum() / here.sum()),
        "interval": found.blocks.share(right, here),
        "drop": _paired(found, said, here)[0],
    }


def _mcnemar(only_this: int, only_other: int) -> dict[str, Any]:
    apart = only_this + only_other
    return {
        "only_this": only_this,
        "only_other": only_other,
        "p": float(binomtest(only_this, apart).pvalue) if apart else 1.0,
        "note": "treats chips as independent, which overlapping chips of one place are not: trust the other p",
    }


def _train_rows(chips: GeoDataFrame) -> Integers:
    return np.flatnonzero((chips["split"] == "train").to_numpy(bool) & chips["city"].notna().to_numpy(bool))


def _most_frequent(found: Answers, chips: GeoDataFrame) -> Integers | None:
    cities = chips["city"].iloc[_train_rows(chips)].to_numpy(str)
    if not len(cities):
        return None
    names, count = np.unique(cities, return_counts=True)
    return np.full(len(found), numbers([names[count.argmax()]], found.cities)[0])


def _by_colour(found: Answers, chips: GeoDataFrame, colour: DataFrame) -> Integers | None:
    """Logistic regression on statistics of the bands, fitted on the train chips."""
    train = _train_rows(chips)
    cities = chips["city"].iloc[train].to_numpy(str)
    if len(np.unique(cities)) < 2:
        return None
    names = [name for name in colour.columns if str(name).startswith(("mean_", "std_"))]
    if not names:
        raise TableError("the colour table has no column mean_* or std_*: make it with scenes.channel_statistics")
    table = colour.drop_duplicates("chip_id").set_index("chip_id")[names]
    wanted = chips["chip_id"].to_numpy()[np.concatenate([train, found.row])]
    features = table.reindex(wanted).to_numpy(np.float64)
    lost = int((~np.isfinite(features).all(axis=1)).sum())
    if lost:
        raise TableError(
            f"the colour table has no values for {lost} of {len(features)} train and scored chips: make it from the "
            "same scenes and chips"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=10_000))
    model.fit(features[: len(train)], cities)
    return numbers(model.predict(features[len(train) :]), found.cities)


def _all_chips(found: Answers, table: DataFrame) -> Integers:
    _need(table, ("chip_id", "city"), "frozen")
    said, here = _answers_of(found, table)
    if not here.all():
        raise TableError(
            f"the frozen table has no answer for {int((~here).sum())} of {len(found)} scored chips: "
            "answer all of them, for the baseline is compared on the same chips"
        )
    return said


def _answers_of(found: Answers, table: DataFrame) -> tuple[Integers, Mask]:
    """(n,) city numbers of the table for the scored chips, -1 for a foreign city, and whether there is an answer."""
    first = table.drop_duplicates("chip_id")
    at = pd.Index(first["chip_id"]).get_indexer(pd.Index(found.chip_id))
    said = np.append(numbers(first["city"].to_numpy(object), found.cities), -1)
    return said[at], at >= 0


def _need(table: DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise TableError(f"the {name} table has no column {', '.join(missing)}: give it {', '.join(columns)}")
