"""A raster and a pixel window in, uint8 colours as the model sees them and the valid pixels out.

The one way from a file to colours, shared by all rooms, so that what is trained on, measured and drawn is the same:
channels are picked, palettes are looked up, wide types are scaled, NaN becomes 0.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.errors import SceneError
from dlslicer_geo.types import Channels

REMOTE = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "://")
"""What stands in every path that is read over a network."""

NETWORK = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",  # seconds, doubled each time
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "60",
}
"""GDAL's options for remote files, where the environment does not say otherwise."""

_USER = re.compile(r"(?<=://)[^\s/@'\"]+@")
_QUERY = re.compile(r"(://[^\s'\"?`]+|/vsi[a-z0-9_]+)\?[^\s'\"`]*")


class _Hush:
    """Silences the warning about a missing georeference in all threads while at least one of them opens a file.

    ``warnings.catch_warnings`` alone swaps the filters of the whole process, and threads restore each other's.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.stack = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        from rasterio.errors import NotGeoreferencedWarning

        with self.lock:
            if not self.inside:
                self.stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.stack.close()


HUSH = _Hush()
"""Silences the warning about a missing georeference inside a ``with`` block, in all threads."""


def open_source(path: str | Path, **options: Any) -> Any:
    """Open a raster for reading; that it lacks a georeference is for the caller to say, in its own words.

    Remote files are opened without listing their folder, with time limits and retries.

    Args:
        path: a file name or any GDAL path.
        options: of ``rasterio.open``.

    Raises:
        rasterio.errors.RasterioIOError: if GDAL cannot open it.
    """
    import rasterio

    with network(path), HUSH:
        return rasterio.open(path, **options)


@contextmanager
def network(path: str | Path) -> Iterator[None]:
    """How a remote file is opened by anybody inside the block; nothing changes for a local one."""
    import rasterio

    if not is_remote(path):
        yield
        return
    for name, value in NETWORK.items():  # in the environment, where every thread and process finds them
        os.environ.setdefault(name, value)
    # around single opens: local files need their folder for .ovr and .msk
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        yield


@contextmanager
def opened(path: str | Path, **options: Any) -> Iterator[Any]:
    """:func:`open_source`, closed when the block ends."""
    with open_source(path, **options) as source:
        yield source


def is_remote(path: str | Path) -> bool:
    """Whether a GDAL path is read over a network."""
    return any(word in str(path) for word in REMOTE)


def read(source: Any, window: Any, channels: Channels) -> NDArray[np.uint8]:
    """Read a window as the model sees it.

    Args:
        source: an open rasterio dataset.
        window: ``rasterio.windows.Window`` inside it, in pixels.
        channels: bands shown as red, green and blue, and the values that become 0 and 255.

    Returns:
        uint8 (3, rows, columns): uint8 without limits as it is in the file, anything else scaled between the limits,
        rounded half to even and clipped; NaN is 0.

    Raises:
        SceneError: if pixels that are not uint8 come without limits.
    """
    return shown(seen(source, window, channels.bands), channels)


def read_interleaved(source: Any, window: Any, channels: Channels) -> NDArray[np.uint8]:
    """What :func:`read` gives, as (rows, columns, 3), which resampling takes; plain colours are turned on the way."""
    bands = channels.bands
    if channels.low is not None or len(set(bands)) < 3 or any(source.dtypes[band - 1] != "uint8" for band in bands):
        return np.ascontiguousarray(read(source, window, channels).transpose(1, 2, 0))
    colours = np.empty((int(window.height), int(window.width), 3), np.uint8)
    source.read(bands, window=window, out=colours.transpose(2, 0, 1))
    return colours


def seen(source: Any, window: Any, bands: Sequence[int]) -> NDArray[Any]:
    """(bands, rows, columns) of a window in their own type; a single palette band as uint8 red, green, blue."""
    unique = sorted(set(bands))
    pixels: NDArray[Any] = source.read(unique, window=window)
    colours = palette(source, unique[0]) if len(unique) == 1 else None
    if colours is not None:
        looked_up: NDArray[np.uint8] = colours[np.minimum(pixels[0], len(colours) - 1)]
        return looked_up.transpose(2, 0, 1)
    return pixels if unique == list(bands) else pixels[[unique.index(band) for band in bands]]


def shown(pixels: NDArray[Any], channels: Channels) -> NDArray[np.uint8]:
    """Scale (3, rows, columns) as :func:`seen` gives them to uint8, as :func:`read` says."""
    if channels.low is None or channels.high is None:
        if pixels.dtype != np.uint8:
            raise SceneError(
                f"its pixels are {pixels.dtype} and nothing says which are black and white: scan it again"
            )
        return pixels
    single = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
    kind: type[Any] = np.float32 if single else np.float64
    low, high = (np.array(limit, kind)[:, None, None] for limit in (channels.low, channels.high))
    scaled: NDArray[Any] = pixels.astype(kind)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are clipped
        scaled -= low
        scaled /= high - low
        scaled *= 255
    np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
    return np.asarray(np.nan_to_num(scaled, copy=False).astype(np.uint8))


def palette(source: Any, band: int) -> NDArray[np.uint8] | None:
    """(n, 3) colours of the values of a band; None where it has no palette."""
    from rasterio.enums import ColorInterp

    if source.colorinterp[band - 1] != ColorInterp.palette or np.dtype(source.dtypes[band - 1]).kind != "u":
        return None
    entries = source.colormap(band)
    table = np.zeros((max(entries) + 1, 3), np.uint8)
    table[list(entries)] = [entry[:3] for entry in entries.values()]
    return table


def valid(source: Any, pixels: NDArray[Any], window: Any) -> NDArray[np.bool_] | None:
    """(rows, columns) where a window holds data, by nodata, mask, alpha and NaN; None where it does all over.

    Args:
        source: an open rasterio dataset.
        pixels: (bands, rows, columns) of the window, looked through for NaN and infinity.
        window: ``rasterio.windows.Window``.
    """
    found = None if declares_all_valid(source) else source.dataset_mask(window=window) != 0
    if np.issubdtype(pixels.dtype, np.inexact):
        finite = np.isfinite(pixels).all(axis=0)
        found = finite if found is None else found & finite
    return None if found is None or found.all() else found


def declares_all_valid(source: Any) -> bool:
    """Whether a raster has neither nodata nor mask nor alpha."""
    from rasterio.enums import MaskFlags

    return all(MaskFlags.all_valid in flags for flags in source.mask_flag_enums)


def default_channels(source: Any, wanted: tuple[int, int, int] | None) -> Channels:
    """Which bands are red, green and blue; the limits stay open.

    Args:
        source: an open rasterio dataset.
        wanted: band numbers from 1. None takes the bands that the file declares as colours in whatever order, else
            the first three that are not alpha, else the first one as grey.

    Raises:
        SceneError: with the reason alone, if a wanted band is not there.
    """
    from rasterio.enums import ColorInterp

    if wanted is not None:
        if max(wanted) > source.count:
            raise SceneError(f"it has {source.count} band(s), so there is no band {max(wanted)}: change data.bands")
        return Channels(bands=wanted)
    kinds = dict(zip(reversed(source.colorinterp), reversed(source.indexes), strict=True))  # the first of a kind
    red, green, blue = (kinds.get(kind) for kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue))
    if red and green and blue:
        return Channels(bands=(red, green, blue))
    plain = plain_bands(source)
    return Channels(bands=(plain[0], plain[1], plain[2]) if len(plain) >= 3 else (plain[0],) * 3)


def plain_bands(source: Any) -> list[int]:
    """Numbers, from 1, of the bands that are not alpha; the first band where all are."""
    from rasterio.enums import ColorInterp

    bands = zip(source.indexes, source.colorinterp, strict=True)
    return [band for band, kind in bands if kind != ColorInterp.alpha] or [1]


def words(error: BaseException) -> str:
    """What an error says, in one line, without user, password and query of any address.

    rasterio hides GDAL's words behind "Read failed", so the cause speaks where there is one.
    """
    text = " ".join(str(error.__cause__ or error).split())
    return _QUERY.sub(r"\1", _USER.sub("", text))
