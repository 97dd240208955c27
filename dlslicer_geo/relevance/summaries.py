"""Raw saliency of chips in, a row of figures per chip and per city out.

The table of :func:`summarize` joins the chip table on ``chip_id``. ``L`` stands for every depth of the saliency;
what is not defined is null.

======================= ============ ==========================================================================
column                  type, range  meaning
======================= ============ ==========================================================================
``chip_id``             int64        row of the chip table
``scene_id``            str          its scene
``city``                str          code of the city that was explained
``rather_than``         str or null  code of the one city that it is told from
``method``              str          how relevance was found
``mean_L``              float64      mean of the raw map, signed, in the method's own unit
``positive_share_L``    float64 0…1  sum of positive relevance over the sum of its size; null for a map of zeros
``gini_L``              float64 0…1  Gini coefficient of the positive part over the cells of the map: 0 for the
                                     same everywhere, 1 for all of it in one cell; null where nothing is positive
``agreement_L``         float64 -1…1 Pearson correlation with the deepest map, brought to the cells of ``L``
                                     (bilinear, half-pixel centres); null where one of the two is constant; not
                                     for the deepest
``window_row``,         Int64        the window of half a chip's edge with the highest mean relevance at the deepest
``window_col``,                      depth, in pixels of the scene, inside the chip; the first one, row by row, of
``window_height``,                   equals
``window_width``
``window_mean``         float64      mean raw relevance inside that window
======================= ============ ==========================================================================

All figures of a depth are null where its map holds anything that is not finite, those of the window where that is
the deepest one. The profile over depth of ``mean``, ``gini``, ``positive_share`` and ``agreement`` says where in the
network the evidence for a city gathers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dlslicer_geo.types import Saliency, bilinear

AT_ONCE = 1024
"""Maps in one step: those of layer1 take 25 MiB as float64."""

FIGURES = ("mean", "positive_share", "gini", "agreement")
"""What is known of a chip at every depth."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def summarize(why: Saliency) -> pd.DataFrame:
    """Say of every chip how much of its relevance is positive, how concentrated it is, and where it is highest.

    Args:
        why: raw relevance of n chips.

    Returns:
        n rows in the order of ``why``, with the columns that the module describes.
    """
    columns: dict[str, Any] = {
        "chip_id": why.chip_id.astype(np.int64),
        "scene_id": list(why.scene_id),
        "city": list(why.city),
        "rather_than": pd.Series([why.rather_than or None] * len(why), dtype=object),
        "method": [why.method] * len(why),
    }
    steps = [slice(first, first + AT_ONCE) for first in range(0, len(why), AT_ONCE)]
    last = why.layers[-1]
    for name in why.layers:
        parts = [_figures(why.maps[name][at], None if name == last else _below(why, name, at)) for at in steps]
        for figure in FIGURES if name != last else FIGURES[:-1]:
            columns[f"{figure}_{name}"] = np.concatenate([np.zeros(0), *(part[figure] for part in parts)])
    edge = why.maps[last].shape[1:]
    windows = (_best_window(why.resampled(last, at, (edge[0], edge[1]))) for at in steps)
    best = np.concatenate([np.zeros((0, 3)), *windows])
    return pd.DataFrame(columns | _in_scene(best, why.windows))


def summarize_cities(table: pd.DataFrame) -> pd.DataFrame:
    """Gather the figures of chips by explained city and depth, ready for CSV.

    Args:
        table: what :func:`summarize` gives, of one or several explanations.

    Returns:
        a row per city, ``rather_than``, method and depth, sorted by them in this order: ``city``,
        ``rather_than``, ``method``, ``layer``, ``chips``, and for ``mean``, ``positive_share``, ``gini``,
        ``agreement`` and (deepest depth only) ``window_mean`` the mean over the chips that have the figure, and
        ``_p10`` and ``_p90``, its 10th and 90th percentile.
    """
    layers = [name.removeprefix("mean_") for name in table.columns if name.startswith("mean_")]
    keys = ["city", "rather_than", "method"]
    parts = []
    for depth, layer in enumerate(layers):
        of_layer = {figure: table.get(f"{figure}_{layer}", np.nan) for figure in FIGURES}
        of_layer["window_mean"] = table["window_mean"] if layer == layers[-1] else np.nan
        values = pd.DataFrame(of_layer, index=table.index, dtype=np.float64)
        groups = pd.concat([table[keys], values], axis=1).groupby(keys, dropna=False, sort=True)
        spread = [groups.mean(), groups.quantile(0.1).add_suffix("_p10"), groups.quantile(0.9).add_suffix("_p90")]
        found = pd.concat([groups.size().rename("chips"), *spread], axis=1).reset_index()
        found.insert(len(keys), "layer", layer)
        parts.append(found.assign(depth=depth))
    return pd.concat(parts).sort_values([*keys, "depth"], ignore_index=True).drop(columns="depth")


