"""A scene and a saliency file of it in, a GeoTIFF of the pixels with the most relevance out.

This is the masked image of Relevance-CAM (Lee et al., CVPR 2021) for a whole scene: its threshold, mean plus one
standard deviation, is that of the mosaic and not of single chips.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from dlslicer_geo import files, pixels
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import styles
from dlslicer_geo.layers.rasters import CACHE_MB, TILED, copy_cog, tiled
from dlslicer_geo.types import Channels, Scene

log = logging.getLogger(__name__)

EDGE = 1024
"""Edge of the blocks in which a scene is read, in pixels."""

SMALL = {"compress": "zstd", "zstd_level": 1, "sparse_ok": True}
"""Most of a masked scene is black."""

Floats = NDArray[np.float64]


def write_masked(
    saliency: str | Path, scene: Scene, out: str | Path, *, provenance: Mapping[str, str] | None = None
) -> Path:
    """Write ``out/masked/<name of the saliency file>``: the imagery where the deepest band is above mean + 1 sigma.

    The file is a COG on the scene's own grid, uint8 red, green and blue as the model sees them, with an internal
    mask; what the scene itself masks stays masked. Relevance is interpolated bilinearly between the centres of its
    cells. Mean and standard deviation are those that the saliency file states for the band, over all its cells. The
    scene is read block by block. Its QGIS style lies beside it.

    Args:
        saliency: a file that :func:`~dlslicer_geo.layers.write_saliency` has written.
        scene: the scene that it is of.
        out: the folder for GIS files.
        provenance: names and values for the tag ``dlslicer_geo``.

    Raises:
        LayerError: if the saliency file is of another scene or says nothing of its statistics, or the scene cannot be
            read.
    """
    path = Path(out) / "masked" / Path(saliency).name
    with _options(), rasterio.open(saliency) as relevance, tiled(path) as temporary:
        tags, threshold = _said(relevance, scene)
        tags[files.PROVENANCE_KEY] = json.dumps(dict(provenance or {}), sort_keys=True)
        with _reading(scene), pixels.opened(scene.path) as source, _target(temporary, scene, tags) as target:
            for window in _windows(*scene.grid.shape):
                kept = _at_pixels(relevance, window, scene.grid.affine) > threshold  # NaN is not above
                colours, kept = _colours(source, window, scene, kept)
                target.write(colours, window=window)
                target.write_mask(kept, window=window)
        copy_cog(temporary, path, {"PREDICTOR": "STANDARD", "OVERVIEW_RESAMPLING": "AVERAGE"})
    files.write_text(path.with_suffix(".qml"), styles.colours_qml(Channels()))
    log.info("wrote %s", path)
    return path


def _options() -> Any:
    return rasterio.Env(GDAL_CACHEMAX=CACHE_MB, GDAL_TIFF_INTERNAL_MASK=True)


@contextmanager
def _reading(scene: Scene) -> Iterator[None]:
    """Says which scene it was that could not be read."""
    try:
        yield
    except RasterioError as error:
        raise LayerError(f"{scene.path} cannot be read ({pixels.words(error)}): scan it again") from None


def _said(relevance: Any, scene: Scene) -> tuple[dict[str, str], float]:
    """The tags of the masked image, and the threshold."""
    tags, band = relevance.tags(), relevance.count - 1
    known = relevance.tags(band)
    if tags.get("SCENE") != scene.scene_id or "STATISTICS_STDDEV" not in known:
        raise LayerError(
            f"{relevance.name} is of scene {tags.get('SCENE', 'none')} and has the statistics "
            f"{sorted(known) or 'none'}: give a saliency file of scene {scene.scene_id} that this version has written"
        )
    threshold = float(known["STATISTICS_MEAN"]) + float(known["STATISTICS_STDDEV"])
    kept = {name: tags[name] for name in ("METHOD", "SCENE", "CITY", "RATHER_THAN", "POSITION") if name in tags}
    name = relevance.descriptions[band - 1]
    return kept | {"KEPT": f"{name} above {threshold:.9g}, mean + 1 sigma of {Path(relevance.name).name}"}, threshold


def _target(path: Path, scene: Scene, tags: Mapping[str, str]) -> Any:
    height, width = scene.grid.shape
    grid = {"height": height, "width": width, "crs": str(scene.grid.crs), "transform": scene.grid.affine}
    target = rasterio.open(path, "w", count=3, dtype="uint8", photometric="RGB", **SMALL, **grid, **TILED)
    target.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    target.update_tags(**tags)
    return target


def _windows(height: int, width: int) -> Iterator[Window]:
    for row in range(0, height, EDGE):
        for col in range(0, width, EDGE):
            yield Window(col, row, min(EDGE, width - col), min(EDGE, height - row))


def _colours(
    source: Any, window: Window, scene: Scene, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels of a window, black where they are masked, and which of them are kept."""
    if not kept.any():
        return np.zeros((3, *kept.shape), np.uint8), kept
    raw = pixels.seen(source, window, scene.channels.bands)
    valid = pixels.valid(source, raw, window)
    kept = kept if valid is None else kept & valid
    return np.where(kept, pixels.shown(raw, scene.channels), np.uint8(0)), kept


def _at_pixels(relevance: Any, window: Window, scene: Affine) -> Floats:
    """The deepest band at the centres of a window's pixels, NaN where no chip covers the pixel's own cell."""
    to_cell = ~relevance.transform * scene
    down = to_cell.e * (window.row_off + np.arange(window.height) + 0.5) + to_cell.f - 0.5
    across = to_cell.a * (window.col_off + np.arange(window.width) + 0.5) + to_cell.c - 0.5
    (top, rows), (left, cols) = _span(down, relevance.height), _span(across, relevance.width)
    if not (rows > 0 and cols > 0):
        return np.full((len(down), len(across)), np.nan)
    cells = relevance.read(relevance.count - 1, window=Window(left, top, cols, rows)).astype(np.float64)
    return _interpolated(cells, down - top, across - left)


def _span(position: Floats, cells: int) -> tuple[int, int]:
    """First cell and number of cells between which positions lie."""
    first, last = max(int(np.floor(position[0])), 0), min(int(np.ceil(position[-1])), cells - 1)
    return first, last - first + 1


def _interpolated(cells: Floats, down: Floats, across: Floats) -> Floats:
    """Bilinear values at positions counted from cell centres; cells without a value weigh nothing."""
    finite = np.isfinite(cells)
    shares = []
    for position, number in zip((down, across), cells.shape, strict=True):
        inside = np.clip(position, 0, number - 1)[:, None]
        shares.append(np.maximum(0, 1 - np.abs(inside - np.arange(number))))
    rows, cols = shares
    with np.errstate(invalid="ignore"):  # 0/0 far from any chip
        values = (rows @ np.nan_to_num(cells) @ cols.T) / (rows @ finite.astype(float) @ cols.T)
    own_row, own_col = (np.floor(position + 0.5).astype(int) for position in (down, across))
    inside_rows, inside_cols = (
        (own >= 0) & (own < number) for own, number in zip((own_row, own_col), cells.shape, strict=True)
    )
    own = finite[np.clip(own_row, 0, len(cells) - 1)][:, np.clip(own_col, 0, cells.shape[1] - 1)]
    return np.where(own & inside_rows[:, None] & inside_cols, values, np.nan)
