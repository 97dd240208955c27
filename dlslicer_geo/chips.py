"""Scene table in, chip table out: square windows of one ground size, laid in whole pixels. Opens no file.

The pixel window is the truth, the geometry is derived from it. A grid starts at the top left of its scene, or of a
region of it, and is laid with floor: what does not hold a whole chip is left over, so that no chip leaves its region.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from dlslicer_geo.errors import GridError, TableError
from dlslicer_geo.files import check_table
from dlslicer_geo.types import APPROXIMATE, ChipGrid

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

logger = logging.getLogger(__name__)

COLUMNS = {
    "chip_id": "int",  # dense from 0, in the order of scene_id, row, col
    "scene_id": "str",
    "city": "str?",
    "site": "str",  # unique within its city only
    "acquired": "str?",
    "row": "int",  # pixel window in the scene: first row, first column, rows, columns
    "col": "int",
    "height": "int",
    "width": "int",
    "stride": "int",  # native pixels to the next chip
    "size": "int",  # pixels a side after resampling
    "valid_fraction": "float",
    "approximate": "bool",  # the position says no more than the city
    "split": "str",  # train, val, test, unused
    "fold": "int",  # of its unit under k-fold, -1 where there is none
    "unit": "int",  # number of what stayed together in the split: place, site, block, scene; -1 after the cut
    "geometry": "any",  # the four corners of the window in EPSG:4326
}
"""Columns of the chip table, in the kinds of ``files.read_table``."""

TOLERANCE = 0.01
"""Largest share by which a chip's ground size may miss the promised metres."""

ENLARGEMENT = 2
"""Largest factor by which a window may be enlarged to the size the model reads."""

_NEEDED = {
    **dict.fromkeys(("scene_id", "site", "crs", "georef"), "str"),
    **dict.fromkeys(("city", "acquired"), "str?"),
    **dict.fromkeys(("width", "height"), "int"),
    **dict.fromkeys(("gsd_m", "valid_fraction"), "float"),
    **dict.fromkeys(("transform", "geometry"), "any"),
}


Region = tuple[int, int, int, int]
"""First row, first column, height and width in pixels."""


class _Plan(NamedTuple):
    """Per scene: edge of a chip and stride in native pixels."""

    window: NDArray[np.int64]
    stride: NDArray[np.int64]


class _Areas(NamedTuple):
    """What is cut by itself: position of its scene in the table, its window, and its rows and columns of chips."""

    scene: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]


class _Windows(NamedTuple):
    """Per chip: position of its scene in the table, first row, first column, edge and stride in native pixels."""

    scene: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    edge: NDArray[np.int64]
    stride: NDArray[np.int64]

    def select(self, keep: NDArray[Any]) -> _Windows:
        return _Windows(*(values[keep] for values in self))


def cut(
    scenes: GeoDataFrame, grid: ChipGrid, *, regions: Mapping[str, Sequence[Region]] | None = None
) -> GeoDataFrame:
    """Cut every scene into chips of one ground size.

    Args:
        scenes: scene table; the order of its rows does not matter.
        grid: edge, stride and ground size of the chips, and what to do with scenes that cannot hold one.
        regions: by ``scene_id``, the pixel windows (first row, first column, height, width) that are each cut by
            themselves, as ``splits.regions`` says them; a scene that is not named is cut as a whole.

    Returns:
        One row per chip in the order of ``chip_id``, with the columns ``COLUMNS``; geometry in EPSG:4326, corners
        counter-clockwise from the lower left. ``attrs["dropped"]`` lists what was left out, as
        ``{"scene_id": ..., "chips": ..., "reason": ...}``.

    Raises:
        GridError: if a scene is too small or too coarse for a chip and ``grid.on_misfit`` is ``raise``, if a region
            leaves its scene, or if no chip is left.
        TableError: if the scene table lacks what is needed.
    """
    check_table(scenes, _NEEDED, "the scene table")
    twice = scenes["scene_id"][scenes["scene_id"].duplicated()]
    if len(twice):
        raise TableError(f"the scene table has two rows for scene {twice.iloc[0]}: name each scene once")
    scenes = scenes.sort_values("scene_id", ignore_index=True)
    plan = _plan(scenes, grid)
    areas = _areas(scenes, plan, regions or {})
    misfits = _misfits(scenes, plan, areas, grid)
    windows = _windows(plan, areas, np.array(sorted(misfits), np.int64))
    valid = _valid_fractions(scenes, windows)
    keep = valid >= grid.min_valid
    dropped = _dropped(scenes, misfits, windows.scene[~keep], grid)
    if not keep.any():
        raise GridError(
            f"none of the {len(scenes)} scenes holds a chip ({dropped[0]['scene_id']}: {dropped[0]['reason']}): "
            "choose other chips.metres, chips.size or chips.min_valid"
            if dropped
            else "the scene table is empty: scan a folder of images first"
        )
    chips = _table(scenes, windows.select(keep), valid[keep], grid.size)
    chips.attrs["dropped"] = dropped
    return chips


