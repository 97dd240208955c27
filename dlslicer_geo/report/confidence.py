"""Calibration and scores of unknown cities in, their figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlslicer_geo.report import style, words
from dlslicer_geo.report.evidence import Evidence

BARS, SLIM = 60, 40
"""Bars of the histograms of scores and of confidences."""

Floats = NDArray[np.float64]


def reliability(evidence: Evidence) -> Figure | None:
    """Accuracy against confidence before and after the temperature, above the number of chips; None without bins."""
    drawn = [panel for panel in _panels(evidence) if panel.bins]
    if not drawn:
        return None
    figure = style.canvas(style.COLUMN * len(drawn), 3.5)
    grid = figure.subplots(2, len(drawn), sharex=True, squeeze=False, height_ratios=(3.2, 1))
    for column, panel in enumerate(drawn):
        _diagram(grid[0, column], panel.bins, panel.colour)
        style.title(grid[0, column], f"{panel.name}: ECE {words.decimal(panel.error)}")
        _bars(grid[1, column], panel.probabilities[evidence.scored].max(axis=1), panel.colour)
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
    figure = style.canvas(style.COLUMN, 1.9)
    axes: Any = figure.add_subplot()
    edges = _edges(values, threshold)
    heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    middles = (edges[:-1] + edges[1:]) / 2
    above = np.zeros(len(middles), bool) if threshold is None else middles > threshold
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


class _Panel(NamedTuple):
    """One reliability diagram."""

    name: str
    bins: Sequence[Mapping[str, Any]]
    error: float | None
    probabilities: NDArray[np.float32]
    colour: str


def _panels(evidence: Evidence) -> list[_Panel]:
    """Before and after the temperature, or one where none was applied."""
    known, found = evidence.metrics.get("calibration") or {}, evidence.found
    after = _Panel(
        "After the temperature", known.get("bins") or [], known.get("ece"), found.probabilities, style.RIGHT
    )
    if known.get("temperature") == 1:
        return [after._replace(name="As trained")]
    bins, error = known.get("bins_uncalibrated") or [], known.get("ece_uncalibrated")
    return [_Panel("Before", bins, error, found.uncalibrated, style.WRONG), after]


def _edges(values: Floats, threshold: float | None) -> Floats:
    """Edges of bars of one width, the threshold among them; rare high scores go to the last bar."""
    low, high = values.min(), np.percentile(values, 99.9)
    if threshold is None:
        return np.linspace(low, high + 1e-9, BARS + 1)
    step = max(max(high, threshold) - min(low, threshold), 1e-9) / BARS
    number = np.arange(np.floor((min(low, threshold) - threshold) / step), (high - threshold) / step + 2)
    return np.asarray(threshold + step * number, np.float64)


def _diagram(axes: Any, bins: Sequence[Mapping[str, Any]], colour: str) -> None:
    filled = [entry for entry in bins if entry["n"] and entry.get("accuracy") is not None]
    confidence, accuracy = ([entry[name] for entry in filled] for name in ("confidence", "accuracy"))
    axes.plot([0, 1], [0, 1], color=style.SOFT, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.vlines(confidence, confidence, accuracy, color=colour, linewidth=3.6, alpha=0.25)
    axes.plot(confidence, accuracy, "o", color=colour, markersize=4)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    style.plain(axes, grid="both")
    style.shares(axes.yaxis)


def _bars(axes: Any, confidence: NDArray[np.float32], colour: str) -> None:
    axes.hist(confidence, np.linspace(0, 1 + 1e-6, SLIM + 1), color=colour, alpha=0.7, edgecolor="white")
    style.plain(axes, grid="y")
    style.shares(axes.xaxis)
    axes.yaxis.set_major_locator(_few_ticks())
    axes.set_xlabel("confidence", fontsize=style.TEXT, color=style.SOFT)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=3, integer=True)
