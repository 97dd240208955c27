"""Predictions and the chip table in, a GeoPackage of chips and COGs of city and confidence per area out.

An area is a scene of at least four chips, or the smaller scenes of one city, date and UTM zone together; a small
scene of an unknown city or of approximate position stays alone. Everything derives from the chip table: no image is
opened.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from scipy import sparse

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import styles, vectors
from dlslicer_geo.layers.rasters import Raster, measure, unique_name, write_cog
from dlslicer_geo.types import APPROXIMATE_NOTE, UNKNOWN, Layer, Predictions, Progress, quiet

log = logging.getLogger(__name__)

NODATA = 255
"""Value of cells without an answer; so at most 255 answers can be drawn."""

WAITING = 256
"""Areas that are with an executor at once; bounds what they hold in memory."""

OWN_AREA = 4
"""A scene of this many chips is an area of its own."""

CAVEAT = "The probabilities are shared out among the listed cities only: a place elsewhere still gets one of them."
"""What a map says of a model that never answers ``unknown``."""

UNKNOWN_CAVEAT = (
    "Unknown: the detector {detector} scores the chip above {threshold:.4g}, a threshold that keeps 95 % of the "
    "validation chips of the listed cities. The place may lie in none of them, and only look most like the nearest."
)
"""What a map says of a model that does."""


def write_predictions(
    found: Predictions,
    chips: gpd.GeoDataFrame,
    out: str | Path,
    *,
    provenance: Mapping[str, str] | None = None,
    executor: Executor | None = None,
    progress: Progress = quiet,
) -> list[Layer]:
    """Write ``out/predictions.gpkg``, ``out/city/<area>.tif`` and ``out/confidence/<area>.tif``.

    The GeoPackage has one layer ``predictions`` (columns: :func:`vectors.prediction_table`) that QGIS opens coloured.
    The rasters are COGs in the area's UTM zone with a cell of one stride, the natural resolution of a prediction; a
    cell averages the probabilities of the chips that cover its centre. ``city`` is uint8 with a palette, the number
    of the most probable city or, for a model with a threshold, the number after the last city (``unknown``) where
    the model does not know more than half of these chips. ``confidence`` is float32, the averaged probability of the
    most probable city, also where the answer is ``unknown``.

    Args:
        found: what a model said about chips.
        chips: the chip table; chips that were not predicted are left out.
        out: the folder for GIS files.
        provenance: names and values for the metadata of every file under ``dlslicer_geo``.
        executor: writes the areas, and sees the same folder; None writes them in this process. Bytes are the same.
        progress: shows how far it is.

    Returns:
        the chips, then city and confidence of every area in the order of their names.

    Raises:
        LayerError: if a predicted chip is not in the table, nothing was predicted, there are more than 255 answers
            (254 cities and ``unknown``), or a city has the name of the answer ``unknown``.
    """
    chips, found = _join(found, chips)
    folder, origin = Path(out), dict(provenance or {})
    table = vectors.prediction_table(chips, found)
    path = vectors.write_predictions_layer(table, folder / "predictions.gpkg", found, origin)
    vague = bool(chips["approximate"].any())
    layers = [
        Layer(
            kind="chips", path=path, title="Predicted city", cities=found.cities, note=_note(found), approximate=vague
        )
    ]
    areas = _areas(chips)
    shared: dict[str, Any] = {"folder": folder.resolve(), "provenance": origin}
    chips, found = chips[_NEEDED], replace(found, embedding=None)
    tasks = (
        _Task(name=name, epsg=epsg, chips=chips.iloc[at], found=found.take(at), **shared)
        for name, (epsg, at) in areas.items()
    )
    for written in progress(_in_order(tasks, executor), total=len(areas), label="areas"):
        layers += [replace(layer, path=folder / layer.path) for layer in written]
    log.info("wrote %d chips and %d areas", len(chips), len(areas))
    return layers


_NEEDED = ["site", "approximate", "height", "width", "stride", "geometry"]
"""Columns of the chip table that an area is made from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """An area with its chips, wherever it is written."""

    name: str
    epsg: int
    chips: gpd.GeoDataFrame
    found: Predictions
    folder: Path
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Area:
    """Averaged predictions on the stride cells of one area."""

    city: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    epsg: int
    transform: Affine


