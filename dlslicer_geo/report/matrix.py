"""A report in, its confusion matrix as a figure out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlslicer_geo.errors import LayerError
from dlslicer_geo.report import cells, style
from dlslicer_geo.report.evidence import order_of
from dlslicer_geo.types import Report

STEPS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares named on the colour scale."""


def draw_confusion(report: Report, path: str | Path, *, normalise: Literal["truth", "predicted"] = "truth") -> Path:
    """Draw the confusion matrix, readable up to 45 cities and beyond.

    Cities stand in the order of ``metrics["order"]``, alike ones side by side. Colour is the share of the true city's
    chips (rows sum to 100 %) or of the predicted city's (columns do), on a scale that grows with the square root, so
    that small confusions are seen, too. Cells have numbers where they fit.

    Args:
        report: confusion with true cities in rows and predicted ones in columns.
        path: ends in ``.png``; written atomically, as is the SVG beside it.
        normalise: what a share is of.

    Raises:
        LayerError: if ``normalise`` is neither of the two, or there is no city.
    """
    return style.save(confusion(report, normalise), path)


def confusion(report: Report, normalise: Literal["truth", "predicted"]) -> Figure:
    """The figure of :func:`draw_confusion`."""
    counts, codes = _ordered(report)
    whole = {"truth": counts.sum(axis=1, keepdims=True), "predicted": counts.sum(axis=0, keepdims=True)}
    if normalise not in whole:
        raise LayerError(f"normalise is {normalise!r}: take truth or predicted")
    shares = counts / np.maximum(whole[normalise], 1)
    figure, axes = cells.sheet(len(codes))
    drawn = cells.paint(axes, shares, codes, PowerNorm(0.5, 0, 1))
    _write_numbers(axes, counts, shares)
    axes.set_xlabel("predicted city", fontsize=style.TEXT, color=style.SOFT)
    axes.set_ylabel("true city", fontsize=style.TEXT, color=style.SOFT)
    what = "share and number of chips" if len(codes) <= cells.FEW else "%, blank below 0.5 and at 100"
    style.title(axes, f"Per {_whose(normalise)} ({what})")
    said = f"% of the chips of the {_whose(normalise)} (square-root scale)"
    bar = cells.scale(drawn, axes, said, ticks=STEPS)
    style.shares(bar.ax.yaxis if len(codes) <= cells.FEW else bar.ax.xaxis)
    return figure


def _ordered(report: Report) -> tuple[NDArray[np.int64], list[str]]:
    if not report.cities:
        raise LayerError("the report has no city: there is no confusion to draw")
    order = order_of(report)
    at = [report.cities.index(code) for code in order]
    return report.confusion[np.ix_(at, at)], list(order)


def _write_numbers(axes: Any, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    few = len(counts) <= cells.FEW
    rows, cols = np.nonzero((counts > 0) if few else (shares >= 0.005) & (shares < 0.995))
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        share = float(shares[row, col])
        text = f"{100 * share:.0f} %\n{counts[row, col]:,}" if few else f"{100 * share:.0f}"
        cells.write(axes, row, col, text, share**0.5)


def _whose(normalise: str) -> str:
    return "true city" if normalise == "truth" else "predicted city"
