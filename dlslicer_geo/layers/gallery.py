"""Saliency with its chips in, a PNG per city out: every chip with its heat map and masked image at every depth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.layers import panels
from dlslicer_geo.layers.lettering import SOFT, Sheet, label
from dlslicer_geo.layers.panels import Pixels
from dlslicer_geo.types import Saliency

PANEL = 128
"""Edge of a picture in pixels."""

LEFT, TOP, GAP, SEAM, BOTTOM = 150, 76, 10, 2, 44
"""Room for a chip's caption, for the title, between two depths, between pictures, and for the colour bars."""

LINES = 8
"""Of a caption that have room beside a chip."""


def draw_gallery(
    why: Saliency,
    images: Mapping[int, Pixels],
    folder: str | Path,
    *,
    captions: Mapping[int, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> list[Path]:
    """Draw for every explained city each of its chips, and for every depth the heat map and the masked image.

    A city and depth has one colour scale, symmetric around 0 and stated under its column: it ends at the 99th
    percentile of |S| over the city's chips. The masked image follows Relevance-CAM; see
    :func:`dlslicer_geo.layers.panels.kept`.

    Args:
        why: raw relevance of the chips to draw.
        images: uint8 (rows, cols, 3) per chip id.
        folder: gets ``<city>.png`` for every explained city.
        captions: lines beside a chip per chip id, such as ``true chico`` and ``predicted riverside, 0.93``.
        names: city names by code; may lack some.

    Returns:
        the files, cities sorted by code.

    Raises:
        LayerError: if there is nothing to draw, a chip has no image, or relevance is not finite.

    Source: Lee et al., Relevance-CAM, CVPR 2021, and the figures of DL-SLICER.
    """
    panels.check(why, images)
    paths = []
    for city, at in panels.members(why).items():
        sheet = _sheet(why, images, at, captions or {})
        name = label((names or {}).get(city, city), 60)
        rather = (
            f" rather than {label((names or {}).get(why.rather_than, why.rather_than))}" if why.rather_than else ""
        )
        sheet.write(f"Why {name}{rather}?", GAP, 10, fontsize=12, fontweight="bold")
        sheet.write(f"{why.method}, {len(at)} chips", GAP, 34, color=SOFT)
        paths.append(sheet.save(Path(folder) / f"{panels.picture_name(city)}.png"))
    return paths


def _sheet(why: Saliency, images: Mapping[int, Pixels], at: NDArray[np.int64], captions: Mapping[int, str]) -> Sheet:
    """All rows of a city, with their captions, the names of the columns and the colour bars."""
    width = _left(len(why.layers)) + GAP
    sheet = Sheet(max(width, 560), TOP + len(at) * (PANEL + SEAM) + BOTTOM)
    scales = panels.limits(why, at)
    for row, chip in enumerate(at):
        top, number = TOP + row * (PANEL + SEAM), int(why.chip_id[chip])
        picture = panels.square(images[number], PANEL)
        sheet.paste(picture, LEFT, top)
        lines = [f"chip {number}", *captions.get(number, "").splitlines()]
        said = [part for line in lines for part in textwrap.wrap(label(line, 72), 23)]
        sheet.write("\n".join(said[:LINES]), GAP, top + 6)
        for column, name in enumerate(why.layers):
            left, relevance = _left(column), panels.over(why, name, int(chip), PANEL)
            sheet.paste(panels.heat(picture, relevance, scales[name]), left, top)
            sheet.paste(panels.masked(picture, relevance), left + PANEL + SEAM, top)
    _scales(sheet, scales)
    return sheet


def _scales(sheet: Sheet, scales: Mapping[str, float]) -> None:
    """Name each column at the top, and draw its colour bar with its ends in figures under it."""
    bottom = sheet.pixels.shape[0] - BOTTOM + 8
    sheet.write("chip", LEFT, TOP - 15, color=SOFT)
    sheet.write("against | 0 | for the city:", LEFT + PANEL - 4, bottom - 2, color=SOFT, ha="right")
    for column, (name, limit) in enumerate(scales.items()):
        left = _left(column)
        sheet.write(f"{name}: relevance", left, TOP - 15, color=SOFT)
        sheet.write("above mean + 1 σ", left + PANEL + SEAM, TOP - 15, color=SOFT)
        sheet.paste(panels.bar(PANEL, 10), left, bottom)
        for share, text, side in (
            (0.0, f"{-limit:.2g}", "left"),
            (0.5, "0", "center"),
            (1.0, f"{limit:.2g}", "right"),
        ):
            sheet.write(text.replace("-", "\N{MINUS SIGN}"), left + round(share * PANEL), bottom + 14, ha=side)


def _left(column: int) -> int:
    """Where the pictures of a depth begin."""
    return LEFT + PANEL + GAP + column * (2 * PANEL + SEAM + GAP)
