"""Chips with their answers in, a small map per city out: how often it is right at every site."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from dlslicer_geo.report import ground, style, words
from dlslicer_geo.report.evidence import Evidence

FEWEST = 2
"""Sites that a city must have to be drawn by sites; one with fewer is drawn by scenes, or by blocks of its ground."""

BLOCKS = 8
"""Blocks that the longer side of such a city is cut into at most."""

STEPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Accuracies at which the colour changes: five steps can be told apart in grey, too."""

LARGE, SMALL = 11.0, 3.0
"""Points across the largest and the smallest site."""


def accuracy(evidence: Evidence) -> Figure | None:
    """Map every city: each site a dot whose colour is its accuracy and whose area is the number of its scored chips.

    A city of a single site is drawn by scenes, and one of a single scene by blocks of its ground; the heads say
    which. Chips of unknown city are left out; squares are sites whose position is approximate, so that
    they lie only somewhere in their city. None where nothing was scored.
    """
    chips = ground.placed(evidence)
    chips = chips.of(~chips.train)
    codes = sorted(set(chips.city.tolist()))
    if not codes:
        return None
    table = evidence.chips.iloc[chips.row]
    figure, maps, side = ground.panels(len(codes))
    drawn = [_units(chips.of(chips.city == code), table[chips.city == code]) for code in codes]
    largest = max(int(units["n"].max()) for _, units in drawn)
    for axes, code, (noun, units) in zip(maps, codes, drawn, strict=True):
        _map(axes, units, largest, side)
        share = words.percent(float(np.average(units["right"], weights=units["n"])), 0)
        room = int(side * 72 / 3.75) - 15  # letters that the share and the number of sites leave to the name
        ground.head(axes, f"{style.label(code, room)} {share}, {_number(len(units), noun)}")
        ground.foot(axes, words.several(int(units["n"].sum()), "chip"))
    _legend(figure, largest, any(bool(units["vague"].any()) for _, units in drawn), len(codes))
    return figure


def _units(chips: ground.Chips, table: DataFrame) -> tuple[str, DataFrame]:
    """What a city is drawn by, and a row for each: ``x``, ``y``, ``n``, ``right`` and ``vague``."""
    xy = ground.local(chips.lonlat)
    noun, key = "block", _blocks(xy)
    for name, column in (("scene", "scene_id"), ("site", "site")):
        if column in table.columns and table[column].nunique() >= FEWEST:
            noun, key = name, table[column].astype(str).to_numpy(object)
    rows = DataFrame({"x": xy[:, 0], "y": xy[:, 1], "right": chips.right, "vague": chips.vague, "n": 1})
    kinds = {"x": "mean", "y": "mean", "right": "mean", "vague": "any", "n": "sum"}
    return noun, rows.groupby(pd.factorize(key, sort=True)[0], sort=True).agg(kinds)


def _blocks(xy: ground.Floats) -> Any:
    """A number for the block that each point lies in."""
    low, size = xy.min(axis=0), max(float(np.ptp(xy, axis=0).max()), 1.0) * (1 + 1e-9) / BLOCKS
    at = np.floor((xy - low) / size).astype(np.int64)
    return at[:, 0] * BLOCKS + at[:, 1]


def _map(axes: Any, units: DataFrame, largest: int, side: float) -> None:
    xy = units[["x", "y"]].to_numpy(np.float64)
    xy = xy - (xy.min(axis=0) + xy.max(axis=0)) / 2
    ground.fit(axes, xy, 1 + 2.4 * LARGE / (side * 72))
    order = np.argsort(-units["n"].to_numpy(), kind="stable")  # small ones lie above large ones
    for vague, marker in ((False, "o"), (True, "s")):
        mine = order[units["vague"].to_numpy(bool)[order] == vague]
        axes.scatter(
            *xy[mine].T, s=_area(units["n"].to_numpy()[mine], largest), c=units["right"].to_numpy()[mine],
            cmap=_colours(), norm=BoundaryNorm(STEPS, len(STEPS) - 1), marker=marker, edgecolors=style.INK,
            linewidths=0.45, zorder=3, rasterized=len(mine) > 500,
        )  # fmt: skip


def _area(number: Any, largest: int) -> Any:
    """Square points of so many chips."""
    return np.maximum(LARGE**2 * np.asarray(number) / largest, SMALL**2)


def _colours() -> ListedColormap:
    return ListedColormap(list(style.SHARES))


def _legend(figure: Figure, largest: int, vague: bool, cities: int) -> None:
    ends = zip(STEPS, STEPS[1:], style.SHARES, strict=False)
    entries = [(f"{100 * low:.0f}–{100 * high:.0f} %", colour, "o", 5.0) for low, high, colour in ends]
    step = 10 ** math.floor(math.log10(max(largest, 1)))
    number = largest // step * step
    entries += [(words.several(number, "chip"), "white", "o", float(_area(number, largest)) ** 0.5)]
    entries += [("approximate position", "white", "s", 5.0)] if vague else []
    marks = [
        Line2D([], [], marker=marker, linestyle="", markersize=size, markerfacecolor=colour, label=text,
               markeredgecolor=style.INK, markeredgewidth=0.45)
        for text, colour, marker, size in entries
    ]  # fmt: skip
    across = len(marks) if cities > 2 else 2
    figure.legend(
        handles=marks, loc="outside upper left", ncols=across, fontsize=style.TEXT, frameon=False, handletextpad=0.2,
        columnspacing=1.2, title="accuracy, north is up", title_fontsize=style.TEXT, alignment="left",
    )  # fmt: skip


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
