"""Chips with their answers in, a small map per city out: where it is right and where it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlslicer_geo.report import ground, style, words
from dlslicer_geo.report.evidence import Evidence

DOT = 2.2
"""Points across a dot."""


def errors(evidence: Evidence) -> Figure | None:
    """Map every city whose chips have a position: training chips grey, right ones blue, wrong ones orange.

    Coordinates are metres east and north of the middle of a city (azimuthal equidistant). Where several chips of one
    kind fall on one dot, one of them, drawn with a fixed seed, is shown: half a million chips take seconds, and a dot
    is orange as often as its chips are wrong. Chips of approximate position are left out.
    """
    chips = ground.placed(evidence)
    chips = chips.of(~chips.vague)
    codes = sorted(set(chips.city[~chips.train].tolist()))
    if not codes:
        return None
    figure, maps, side = ground.panels(len(codes))
    for axes, code in zip(maps, codes, strict=True):
        _map(axes, chips.of(chips.city == code), side)
        entry = (evidence.metrics.get("per_city") or {}).get(code) or {}
        share = "" if entry.get("accuracy") is None else f"  {words.percent(entry['accuracy'], 0)}"
        ground.head(axes, f"{style.label(code)}{share}")
    _legend(figure, bool(chips.unknown.any()))
    return figure


def _map(axes: Any, chips: ground.Chips, side: float) -> None:
    xy = ground.local(chips.lonlat)
    step = 2 * ground.fit(axes, xy) / (side * 72) * DOT / 2
    chosen = np.random.default_rng(0).permutation(len(xy))
    for train in (True, False):
        mine = chosen[chips.train[chosen] == train]
        cells = np.floor(xy[mine] / step).astype(np.int64)
        mine = mine[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
        _dots(axes, xy[mine], chips.of(mine))


def _dots(axes: Any, xy: ground.Floats, chips: ground.Chips) -> None:
    colours = to_rgba_array([style.TRAIN, style.RIGHT, style.WRONG, "white"])
    kind = np.where(chips.train, 0, np.where(chips.right, 1, 2))
    face = np.where(chips.unknown, 3, kind)
    size = DOT**2 * np.where(chips.train, 0.6, 1.0)
    axes.scatter(*xy.T, s=size, c=colours[face], edgecolors=colours[kind], linewidths=0.45, rasterized=True)


def _legend(figure: Figure, unknown: bool) -> None:
    kinds = [("right", style.RIGHT, style.RIGHT), ("wrong", style.WRONG, style.WRONG)]
    kinds += [("called unknown", "white", style.SOFT)] if unknown else []
    kinds += [("trained on", style.TRAIN, style.TRAIN)]
    dots = [
        Line2D([], [], marker="o", linestyle="", markersize=4, markerfacecolor=face, markeredgecolor=edge, label=name)
        for name, face, edge in kinds
    ]
    north = Line2D([], [], marker="^", linestyle="", markersize=4.5, color=style.INK, label="north is up")
    figure.legend(
        handles=[*dots, north], loc="outside upper left", ncols=len(dots) + 1, fontsize=style.TEXT, frameon=False
    )
