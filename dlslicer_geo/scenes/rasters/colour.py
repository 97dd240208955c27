"""Scenes and chips in, the mean and standard deviation of each chip's colours out: what colour alone can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo import pixels
from dlslicer_geo.errors import SceneError, TableError
from dlslicer_geo.types import Channels, Progress, channels_of, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

CHANNELS = 3


def channel_statistics(scenes: GeoDataFrame, chips: GeoDataFrame, *, progress: Progress = quiet) -> DataFrame:
    """Mean and standard deviation of red, green and blue of every chip as the model sees it, over its valid pixels.

    Each scene is opened once and read in rows of chips. Holes that no mask declares are left out by the outline of
    the scene's valid area.

    Args:
        scenes: scene table.
        chips: chip table.
        progress: shown while the scenes are read.

    Returns:
        ``chip_id``, ``mean_1``, ``std_1``, ``mean_2``, ... float64 from 0 to 255, one row per row of ``chips`` in its
        order; NaN for a chip without a valid pixel.

    Raises:
        SceneError: if the image of a scene cannot be read any more.
        TableError: if a chip belongs to no scene of the table.
    """
    import pandas as pd
    import rasterio
    from rasterio.errors import RasterioIOError

    records = {str(record["scene_id"]): record for record in scenes.to_dict("records")}
    unknown = sorted(set(chips["scene_id"].unique()) - set(records))
    if unknown:
        raise TableError(f"the chips name {len(unknown)} scenes not in the scene table, {unknown[0]} first: cut anew")
    windows = chips[["row", "col", "height", "width"]].to_numpy(np.int64)
    found = np.full((len(chips), 2 * CHANNELS), np.nan)
    members = chips.groupby("scene_id", sort=True).indices
    with rasterio.Env():
        for scene_id, at in progress(members.items(), total=len(members), label="colours"):
            record = records[str(scene_id)]
            try:
                found[at] = _scene(record, windows[at])
            except RasterioIOError as error:
                said = pixels.words(error)
                raise SceneError(f"{record['path']} cannot be read any more ({said}): scan again") from None
    names = [f"{kind}_{band}" for band in range(1, CHANNELS + 1) for kind in ("mean", "std")]
    table = pd.DataFrame(found, columns=names)
    table.insert(0, "chip_id", chips["chip_id"].to_numpy())
    return table


def _scene(record: Mapping[Any, Any], windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 6) statistics of the windows (row, col, height, width) of one image."""
    found = np.empty((len(windows), 2 * CHANNELS))
    strips, of = np.unique(windows[:, [0, 2]], axis=0, return_inverse=True)
    outline = _outline(record) if record.get("holes_fraction", 0) > 0 else None
    with pixels.opened(record["path"]) as source:
        for number, (row, height) in enumerate(strips.tolist()):
            at = np.flatnonzero(of.ravel() == number)
            strip = _Strip(source, channels_of(record), row, height, outline)
            found[at] = strip.statistics(windows[at][:, [1, 3]])
    return found


def _outline(record: Mapping[Any, Any]) -> Any:
    """Outline of the valid area in pixels of the scene."""
    import shapely
    from affine import Affine

    from dlslicer_geo.scenes.rasters.grid import pixels_of

    transform, crs = Affine(*record["transform"]), str(record["crs"])
    return shapely.transform(record["geometry"], lambda lonlat: pixels_of(lonlat, transform, crs))


@dataclass(frozen=True, slots=True)
class _Strip:
    """A row of chips of one image."""

    source: Any
    channels: Channels
    row: int
    height: int
    outline: Any

    def statistics(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 6) statistics of windows (col, width), by sums that run along the columns."""
        left, right = int(columns[:, 0].min()), int(columns.sum(axis=1).max())
        values, count = self._values(left, right)
        sums = np.stack([count[None] + 0.0 * values[:, 0], values.sum(axis=1), np.square(values).sum(axis=1)])
        running = np.concatenate([np.zeros((3, CHANNELS, 1)), np.cumsum(sums, axis=2)], axis=2)
        start, end = columns[:, 0] - left, columns.sum(axis=1) - left
        number, total, squared = running[:, :, end] - running[:, :, start]
        mean = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
        square = np.divide(squared, number, out=np.full_like(total, np.nan), where=number > 0)
        statistics = np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1)  # (channels, 2, n)
        return statistics.reshape(2 * CHANNELS, -1).T

    def _values(self, left: int, right: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(3, rows, columns) colours, 0 where they are not valid, and the number of valid ones in each column."""
        from rasterio.windows import Window

        window = Window(left, self.row, right - left, self.height)
        seen = pixels.seen(self.source, window, self.channels.bands)
        valid = pixels.valid(self.source, seen, window)
        if self.outline is not None:
            inside = _inside(self.outline, window)
            valid = inside if valid is None else valid & inside
        values = pixels.shown(seen, self.channels).astype(np.float64)
        if valid is None:
            return values, np.full(right - left, self.height)
        return np.where(valid, values, 0.0), valid.sum(axis=0)


def _inside(outline: Any, window: Any) -> NDArray[np.bool_]:
    """(rows, columns) where the centres of the pixels of a window lie in an outline."""
    from affine import Affine
    from rasterio.features import rasterize

    shape, corner = (int(window.height), int(window.width)), Affine.translation(window.col_off, window.row_off)
    return np.asarray(rasterize([(outline, 1)], out_shape=shape, transform=corner, dtype="uint8") == 1)
