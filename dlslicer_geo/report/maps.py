"""Chips with their answers in, a small map per city out: where it is right and where it is wrong."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import shapely
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from pyproj import Transformer

from dlslicer_geo.report import style, words
from dlslicer_geo.report.evidence import Evidence

FEW = 12
"""Up to so many cities four maps stand side by side, beyond it five."""

WIDTH, DOT = 9.2, 3.0
"""Inches of the figure, and points across a dot."""

Floats = NDArray[np.float64]


class _Chips(NamedTuple):
    """Chips on the map: centre in degrees, city, whether trained on, and of scored ones whether right and unknown."""

    lonlat: Floats
    city: NDArray[Any]
    train: NDArray[np.bool_]
    right: NDArray[np.bool_]
    unknown: NDArray[np.bool_]

    def of(self, keep: NDArray[Any]) -> _Chips:
        return _Chips(*(values[keep] for values in self))


def errors(evidence: Evidence) -> Figure | None:
    """Map every city whose chips have a position: training chips grey, right ones blue, wrong ones orange.

    Coordinates are metres east and north of the middle of a city (azimuthal equidistant). Where several chips of one
    kind fall on one dot, one of them, drawn with a fixed seed, is shown: half a million chips take seconds, and a dot
    is orange as often as its chips are wrong.
    """
    chips = _placed(evidence)
    codes = [code for code in sorted(set(chips.city[~chips.train].tolist()))]
    if not codes:
        return None
    columns = min(len(codes), 4 if len(codes) <= FEW else 5)
    rows = math.ceil(len(codes) / columns)
    side = WIDTH / (4 if len(codes) <= FEW else 5)
    figure = style.canvas(side * columns, (side + 0.22) * rows + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(codes) :]:
        axes.axis("off")
    for axes, code in zip(grid.ravel(), codes, strict=False):
        _map(axes, chips.of(chips.city == code), side)
        _head(axes, code, evidence)
    _legend(figure, bool(chips.unknown.any()))
    return figure


def _placed(evidence: Evidence) -> _Chips:
    """Chips whose position is known: the scored ones and those trained on."""
    table, found = evidence.chips, evidence.found
    if "approximate" in table.columns:
        table = table[~table["approximate"].astype(bool)]
    at = np.flatnonzero(evidence.scored)
    order = np.argsort(found.chip_id[at], kind="stable")
    at = at[order]
    place = np.searchsorted(found.chip_id[at], table["chip_id"].to_numpy())
    place = np.minimum(place, max(len(at) - 1, 0))
    scored = np.zeros(len(table), bool)
    if len(at):
        scored = found.chip_id[at][place] == table["chip_id"].to_numpy()
    train = (table["split"] == "train").to_numpy() & ~scored
    keep = scored | train
    answers = found.city == found.truth
    right, unknown = np.zeros(len(table), bool), np.zeros(len(table), bool)
    right[scored], unknown[scored] = answers[at][place[scored]], found.unknown[at][place[scored]]
    centre = shapely.centroid(table.geometry.to_numpy()[keep])
    city = table["city"].to_numpy(object)
    city[scored] = found.truth[at][place[scored]]
    named = pd.notna(city[keep])
    lonlat = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)])
    return _Chips(lonlat, city[keep], train[keep], right[keep], unknown[keep]).of(named)


def _map(axes: Any, chips: _Chips, side: float) -> None:
    xy = _local(chips.lonlat)
    reach = max(float(np.abs(xy).max()) * 1.08, 50.0)
    step = 2 * reach / (side * 72) * DOT / 2
    chosen = np.random.default_rng(0).permutation(len(xy))
    for train in (True, False):
        mine = chosen[chips.train[chosen] == train]
        cells = np.floor(xy[mine] / step).astype(np.int64)
        mine = mine[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
        _dots(axes, xy[mine], chips.of(mine))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_color(style.LINE)
    _scale_bar(axes, reach)


def _dots(axes: Any, xy: Floats, chips: _Chips) -> None:
    colour = np.where(chips.train, style.TRAIN, np.where(chips.right, style.RIGHT, style.WRONG))
    face = np.where(chips.unknown, "#ffffff", colour)
    size = DOT**2 * np.where(chips.train, 0.6, 1.0)
    axes.scatter(*xy.T, s=size, c=face.tolist(), edgecolors=colour.tolist(), linewidths=0.6)


def _local(lonlat: Floats) -> Floats:
    """Metres east and north of the middle of the points."""
    lon0 = float(lonlat[0, 0])
    east = (lonlat[:, 0] - lon0 + 180) % 360 - 180  # a city may lie on both sides of the antimeridian
    lon = lon0 + (float(east.min()) + float(east.max())) / 2
    lat = (float(lonlat[:, 1].min()) + float(lonlat[:, 1].max())) / 2
    crs = f"+proj=aeqd +lon_0={lon:.6f} +lat_0={lat:.6f} +datum=WGS84 +units=m"
    return np.column_stack(Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*lonlat.T))


def _scale_bar(axes: Any, reach: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres, about a third of the map."""
    power = 10.0 ** math.floor(math.log10(0.7 * reach))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= 0.7 * reach)
    left, low = -0.94 * reach, -0.94 * reach
    axes.plot([left, left + length], [low, low], color="white", linewidth=5, solid_capstyle="butt", zorder=4)
    axes.plot([left, left + length], [low, low], color=style.INK, linewidth=1.8, solid_capstyle="butt", zorder=5)
    text = words.metres(length) if length < 1000 else f"{length / 1000:g} km"
    axes.text(
        left, low + 0.05 * reach, text, fontsize=6.5, color=style.INK, zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
    )  # fmt: skip


def _head(axes: Any, code: str, evidence: Evidence) -> None:
    entry = (evidence.metrics.get("per_city") or {}).get(code) or {}
    share = "" if entry.get("accuracy") is None else f"  {words.percent(entry['accuracy'], 0)}"
    axes.set_title(f"{style.label(code)}{share}", loc="left", fontsize=style.TEXT, color=style.INK, pad=3)


def _legend(figure: Figure, unknown: bool) -> None:
    kinds = [("right", style.RIGHT, style.RIGHT), ("wrong", style.WRONG, style.WRONG)]
    kinds += [("called unknown", "white", style.SOFT)] if unknown else []
    kinds += [("trained on", style.TRAIN, style.TRAIN)]
    dots = [
        Line2D([], [], marker="o", linestyle="", markersize=5, markerfacecolor=face, markeredgecolor=edge, label=name)
        for name, face, edge in kinds
    ]
    north = Line2D([], [], marker="^", linestyle="", markersize=6, color=style.INK, label="north is up")
    figure.legend(
        handles=[*dots, north], loc="outside upper left", ncols=len(dots) + 1, fontsize=style.TEXT, frameon=False
    )
