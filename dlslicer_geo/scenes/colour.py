"""Scenes and chips in, the mean and standard deviation of each chip's colours out: what colour alone can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.errors import SceneError, TableError
from dlslicer_geo.types import Progress, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

CHANNELS = 3


def channel_statistics(scenes: GeoDataFrame, chips: GeoDataFrame, *, progress: Progress = quiet) -> DataFrame:
    """Mean and standard deviation of the first three bands of every chip, over its valid pixels.

    Each scene is opened once and read in rows of chips. A scene with fewer than three bands counts as grey: its first
    band stands for all three.

    Args:
        scenes: scene table.
        chips: chip table.
        progress: shown while the scenes are read.

    Returns:
        ``chip_id``, ``mean_1``, ``std_1``, ``mean_2``, ... float64 in the units of the pixels, one row per row of
        ``chips`` in its order; NaN for a chip without a valid pixel.

    Raises:
        SceneError: if the image of a scene cannot be read any more.
        TableError: if a chip belongs to no scene of the table.
    """
    import pandas as pd
    import rasterio
    from rasterio.errors import RasterioIOError

    paths = dict(zip(scenes["scene_id"], scenes["path"], strict=True))
    unknown = sorted(set(chips["scene_id"].unique()) - set(paths))
    if unknown:
        raise TableError(f"the chips name {len(unknown)} scenes not in the scene table, {unknown[0]} first: cut anew")
    windows = chips[["row", "col", "height", "width"]].to_numpy(np.int64)
    found = np.full((len(chips), 2 * CHANNELS), np.nan)
    members = chips.groupby("scene_id", sort=True).indices
    with rasterio.Env():
        for scene_id, at in progress(members.items(), total=len(members), label="colours"):
            try:
                found[at] = _scene(paths[scene_id], windows[at])
            except RasterioIOError as error:
                raise SceneError(f"{paths[scene_id]} cannot be read any more ({error}): scan again") from None
    names = [f"{kind}_{band}" for band in range(1, CHANNELS + 1) for kind in ("mean", "std")]
    table = pd.DataFrame(found, columns=names)
    table.insert(0, "chip_id", chips["chip_id"].to_numpy())
    return table


def _scene(path: str, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 6) statistics of the windows (row, col, height, width) of one image."""
    from dlslicer_geo.scenes.image import opened

    found = np.empty((len(windows), 2 * CHANNELS))
    strips, of = np.unique(windows[:, [0, 2]], axis=0, return_inverse=True)
    with opened(path) as source:
        for number, (row, height) in enumerate(strips.tolist()):
            at = np.flatnonzero(of.ravel() == number)
            found[at] = _strip(source, row, height, windows[at][:, [1, 3]])
    return found


def _strip(source: Any, row: int, height: int, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 6) statistics of windows (col, width) that share their rows, by sums that run along the columns."""
    from rasterio.windows import Window

    from dlslicer_geo.scenes.image import colour_bands, valid_pixels

    left, right = int(columns[:, 0].min()), int(columns.sum(axis=1).max())
    window = Window(left, row, right - left, height)
    pixels = source.read(colour_bands(source), window=window)
    valid = valid_pixels(source, pixels, window)
    values = pixels.astype(np.float64)
    if valid is not None:
        values = np.where(valid, values, 0.0)
    count = np.full(right - left, height) if valid is None else valid.sum(axis=0)
    sums = np.stack([count[None] + 0.0 * values[:, 0], values.sum(axis=1), np.square(values).sum(axis=1)])
    running = np.concatenate([np.zeros((3, len(pixels), 1)), np.cumsum(sums, axis=2)], axis=2)
    start, end = columns[:, 0] - left, columns.sum(axis=1) - left
    number, total, squared = running[:, :, end] - running[:, :, start]
    mean = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    square = np.divide(squared, number, out=np.full_like(total, np.nan), where=number > 0)
    statistics = np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1)  # (bands, 2, n)
    return np.broadcast_to(statistics, (CHANNELS, *statistics.shape[1:])).reshape(2 * CHANNELS, -1).T
