"""A table of chips of any size in, cells of one size that a page can carry out."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from dlslicer_geo.webmap import shapes

MOST_CELLS = 12_000
"""Cells that a browser draws at once and a page carries in under a megabyte."""

FINEST = 17
"""Zoom whose tiles, 200 to 300 m wide in most cities, are the smallest cells."""


def cells(table: gpd.GeoDataFrame, cities: list[str]) -> dict[str, Any]:
    """Chips counted in the tiles of the finest zoom that has few enough of them.

    Args:
        table: as :func:`~dlslicer_geo.webmap.shapes.read_chips` returns it.
        cities: the codes that ``city`` and ``truth`` count in.

    Returns:
        ``zoom`` of the tiles, and columns as lists: ``x y`` of a tile, ``chips`` in it (by their middles), ``city``
        (the most frequent one), ``unknown`` (chips the model does not know), ``confidence`` (mean), ``known`` (chips
        with a truth), ``right`` (of these), ``truth`` and ``split`` (the most frequent ones; truth -1: none known).
    """
    zoom, tiles = _tiles(table)
    places, cell = np.unique(tiles, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    index, splits = pd.Index(cities), sorted(table["split"].unique())
    unknown = shapes.unknown_chips(table).to_numpy()
    truth = index.get_indexer(pd.Index(table["truth"]))
    city = index.get_indexer(pd.Index(table["city"]))
    split = pd.Index(splits).get_indexer(pd.Index(table["split"]))

    def count(which: NDArray[np.bool_]) -> list[int]:
        return list(np.bincount(cell[which], minlength=len(places)).tolist())

    chips = np.bincount(cell, minlength=len(places))
    confidence = np.bincount(cell, table["confidence"].to_numpy(float), minlength=len(places)) / chips
    return {
        "zoom": zoom,
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "chips": chips.tolist(),
        "city": _most(cell, city, len(places)),
        "unknown": count(unknown),
        "confidence": confidence.round(3).tolist(),
        "known": count(truth >= 0),
        "right": count((truth >= 0) & (truth == city) & ~unknown),
        "truth": _most(cell[truth >= 0], truth[truth >= 0], len(places)),
        "split": [splits[at] for at in _most(cell, split, len(places))],
    }


def _tiles(table: gpd.GeoDataFrame) -> tuple[int, NDArray[np.int64]]:
    """The zoom, and (n, 2) the tile of each chip's middle."""
    west, south, east, north = shapely.bounds(table.geometry.to_numpy()).T
    lat = np.radians(((south + north) / 2).clip(-85.05, 85.05))
    world = np.stack([(west + east) / 720 + 0.5, 0.5 - np.arcsinh(np.tan(lat)) / (2 * np.pi)], axis=1)
    for zoom in range(FINEST, 0, -1):
        tiles = np.floor(world * 2**zoom).astype(np.int64)
        if len(np.unique(tiles, axis=0)) <= MOST_CELLS:
            break
    return zoom, tiles


def _most(cell: NDArray[np.int64], value: NDArray[np.int64], number: int) -> list[int]:
    """The most frequent value in each of so many cells, the lowest of several, -1 in an empty one."""
    pairs, counts = np.unique(np.stack([cell, value], axis=1), axis=0, return_counts=True)
    order = np.lexsort((-pairs[:, 1], counts, pairs[:, 0]))  # the last of a cell wins
    most = np.full(number, -1)
    most[pairs[order, 0]] = pairs[order, 1]
    return most.tolist()
