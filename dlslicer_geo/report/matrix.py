"""A report in, its confusion matrix as a figure out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlslicer_geo.errors import LayerError
from dlslicer_geo.report import style
from dlslicer_geo.report.evidence import order_of
from dlslicer_geo.types import Report

FEW = 12
"""Up to so many cities a cell has room for its share and its count."""

STEPS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares named on the colour scale."""


def draw_confusion(report: Report, path: str | Path, *, normalise: Literal["truth", "predicted"] = "truth") -> Path:
    """Draw the confusion matrix, readable up to 45 cities and beyond.

    Cities stand in the order of ``metrics["order"]``, alike ones side by side. Colour is the share of the true city's
    chips (rows sum to 100 %) or of the predicted city's (columns do), on a scale that grows with the square root, so
    that small confusions are seen, too. Cells have numbers where they fit.

    Args:
        report: confusion with true cities in rows and predicted ones in columns.
        path: ends in ``.png``; written atomically.
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
    number = len(codes)
    edge = max(6.2, 1.9 + 0.235 * number) if number > FEW else max(5.4, 2.0 + 0.62 * number)
    figure = style.canvas(edge * 1.06, edge)
    axes: Any = figure.add_subplot()
    colours = LinearSegmentedColormap.from_list("shares", style.SHARES)
    drawn = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.5, 0, 1))
    _write_numbers(axes, counts, shares)
    _name(axes, codes, normalise)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.55, aspect=28, pad=0.015, ticks=STEPS)
    style.shares(bar.ax.yaxis)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=style.SMALL, length=0)
    bar.set_label(f"% of the chips of the {_whose(normalise)} (square-root scale)", fontsize=style.SMALL)
    return figure


def _ordered(report: Report) -> tuple[NDArray[np.int64], list[str]]:
    if not report.cities:
        raise LayerError("the report has no city: there is no confusion to draw")
    order = order_of(report)
    at = [report.cities.index(code) for code in order]
    return report.confusion[np.ix_(at, at)], [style.label(code) for code in order]


def _write_numbers(axes: Any, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    few = len(counts) <= FEW
    rows, cols = np.nonzero((counts > 0) if few else (shares >= 0.005))
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        share = shares[row, col]
        text = f"{100 * share:.0f} %\n{counts[row, col]:,}" if few else f"{100 * share:.0f}"
        colour = "white" if share > 0.22 else style.INK
        axes.text(col, row, text, ha="center", va="center", fontsize=7.5 if few else 6.0, color=colour)


def _name(axes: Any, codes: list[str], normalise: str) -> None:
    few = len(codes) <= FEW
    turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(range(len(codes)), codes, **turn)
    axes.set_yticks(range(len(codes)), codes)
    size = style.TEXT if few else style.SMALL
    axes.tick_params(labelsize=size, length=0, labelcolor=style.INK)
    axes.set_xlabel("predicted city", fontsize=style.TEXT, color=style.SOFT)
    axes.set_ylabel("true city", fontsize=style.TEXT, color=style.SOFT)
    what = "share and number of chips" if few else "%, blank below 0.5 %"
    style.title(axes, f"Per {_whose(normalise)} ({what})")
    axes.set_xticks(np.arange(len(codes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(codes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=style.LINE, linewidth=0.4)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def _whose(normalise: str) -> str:
    return "true city" if normalise == "truth" else "predicted city"
