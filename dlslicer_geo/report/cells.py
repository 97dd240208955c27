"""A number for every two cities in, a square of coloured cells with their names out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlslicer_geo.report import style

FEW = 12
"""Up to so many cities a cell has room for two lines; beyond it for two digits."""

CODE = 8
"""Characters of a name that are drawn where there are many cities."""

BLUES = LinearSegmentedColormap.from_list("shares", style.SHARES)
"""From nothing to all; lightness falls all the way, so that it reads in grey, too."""

DARK = 0.58
"""Share of the colours from which on text in a cell is white."""

Floats = NDArray[np.float64]


def sheet(number: int) -> tuple[Figure, Any]:
    """A canvas for so many cities, and its axes.

    Up to 46 cities it is no wider than a printed page; with more it grows, so that two digits fit into a cell.
    """
    width = max(3.9, 1.55 + 0.42 * number) if number <= FEW else max(style.WIDTH, 0.8 + 0.128 * number)
    figure = style.canvas(width, width * 0.95 if number <= FEW else width * 1.06)
    return figure, figure.add_subplot()


def paint(axes: Any, values: Floats, names: Sequence[str], norm: Any) -> Any:
    """Colour a cell for every number (n, n), NaN grey, rows from above, and name rows and columns."""
    number = len(values)
    colours = BLUES.with_extremes(bad=style.LINE)
    drawn = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors=style.LINE, linewidth=0.3
    )  # fmt: skip
    axes.set(xlim=(0, number), ylim=(number, 0), aspect="equal")
    few = number <= FEW
    said = [style.label(name, style.LONGEST if few else CODE) for name in names]
    turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(np.arange(number) + 0.5, said, **turn)
    axes.set_yticks(np.arange(number) + 0.5, said)
    axes.tick_params(labelsize=style.TEXT if few else style.LEAST, length=0, labelcolor=style.INK, pad=2)
    axes.spines[:].set_visible(False)
    return drawn


def write(axes: Any, row: int, col: int, text: str, depth: float) -> None:
    """Write into a cell whose colour lies so far, 0 to 1, towards the darkest."""
    colour = "white" if depth > DARK else style.INK
    how: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": style.LEAST, "linespacing": 1.1}
    axes.text(col + 0.5, row + 0.5, text, color=colour, **how).set_in_layout(False)  # no room beside its cell


def scale(drawn: Any, axes: Any, text: str, **how: Any) -> Any:
    """A bar that says what the colours mean: right of few cells, below many, which need the width."""
    few = len(axes.get_xticks()) <= FEW
    place = {"shrink": 0.6, "aspect": 28} if few else {"location": "bottom", "shrink": 0.6, "aspect": 45}
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.015, **place, **how)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=style.SMALL, length=0)
    bar.set_label(text, fontsize=style.SMALL)
    return bar
