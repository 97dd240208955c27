"""An open image in, what its pixels say out: valid cells, quality, samples and a thumbnail, in one pass by strips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from dlslicer_geo import pixels as pixel_room
from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.rasters.holes import STRIP_ROWS, Holes, Search, cell_of, per_cell, strips
from dlslicer_geo.types import Channels

SAMPLES = 4096
"""Largest number of pixels sampled from an image."""

THUMBNAIL_PX = 96
"""Longer edge of a thumbnail."""

PERCENTILES = (2.0, 98.0)
"""The percentiles that become black and white."""


@dataclass(slots=True)
class Tally:
    """Sums over the valid pixels of an image.

    Args:
        shape: rows and columns.
        dtype: type of the colours, uint8 for a palette.
        cell: edge in pixels of a cell of the outline.
        invalid: number of invalid pixels in each cell.
        shrunk: (bands + 1, rows, columns) sums of the colours, and number of pixels, in each pixel of the thumbnail.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    cell: int
    invalid: NDArray[np.int64]
    shrunk: NDArray[np.float64]
    holes: Holes | None = None
    valid: int = 0
    saturated: int = 0
    grey: float = 0.0
    grey_squared: float = 0.0
    edges: int = 0
    edge: float = 0.0
    edge_squared: float = 0.0  # of the sum of the bands
    samples: list[NDArray[np.float32]] = field(default_factory=list)
    halo: dict[int, tuple[NDArray[Any], NDArray[np.bool_]]] = field(default_factory=dict)

    @property
    def outside(self) -> int:
        """Number of pixels that are not valid."""
        return self.shape[0] * self.shape[1] - self.valid


def tally(source: Any, channels: Channels, *, holes: bool) -> Tally:
    """Go through all pixels once; a second time only where there are holes.

    Args:
        source: an open rasterio dataset.
        channels: the bands that are looked at.
        holes: whether to look for large white or black areas and count them as invalid.

    Raises:
        SceneError: with the reason alone, if no pixel is valid.
    """
    bands = list(dict.fromkeys(channels.bands))
    search = search_of(source, bands) if holes else None
    found = _pass(source, bands, None, search)
    if search is not None and (areas := search.found()) is not None:
        found = _pass(source, bands, areas, None)
    if not found.valid:
        raise SceneError("it has no valid pixel")
    return found


def quality(found: Tally) -> dict[str, float]:
    """The columns ``valid_fraction``, ``saturated_fraction``, ``contrast``, ``blur`` and ``holes_fraction``."""
    size = found.shape[0] * found.shape[1]
    variance = max(0.0, found.grey_squared / found.valid - (found.grey / found.valid) ** 2)
    edge = found.edge_squared / found.edges - (found.edge / found.edges) ** 2 if found.edges else 0.0
    return {
        "valid_fraction": found.valid / size,
        "saturated_fraction": found.saturated / found.valid,
        "contrast": math.sqrt(variance) / value_range(found.dtype),
        "blur": max(0.0, edge) / (_span(found) * (len(found.shrunk) - 1)) ** 2,
        "holes_fraction": 0.0 if found.holes is None else found.holes.pixels / size,
    }


def samples(found: Tally, channels: Channels) -> NDArray[np.float32] | None:
    """float32 (3, at most ``SAMPLES``): colours of evenly spaced valid pixels; None for uint8."""
    if found.dtype == np.uint8:
        return None
    taken = np.concatenate(found.samples, axis=1)
    if taken.shape[1] > SAMPLES:
        taken = taken[:, np.linspace(0, taken.shape[1] - 1, SAMPLES).astype(np.int64)]
    return taken[_three(channels, len(taken))]


