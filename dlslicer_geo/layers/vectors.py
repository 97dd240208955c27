"""Chips with their probabilities in, one styled GeoPackage out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dlslicer_geo import files
from dlslicer_geo.colours import categories
from dlslicer_geo.layers import fills
from dlslicer_geo.layers.geopackage import write_geopackage
from dlslicer_geo.types import DETECTORS, UNKNOWN, Predictions

LAYER = "predictions"
"""Name of the layer in the GeoPackage."""

CHIP_COLUMNS = ["scene_id", "site", "acquired", "row", "col", "height", "width", "stride", "split", "approximate"]


def prediction_table(chips: gpd.GeoDataFrame, found: Predictions) -> gpd.GeoDataFrame:
    """One row per chip with what the model said about it.

    Args:
        chips: n rows of the chip table.
        found: n predictions in the same order.

    Returns:
        ``chip_id scene_id site acquired row col height width stride split approximate truth answer city confidence
        margin entropy unknown_score top5 colour prob_<code>`` and the chips' geometry. ``city`` is the most probable
        city, ``answer`` the same or ``unknown`` where the model does not know the chip's city. ``margin`` is the lead
        over the second city, ``entropy`` in units of the entropy of not knowing anything (0 to 1), ``unknown_score``
        that of the model's detector (the higher the less known; null without one), ``colour`` that of the answer.
    """
    values = found.probabilities.astype(np.float64)
    order = np.argsort(-values, axis=1, kind="stable")[:, :5]
    best = np.take_along_axis(values, order, axis=1)
    codes = np.array(found.cities, object)
    city = codes[order[:, 0]]
    answer = np.where(found.unknown, UNKNOWN, city)
    columns: dict[str, Any] = {"chip_id": chips["chip_id"].to_numpy()}
    columns |= {name: chips[name].to_numpy() for name in CHIP_COLUMNS}
    columns |= {
        "truth": found.truth,
        "answer": answer,
        "city": city,
        "confidence": best[:, 0],
        "margin": best[:, 0] - (best[:, 1] if len(codes) > 1 else 0),
        "entropy": _entropy(values),
        "unknown_score": _score(found),
        "top5": _top(codes[order], best),
        "colour": pd.Series(answer).map(answers_of(found)).to_numpy(object),
    }
    columns |= {f"prob_{code}": values[:, i] for i, code in enumerate(codes)}
    return gpd.GeoDataFrame(columns, geometry=chips.geometry.to_numpy(), crs=chips.crs)


def write_predictions_layer(
    table: gpd.GeoDataFrame, path: Path, found: Predictions, provenance: Mapping[str, str]
) -> Path:
    """Write the table and its styles as an atomic, byte-reproducible GeoPackage.

    Args:
        table: as :func:`prediction_table` makes it.
        path: ends in ``.gpkg``.
        found: what the table was made from: its cities, and ``unknown`` last where the model can say so, are the
            categories of the legend.
        provenance: goes to the metadata of the file under ``dlslicer_geo``, beside ``DETECTOR`` and ``THRESHOLD``.
    """
    metadata = detector_tags(found) | {files.PROVENANCE_KEY: json.dumps(dict(provenance), sort_keys=True)}
    answers, approximate = answers_of(found), bool(table["approximate"].any())
    made = fills.chip_styles(answers, approximate=approximate)
    return write_geopackage(table, path, layer=LAYER, geometry="Polygon", styles=made, metadata=metadata)


def answers_of(found: Predictions) -> dict[str, str]:
    """What the model can answer, with colours, in the order of the legend and of the values of a city raster."""
    return categories(found.cities, unknown=found.threshold is not None)


def detector_tags(found: Predictions) -> dict[str, str]:
    """``DETECTOR`` and ``THRESHOLD`` for the metadata of a file; nothing for a model that never says unknown."""
    if found.threshold is None:
        return {}
    return {"DETECTOR": found.detector, "THRESHOLD": f"{found.threshold:.9g}"}


def _score(found: Predictions) -> NDArray[np.float64]:
    """Of the detector that decides, or of the first where none does, as in the prediction parts."""
    score = found.unknown_scores.get(found.detector or DETECTORS[0])
    return np.full(len(found), np.nan) if score is None else score.astype(np.float64)


def _entropy(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.shape[1] < 2:
        return np.zeros(len(values))
    logs = np.log(np.where(values > 0, values, 1))
    return np.asarray(np.clip(-(values * logs).sum(axis=1) / np.log(values.shape[1]), 0, 1))


def _top(codes: NDArray[np.object_], shares: NDArray[np.float64]) -> NDArray[np.object_]:
    """``chico 0.61; riverside 0.20; …`` for every row, built column by column."""
    text = pd.Series([""] * len(codes), dtype=object)
    for rank in range(codes.shape[1]):
        share = pd.Series(shares[:, rank]).map("{:.2f}".format)
        text = text + ("; " if rank else "") + codes[:, rank] + " " + share
    return text.to_numpy(object)
