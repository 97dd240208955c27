"""Texts and pixels in, PNG and SVG files of exactly these pixels with exactly these texts out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlslicer_geo import files

INK, SOFT = "#1f2933", "#56616d"
"""Text and lesser text; both have a contrast of more than 4.5 to white."""

DPI = 100
"""Pixels per inch, which is what makes a point of a font 1.39 pixels."""

LEAST, PRINTED, SCREEN = 6.0, 170 / 25.4, 7.5
"""Points of the least text on a sheet that is printed so many inches wide, and of the least one on a screen."""

LETTER = 0.62
"""Width of a letter by its height, on the wide side of what texts have."""

FONT = "DejaVu Sans"
"""The font that comes with matplotlib, so that a figure looks the same on every machine."""

SPACING = 1.35
"""Height of a line by that of its letters."""


class Sheet:
    """A white sheet that is drawn on in pixels from its upper left corner.

    Args:
        width: of the sheet in pixels.
        height: of the sheet in pixels.

    Attributes:
        size: of its text in points, so that it can be read where the sheet fills a printed page.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels: NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)
        self.size = max(SCREEN, LEAST * width / DPI / PRINTED)
        self._texts: list[tuple[int, int, str, dict[str, Any]]] = []

    def paste(self, picture: NDArray[np.uint8], left: int, top: int) -> None:
        """Put a picture (rows, cols, 3) on the sheet, pixel for pixel."""
        self.pixels[top : top + picture.shape[0], left : left + picture.shape[1]] = picture

    def outline(self, box: tuple[int, int, int, int], colour: tuple[int, int, int], width: int = 2) -> None:
        """Draw a frame inside a box of left, top, right, bottom, with a dark rim so that it shows on any ground."""
        frame(self.pixels, box, colour, width)

    def write(self, text: str, left: int, top: int, **how: Any) -> None:
        """Write a text below and right of a point; ``how`` is matplotlib's: ``fontsize``, ``color``, ``ha`` ..."""
        self._texts.append((left, top, text, how))

    def letters(self, width: int) -> int:
        """How many letters stand side by side in so many pixels."""
        return int(width / (self.size * DPI / 72 * LETTER))

    def lines(self, height: int) -> int:
        """How many lines stand in so many pixels."""
        return int(height / (self.size * DPI / 72 * SPACING))

    def save(self, path: str | Path) -> list[Path]:
        """Write the sheet as PNG and as SVG, each whole or not at all; the same sheet gives the same bytes.

        The SVG holds the pixels as they are, and texts as outlines of letters above them.
        """
        written = []
        for kind, metadata in (("png", ("Software",)), ("svg", ("Creator", "Date", "Format", "Type"))):
            written.append(Path(path).with_name(f"{Path(path).name}.{kind}"))
            with (
                files.atomic(written[-1]) as temporary,
                rc_context({"svg.fonttype": "path", "svg.hashsalt": "dlslicer_geo"}),
            ):
                self._figure().savefig(temporary, format=kind, metadata=dict.fromkeys(metadata))
        return written

    def _figure(self) -> Figure:
        height, width = self.pixels.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(self.pixels, interpolation="none", aspect="auto")
        axes.set_axis_off()
        for left, top, text, how in self._texts:
            style: dict[str, Any] = {
                "va": "top",
                "fontsize": self.size,
                "color": INK,
                "family": FONT,
                "linespacing": SPACING,
            } | how
            figure.text(left / width, 1 - top / height, text, parse_math=False, **style)
        return figure


def frame(
    pixels: NDArray[np.uint8], box: tuple[int, int, int, int], colour: tuple[int, int, int], width: int = 2
) -> None:
    """Draw a frame into pixels (rows, cols, 3), inside a box of left, top, right, bottom, with a dark rim."""
    left, top, right, bottom = box
    for inset, drawn in ((0, (0, 0, 0)), *((step, colour) for step in range(1, width + 1)), (width + 1, (0, 0, 0))):
        rows, cols = slice(top + inset, bottom - inset), slice(left + inset, right - inset)
        pixels[rows, [left + inset, right - inset - 1]] = drawn
        pixels[[top + inset, bottom - inset - 1], cols] = drawn


def label(text: str, longest: int = 28) -> str:
    """A text from data as it can be drawn: no characters that the font lacks, one line, not too long."""
    drawn = "".join(letter if letter.isprintable() and _has(letter) else "\N{WHITE SQUARE}" for letter in text)
    return drawn if len(drawn) <= longest else drawn[: longest - 1] + "…"


@cache
def _has(letter: str) -> bool:
    font = font_manager.get_font(font_manager.findfont(FONT))
    return bool(font.get_char_index(ord(letter)))
