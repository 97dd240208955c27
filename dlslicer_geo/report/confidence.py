"""Calibration and scores of unknown cities in, their figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlslicer_geo.report import style, words
from dlslicer_geo.report.evidence import Evidence

BARS = 60
"""Bars of the histogram of scores."""


def reliability(evidence: Evidence) -> Figure | None:
    """Accuracy against confidence before and after the temperature, above the number of chips; None without bins."""
    calibration = evidence.metrics.get("calibration") or {}
    panels = [
        ("Before", calibration.get("bins_uncalibrated"), calibration.get("ece_uncalibrated"), style.WRONG),
        ("After the temperature", calibration.get("bins"), calibration.get("ece"), style.RIGHT),
    ]
    drawn = [(name, bins, error, colour) for name, bins, error, colour in panels if bins]
    if not drawn:
        return None
    figure = style.canvas(4.3 * len(drawn), 4.6)
    grid = figure.subplots(2, len(drawn), sharex=True, squeeze=False, height_ratios=(3.2, 1))
    for column, (name, bins, error, colour) in enumerate(drawn):
        _diagram(grid[0, column], bins, colour)
        style.title(grid[0, column], f"{name}: ECE {words.decimal(error)}")
        _bars(grid[1, column], bins, colour)
    grid[0, 0].set_ylabel("accuracy", fontsize=style.TEXT, color=style.SOFT)
    grid[1, 0].set_ylabel("chips", fontsize=style.TEXT, color=style.SOFT)
    return figure


def scores_of_unknown(evidence: Evidence) -> Figure | None:
    """How high the scored chips stand on the detector's scale, and where its threshold is; None without one."""
    found = evidence.found
    unknown = evidence.metrics.get("unknown") or {}
    name = unknown.get("detector") or found.detector
    scores = found.unknown_scores.get(name)
    if scores is None or not evidence.scored.any():
        return None
    threshold = unknown.get("threshold", found.threshold)
    values = np.asarray(scores[evidence.scored], np.float64)
    figure = style.canvas(7.6, 2.9)
    axes: Any = figure.add_subplot()
    ends = [*np.percentile(values, [0, 99.9]).tolist(), *([] if threshold is None else [threshold])]
    edges = np.linspace(min(ends), max(ends) + 1e-9 + 0.02 * (max(ends) - min(ends)), BARS + 1)
    heights, _ = np.histogram(np.minimum(values, edges[-1]), edges)
    middles = (edges[:-1] + edges[1:]) / 2
    above = np.zeros(BARS, bool) if threshold is None else middles > threshold
    axes.bar(middles, heights, np.diff(edges), color=np.where(above, style.WRONG, style.RIGHT))
    if threshold is not None:
        axes.axvline(threshold, color=style.INK, linewidth=1.1)
        axes.annotate(
            "unknown →", (threshold, 1), (4, -4), xycoords=("data", "axes fraction"), textcoords="offset points",
            va="top", fontsize=style.TEXT, color=style.INK,
        )  # fmt: skip
    style.plain(axes, grid="y")
    axes.set_xlabel(f"score of the detector {style.label(name)}", fontsize=style.TEXT, color=style.SOFT)
    axes.set_ylabel("chips of known cities", fontsize=style.TEXT, color=style.SOFT)
    return figure


def _diagram(axes: Any, bins: Sequence[Mapping[str, Any]], colour: str) -> None:
    filled = [entry for entry in bins if entry["n"] and entry.get("accuracy") is not None]
    confidence, accuracy = ([entry[name] for entry in filled] for name in ("confidence", "accuracy"))
    axes.plot([0, 1], [0, 1], color=style.SOFT, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.vlines(confidence, confidence, accuracy, color=colour, linewidth=5, alpha=0.25)
    axes.plot(confidence, accuracy, "o", color=colour, markersize=5.5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    style.plain(axes, grid="both")
    style.shares(axes.yaxis)


def _bars(axes: Any, bins: Sequence[Mapping[str, Any]], colour: str) -> None:
    low, high, number = (np.array([entry[name] for entry in bins], float) for name in ("low", "high", "n"))
    axes.bar(low, number, np.maximum(high - low, 1e-3), align="edge", color=colour, alpha=0.7, edgecolor="white")
    style.plain(axes, grid="y")
    style.shares(axes.xaxis)
    axes.yaxis.set_major_locator(_few_ticks())
    axes.set_xlabel("confidence", fontsize=style.TEXT, color=style.SOFT)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=3, integer=True)
