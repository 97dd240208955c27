"""How far cities lie apart in a model's answers in, a heat map with alike cities side by side out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from dlslicer_geo.errors import LayerError
from dlslicer_geo.report import cells, style

if TYPE_CHECKING:
    from pandas import DataFrame


def draw_similarity(distances: DataFrame, path: str | Path) -> Path:
    """Draw how alike cities are to a model: the darker a cell, the nearer its two cities.

    Cities stand in the order of the leaves of a tree of average distances, turned so that neighbours are as near as
    they can be (Bar-Joseph, Gifford and Jaakkola, Fast optimal leaf ordering, 2001). Colours go from the smallest to
    the largest distance between two cities, which the bar names. Cells have numbers: the distance itself, or its
    hundredths beyond 12 cities.

    Args:
        distances: (n, n), 0 to 1, symmetric, zero diagonal, cities in index and columns, as ``similarity.similar``
            gives them.
        path: ends in ``.png``; written atomically, as is the SVG beside it.

    Returns:
        the path of the PNG.

    Raises:
        LayerError: if there are fewer than two cities.
    """
    return style.save(similarity(distances), path)


def similarity(distances: DataFrame) -> Figure:
    """The figure of :func:`draw_similarity`."""
    if len(distances) < 2:
        raise LayerError(f"the matrix has {len(distances)} cities: at least 2 are needed to draw how alike they are")
    order = alike(distances.to_numpy(np.float64))
    values = distances.to_numpy(np.float64)[np.ix_(order, order)].copy()
    np.fill_diagonal(values, np.nan)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    norm = Normalize(-high, -low if low < high else -high + 1e-9)
    figure, axes = cells.sheet(len(values))
    drawn = cells.paint(axes, -values, [str(distances.index[at]) for at in order], norm)
    for row, col in np.argwhere(np.isfinite(values)).tolist():
        cells.write(axes, row, col, _text(values[row, col], len(values)), float(norm(-values[row, col])))
    few = len(values) <= cells.FEW
    style.title(axes, f"Distance between cities{'' if few else ' in hundredths'}, dark: alike")
    ticks = np.unique(np.linspace(-high, -low, 5))
    bar = cells.scale(drawn, axes, "Jensen-Shannon distance of mean answers", ticks=ticks)
    bar.set_ticks(ticks, labels=[f"{-tick:.2f}" for tick in ticks])
    return figure


def alike(distances: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of the cities (n) in an order that puts alike ones side by side."""
    apart = squareform(distances, checks=False)
    return np.asarray(leaves_list(linkage(apart, "average", optimal_ordering=True)), np.int64)


def _text(distance: float, number: int) -> str:
    if number <= cells.FEW:
        return f"{distance:.2f}"
    hundredths = round(100 * distance)
    return f"{hundredths}" if hundredths < 100 else ""
