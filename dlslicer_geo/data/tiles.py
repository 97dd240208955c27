"""An open raster in, its colours by window out, straight from the file where its tiles are plain bytes.

So is every prepared scene: uint8, uncompressed, red, green and blue side by side. GDAL would take each tile apart
into bands and put them together again.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Interleaving

from dlslicer_geo import pixels
from dlslicer_geo.types import Channels


class Tiles:
    """The tiles of a GeoTIFF whose bytes are pixels.

    Args:
        source: an open rasterio dataset that :meth:`fit` says yes to.
        path: its file.
        channels: bands shown as red, green and blue.
    """

    def __init__(self, source: Any, path: str, channels: Channels) -> None:
        self._source = source
        self._file = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._file)
        self._edge: tuple[int, int] = source.block_shapes[0]
        plain = channels.bands == (1, 2, 3)
        self._bands: Any = slice(3) if plain else [band - 1 for band in channels.bands]
        self._offsets: dict[tuple[int, int], int] = {}

    @staticmethod
    def fit(source: Any, path: str, channels: Channels) -> bool:
        """Whether a raster is one whose bytes are the colours that are wanted."""
        return (
            hasattr(os, "pread")
            and not pixels.is_remote(path)
            and Path(path).is_file()
            and (source.driver, source.compression, source.interleaving) == ("GTiff", None, Interleaving.pixel)
            and set(source.dtypes) == {"uint8"}
            and "NBITS" not in source.tags(1, ns="IMAGE_STRUCTURE")
            and channels.low is None
            and len(set(channels.bands)) == 3
        )

    def read(self, row: int, col: int, height: int, width: int) -> NDArray[np.uint8] | None:
        """The colours of a window, uint8 (height, width, 3); None where a tile of it is not in the file."""
        colours = np.empty((height, width, 3), np.uint8)
        tall, wide = self._edge
        for down in range(row // tall, -(-(row + height) // tall)):
            top, bottom = max(row, down * tall), min(row + height, (down + 1) * tall)
            for across in range(col // wide, -(-(col + width) // wide)):
                left, right = max(col, across * wide), min(col + width, (across + 1) * wide)
                rows = self._rows(down, across, top - down * tall, bottom - top)
                if rows is None:
                    return None
                part = rows[:, left - across * wide : right - across * wide, self._bands]
                colours[top - row : bottom - row, left - col : right - col] = part
        return colours

    def _rows(self, down: int, across: int, first: int, count: int) -> NDArray[np.uint8] | None:
        """Some rows of a tile, (count, columns, bands)."""
        if (down, across) not in self._offsets:
            found = self._source.get_tag_item(f"BLOCK_OFFSET_{across}_{down}", "TIFF", bidx=1)
            self._offsets[down, across] = int(found or 0)
        offset, pitch = self._offsets[down, across], self._edge[1] * self._source.count
        read = os.pread(self._file, count * pitch, offset + first * pitch) if offset else b""
        if len(read) < count * pitch:  # a hole, or a file that was cut off: GDAL knows what to say
            return None
        return np.frombuffer(read, np.uint8).reshape(count, self._edge[1], -1)