def thumbnail(found: Tally, channels: Channels) -> NDArray[np.uint8]:
    """uint8 (rows, columns, 3), at most ``THUMBNAIL_PX`` a side: averages over valid pixels, black without any.

    uint8 is shown as it is, other types between their own 2nd and 98th percentile.
    """
    number = found.shrunk[-1]
    mean = np.divide(found.shrunk[:-1], number, out=np.zeros_like(found.shrunk[:-1]), where=number > 0)
    mean = mean[_three(channels, len(mean))]
    taken = samples(found, channels)
    if taken is not None:
        low, high = (np.array(limit)[:, None, None] for limit in scale([taken]))
        mean = (mean - low) / (high - low) * 255 * (number > 0)
    image: NDArray[np.uint8] = np.clip(np.rint(mean), 0, 255).astype(np.uint8)
    return image.transpose(1, 2, 0)


def scale(
    samples: list[NDArray[np.float32]],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The values that become 0 and 255 in three channels: percentiles over the samples of all scenes together.

    Args:
        samples: (3, n) of each scene.

    Returns:
        low and high, low below high.
    """
    low, high = np.percentile(np.concatenate(samples, axis=1).astype(np.float64), PERCENTILES, axis=1).tolist()
    for i in range(3):
        if not high[i] > low[i]:  # a constant channel is mid grey
            margin = max(0.5, abs(low[i]) * 1e-6)
            low[i], high[i] = low[i] - margin, high[i] + margin
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def value_range(dtype: np.dtype[Any]) -> float:
    """White in a pixel type: the largest integer, or 1 for floats, which are taken for reflectance."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def search_of(source: Any, bands: list[int]) -> Search:
    """A search for holes that knows the type of an image."""
    text = source.tags(bands[0], ns="IMAGE_STRUCTURE").get("NBITS", "")
    bits = int(text) if text.isdecimal() else None
    if pixel_room.palette(source, bands[0]) is not None:  # GDAL gives images of one bit a palette
        return Search(source.shape, np.dtype(np.uint8), 1 if bits == 1 else None)
    return Search(source.shape, np.dtype(source.dtypes[bands[0] - 1]), bits)


def _pass(source: Any, bands: list[int], holes: Holes | None, search: Search | None) -> Tally:
    found = _empty(source, bands, holes)
    stride = _stride(found.shape)
    for window in strips(found.shape, max(3, len(bands)), max(STRIP_ROWS, found.cell)):
        values = pixel_room.seen(source, window, bands)
        valid = pixel_room.valid(source, values, window)
        if search is not None:
            search.add(values, valid, window)
        if holes is not None:
            hole = holes.mask(values, window)
            valid = ~hole if valid is None else valid & ~hole
        _count(found, values, valid, window)
        if found.dtype != np.uint8:
            inside = values.reshape(len(values), -1) if valid is None else values[:, valid]
            found.samples.append(inside[:, ::stride].astype(np.float32))
    return found


def _empty(source: Any, bands: list[int], holes: Holes | None) -> Tally:
    shape, cell = source.shape, cell_of(source.shape)
    small = [max(1, round(side * min(1.0, THUMBNAIL_PX / max(shape)))) for side in shape]
    corner = pixel_room.seen(source, Window(0, 0, 1, 1), bands)
    return Tally(
        shape=shape,
        dtype=corner.dtype,
        cell=cell,
        invalid=np.zeros([-(-side // cell) for side in shape], np.int64),
        shrunk=np.zeros((len(corner) + 1, *small)),
        holes=holes,
    )


def _stride(shape: tuple[int, int]) -> int:
    """Pixels from one sample to the next, without falling on the same columns again and again."""
    stride = max(1, shape[0] * shape[1] // (4 * SAMPLES))
    while math.gcd(stride, shape[1]) > 1:
        stride += 1
    return stride


def _count(found: Tally, values: NDArray[Any], valid: NDArray[np.bool_] | None, window: Window) -> None:
    """Add a strip of pixels (bands, rows, columns)."""
    row, col = int(window.row_off), int(window.col_off)
    if valid is not None:
        values = np.where(valid, values, values.dtype.type(0))
        cells = per_cell(~valid, found.cell)
        top, left = row // found.cell, col // found.cell
        found.invalid[top : top + cells.shape[0], left : left + cells.shape[1]] = cells
    total, extreme = _total(values)
    found.valid += total.size if valid is None else int(valid.sum())
    found.saturated += int((extreme if valid is None else extreme & valid).sum())
    grey = total.ravel() / np.float64(len(values))
    found.grey += float(grey.sum())
    found.grey_squared += float(np.einsum("i,i", grey, grey))  # a dot's last bits depend on the number of threads
    _edges(found, total.astype(np.float32 if total.dtype == np.uint32 else np.float64), valid, col)
    _shrink(found, values, valid, (row, col))


def _total(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(rows, columns) sum of the bands, exact where it can be, and where all of them are black or all white."""
    exact, high = values.dtype.kind == "u" and values.dtype.itemsize <= 2, value_range(values.dtype)
    total = values[0].astype(np.uint32 if exact else np.float64)
    for band in values[1:]:
        total += band
    if exact:
        return total, (total == 0) | (total == len(values) * int(high))
    return total, np.asarray((values <= 0).all(axis=0) | (values >= high).all(axis=0))


def _shrink(found: Tally, values: NDArray[Any], valid: NDArray[np.bool_] | None, at: tuple[int, int]) -> None:
    """Add the strip at a row and column to the thumbnail; invalid pixels are 0."""
    (tall, wide), (height, width) = found.shrunk.shape[1:], found.shape
    rows = (np.arange(values.shape[1]) + at[0]) * tall // height
    cols = (np.arange(values.shape[2]) + at[1]) * wide // width
    across = np.flatnonzero(np.diff(cols, prepend=-1))
    down = [*np.flatnonzero(np.diff(rows, prepend=-1)).tolist(), len(rows)]
    widths = np.diff([*across.tolist(), len(cols)])
    kind = np.uint32 if values.dtype == np.uint8 else np.float64
    for first, last in pairwise(down):
        to = found.shrunk[:, rows[first], cols[across[0]] : cols[across[0]] + len(across)]
        to[:-1] += np.add.reduceat(values[:, first:last].sum(axis=1, dtype=kind), across, axis=1)
        if valid is None:
            to[-1] += (last - first) * widths
        else:
            to[-1] += np.add.reduceat(valid[first:last].sum(axis=0, dtype=np.int64), across)


def _edges(found: Tally, grey: NDArray[Any], valid: NDArray[np.bool_] | None, col: int) -> None:
    """Add the Laplacian of a strip, together with the last two rows of the strip above it."""
    valid = np.ones(grey.shape, bool) if valid is None else valid
    if col in found.halo:
        above, was = found.halo[col]
        grey, valid = np.concatenate([above, grey]), np.concatenate([was, valid])
    found.halo[col] = grey[-2:].copy(), valid[-2:].copy()  # a view would hold the whole strip
    if min(grey.shape) < 3:
        return
    edge = 4 * grey[1:-1, 1:-1]
    for part in (grey[:-2, 1:-1], grey[2:, 1:-1], grey[1:-1, :-2], grey[1:-1, 2:]):
        edge -= part
    inner = valid[1:-1, 1:-1]
    if not valid.all():
        inner = inner & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
        edge = edge[inner]
    found.edges += edge.size
    found.edge += float(edge.sum(dtype=np.float64))
    found.edge_squared += float(np.square(edge).sum(dtype=np.float64))


def _span(found: Tally) -> float:
    """Range of grey: of uint8 the whole one, of other types between the percentiles of the samples."""
    if found.dtype == np.uint8:
        return value_range(found.dtype)
    low, high = np.percentile(np.concatenate(found.samples, axis=1).mean(axis=0), PERCENTILES)
    return float(high - low) if high > low else value_range(found.dtype)


def _three(channels: Channels, bands: int) -> list[int]:
    """Where red, green and blue stand among the bands that were read."""
    if bands == 3 and len(set(channels.bands)) == 1:  # a palette
        return [0, 1, 2]
    unique = list(dict.fromkeys(channels.bands))
    return [unique.index(band) for band in channels.bands]
