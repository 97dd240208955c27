"""Scored chips and where they lie in, votes of scenes and sites and accuracy by distance out."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dlslicer_geo.scores.answers import Answers, sites
from dlslicer_geo.scores.intervals import Blocks, Floats, Integers, joined

EARTH_M = 6_371_008.8
"""Mean radius of the Earth in metres."""

BINS = 6
"""Bins of distance, of about equally many chips each."""


def votes(found: Answers, chips: GeoDataFrame) -> dict[str, dict[str, Any]]:
    """Accuracy when all scored chips of a scene, or of a site, answer together.

    The answer is the city with the largest mean log probability. Groups that share a unit are drawn together.

    Returns:
        ``scene`` and ``site``, each with ``n`` (groups), ``accuracy`` and its ``interval``.
    """
    scene = chips["scene_id"].iloc[found.row].astype("category").cat.codes.to_numpy()
    return {"scene": _vote(found, scene), "site": _vote(found, sites(chips, found.row))}


def by_distance(found: Answers, chips: GeoDataFrame) -> dict[str, Any] | None:
    """Accuracy against the distance from a chip's centre to that of the nearest train chip, of any city.

    Returns:
        ``bins`` of about equally many chips, nearest first: ``low_m``, ``high_m``, ``n``, ``accuracy``, ``interval``;
        and a ``note``. None where there are no train chips, or a position says no more than the city.
    """
    train = np.flatnonzero((chips["split"] == "train").to_numpy(bool))
    if (
        not len(train)
        or "geometry" not in chips.columns
        or any_approximate(chips, np.concatenate([train, found.row]))
    ):
        return None
    metres = _to_nearest(_centres(chips, found.row), _centres(chips, train))
    edges = np.unique(np.quantile(metres, np.linspace(0, 1, BINS + 1), method="inverted_cdf"))
    number = np.minimum(np.searchsorted(edges, metres, side="right") - 1, max(len(edges) - 2, 0))
    bins = [_bin(found, metres, number == at) for at in np.unique(number)]
    return {"bins": bins, "note": "Great-circle distance between chip centres; chips have an extent of their own."}


def any_approximate(chips: GeoDataFrame, row: Integers) -> bool:
    """Whether one of these rows has a position that says no more than its city."""
    return "approximate" in chips.columns and bool(chips["approximate"].to_numpy(bool)[row].any())


def _vote(found: Answers, group: NDArray[Any]) -> dict[str, Any]:
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    # one city at a time: the logarithms of all chips and cities at once would be the largest thing in memory
    tiny = np.finfo(np.float32).tiny
    sums = [np.bincount(number, np.log(np.maximum(column, tiny))) for column in found.probabilities.T]
    hit = np.argmax(sums, axis=0) == found.truth[first]
    units = joined(number, found.blocks.unit)[first]
    blocks = Blocks.of(units, found.truth[first], found.blocks.seed)
    return {"n": len(first), "accuracy": float(hit.mean()), "interval": blocks.share(hit)}


def _centres(chips: GeoDataFrame, row: Integers) -> Floats:
    """(n, 3) centres on the unit sphere, of geometry in degrees."""
    box = shapely.bounds(chips.geometry.to_numpy()[row])
    lon, lat = np.radians((box[:, :2] + box[:, 2:]) / 2).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _to_nearest(points: Floats, others: Floats) -> NDArray[np.float64]:
    """(n,) great-circle metres; the nearest by chord is the nearest by arc."""
    chord, _ = cKDTree(others).query(points)
    return np.asarray(2 * EARTH_M * np.arcsin(np.minimum(chord / 2, 1)), np.float64)


def _bin(found: Answers, metres: Floats, here: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "low_m": float(metres[here].min()),
        "high_m": float(metres[here].max()),
        "n": int(here.sum()),
        "accuracy": float(found.hit[here].mean()),
        "interval": found.blocks.share(found.hit & here, here),
    }
