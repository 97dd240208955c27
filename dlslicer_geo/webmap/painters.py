"""Layers in, functions that colour one tile of their files out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from dlslicer_geo import pixels
from dlslicer_geo.types import Channels, Layer
from dlslicer_geo.webmap import overlays
from dlslicer_geo.webmap.mosaic import SIDE, Bytes, Painter

SAMPLE = 256
"""Pixels along a file from which the limits of its colours are taken."""


def saliency(band: str, limit: float) -> Painter:
    """Colours of one depth: against and for, to ``limit`` on both sides; a file without this depth stays clear."""

    def paint(source: Any, place: Affine) -> Bytes:
        bands = overlays.depth_bands(source)
        if band not in bands:
            return np.zeros((SIDE, SIDE, 4), np.uint8)
        return overlays.signed_colours(_warped(source, place, bands[band], Resampling.bilinear, np.nan), limit)

    return paint


def confidence(source: Any, place: Affine) -> Bytes:
    """Colours of confidence from 0 to 1."""
    return overlays.confidence_colours(_warped(source, place, 1, Resampling.nearest, np.nan))


def city(source: Any, place: Affine) -> Bytes:
    """Colours of the palette of the file."""
    return overlays.city_colours(source, _warped(source, place, 1, Resampling.nearest, 255))


def image(layer: Layer) -> Painter:
    """Imagery as the model sees it; without limits, stretched by itself as a whole."""
    with overlays.opened(layer.path) as source:
        channels = layer.channels or pixels.default_channels(source, None)
        palette = pixels.palette(source, channels.bands[0])
        if palette is None and source.dtypes[0] != "uint8" and channels.low is None:
            channels = _stretched(source, channels)

    def paint(source: Any, place: Affine) -> Bytes:
        way = Resampling.bilinear if palette is None else Resampling.nearest
        options = {"crs": "EPSG:3857", "transform": place, "width": SIDE, "height": SIDE}
        alpha = source.nodata is None and ColorInterp.alpha not in source.colorinterp
        with WarpedVRT(source, **options, resampling=way, add_alpha=alpha) as warped:  # else all of a tile is valid
            values, mask = warped.read(list(channels.bands)), warped.dataset_mask()
        if palette is None:
            shown = pixels.shown(values, channels)
        else:
            shown = palette[np.minimum(values[0], len(palette) - 1)].transpose(2, 0, 1)
        return np.moveaxis(np.concatenate([shown[:3], mask[None]]), 0, -1).astype(np.uint8)

    return paint


def depths(layers: Sequence[Layer]) -> dict[str, float]:
    """Depth → the end of its scale in all files together (99th percentile of |S|), shallow to deep.

    One scale for the whole map, so that tiles of one colour mean the same everywhere.
    """
    found: dict[str, list[NDArray[Any]]] = {}
    for layer in layers:
        with overlays.opened(layer.path) as source:
            shape = tuple(min(length, SAMPLE) for length in source.shape)
            for name, band in overlays.depth_bands(source).items():
                found.setdefault(name, []).append(source.read(band, out_shape=shape).ravel())
    return {name: overlays.scale_end(np.concatenate(values)) for name, values in found.items()}


def _warped(source: Any, place: Affine, band: int, way: Resampling, nodata: float) -> NDArray[Any]:
    options = {"crs": "EPSG:3857", "transform": place, "width": SIDE, "height": SIDE, "nodata": nodata}
    with WarpedVRT(source, **options, resampling=way) as warped:
        values: NDArray[Any] = warped.read(band)
    return values


def _stretched(source: Any, channels: Channels) -> Channels:
    """Limits at the 2nd and the 98th percentile of an image."""
    shrink = max(1.0, max(source.shape) / SAMPLE)
    shape = tuple(max(1, round(length / shrink)) for length in source.shape)
    values = source.read(list(channels.bands), out_shape=(3, *shape), masked=True)
    return overlays.stretched(values.compressed() if values.count() else values.data, channels)
