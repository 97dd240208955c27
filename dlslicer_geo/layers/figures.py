"""Saliency with its chips in, PNG figures of stated scale out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import styles
from dlslicer_geo.types import Saliency

PANEL = 112
"""Edge of a panel of the gallery in pixels."""

PER_ROW = 4
"""Chips side by side; a city with more of them takes further rows."""

LABEL, GAP, MARGIN, DPI = 36, 16, 120, 100
"""Height of a label, space between two chips, space for the city's name, in pixels; pixels per inch."""

Pixels = NDArray[np.uint8]


def draw_gallery(
    why: Saliency,
    images: Mapping[int, Pixels],
    path: str | Path,
    *,
    layer: str | None = None,
    names: Mapping[int, str] | None = None,
) -> Path:
    """Draw every chip beside its heat map and its masked image, a row per city.

    The heat map is drawn on one symmetric scale per city, the 99th percentile of |S|, which stands under the city's
    name. The masked image follows Relevance-CAM (Lee et al., CVPR 2021): the chip's own map is stretched to 0…1 and
    enlarged, pixels above mean + one standard deviation are kept and the others darkened.

    Args:
        why: raw relevance of chips.
        images: (rows, cols, 3) uint8 per chip id.
        path: ends in ``.png``.
        layer: one of ``why.layers``; the deepest when None.
        names: a second line under a chip per chip id, such as ``true chico, predicted riverside``.

    Raises:
        LayerError: if there is nothing to draw, the layer is unknown, or a chip has no image.
    """
    layer = layer or why.layers[-1]
    _check_gallery(why, images, layer)
    rows = list(_rows(why))
    width = MARGIN + PER_ROW * (3 * PANEL + GAP)
    height = len(rows) * (PANEL + LABEL) + LABEL
    figure, axes = _canvas(width, height)
    axes.text(8, LABEL / 2, f"{why.method}, {layer}: chip | relevance | mean + 1 σ", va="center", fontsize=9)
    for index, (city, members, limit_of) in enumerate(rows):
        top = LABEL + index * (PANEL + LABEL)
        limit = float(np.percentile(np.abs(why.maps[layer][limit_of]), 99)) or 1.0
        axes.text(8, top + PANEL / 2 - 8, city, va="center", fontsize=9, fontweight="bold")
        axes.text(8, top + PANEL / 2 + 10, f"±{limit:.3g}", va="center", fontsize=7, color="#555555")
        for place, chip in enumerate(members):
            identifier = int(why.chip_id[chip])
            panels = _panels(images[identifier], why.maps[layer][chip], limit)
            label = f"chip {identifier}" + (f"\n{names[identifier]}" if names and identifier in names else "")
            _draw_chip(axes, panels, label, (MARGIN + place * (3 * PANEL + GAP), top))
    axes.set(xlim=(0, width), ylim=(height, 0))
    return _save(figure, path)


def _check_gallery(why: Saliency, images: Mapping[int, Pixels], layer: str) -> None:
    if not len(why):
        raise LayerError("there is no saliency to draw: explain some chips first")
    if layer not in why.layers:
        raise LayerError(f"layer {layer} was not explained: take one of {', '.join(why.layers)}")
    missing = [int(chip) for chip in why.chip_id if int(chip) not in images]
    if missing:
        raise LayerError(f"{len(missing)} of {len(why)} chips have no image, the first is {missing[0]}: give it")


def _rows(why: Saliency) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """City, at most ``PER_ROW`` of its chips, and all of its chips."""
    cities = np.array(why.city)
    for city in np.unique(cities):
        mine = np.flatnonzero(cities == city)
        mine = mine[np.argsort(why.chip_id[mine], kind="stable")]
        for start in range(0, len(mine), PER_ROW):
            yield str(city), mine[start : start + PER_ROW], mine


def _draw_chip(axes: Any, panels: tuple[Pixels, ...], label: str, corner: tuple[int, int]) -> None:
    left, top = corner
    for x, pixels in zip(range(left, left + 3 * PANEL, PANEL), panels, strict=True):
        axes.imshow(pixels, extent=(x, x + PANEL - 2, top + PANEL, top), interpolation="nearest")
    axes.text(left, top + PANEL + 4, label, va="top", fontsize=6.5, color="#333333", linespacing=1.3)


def _panels(image: Pixels, relevance: NDArray[np.float32], limit: float) -> tuple[Pixels, Pixels, Pixels]:
    chip = np.asarray(Image.fromarray(image).convert("RGB").resize((PANEL, PANEL), Image.Resampling.BILINEAR))
    large = np.asarray(
        Image.fromarray(relevance.astype(np.float32)).resize((PANEL, PANEL), Image.Resampling.BILINEAR)
    )
    stops = styles.diverging(limit)
    values = [stop.value for stop in stops]
    alpha = np.interp(large, values, [0.75 * stop.alpha / 255 for stop in stops])[..., None]
    colours = np.array([styles.rgb(stop.colour) for stop in stops])
    colour = np.stack([np.interp(large, values, colours[:, channel]) for channel in range(3)], axis=-1)
    grey = chip.mean(axis=-1, keepdims=True)
    overlaid = grey * (1 - alpha) + colour * alpha
    kept = large > large.mean() + large.std()
    masked = np.where(kept[..., None], chip, chip * 0.18)
    return chip, overlaid.astype(np.uint8), masked.astype(np.uint8)


def _canvas(width: int, height: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    return figure, axes


def _save(figure: Figure, path: str | Path) -> Path:
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)
