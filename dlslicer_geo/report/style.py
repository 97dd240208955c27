"""Sizes and texts in, canvases and the bytes of PNG and SVG out: how every figure of a run looks.

Figures have the size they are printed at: up to 85 mm in a column, up to 170 mm across the
page of a journal. No letter is smaller than 6 points then.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dlslicer_geo import files

INK, SOFT, LINE = "#1f2933", "#5b6673", "#dcdfe3"
"""Text, lesser text and lines."""

RIGHT, WRONG, TRAIN, OTHER = "#0072b2", "#d55e00", "#b9bfc6", "#009e73"
"""Right, wrong, training chips, and a second series: Okabe and Ito's colours (Color Universal Design, 2008)."""

SHARES = ("#ffffff", "#d6e6f4", "#6baed6", "#2171b5", "#08306b")
"""From no share to all (after ColorBrewer's Blues, 2003)."""

COLUMN, WIDTH = 85 / 25.4, 170 / 25.4
"""Inches of a figure that fills a column, and of one that fills a printed page."""

DPI, SHOWN = 300, 137.5
"""Pixels per inch of a PNG, and how many of its own pixels the page gives an inch."""

LEAST, SMALL, TEXT, LARGE = 6.0, 6.3, 7.0, 8.0
"""Sizes of fonts in points; 6 is the least that journals print."""

KINDS = ("png", "svg")
"""Endings of the files of a figure."""

FONT = "DejaVu Sans"
"""The font that comes with matplotlib, so that a figure looks the same on every machine."""


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
    """PNG of a figure, 300 pixels per inch; the same figure gives the same bytes."""
    return _saved(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """SVG of a figure, its letters as outlines and many dots as one picture; the same figure gives the same bytes."""
    return _saved(figure, "svg", dict.fromkeys(("Creator", "Date", "Format", "Type")))


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, and beside it as SVG; each whole or not at all.

    Returns:
        the path of the PNG.
    """
    for kind, held in zip(KINDS, (png(figure), svg(figure)), strict=True):
        with files.atomic(Path(path).with_suffix(f".{kind}")) as temporary:
            temporary.write_bytes(held)
    return Path(path).with_suffix(".png")


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    held = io.BytesIO()
    with rc_context({"font.sans-serif": [FONT], "svg.fonttype": "path", "svg.hashsalt": "dlslicer_geo"}):
        if figure.get_layout_engine() is not None:  # to find the layout takes as long as to draw: once is enough
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        figure.savefig(held, format=kind, metadata=metadata)
    return held.getvalue()


@cache
def _has(letter: str) -> bool:
    font = font_manager.get_font(font_manager.findfont(FONT))
    return bool(font.get_char_index(ord(letter)))