def _below(why: Saliency, name: str, at: slice) -> Floats:
    """The deepest maps (k, h, w) where the cells of another depth look."""
    deepest, cells = why.maps[why.layers[-1]][at].astype(np.float64), why.maps[name].shape[1:]
    shift = why.shift.get(why.layers[-1], 0.0) - why.shift.get(name, 0.0)
    down, across = (bilinear(n, wanted, shift) for n, wanted in zip(deepest.shape[1:], cells, strict=True))
    with np.errstate(invalid="ignore"):  # a map that is not finite stays so
        return np.asarray(down @ deepest @ across.T)


def _figures(maps: NDArray[np.float32], deepest: Floats | None) -> dict[str, Floats]:
    """Per figure (k,) of the maps (k, h, w) of one depth."""
    finite = _finite(maps)
    cells = np.where(finite[:, None, None], maps, 0).astype(np.float64).reshape(len(maps), -1)
    positive = np.maximum(cells, 0)
    found = {
        "mean": cells.mean(axis=1),
        "positive_share": _ratio(positive.sum(axis=1), np.abs(cells).sum(axis=1)),
        "gini": _gini(positive),
    }
    if deepest is not None:
        found["agreement"] = _correlation(cells, deepest.reshape(cells.shape))
    return {name: np.where(finite, values, np.nan) for name, values in found.items()}


def _finite(maps: NDArray[Any]) -> NDArray[np.bool_]:
    """(k,) whether all cells of a map are finite."""
    return np.asarray(np.isfinite(maps).all(axis=(1, 2)))


def _gini(positive: Floats) -> Floats:
    """(k,) Gini coefficients of (k, n) values that are not negative; one cell with everything gives 1."""
    number = positive.shape[1]
    rank = 2 * np.arange(1, number + 1) - number - 1
    spread = np.sort(positive, axis=1) @ rank.astype(np.float64)
    gini = _ratio(spread, (number - 1) * positive.sum(axis=1))
    return np.asarray(np.clip(gini, 0, 1))


def _correlation(one: Floats, two: Floats) -> Floats:
    """(k,) Pearson correlations of the rows; NaN where a row is constant up to rounding."""
    left, right = (values - values.mean(axis=1, keepdims=True) for values in (one, two))
    varied = [np.ptp(values, axis=1) > 1e-9 * np.abs(values).max(axis=1) for values in (one, two)]
    sizes = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    found = _ratio((left * right).sum(axis=1), np.where(varied[0] & varied[1], sizes, 0))
    return np.asarray(np.clip(found, -1, 1))


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotients, NaN where the divisor is 0."""
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))


def _best_window(maps: Floats) -> Floats:
    """(k, 3) first row and first column of the best window as shares of the chip, and the mean inside.

    A map is the same all over a cell, so its mean in a window changes linearly between the places where an edge of
    the window meets an edge of a cell: the best of these, all at whole or half cells, is the best of all places.
    """
    finite = _finite(maps)
    means = np.where(finite[:, None, None], maps, 0).astype(np.float64)
    for axis in (1, 2):
        cells = means.shape[axis]
        total = np.cumsum(np.repeat(means, 2, axis=axis), axis=axis)
        total = np.concatenate([np.zeros_like(total.take([0], axis=axis)), total], axis=axis)
        means = (total.take(range(cells, 2 * cells + 1), axis) - total.take(range(cells + 1), axis)) / cells
    flat = means.reshape(len(maps), -1)
    # sums of the same cells differ by rounding, which must not choose between equals
    close = flat >= flat.max(axis=1, keepdims=True) - 1e-9 * np.abs(flat).max(axis=1, keepdims=True)
    first = close.argmax(axis=1)
    row, col = np.divmod(first, means.shape[2])
    best = np.stack([row / (2 * maps.shape[1]), col / (2 * maps.shape[2]), flat[np.arange(len(flat)), first]], axis=1)
    return np.where(finite[:, None], best, np.nan)


def _in_scene(best: Floats, windows: Ints) -> dict[str, Any]:
    """The best windows in whole pixels of the scene."""
    known = np.isfinite(best[:, 2])
    start = np.rint(np.where(known[:, None], best[:, :2], 0) * windows[:, 2:]).astype(np.int64)
    pixels = np.concatenate([windows[:, :2] + start, np.maximum(windows[:, 2:] // 2, 1)], axis=1)
    names = ("window_row", "window_col", "window_height", "window_width")
    columns = {name: pd.array(pixels[:, at], dtype="Int64") for at, name in enumerate(names)}
    for values in columns.values():
        values[~known] = pd.NA
    return {**columns, "window_mean": best[:, 2]}