def _plan(scenes: GeoDataFrame, grid: ChipGrid) -> _Plan:
    gsd = scenes["gsd_m"].to_numpy(np.float64)
    metres = _metres(gsd, grid)
    stride = np.maximum(np.rint(metres * grid.stride / grid.size / gsd), 1)
    window = np.rint(metres / gsd)
    if grid.size % grid.stride == 0:  # whole strides, so that every few chips meet without gap or overlap
        whole = grid.size // grid.stride * stride
        window = np.where(np.abs(whole * gsd / metres - 1) <= TOLERANCE, whole, window)
    return _Plan(window.astype(np.int64), stride.astype(np.int64))


def _areas(scenes: GeoDataFrame, plan: _Plan, regions: Mapping[str, Sequence[Region]]) -> _Areas:
    """Every region, or the whole of a scene without any, in the order of the scenes."""
    sizes = zip(scenes["scene_id"], scenes["height"].tolist(), scenes["width"].tolist(), strict=True)
    windows: list[tuple[int, ...]] = []
    for at, (name, height, width) in enumerate(sizes):
        for row, col, high, wide in regions.get(name, [(0, 0, height, width)]):
            if min(row, col) < 0 or row + high > height or col + wide > width:
                raise GridError(
                    f"the region of {high}×{wide} px from row {row} and column {col} leaves scene {name}, which has "
                    f"{height}×{width} px: give regions inside their scenes"
                )
            windows.append((at, row, col, high, wide))
    scene, top, left, *sides = np.array(windows, np.int64).reshape(-1, 5).T
    rows, cols = (np.maximum((side - plan.window[scene]) // plan.stride[scene] + 1, 0) for side in sides)
    return _Areas(scene, top, left, rows, cols)


def _metres(gsd: NDArray[np.float64], grid: ChipGrid) -> NDArray[np.float64]:
    """Promised edge of a chip on the ground, per scene."""
    return grid.size * gsd if grid.metres is None else np.full(len(gsd), float(grid.metres))


def _misfits(scenes: GeoDataFrame, plan: _Plan, areas: _Areas, grid: ChipGrid) -> dict[int, str]:
    """Position of every scene that cannot hold a chip as promised, and why."""
    gsd = scenes["gsd_m"].to_numpy(np.float64)
    metres = _metres(gsd, grid)
    coarse = ENLARGEMENT * plan.window < grid.size
    inexact = np.abs(plan.window * gsd / metres - 1) > TOLERANCE
    small = np.bincount(areas.scene, areas.rows * areas.cols, minlength=len(gsd)) == 0
    parts = np.bincount(areas.scene, minlength=len(gsd))
    reasons: dict[int, str] = {}
    for at in np.flatnonzero(coarse | inexact | small).tolist():
        edge, ground = int(plan.window[at]), f"{metres[at]:g} m at {gsd[at]:.4g} m per pixel"
        if coarse[at]:
            reasons[at] = f"{ground} is {edge} px, to be enlarged to {grid.size} px, more than {ENLARGEMENT} times"
        elif inexact[at]:
            reasons[at] = f"{ground} is {edge} whole px or {edge * gsd[at]:.4g} m, more than {TOLERANCE:.0%} off"
        else:
            height, width = scenes["height"].iloc[at], scenes["width"].iloc[at]
            within = f" in {parts[at]} regions" if parts[at] > 1 else ""
            reasons[at] = f"it has {height}×{width} px{within} and one chip of {ground} takes {edge}×{edge}"
    if reasons and grid.on_misfit == "raise":
        at, reason = next(iter(reasons.items()))
        raise GridError(
            f"scene {scenes['scene_id'].iloc[at]} cannot hold a chip: {reason} ({len(reasons)} of {len(scenes)} "
            "scenes misfit): choose other chips.metres or chips.size, or leave them out with --chips.on_misfit drop"
        )
    return reasons


def _windows(plan: _Plan, areas: _Areas, misfits: NDArray[np.int64]) -> _Windows:
    """All windows of all scenes, in the order of scene, row and column."""
    number = np.where(np.isin(areas.scene, misfits), 0, areas.rows * areas.cols)
    area = np.repeat(np.arange(len(number)), number)
    within = np.arange(len(area)) - np.repeat(np.cumsum(number) - number, number)
    scene = areas.scene[area]
    edge, stride = plan.window[scene], plan.stride[scene]
    row = areas.row[area] + within // areas.cols[area] * stride
    col = areas.col[area] + within % areas.cols[area] * stride
    windows = _Windows(scene, row, col, edge, stride)
    return windows.select(np.lexsort((windows.col, windows.row, scene)))


def _valid_fractions(scenes: GeoDataFrame, windows: _Windows) -> NDArray[np.float64]:
    """Share of every window that lies in the valid area of its scene, 0 to 1."""
    valid = np.ones(len(windows.scene))
    partly = scenes[scenes["valid_fraction"] < 1]
    for crs, group in partly.groupby("crs"):
        for at, area in group.geometry.to_crs(crs).items():
            first, last = np.searchsorted(windows.scene, [at, at + 1])
            chips = windows.select(np.arange(first, last))
            boxes = shapely.box(chips.col, chips.row, chips.col + chips.edge, chips.row + chips.edge)
            valid[first:last] = _share(boxes, _in_pixels(area, scenes["transform"].iloc[at]))
    return valid


def _in_pixels(area: Any, transform: Any) -> Any:
    """A geometry in CRS units as columns and rows of the scene."""
    a, b, c, d, e, f = (float(value) for value in transform)
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    return shapely.transform(area, lambda xy: (xy - [c, f]) @ inverse.T)


def _share(boxes: NDArray[Any], area: Any) -> NDArray[np.float64]:
    shapely.prepare(area)
    share = shapely.covers(area, boxes).astype(np.float64)
    edge = shapely.intersects(area, boxes) & (share == 0)
    size = shapely.area(boxes[edge])
    share[edge] = shapely.area(shapely.intersection(boxes[edge], area)) / size
    # an outline drawn in degrees is true to half a pixel: a chip that lacks less than such a rim is whole
    share[edge] = np.where((1 - share[edge]) * np.sqrt(size) <= 0.5, 1.0, share[edge])
    return share


def _dropped(
    scenes: GeoDataFrame, misfits: dict[int, str], empty: NDArray[np.int64], grid: ChipGrid
) -> list[dict[str, Any]]:
    """What is left out, per scene, each said once in the log."""
    names = scenes["scene_id"].tolist()
    dropped = [{"scene_id": names[at], "chips": 0, "reason": reason} for at, reason in misfits.items()]
    for at, number in zip(*(values.tolist() for values in np.unique(empty, return_counts=True)), strict=True):
        reason = f"less than {grid.min_valid:g} of the chip is valid"
        dropped.append({"scene_id": names[at], "chips": number, "reason": reason})
    for entry in dropped:
        what = f"{entry['chips']} chips" if entry["chips"] else "the scene"
        logger.warning("dropped %s of %s: %s", what, entry["scene_id"], entry["reason"])
    return dropped


def _table(scenes: GeoDataFrame, windows: _Windows, valid: NDArray[np.float64], size: int) -> GeoDataFrame:
    import geopandas as gpd

    number = len(valid)
    columns = {
        "chip_id": np.arange(number, dtype=np.int64),
        **{name: scenes[name].array.take(windows.scene) for name in ("scene_id", "city", "site", "acquired")},
        **{"row": windows.row, "col": windows.col, "height": windows.edge, "width": windows.edge},
        "stride": windows.stride,
        "size": np.full(number, size, np.int64),
        "valid_fraction": valid,
        "approximate": scenes["georef"].isin(APPROXIMATE).to_numpy()[windows.scene],
        "split": "unused",
        **{name: np.full(number, -1, np.int64) for name in ("fold", "unit")},
    }
    return gpd.GeoDataFrame(columns, geometry=_corners(scenes, windows), crs="EPSG:4326")


def _corners(scenes: GeoDataFrame, windows: _Windows) -> NDArray[Any]:
    """Polygons in EPSG:4326 through the four corners of every window, one transformation per CRS."""
    import geopandas as gpd

    a, b, c, d, e, f = np.array(scenes["transform"].tolist(), np.float64)[windows.scene].T[..., None]
    col = windows.col[:, None] + windows.edge[:, None] * np.array([0, 1, 1, 0])
    row = windows.row[:, None] + windows.edge[:, None] * np.array([1, 1, 0, 0])  # rows run south: the last is lowest
    native = np.stack([a * col + b * row + c, d * col + e * row + f], axis=-1)
    polygons = np.asarray(shapely.polygons(native), object)
    names, of = np.unique(scenes["crs"].to_numpy(str), return_inverse=True)
    crs = of[windows.scene]
    order = np.argsort(crs, kind="stable")
    for at in np.split(order, np.flatnonzero(np.diff(crs[order])) + 1):
        name = str(names[crs[at[0]]])
        polygons[at] = gpd.GeoSeries(polygons[at], crs=name).to_crs("EPSG:4326").to_numpy()
    return polygons
