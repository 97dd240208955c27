"""Saliency with its chips in, a PNG and SVG per city out: each chip with its heat maps and masked images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.layers import panels
from dlslicer_geo.layers.lettering import SOFT, Sheet, label
from dlslicer_geo.layers.panels import Pixels
from dlslicer_geo.layers.rasters import unique_name
from dlslicer_geo.types import Saliency

PANEL = 128
"""Edge of a picture in pixels."""

LEFT, TOP, GAP, SEAM, BOTTOM = 236, 98, 10, 2, 54
"""Room for a chip's caption, for the title, between two depths, between pictures, and for the colour bars."""


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
        folder: gets ``<city>.png`` and ``<city>.svg`` for every explained city; text in them can be read where they
            are printed 170 mm wide.
        captions: lines beside a chip per chip id, such as ``true chico`` and ``predicted riverside, 0.93``.
        names: city names by code; may lack some.

    Returns:
        the files, cities sorted by code.

    Raises:
        LayerError: if there is nothing to draw, a chip has no image, or relevance is not finite.

    Source: Lee et al., Relevance-CAM, CVPR 2021, and the figures of DL-SLICER.
    """
    panels.check(why, images)
    paths: list[Path] = []
    for city, at in panels.members(why).items():
        sheet = _sheet(why, images, at, captions or {})
        name = label((names or {}).get(city, city), 60)
        rather = (
            f" rather than {label((names or {}).get(why.rather_than, why.rather_than))}" if why.rather_than else ""
        )
        sheet.write(f"Why {name}{rather}?", GAP, 8, fontsize=1.5 * sheet.size, fontweight="bold")
        sheet.write(f"{why.method}, {len(at)} chips", GAP, 8 + round(2.4 * sheet.size), color=SOFT)
        paths += sheet.save(Path(folder) / unique_name(city))
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
        said = [part for line in lines for part in textwrap.wrap(label(line, 72), sheet.letters(LEFT - 2 * GAP))]
        sheet.write("\n".join(said[: sheet.lines(PANEL)]), GAP, top + 2)
        for column, name in enumerate(why.layers):
            left, relevance = _left(column), panels.over(why, name, int(chip), PANEL)
            sheet.paste(panels.heat(picture, relevance, scales[name]), left, top)
            sheet.paste(panels.masked(picture, relevance), left + PANEL + SEAM, top)
    _scales(sheet, scales)
    return sheet


def _scales(sheet: Sheet, scales: Mapping[str, float]) -> None:
    """Name each column at the top, and draw its colour bar with its ends in figures under it."""
    bottom, above = sheet.pixels.shape[0] - BOTTOM + 8, TOP - 5 - round(1.4 * sheet.size)
    sheet.write("chip", LEFT, above, color=SOFT)
    sheet.write("against | 0 | for the city:", LEFT + PANEL - 4, bottom - 2, color=SOFT, ha="right")
    for column, (name, limit) in enumerate(scales.items()):
        left = _left(column)
        sheet.write(name, left, above, color=SOFT)
        sheet.write("> mean + 1 σ", left + PANEL + SEAM, above, color=SOFT)
        sheet.paste(panels.bar(PANEL, 10), left, bottom)
        sheet.write(f"± {limit:.2g}", left + PANEL // 2, bottom + 14, ha="center")


def _left(column: int) -> int:
    """Where the pictures of a depth begin."""
    return LEFT + PANEL + GAP + column * (2 * PANEL + SEAM + GAP)
