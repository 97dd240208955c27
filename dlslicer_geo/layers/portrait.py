"""The windows of a city's portrait with their saliency and chips in, a PNG and SVG per city out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import panels
from dlslicer_geo.layers.lettering import SOFT, Sheet, frame, label
from dlslicer_geo.layers.panels import Pixels
from dlslicer_geo.layers.rasters import unique_name
from dlslicer_geo.types import Saliency

if TYPE_CHECKING:
    from pandas import DataFrame

PANEL = 168
"""Edge of a picture in pixels."""

ACROSS, TOP, GAP, SEAM, TEXT = 2, 70, 22, 2, 48
"""Windows side by side, room for the title, between windows, between pictures, and for a caption."""

OUTLINE = (255, 221, 0)
"""Colour of the frame around a window: neither of the relevance's colours."""


def draw_portraits(
    windows: DataFrame,
    why: Saliency,
    images: Mapping[int, Pixels],
    folder: str | Path,
    *,
    names: Mapping[str, str] | None = None,
) -> list[Path]:
    """Draw for every city its windows of most relevance: the window, its chip around it, and the chip's heat map.

    Args:
        windows: what ``relevance.choose_windows`` gives.
        why: saliency of their chips; the deepest of its depths is drawn, on one scale per city.
        images: uint8 (rows, cols, 3) per chip id.
        folder: gets ``<city>.png`` and ``<city>.svg`` for every city with a window.
        names: city names by code; may lack some.

    Returns:
        the files, cities sorted by code.

    Raises:
        LayerError: if a window's chip has no image or no saliency, or relevance is not finite.
    """
    place = pd.Index(why.chip_id).get_indexer(pd.Index(windows["chip_id"]))
    if (place < 0).any():
        lost = int(windows["chip_id"].iloc[int((place < 0).argmax())])
        raise LayerError(
            f"{int((place < 0).sum())} of {len(windows)} windows have no saliency, such as that of chip "
            f"{lost}: explain their chips"
        )
    if not len(windows):
        return []
    panels.check(why, images)
    paths: list[Path] = []
    for city, rows in windows.assign(place=place).groupby("city", sort=True):
        sheet = _sheet(rows.sort_values("rank"), why, images)
        name = label((names or {}).get(str(city), str(city)), 60)
        sheet.write(
            f"{name}: the {len(rows)} windows with the most relevance", GAP, 10, fontsize=1.5 * sheet.size,
            fontweight="bold",
        )  # fmt: skip
        paths += sheet.save(Path(folder) / unique_name(str(city)))
    return paths


def cut_out(record: Mapping[Any, Any], image: Pixels, edge: int) -> Pixels:
    """The window of a row of windows, cut out of the image of its chip and enlarged to (edge, edge, 3)."""
    left, top, right, bottom = _box(record, image.shape[1], image.shape[0])
    return panels.square(image[top:bottom, left:right], edge)


def outlined(record: Mapping[Any, Any], picture: Pixels) -> Pixels:
    """A picture of the whole chip with the window of a row of windows outlined."""
    drawn = picture.copy()
    frame(drawn, _box(record, picture.shape[1], picture.shape[0]), OUTLINE)
    return drawn


def origin_of(record: Mapping[Any, Any]) -> str:
    """Where and when a window was taken, as far as known: scene, site and date."""
    known = (("site ", record["site"]), ("", record["acquired"]))
    rest = [f"{what}{value}" for what, value in known if isinstance(value, str) and value]
    vague = ["approximate position"] if record["approximate"] else []
    return ", ".join([str(record["scene_id"]), *rest, *vague])


def _sheet(rows: DataFrame, why: Saliency, images: Mapping[int, Pixels]) -> Sheet:
    card = (3 * PANEL + 2 * SEAM + GAP, PANEL + TEXT)
    down = -(-len(rows) // ACROSS)
    sheet = Sheet(GAP + min(len(rows), ACROSS) * card[0], TOP + down * card[1])
    limit = panels.limits(why, rows["place"].to_numpy(np.int64))[why.layers[-1]]
    what = f"{why.method}, {why.layers[-1]}: window | its chip | relevance, strongest colours at ±{limit:.2g}"
    sheet.write(what, GAP, TOP - 6 - round(1.9 * sheet.size), color=SOFT)
    for at, record in enumerate(rows.to_dict("records")):
        left, top = GAP + at % ACROSS * card[0], TOP + at // ACROSS * card[1]
        image = images[int(record["chip_id"])]
        chip = panels.square(image, PANEL)
        warm = panels.heat(chip, panels.over(why, why.layers[-1], int(record["place"]), PANEL), limit)
        pictures = (cut_out(record, image, PANEL), outlined(record, chip), outlined(record, warm))
        for step, picture in enumerate(pictures):
            sheet.paste(picture, left + step * (PANEL + SEAM), top)
        said = f"{record['rank']}. mean relevance {record['window_mean']:.3g}, chip {record['chip_id']}"
        sheet.write(f"{said}\n{label(origin_of(record), sheet.letters(card[0] - GAP))}", left, top + PANEL + 4)
    return sheet


def _box(record: Mapping[Any, Any], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the window in a picture of its chip."""
    down, across = height / record["height"], width / record["width"]
    top, left = (record["window_row"] - record["row"]) * down, (record["window_col"] - record["col"]) * across
    bottom, right = top + record["window_height"] * down, left + record["window_width"] * across
    return round(left), round(top), max(round(right), round(left) + 1), max(round(bottom), round(top) + 1)
