"""Sizes and texts in, canvases and PNG bytes out: how every figure of the page looks."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dlslicer_geo import files

INK, SOFT, LINE = "#1f2933", "#5b6673", "#dcdfe3"
"""Text, lesser text and lines."""

RIGHT, WRONG, TRAIN, OTHER = "#0072b2", "#d55e00", "#b9bfc6", "#009e73"
"""Right, wrong, training chips, and a second series: Okabe and Ito's colours (Color Universal Design, 2008)."""

SHARES = ("#ffffff", "#d6e6f4", "#6baed6", "#2171b5", "#08306b")
"""From no share to all (after ColorBrewer's Blues, 2003)."""

DPI = 160
"""Pixels per inch; the page shows 100 of its own pixels per inch, so that figures stay sharp on good screens."""

SMALL, TEXT, LARGE = 8.0, 9.0, 10.5
"""Sizes of fonts in points."""

LONGEST = 16
"""Characters of a name that are drawn."""


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches, white and with its parts kept apart."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def plain(axes: Any, *, grid: str = "x") -> None:
    """Leave of a pair of axes what helps to read it: light grid lines and small labels."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=TEXT, labelcolor=INK)
    if grid:
        axes.grid(axis=grid, color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)


def shares(axis: Any) -> None:
    """Label an axis of shares 0 to 1 in per cent."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def title(axes: Any, text: str) -> None:
    """Write what a pair of axes shows above its left corner."""
    axes.set_title(text, loc="left", fontsize=LARGE, color=INK, fontweight="bold")


def label(text: str, longest: int = LONGEST) -> str:
    """A text from data as it can be drawn: no formulas, no characters that the font lacks, not too long."""
    drawn = "".join(letter if letter.isprintable() and _has(letter) else "\N{WHITE SQUARE}" for letter in text)
    short = drawn if len(drawn) <= longest else drawn[: longest - 1] + "…"
    return short.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """PNG of a figure; the same figure gives the same bytes."""
    held = io.BytesIO()
    figure.savefig(held, format="png", metadata={"Software": None})
    return held.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with files.atomic(path) as temporary:
        temporary.write_bytes(png(figure))
    return Path(path)


@cache
def _has(letter: str) -> bool:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return bool(font.get_char_index(ord(letter)))
