"""Texts and pixels in, PNG files of exactly these pixels with exactly these texts out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlslicer_geo import files

INK, SOFT = "#1f2933", "#56616d"
"""Text and lesser text; both have a contrast of more than 4.5 to white."""

DPI = 100
"""Pixels per inch, which is what makes a point of a font 1.39 pixels."""

FONT = "DejaVu Sans"
"""The font that comes with matplotlib, so that a figure looks the same on every machine."""


class Sheet:
    """A white sheet that is drawn on in pixels from its upper left corner.

    Args:
        width: of the sheet in pixels.
        height: of the sheet in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels: NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)
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

    def save(self, path: str | Path) -> Path:
        """Write the sheet as PNG, whole or not at all; the same sheet gives the same bytes."""
        height, width = self.pixels.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        figure.figimage(self.pixels, origin="upper")
        for left, top, text, how in self._texts:
            style: dict[str, Any] = {
                "va": "top",
                "fontsize": 7.5,
                "color": INK,
                "family": FONT,
                "linespacing": 1.35,
            } | how
            figure.text(left / width, 1 - top / height, text, parse_math=False, **style)
        with files.atomic(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
        return Path(path)


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
