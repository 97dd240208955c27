"""Raster layers in, pictures warped to Web Mercator with their exact bounds out.

Leaflet stretches a picture between two corners in EPSG:3857. A picture in another projection would lie tens of metres
off inside its corners (46 m for a 2 km UTM scene at Almaty), so every raster is warped first.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import calculate_default_transform, reproject, transform

from dlslicer_geo import pixels
from dlslicer_geo.colours import CONFIDENCE, DIVERGING
from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Channels, Layer

WEB = "EPSG:3857"
"""The projection of web maps."""

LONGEST = 2048
"""Longest side of a picture in pixels."""

CRISP = 32
"""Pixels across a cell that is drawn with sharp edges: nearest-neighbour warping moves an edge by half a pixel."""

LIMIT_PERCENTILE = 99
"""Of |S|: a few extreme cells would leave the rest of a picture pale."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Grid = tuple[Affine, Any]
"""Where pixels lie: their transform and its CRS."""


def picture(layer: Layer) -> dict[str, Any]:
    """Warp and colour one raster layer.

    Args:
        layer: of kind ``image``, ``city``, ``confidence`` or ``saliency``.

    Returns:
        ``title``, ``bounds`` ([[south, west], [north, east]] in degrees) and ``src`` (a data URI); a saliency has
        instead ``depths``, shallow to deep, each with ``name``, ``src`` and ``limit``, the end of its scale.

    Raises:
        LayerError: if the file cannot be read, has no CRS, or a saliency layer has no limits.
    """
    painters = {"image": _image, "city": _city, "confidence": _confidence}
    with opened(layer.path) as source:
        if layer.kind == "saliency":
            depths, bounds = _saliency(source, layer)
            return {"title": layer.title, "bounds": bounds, "depths": depths}
        rgba, bounds = painters[layer.kind](source, layer)
    return {"title": layer.title, "bounds": bounds, "src": _data_uri(rgba, lossy=layer.kind == "image")}


def opened(path: Path) -> Any:
    """A raster that has a place on a map.

    Raises:
        LayerError: if it cannot be read as a raster, or has no CRS.
    """
    try:
        source = rasterio.open(path)
    except RasterioError as error:
        raise LayerError(f"{path} cannot be read as a raster ({error}): write the layer again") from None
    if source.crs is None:
        source.close()
        raise LayerError(f"{path} has no CRS, so it has no place on a map: give it one")
    return source


