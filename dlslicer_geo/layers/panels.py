"""A chip and its raw relevance in, the small pictures out that galleries are made of; no file is opened.

The same pictures stand in the PNG files and on the page: the chip, its heat map, its masked image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlslicer_geo.colours import rgb
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import styles
from dlslicer_geo.types import Saliency

LIMIT_PERCENTILE = 99
"""Percentile of |S| over the chips of a city where the colour scale of a depth ends."""

OPACITY = 0.8
"""Of the strongest colour over a chip."""

GREY = (70, 215)
"""Darkest and lightest grey of a chip under a heat map, so that colours stay visible over shadows and roofs."""

MIDDLE = 128
"""Brightness of the plain chip that a colour bar is drawn over."""

Pixels = NDArray[np.uint8]
Relevance = NDArray[np.float32]


def members(why: Saliency) -> dict[str, NDArray[np.int64]]:
    """Positions of the chips of every explained city, cities sorted, chips by number."""
    cities, order = np.array(why.city, object), np.argsort(why.chip_id, kind="stable")
    return {city: order[cities[order] == city] for city in sorted(set(why.city))}


def limits(why: Saliency, at: NDArray[np.int64]) -> dict[str, float]:
    """The end of the symmetric colour scale per depth, over the chips at these positions.

    Returns:
        depth → 99th percentile of |S|; 1 for maps without any relevance, which have no scale.
    """
    found = {name: float(np.percentile(np.abs(why.maps[name][at]), LIMIT_PERCENTILE)) for name in why.layers}
    return {name: limit if limit > 0 else 1.0 for name, limit in found.items()}


def square(image: Pixels, edge: int) -> Pixels:
    """A chip of (rows, cols, 3) in another size, (edge, edge, 3)."""
    resized = Image.fromarray(image).convert("RGB").resize((edge, edge), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def over(why: Saliency, layer: str, at: int, edge: int) -> NDArray[np.float32]:
    """The map of a chip at ``edge`` by ``edge`` pixels, every cell drawn where it looks."""
    return np.asarray(why.resampled(layer, slice(at, at + 1), (edge, edge))[0], np.float32)


def heat(chip: Pixels, relevance: Relevance, limit: float) -> Pixels:
    """A heat map over its chip: red speaks for the city, blue-violet against it, and 0 leaves the chip grey.

    Args:
        chip: (edge, edge, 3).
        relevance: (h, w) raw map of the chip, enlarged where it is smaller (bilinear, half-pixel centres).
        limit: relevance with the strongest colour; -limit has the strongest of the other side.

    Returns:
        (edge, edge, 3).
    """
    stops = styles.diverging(limit)
    value = _enlarged(relevance, chip.shape[:2])
    at = [stop.value for stop in stops]
    alpha = np.interp(value, at, [OPACITY * stop.alpha / 255 for stop in stops])[..., None]
    colours = np.array([rgb(stop.colour) for stop in stops])
    colour = np.stack([np.interp(value, at, colours[:, channel]) for channel in range(3)], axis=-1)
    grey = GREY[0] + (GREY[1] - GREY[0]) / 255 * chip.mean(axis=-1, keepdims=True)
    return np.asarray(np.rint(grey * (1 - alpha) + colour * alpha), np.uint8)


def masked(chip: Pixels, relevance: Relevance) -> Pixels:
    """The chip where :func:`kept` says so, and black elsewhere."""
    return np.where(kept(relevance, (chip.shape[0], chip.shape[1]))[..., None], chip, 0).astype(np.uint8)


def kept(relevance: Relevance, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a chip the published masked image keeps.

    The map is stretched to 0…1, enlarged, and pixels above mean + one standard deviation are kept; a constant map
    keeps none. Each chip is stretched by itself, so masks of two chips cannot be compared.

    Args:
        relevance: (h, w) raw map of one chip.
        shape: rows and columns of the chip.

    Returns:
        bool of that shape.

    Source: Lee et al., Relevance-CAM, CVPR 2021.
    """
    low, high = float(relevance.min()), float(relevance.max())
    if not high > low:
        return np.zeros(shape, bool)
    large = _enlarged(((relevance - low) / (high - low)).astype(np.float32), shape)
    return np.asarray(large > large.mean() + large.std())


def bar(width: int, height: int) -> Pixels:
    """The colour scale from its negative to its positive end, as it looks over a grey chip."""
    scale = np.linspace(-1, 1, width, dtype=np.float32)
    return np.repeat(heat(np.full((1, width, 3), MIDDLE, np.uint8), scale[None], 1.0), height, axis=0)


def check(why: Saliency, images: Mapping[int, Any]) -> None:
    """Look whether there is something to draw.

    Raises:
        LayerError: if there is no chip, a chip has no image, or relevance is not finite.
    """
    if not len(why):
        raise LayerError("there is no saliency to draw: explain some chips first")
    missing = [int(chip) for chip in why.chip_id if int(chip) not in images]
    if missing:
        raise LayerError(f"{len(missing)} of {len(why)} chips have no image, the first is {missing[0]}: give it")
    for name in why.layers:
        broken = ~np.isfinite(why.maps[name]).all(axis=(1, 2))
        if broken.any():
            first = int(why.chip_id[broken.argmax()])
            raise LayerError(
                f"{int(broken.sum())} of {len(why)} maps of {name} are not finite, the first is of chip {first}: "
                "explain them again in float32"
            )


def _enlarged(relevance: Relevance, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A map at the pixels of its chip; Pillow's bilinear filter has half-pixel centres."""
    image = Image.fromarray(np.asarray(relevance, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
