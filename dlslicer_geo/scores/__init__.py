"""Predictions and the chip table in, a report of how good they are beside what is cheap to have out.

Pure: opens no file, loads no network. Numbers come from ``shares`` (who is right), ``intervals`` (how sure that is),
``calibration``, ``places`` (votes, distance), ``rivals`` (baselines, probes, another run) and ``caveats``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from geopandas import GeoDataFrame
from pandas import DataFrame

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores.answers import Answers, answers, sites
from dlslicer_geo.scores.calibration import calibration, detector_metrics, fit_temperature, unknown
from dlslicer_geo.scores.caveats import caveats
from dlslicer_geo.scores.intervals import DRAWS, LEVEL, METHOD, Integers
from dlslicer_geo.scores.places import by_distance, votes
from dlslicer_geo.scores.rivals import against as compare
from dlslicer_geo.scores.rivals import baselines
from dlslicer_geo.scores.rivals import probes as probe
from dlslicer_geo.scores.shares import most_confused, overall, per_city, per_site, similar_order
from dlslicer_geo.types import Predictions, Report

__all__ = ["confusion_frame", "detector_metrics", "fit_temperature", "score"]


def score(
    found: Predictions,
    chips: GeoDataFrame,
    *,
    colour: DataFrame | None = None,
    frozen: DataFrame | None = None,
    probes: DataFrame | None = None,
    against: tuple[str, Predictions] | None = None,
    per_city: int | None = None,
    unit: str = "unit",
    seed: int = 0,
) -> Report:
    """Measure predictions against the true cities; chips without a truth do not count.

    Args:
        found: what a model said.
        chips: chip table with ``chip_id``, ``scene_id``, ``city``, ``site``, ``split``, and ``unit``.
        colour: ``chip_id``, ``mean_1``, ``std_1`` ...: statistics of the bands of the train chips and of the found
            ones, for the baseline that sees nothing else.
        frozen: ``chip_id``, ``city``: answers of a logistic regression on features of a network that was not trained.
        probes: ``chip_id``, ``probe``, ``city``: the model's answers to changed chips, all or some of them.
        against: name and predictions of another run on the same chip table.
        per_city: score so many chips of each true city, drawn without replacement; None scores all.
        unit: what a unit of the split is, such as ``place``, for readers.
        seed: seeds every draw.

    Returns:
        a report whose ``metrics``, shares between 0 and 1 and ready for JSON, are

        - ``split``, ``n`` (chips), ``n_sites`` ((city, site) groups), ``n_units``, ``n_cities``, ``chance``
          (1 / ``n_cities``);
        - ``accuracy``; ``balanced_accuracy``: mean recall of the cities that have chips; ``macro_f1``: mean F1 of the
          cities that occur as truth or as prediction; ``top3_accuracy``, ``top5_accuracy``: true city among the most
          probable; ``intervals`` of all five, ``interval`` (how they are made) and ``accuracy_interval``, where an
          interval is low and high, or None where fewer than two units leave it open;
        - ``per_city``, ``per_site``, ``order`` (codes, similar ones together), ``most_confused``;
        - ``votes`` of scenes and sites, ``calibration``, ``unknown``, ``distance``;
        - ``baselines``: ``most_frequent`` (always the city with most train chips), ``colour``, ``frozen``, scored on
          the same chips, with the model's ``gain``; ``probes`` with the ``drop``; ``against``;
        - ``drawn``: ``per_city``, ``seed``, ``n_before``, ``chip_ids`` where chips were drawn, and ``caveats``.

    Raises:
        TableError: if no chip has a truth, a truth is no city of the model, a table lacks chips or columns, or the
            other run shares no chips with this one.
    """
    if "split" not in chips.columns:
        raise TableError("the chip table has no column split: split it, so that baselines know what to learn from")
    scored = answers(found, chips, per_city=per_city, seed=seed)
    confusion = _confusion(scored)
    metrics = {
        **_about(scored, chips),
        **_overall(scored, unit),
        **_parts(scored, chips, confusion),
        "votes": votes(scored, chips),
        "calibration": calibration(found, scored),
        "unknown": unknown(found, scored),
        "distance": by_distance(scored, chips),
        "baselines": baselines(scored, chips, colour, frozen),
        "probes": {} if probes is None else probe(scored, probes),
        "against": None if against is None else compare(scored, *against),
        "drawn": None if per_city is None else _drawn(found, scored, per_city, seed),
        "caveats": caveats(found, scored, chips),
    }
    return Report(metrics=metrics, confusion=confusion, cities=found.cities)


def confusion_frame(report: Report) -> DataFrame:
    """The confusion with city codes on both axes.

    Returns:
        int64 counts; row = true city (index ``truth``), column = predicted city (columns ``predicted``).
    """
    frame = DataFrame(report.confusion, index=list(report.cities), columns=list(report.cities))
    return frame.rename_axis(index="truth", columns="predicted")


def _confusion(scored: Answers) -> Integers:
    # scikit-learn's has a warning for a single city
    size = len(scored.cities)
    return np.bincount(scored.truth * size + scored.predicted, minlength=size * size).reshape(size, size)


def _about(scored: Answers, chips: GeoDataFrame) -> dict[str, Any]:
    return {
        "split": "+".join(sorted(chips["split"].iloc[scored.row].unique())),
        "n": len(scored),
        "n_sites": len(np.unique(sites(chips, scored.row))),
        "n_units": len(scored.blocks),
        "n_cities": len(scored.cities),
        "chance": 1 / len(scored.cities),
    }


def _overall(scored: Answers, unit: str) -> dict[str, Any]:
    values, bounds = overall(scored)
    name = "site" if scored.by_site else unit
    how = {"level": LEVEL, "unit": name, "draws": DRAWS, "seed": scored.blocks.seed, "method": METHOD}
    return {**values, "accuracy_interval": bounds["accuracy"], "intervals": bounds, "interval": how}


def _parts(scored: Answers, chips: GeoDataFrame, confusion: Integers) -> dict[str, Any]:
    by_site = per_site(scored, chips)
    by_city = per_city(scored, confusion)
    for code, entry in by_city.items():
        entry["n_sites"] = sum(site["city"] == code for site in by_site)
    return {
        "per_city": by_city,
        "per_site": by_site,
        "order": similar_order(confusion, scored.cities),
        "most_confused": most_confused(confusion, scored.cities),
    }


def _drawn(found: Predictions, scored: Answers, per_city: int, seed: int) -> dict[str, Any]:
    before = int(found.labelled.sum())
    return {"per_city": per_city, "seed": seed, "n_before": before, "chip_ids": scored.chip_id.tolist()}
