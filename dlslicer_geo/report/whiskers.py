"""Accuracies with their intervals in, dots and whiskers out: cities, sites, baselines, distances, leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlslicer_geo.errors import LayerError
from dlslicer_geo.report import style, words
from dlslicer_geo.report.evidence import Evidence

BASELINES = {"most_frequent": "most frequent city", "colour": "colour alone", "frozen": "frozen backbone"}
"""Names of the baselines in words; any other is called as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """An accuracy to be drawn.

    Args:
        name: what it belongs to, in words.
        value: 0 to 1.
        interval: low and high, None where it cannot be had.
        colour: of dot and whisker.
    """

    name: str
    value: float
    interval: Sequence[float] | None
    colour: str = style.RIGHT


def cities(evidence: Evidence) -> Figure | None:
    """Accuracy per city with whiskers, sorted, beside a dot for each of its sites; None without any city."""
    rows = ranked(evidence.metrics.get("per_city") or {})
    if not rows:
        return None
    figure = style.canvas(style.WIDTH, 0.95 + 0.155 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    codes = [code for code, _ in rows]
    dots = [Dot(name=style.label(c), value=e["accuracy"], interval=e.get("interval")) for c, e in rows]
    _draw(left, dots, range(len(dots)))
    for y, (_, entry) in enumerate(rows):
        left.text(1.03, y, words.count(entry["n"]), va="center", fontsize=style.SMALL, color=style.SOFT)
    left.text(1.03, -0.9, "chips", va="center", fontsize=style.SMALL, color=style.SOFT)
    _lines(left, evidence.metrics)
    style.title(left, "Cities, with 95 % intervals")
    _sites(right, evidence.metrics.get("per_site") or [], codes)
    left.set_ylim(len(rows) - 0.4, -1.3)
    return figure


def ranked(per_city: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Cities that have chips, the best first."""
    known = [(code, entry) for code, entry in per_city.items() if entry.get("accuracy") is not None]
    return sorted(known, key=lambda item: (-item[1]["accuracy"], item[0]))


def comparison(evidence: Evidence) -> Figure:
    """The model, its votes, the baselines and the probes on one axis."""
    groups = [(name, dots) for name, dots in _groups(evidence.metrics) if dots]
    places: list[float] = []
    figure = style.canvas(style.WIDTH * 0.86, 0.5 + 0.185 * sum(1.6 + len(dots) for _, dots in groups))
    axes: Any = figure.add_subplot()
    at = 0.0
    for name, dots in groups:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        axes.text(0, at, name, fontsize=style.TEXT, fontweight="bold", color=style.INK, va="center", bbox=box)
        places += [at + 1 + step for step in range(len(dots))]
        at += 1.6 + len(dots)
    dots = [dot for _, group in groups for dot in group]
    _draw(axes, dots, places)
    for dot, y in zip(dots, places, strict=True):
        axes.text(1.03, y, words.percent(dot.value), va="center", fontsize=style.SMALL, color=style.SOFT)
    _lines(axes, evidence.metrics)
    axes.set_ylim(at - 0.9, -0.8)
    return figure


def distances(evidence: Evidence) -> Figure | None:
    """Accuracy against the distance to the nearest training chip; None where it is not known."""
    bins = (evidence.metrics.get("distance") or {}).get("bins") or []
    if not bins:
        return None
    figure = style.canvas(style.WIDTH * 0.8, 2.4)
    axes: Any = figure.add_subplot()
    for x, entry in enumerate(bins):
        _stand(axes, x, entry["accuracy"], entry.get("interval"), style.RIGHT)
    names = [f"{words.metres(e['low_m'])} to\n{words.metres(e['high_m'])}\n{words.count(e['n'])} chips" for e in bins]
    axes.set_xticks(range(len(bins)), names)
    axes.set(xlim=(-0.6, len(bins) - 0.4), ylim=(0, 1.03))
    style.plain(axes, grid="y")
    style.shares(axes.yaxis)
    axes.set_xlabel("distance to the nearest training chip, centre to centre", fontsize=style.TEXT, color=style.SOFT)
    style.title(axes, "Accuracy by distance, with 95 % intervals")
    return figure


def draw_ablation(ablation: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracy against the smallest distance between train and test: what a leak is worth.

    The axis of distances grows with the logarithm above 10 m and shows 0. Splits that leak are drawn as crosses.

    Args:
        ablation: ``rows`` of ``name``, ``min_distance_m``, ``proven``, ``accuracy``, ``interval``.
        path: ends in ``.png``; written atomically, as is the SVG beside it.

    Raises:
        LayerError: if there is no row.
    """
    return style.save(leaks(ablation), path)


def leaks(ablation: Mapping[str, Any]) -> Figure:
    """The figure of :func:`draw_ablation`."""
    rows = ablation.get("rows") or []
    if not rows:
        raise LayerError("the ablation has no rows: train under at least one split before drawing it")
    figure = style.canvas(style.WIDTH * 0.9, 2.85)
    axes: Any = figure.add_subplot()
    axes.set_xscale("symlog", linthresh=10, linscale=0.6)
    axes.set(xlim=(-4, max(20.0, *(_metres(row) for row in rows)) * 1.8), ylim=(0, 1.1))
    for number, row in enumerate(rows):
        _mark(axes, row, number + 1, _aside(rows, number))
    ticks = [0, *(10.0**power for power in range(1, 7) if 10.0**power <= axes.get_xlim()[1])]
    axes.set_xticks(ticks, [words.metres(tick) for tick in ticks])
    axes.minorticks_off()
    style.plain(axes, grid="both")
    style.shares(axes.yaxis)
    axes.set_xlabel("smallest distance between a training and a test chip", fontsize=style.TEXT, color=style.SOFT)
    style.title(axes, "Accuracy of the same recipe under different splits")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=style.SMALL, frameon=False)
    return figure


def _metres(row: Mapping[str, Any]) -> float:
    return float(row.get("min_distance_m") or 0)


def _aside(rows: Sequence[Mapping[str, Any]], number: int) -> float:
    """Points to the right, so that splits of about one distance stand side by side."""
    at = np.arcsinh([_metres(row) / 10 for row in rows[: number + 1]])  # about the scale of the axis
    return 7.0 * int((np.abs(at[:-1] - at[-1]) < 0.1).sum())


def _mark(axes: Any, row: Mapping[str, Any], number: int, aside: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    shift = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    proven = bool(row.get("proven"))
    colour = style.RIGHT if proven else style.WRONG
    x, y = _metres(row), row["accuracy"]
    if row.get("interval"):
        axes.plot([x, x], row["interval"], color=colour, linewidth=1.4, transform=shift, solid_capstyle="butt")
    name = f"{number}  {style.label(str(row['name']), 28)}{'' if proven else ' (leaks)'}"
    axes.plot(
        [x], [y], marker="o" if proven else "X", color=colour, markersize=5, linestyle="", label=name, transform=shift
    )
    top = row["interval"][1] if row.get("interval") else y
    axes.annotate(
        f"{number}", (x, top), (aside, 4), textcoords="offset points", ha="center", fontsize=style.SMALL, color=colour
    )


def _groups(metrics: Mapping[str, Any]) -> list[tuple[str, list[Dot]]]:
    votes = metrics.get("votes") or {}
    model = [Dot(name="every chip by itself", value=metrics["accuracy"], interval=metrics.get("accuracy_interval"))]
    for kind in ("scene", "site"):
        vote = votes.get(kind)
        if vote and vote.get("accuracy") is not None:
            name = f"chips of a {kind} together"
            model.append(Dot(name=name, value=vote["accuracy"], interval=vote.get("interval"), colour=style.OTHER))
    baselines = [
        Dot(
            name=BASELINES.get(n, style.label(n)), value=e["accuracy"], interval=e.get("interval"), colour=style.WRONG
        )
        for n, e in (metrics.get("baselines") or {}).items()
        if e
    ]
    probes = [
        Dot(name=style.label(n), value=e["accuracy"], interval=e.get("interval"), colour="#8a5a83")
        for n, e in (metrics.get("probes") or {}).items()
        if e
    ]
    return [
        ("The model", model),
        ("Baselines on the same chips", baselines),
        ("The model on changed chips", probes),
    ]


def _draw(axes: Any, dots: Sequence[Dot], places: Sequence[float]) -> None:
    for dot, y in zip(dots, places, strict=True):
        if dot.interval is not None:
            axes.plot(dot.interval, [y, y], color=dot.colour, linewidth=1.4, alpha=0.75, solid_capstyle="butt")
        face = dot.colour if dot.interval is not None else "white"
        axes.plot([dot.value], [y], "o", markersize=4, color=dot.colour, markerfacecolor=face)
    axes.set_yticks(list(places), [dot.name for dot in dots])
    axes.set_xlim(-0.01, 1.01)
    style.plain(axes)
    style.shares(axes.xaxis)


def _stand(axes: Any, x: float, value: float | None, interval: Sequence[float] | None, colour: str) -> None:
    if value is None:
        return
    if interval is not None:
        axes.plot([x, x], interval, color=colour, linewidth=1.5, alpha=0.75, solid_capstyle="butt")
    axes.plot([x], [value], "o", markersize=5, color=colour, markerfacecolor=colour if interval else "white")


def _lines(axes: Any, metrics: Mapping[str, Any]) -> None:
    """Lines at the accuracy of all chips and at chance."""
    axes.axvline(metrics["accuracy"], color=style.INK, linewidth=0.8, zorder=0.5)
    if metrics.get("chance") is not None:
        axes.axvline(metrics["chance"], color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)
    axes.set_xlabel("accuracy (line: all chips, dashes: chance)", fontsize=style.SMALL, color=style.SOFT)


def _sites(axes: Any, per_site: Sequence[Mapping[str, Any]], codes: Sequence[str]) -> None:
    at = {code: y for y, code in enumerate(codes)}
    sites = [site for site in per_site if site["city"] in at and site.get("accuracy") is not None]
    chips = np.array([site["n"] for site in sites], float)
    largest = chips.max(initial=1.0)
    axes.scatter(
        [site["accuracy"] for site in sites], [at[site["city"]] for site in sites], s=4 + 32 * chips / largest,
        color=style.RIGHT, alpha=0.3, linewidths=0,
    )  # fmt: skip
    axes.set_xlim(-0.03, 1.03)
    style.plain(axes)
    style.shares(axes.xaxis)
    axes.tick_params(labelleft=False)
    axes.set_xlabel("accuracy (area of a dot: its chips)", fontsize=style.SMALL, color=style.SOFT)
    style.title(axes, f"Their {len(sites):,} sites")