def _join(found: Predictions, chips: gpd.GeoDataFrame) -> tuple[gpd.GeoDataFrame, Predictions]:
    """Both in the order of the chip ids, row by row."""
    answers = vectors.answers_of(found)
    if not 0 < len(answers) <= NODATA:
        raise LayerError(f"a city raster holds at most {NODATA} answers, not {len(answers)}: merge some classes")
    if found.threshold is not None and UNKNOWN in found.cities:
        raise LayerError(
            f"city {found.cities.index(UNKNOWN)} has the name of the answer {UNKNOWN!r}: rename the city"
        )
    if not len(found):
        raise LayerError("there are no predictions to write: predict some chips first")
    order = np.argsort(found.chip_id, kind="stable")
    at = pd.Index(chips["chip_id"]).get_indexer(pd.Index(found.chip_id[order]))
    if (at < 0).any():
        raise LayerError(
            f"{int((at < 0).sum())} of {len(found)} predicted chips are not in the chip table: "
            "give the table that was predicted"
        )
    return chips.iloc[at].reset_index(drop=True), found.take(order)


def _note(found: Predictions) -> str:
    if found.threshold is None:
        return CAVEAT
    return UNKNOWN_CAVEAT.format(detector=found.detector, threshold=found.threshold)


def _areas(chips: gpd.GeoDataFrame) -> dict[str, tuple[int, NDArray[np.int64]]]:
    """Name → EPSG code of the UTM zone and positions of the chips, sorted by name."""
    middle = pd.DataFrame(
        shapely.get_coordinates(shapely.centroid(chips.geometry.to_numpy())), columns=["lon", "lat"]
    )
    scene = middle.groupby(chips["scene_id"].to_numpy()).agg(
        lon=("lon", "mean"), lat=("lat", "mean"), n=("lon", "size")
    )
    first = chips.drop_duplicates("scene_id").set_index("scene_id").loc[scene.index]
    scene["epsg"] = np.where(scene["lat"] >= 0, 32601, 32701) + ((scene["lon"] + 180) // 6 % 60).astype(int)
    own = (scene["n"] >= OWN_AREA) | first["city"].isna() | first["approximate"]
    together = first["city"].astype(str) + "_" + first["acquired"].fillna("undated") + "_" + scene["epsg"].astype(str)
    while (taken := together.isin(scene.index[own])).any():  # a scene may be called like them
        together = together.mask(taken, together + "_together")
    scene["area"] = np.where(own, scene.index.astype(str), together)
    area = chips["scene_id"].map(scene["area"]).to_numpy(str)
    epsg = chips["scene_id"].map(scene["epsg"]).to_numpy(np.int64)
    names, first_at, number = np.unique(area, return_index=True, return_inverse=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    return {str(name): (int(epsg[at]), rows) for name, at, rows in zip(names, first_at, members, strict=True)}


def _in_order(tasks: Iterable[_Task], executor: Executor | None) -> Iterator[list[Layer]]:
    """The layers of every area, in the order of the tasks."""
    if executor is None:
        yield from map(_write_area, tasks)
        return
    waiting: deque[Future[list[Layer]]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(_write_area, task))
            if len(waiting) == WAITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _average(task: _Task) -> _Area:
    """Average the probabilities of the chips over each cell centre, and let them vote on whether it is unknown."""
    chips, probabilities, epsg = task.chips, task.found.probabilities, task.epsg
    outlines = shapely.transform(chips.geometry.to_numpy(), _to_utm(epsg), interleaved=False)
    # micrometres: the way through degrees must not shift cells that coincide with those of the scene
    cell = float(np.round(np.median(_metres_per_pixel(outlines, chips) * chips["stride"]), 6))
    left, bottom, right, top = np.round(shapely.total_bounds(outlines), 6)
    cols, rows = (int(np.ceil(length / cell - 1e-6)) for length in (right - left, top - bottom))
    transform = Affine(cell, 0, left, 0, -cell, top)
    number, chip = _covered(outlines, transform, (rows, cols))
    cells, place = np.unique(number, return_inverse=True)
    members = sparse.csr_array((np.ones(len(chip)), (place, chip)), shape=(len(cells), len(chips)))
    covering = np.bincount(place)
    mean = (members @ probabilities.astype(np.float64)) / covering[:, None]
    outvoted = 2 * (members @ task.found.unknown.astype(np.float64)) > covering
    city = np.full(rows * cols, NODATA, np.uint8)
    confidence = np.full(rows * cols, np.nan, np.float32)
    city[cells] = np.where(outvoted, probabilities.shape[1], mean.argmax(axis=1))
    confidence[cells] = mean.max(axis=1)
    shape = rows, cols
    return _Area(city=city.reshape(shape), confidence=confidence.reshape(shape), epsg=epsg, transform=transform)


@cache
def _to_utm(epsg: int) -> Any:
    return Transformer.from_crs(4326, epsg, always_xy=True).transform


def _metres_per_pixel(outlines: NDArray[np.object_], chips: gpd.GeoDataFrame) -> NDArray[np.float64]:
    edges = 2 * (chips["height"].to_numpy() + chips["width"].to_numpy())
    return np.asarray(shapely.length(outlines) / edges)


def _covered(
    outlines: NDArray[np.object_], transform: Affine, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a cell (row-major number) and a chip that covers its centre."""
    rows, cols = shape
    cell, left, top = transform.a, transform.c, transform.f
    west, south, east, north = shapely.bounds(outlines).T
    first_col, first_row = ((west - left) // cell).astype(int), ((top - north) // cell).astype(int)
    reach_col, reach_row = (int(np.ceil(length.max() / cell)) + 2 for length in (east - west, north - south))
    row = first_row[:, None, None] + np.arange(reach_row)[:, None] + np.zeros(reach_col, int)
    col = first_col[:, None, None] + np.zeros((reach_row, 1), int) + np.arange(reach_col)
    chip = np.broadcast_to(np.arange(len(outlines))[:, None, None], row.shape)
    # a centre on the edge of two chips belongs to the one that begins there
    x, y = left + (col + 0.5 + 1e-6) * cell, top - (row + 0.5 + 1e-6) * cell
    shapely.prepare(outlines)
    inside = shapely.contains_xy(outlines[chip], x, y) & (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    return (row * cols + col)[inside], chip[inside]


def _write_area(task: _Task) -> list[Layer]:
    """City and confidence of an area, their paths within the folder."""
    name, found, area = unique_name(task.name), task.found, _average(task)
    answers, vague = vectors.answers_of(found), bool(task.chips["approximate"].any())
    tags = vectors.detector_tags(found) | ({"POSITION": APPROXIMATE_NOTE} if vague else {})
    tags |= {
        "CITIES": " ".join(found.cities),
        files.PROVENANCE_KEY: json.dumps(dict(task.provenance), sort_keys=True),
    }
    grid: dict[str, Any] = {"crs": f"EPSG:{area.epsg}", "transform": area.transform, "tags": tags}
    city = _raster(area.city[None], NODATA, names=["predicted city"], answers=answers, **grid)
    sure = _raster(area.confidence[None], float("nan"), names=["confidence"], **grid)
    city_path, sure_path = Path("city", f"{name}.tif"), Path("confidence", f"{name}.tif")
    write_cog(task.folder / city_path, city, qml=styles.palette_qml(answers))
    write_cog(task.folder / sure_path, sure, qml=styles.ramp_qml(styles.sequential()))
    city_note, sure_note = _cell_notes(found)
    about: dict[str, Any] = {"group": found.truth[0] or str(task.chips["site"].iloc[0]), "approximate": vague}
    return [
        Layer(kind="city", path=city_path, title=f"{task.name}: city", cities=found.cities, note=city_note, **about),
        Layer(
            kind="confidence",
            path=sure_path,
            title=f"{task.name}: confidence",
            limits=(0, 1),
            note=sure_note,
            **about,
        ),
    ]


def _raster(values: NDArray[Any], nodata: float, **about: Any) -> Raster:
    return Raster(values=values, nodata=nodata, statistics=measure(values, nodata=nodata), **about)


def _cell_notes(found: Predictions) -> tuple[str, str]:
    """What is said of the cells of city and of confidence."""
    note = "Averaged over the chips that cover a cell of one stride."
    if found.threshold is None:
        return note, note
    return (
        f"{note} Grey cells: more than half of these chips are unknown to the model.",
        f"{note} Where the answer is unknown, it is the confidence in the nearest city.",
    )