def _image(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    shape, grid = _grid(source)
    mask = source.dataset_mask(out_shape=shape)
    warped, bounds = _warp(_colours(source, layer, mask > 0), grid, Resampling.bilinear)
    alpha, _ = _warp(mask[None], grid, Resampling.nearest)
    return np.moveaxis(np.concatenate([warped, alpha]), 0, -1), bounds


def _city(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    values, grid = _values(source, [1])
    numbers, bounds = _warp(values, grid, Resampling.nearest, nodata=255, finer=CRISP)
    return city_colours(source, numbers[0]), bounds


def _confidence(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    values, grid = _values(source, [1])
    values, bounds = _warp(values, grid, Resampling.nearest, nodata=np.nan, finer=CRISP)
    return confidence_colours(values[0]), bounds


def _saliency(source: Any, layer: Layer) -> tuple[list[dict[str, Any]], list[list[float]]]:
    if not layer.limits:
        raise LayerError(f"{layer.path} has no limits for its colours: give the layer symmetric limits")
    bands = depth_bands(source)
    values, grid = _values(source, list(bands.values()))
    limits = [scale_end(band) for band in values[:-1]] + [max(abs(value) for value in layer.limits)]
    warped, bounds = _warp(values, grid, Resampling.bilinear, nodata=np.nan, finer=2)
    depths = [
        {"name": name, "src": _data_uri(signed_colours(band, limit), lossy=False), "limit": limit}
        for name, band, limit in zip(bands, warped, limits, strict=True)
    ]
    return depths, bounds


def depth_bands(source: Any) -> dict[str, int]:
    """Name of a depth → its band in a saliency file, shallow to deep: every band but ``coverage``."""
    named = enumerate(source.descriptions, start=1)
    return {name or f"band {band}": band for band, name in named if name != "coverage"}


def scale_end(values: Floats) -> float:
    """The end of a symmetric colour scale: the 99th percentile of the finite values' sizes, 1 where all are zero."""
    finite = np.abs(values[np.isfinite(values)])
    end = float(np.percentile(finite, LIMIT_PERCENTILE)) if finite.size else 0.0
    return end if end > 0 else 1.0


def city_colours(source: Any, numbers: NDArray[Any]) -> Bytes:
    """RGBA (..., 4) of city numbers along the palette of their file; 255, where there is none, is clear."""
    table = np.zeros((256, 4), np.uint8)
    for value, colour in source.colormap(1).items():
        table[value] = colour
    table[255] = 0
    painted: Bytes = table[numbers]
    return painted


def confidence_colours(values: Floats) -> Bytes:
    """RGBA (..., 4) of confidence from 0 to 1, as the legend says; clear where there is none."""
    return coloured(np.clip(np.nan_to_num(values), 0, 1), CONFIDENCE, np.isfinite(values).astype(float))


def signed_colours(values: Floats, limit: float) -> Bytes:
    """RGBA (..., 4) of raw relevance: clear at zero and where there is none, blue against, red for."""
    signed = np.clip(values / limit, -1, 1)
    return coloured((signed + 1) / 2, DIVERGING, np.where(np.isfinite(signed), np.abs(signed) ** 0.7, 0))


def _grid(source: Any) -> tuple[tuple[int, int], Grid]:
    """Rows and columns to read of a raster, at most half as many again as are drawn, and where they lie."""
    shrink = min(1.0, 1.5 * LONGEST / max(source.shape))
    rows, cols = (max(1, round(length * shrink)) for length in source.shape)
    return (rows, cols), (source.transform * Affine.scale(source.width / cols, source.height / rows), source.crs)


def _values(source: Any, bands: list[int]) -> tuple[NDArray[Any], Grid]:
    shape, grid = _grid(source)
    return source.read(bands, out_shape=(len(bands), *shape)), grid


def _warp(
    bands: NDArray[Any],
    grid: Grid,
    resampling: Resampling,
    *,
    nodata: float | None = None,
    finer: int = 1,
) -> tuple[NDArray[Any], list[list[float]]]:
    """Bands in EPSG:3857, no side longer than ``LONGEST``, and their bounds in degrees."""
    place, crs = grid
    height, width = bands.shape[1:]
    extent = array_bounds(height, width, place)
    suggested, cols, rows = calculate_default_transform(crs, WEB, width, height, *extent)
    scale = min(finer, LONGEST / max(cols, rows))
    shape = max(1, round(rows * scale)), max(1, round(cols * scale))
    target = suggested * Affine.scale(cols / shape[1], rows / shape[0])
    filled = np.full((len(bands), *shape), 0 if nodata is None else nodata, bands.dtype)
    options = {"src_transform": place, "src_crs": crs, "dst_transform": target, "dst_crs": WEB}
    reproject(bands, filled, **options, resampling=resampling, src_nodata=nodata, dst_nodata=nodata)
    west, south, east, north = array_bounds(*shape, target)
    lons, lats = transform(WEB, "EPSG:4326", [west, east], [south, north])
    return filled, [[lats[0], lons[0]], [lats[1], lons[1]]]


def _colours(source: Any, layer: Layer, valid: NDArray[np.bool_]) -> Bytes:
    """Imagery in the shape of ``valid`` as the model sees it; without limits, stretched by itself."""
    channels = layer.channels or pixels.default_channels(source, None)
    table = pixels.palette(source, channels.bands[0])
    way = Resampling.average if table is None else Resampling.nearest  # a mean of palette numbers is no colour
    values = source.read(list(channels.bands), out_shape=(3, *valid.shape), resampling=way)
    if table is not None:
        looked_up: Bytes = table[np.minimum(values[0], len(table) - 1)].transpose(2, 0, 1)
        return looked_up
    if values.dtype != np.uint8 and channels.low is None:
        channels = stretched(values[:, valid] if valid.any() else values, channels)
    return pixels.shown(values, channels)


def stretched(values: NDArray[Any], channels: Channels) -> Channels:
    """Channels whose limits are the 2nd and the 98th percentile of an image's valid values."""
    low, high = np.nanpercentile(values, (2, 98)).tolist()
    return Channels(bands=channels.bands, low=(low,) * 3, high=(max(high, low + 1e-12),) * 3)


def coloured(share: Floats, ramp: tuple[str, ...], alpha: Floats) -> Bytes:
    """RGBA of values from 0 to 1 along a ramp."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in ramp], float)
    at = np.nan_to_num(share) * (len(ramp) - 1)
    channels = [np.interp(at, np.arange(len(ramp)), stops[:, channel]) for channel in range(3)]
    return np.stack([*channels, alpha * 255], axis=-1).round().astype(np.uint8)


def _data_uri(rgba: Bytes, *, lossy: bool) -> str:
    buffer = io.BytesIO()
    options = (
        {"quality": 75, "method": 4} if lossy else {"lossless": True, "quality": 60, "method": 4, "exact": False}
    )
    Image.fromarray(rgba).save(buffer, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
