"""Raster layers in, pictures warped to Web Mercator with their exact bounds out.

Leaflet stretches a picture between two corners in EPSG:3857. A picture in another projection would lie tens of metres
off inside its corners (46 m for a 2 km UTM scene at Almaty), so every raster is warped first.
"""

from __future__ import annotations

import base64
import io
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

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


def picture(layer: Layer) -> dict[str, Any]:
    """Warp and colour one raster layer.

    Args:
        layer: of kind ``image``, ``city``, ``confidence`` or ``saliency``.

    Returns:
        ``title``, ``src`` (a data URI), ``bounds`` ([[south, west], [north, east]] in degrees) and ``limit``, the
        end of the symmetric scale of a saliency.

    Raises:
        LayerError: if the file cannot be read, has no CRS, or a saliency layer has no limits.
    """
    painters = {"image": _image, "city": _city, "confidence": _confidence, "saliency": _saliency}
    with _open(str(layer.path)) as source:
        rgba, bounds = painters[layer.kind](source, layer)
    lossy = layer.kind == "image"
    limit = max(abs(value) for value in layer.limits) if layer.limits else None
    return {"title": layer.title, "src": _data_uri(rgba, lossy=lossy), "bounds": bounds, "limit": limit}


def _open(path: str) -> Any:
    try:
        source = rasterio.open(path)
    except RasterioError as error:
        raise LayerError(f"{path} cannot be read as a raster ({error}): write the layer again") from None
    if source.crs is None:
        source.close()
        raise LayerError(f"{path} has no CRS, so it has no place on a map: give it one")
    return source


def _image(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    shrink = min(1.0, 1.5 * LONGEST / max(source.shape))
    shape = tuple(max(1, round(length * shrink)) for length in source.shape)
    mask = source.dataset_mask(out_shape=shape)
    grid = source.transform * Affine.scale(source.width / shape[1], source.height / shape[0]), source.crs
    warped, bounds = _warp(_colours(source, layer, mask > 0), grid, Resampling.bilinear)
    alpha, _ = _warp(mask[None], grid, Resampling.nearest)
    return np.moveaxis(np.concatenate([warped, alpha]), 0, -1), bounds


def _city(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    numbers, bounds = _warp(
        source.read([1]), (source.transform, source.crs), Resampling.nearest, nodata=255, finer=CRISP
    )
    table = np.zeros((256, 4), np.uint8)
    for value, colour in source.colormap(1).items():
        table[value] = colour
    return table[numbers[0]], bounds


def _confidence(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    values, bounds = _warp(
        source.read([1]), (source.transform, source.crs), Resampling.nearest, nodata=np.nan, finer=CRISP
    )
    low, high = layer.limits or (0.0, 1.0)
    share = np.clip((values[0] - low) / (high - low), 0, 1)
    return _coloured(share, CONFIDENCE, np.isfinite(share).astype(float)), bounds


def _saliency(source: Any, layer: Layer) -> tuple[Bytes, list[list[float]]]:
    if not layer.limits:
        raise LayerError(f"{layer.path} has no limits for its colours: give the layer symmetric limits")
    names = list(source.descriptions)
    band = names.index("coverage") if "coverage" in names else source.count
    grid = source.transform, source.crs
    values, bounds = _warp(source.read([band]), grid, Resampling.bilinear, nodata=np.nan, finer=2)
    signed = np.clip(values[0] / max(abs(value) for value in layer.limits), -1, 1)
    alpha = np.where(np.isfinite(signed), np.abs(signed) ** 0.7, 0)
    return _coloured((signed + 1) / 2, DIVERGING, alpha), bounds


def _warp(
    bands: NDArray[Any],
    grid: tuple[Affine, Any],
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
        channels = _stretch(values, valid, channels)
    return pixels.shown(values, channels)


def _stretch(values: NDArray[Any], valid: NDArray[np.bool_], channels: Channels) -> Channels:
    """Limits at the 2nd and the 98th percentile of an image."""
    inside = values[:, valid] if valid.any() else values.reshape(len(values), -1)
    low, high = np.nanpercentile(inside, (2, 98)).tolist()
    high = max(high, low + 1e-12)
    return Channels(bands=channels.bands, low=(low,) * 3, high=(high,) * 3)


def _coloured(share: Floats, ramp: tuple[str, ...], alpha: Floats) -> Bytes:
    """RGBA of values from 0 to 1 along a ramp."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in ramp], float)
    at = np.nan_to_num(share) * (len(ramp) - 1)
    channels = [np.interp(at, np.arange(len(ramp)), stops[:, channel]) for channel in range(3)]
    return np.stack([*channels, alpha * 255], axis=-1).round().astype(np.uint8)


def _data_uri(rgba: Bytes, *, lossy: bool) -> str:
    buffer = io.BytesIO()
    if lossy:
        Image.fromarray(rgba).save(buffer, "WEBP", quality=75, method=4)
    else:
        Image.fromarray(rgba).save(buffer, "PNG", optimize=True)
    kind = "webp" if lossy else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
