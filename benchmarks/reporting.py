"""Themes in, Markdown and JSON out."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rounds import Figure, Growth, Ratio, Theme

PACKAGES = ("torch", "torchvision", "torchgeo", "lightning", "timm", "rasterio", "Pillow", "numpy", "pandas")


def machine() -> dict[str, Any]:
    """Date, machine and versions."""
    return {
        "date": str(date.today()),
        "machine": f"{_processor()}, {os.cpu_count()} cores ({platform.machine()}), {platform.system()}",
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def as_json(theme: Theme) -> dict[str, Any]:
    """All values of all rounds."""
    return {
        "title": theme.title,
        "figures": [{"name": f.name, "unit": f.unit, "values": f.values} for f in theme.figures],
        "ratios": [
            {"of": r.of.name, "to": r.to.name, "values": r.values, "median": median(r.values), "least": r.least,
             "most": r.most, "reached": r.reached}
            for r in theme.ratios
        ],
        "growths": [
            {"name": g.name, "sizes": g.sizes, "values": g.values, "unit": g.unit, "slope": g.slope, "most": g.most,
             "reached": g.reached}
            for g in theme.growths
        ],
        "notes": list(theme.notes),
    }  # fmt: skip


def as_markdown(theme: Theme) -> str:
    """A heading, a table of figures, of ratios and of slopes, and what a reader must know."""
    parts = [
        [f"## {theme.title}"],
        _table(("measured", "median", "lowest – highest", "unit"), map(_figure, theme.figures)),
        _table(("ratio", "median", "lowest – highest", "asked for", "reached"), map(_ratio, theme.ratios)),
        _table(("growth", "sizes", "cost", "slope", "asked for", "reached"), map(_growth, theme.growths)),
        *([note] for note in theme.notes),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def page(themes: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The whole page from what :func:`as_json` made of each theme."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    head = [
        "# As fast as the hardware",
        "",
        f"{about['date']}; {about['machine']}; {versions}.",
        "",
        "Written by `make bench`. All ways of a theme are measured in turn, in one run; a ratio is taken round by "
        "round, and its median counts. A slope is that of log cost over log size: 1 is linear.",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(_dated(theme) for theme in themes)


def _dated(theme: Mapping[str, Any]) -> str:
    """A theme, and when it was measured."""
    return f"{as_markdown(read(theme))}\nMeasured {theme['measured']}.\n"


def missed(themes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was asked for and not reached."""
    ratios = [
        f"{r['of']} : {r['to']} is {r['median']:.3g}" for t in themes for r in t["ratios"] if r["reached"] is False
    ]
    growths = [
        f"{g['name']} grows by {g['slope']:.2f}" for t in themes for g in t["growths"] if g["reached"] is False
    ]
    return ratios + growths


def read(theme: Mapping[str, Any]) -> Theme:
    """What :func:`as_json` wrote."""
    figures = {f["name"]: Figure(**f | {"values": tuple(f["values"])}) for f in theme["figures"]}
    return Theme(
        title=theme["title"],
        figures=list(figures.values()),
        ratios=[
            Ratio(of=figures[r["of"]], to=figures[r["to"]], least=r["least"], most=r["most"]) for r in theme["ratios"]
        ],
        growths=[
            Growth(name=g["name"], sizes=tuple(g["sizes"]), values=tuple(g["values"]), unit=g["unit"], most=g["most"])
            for g in theme["growths"]
        ],
        notes=theme["notes"],
    )


def _figure(figure: Figure) -> tuple[str, ...]:
    return figure.name, _number(median(figure.values)), _spread(figure.values), figure.unit


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    said = f"{ratio.of.name} : {ratio.to.name}"
    return said, _number(median(ratio.values)), _spread(ratio.values), _asked(ratio), _reached(ratio.reached)


def _growth(growth: Growth) -> tuple[str, ...]:
    sizes, values = (" / ".join(map(_number, each)) for each in (growth.sizes, growth.values))
    asked = "" if growth.most is None else f"≤ {growth.most:g}"
    return growth.name, sizes, f"{values} {growth.unit}", f"{growth.slope:.2f}", asked, _reached(growth.reached)


def _asked(ratio: Ratio) -> str:
    bounds = (("≥", ratio.least), ("≤", ratio.most))
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def _reached(reached: bool | None) -> str:
    return {None: "", True: "yes", False: "**no**"}[reached]


def _spread(values: Sequence[float]) -> str:
    return f"{_number(min(values))} – {_number(max(values))}"


def _number(value: float) -> str:
    """Three figures that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Any) -> list[str]:
    """Lines of a Markdown table; none without a row."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] if len(lines) > 2 else []


def _processor() -> str:
    """What the processor calls itself."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
