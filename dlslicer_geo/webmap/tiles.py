"""A table of chips in, one PMTiles archive of vector tiles out; the same table gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from dlslicer_geo import files
from dlslicer_geo.types import Progress, quiet
from dlslicer_geo.webmap import mvt, shapes

ZOOMS = (12, 13)
"""Zooms with tiles of chips. A tile is 512 pixels wide on the screen, so chips show from zoom 13 on, and sharply at
every closer zoom, for their corners are kept to 0.3 m; farther away the cells of the overview are shown."""

LAYER = "chips"


def write_chips(table: gpd.GeoDataFrame, cities: list[str], path: Path, progress: Progress = quiet) -> Path:
    """Write chips as vector tiles.

    Every chip stands whole in each tile that it touches. Its properties are those of
    :func:`~dlslicer_geo.webmap.shapes.chip_columns` as whole numbers: ``city`` and ``truth`` count from 1 in
    ``cities`` (0: none), ``confidence`` and ``inner`` are in ten thousandths, ``top0`` to ``top4`` are a city (from
    1) times 16384 plus a share in ten thousandths.

    Args:
        table: as :func:`~dlslicer_geo.webmap.shapes.read_chips` returns it.
        cities: codes.
        path: ends in ``.pmtiles``.
        progress: shows how far it is.
    """
    columns = properties(table, cities)
    quads = _world(table.geometry.to_numpy())
    tiles = [(zoom, *_parts(quads, zoom)) for zoom in ZOOMS]
    total = sum(len(starts) for *_, starts in tiles)
    steps = ((zoom, part) for zoom, chips, starts in tiles for part in np.split(chips, starts[1:]))
    with archive(path, _head(table), {"vector_layers": [_described(columns)]}) as writer:
        for zoom, part in progress(steps, total=total, label="chips"):
            tile, chips = part[0, :2], part[:, 2]
            inside = np.rint((quads[chips] * 2**zoom - tile) * mvt.EXTENT).astype(np.int64)
            cut = {name: values[chips] for name, values in columns.items()}
            writer.write_tile(zxy_to_tileid(zoom, *tile.tolist()), mvt.encode(LAYER, inside, cut))
    return path


@contextmanager
def archive(path: Path, head: dict[str, Any], metadata: dict[str, Any]) -> Iterator[Any]:
    """A PMTiles archive that is open for tiles and gets its name when the block ends well.

    Args:
        path: ends in ``.pmtiles``.
        head: ``tile_type``, ``tile_compression``, ``bounds`` (west, south, east, north in degrees).
        metadata: of the archive.
    """
    west, south, east, north = (round(value * 1e7) for value in head["bounds"])
    place = {"min_lon_e7": west, "min_lat_e7": south, "max_lon_e7": east, "max_lat_e7": north}
    centre = {"center_zoom": 0, "center_lon_e7": (west + east) // 2, "center_lat_e7": (south + north) // 2}
    kind = {name: head[name] for name in ("tile_type", "tile_compression")}
    with files.atomic(path) as temporary, temporary.open("wb") as handle:
        writer: Any = Writer(handle)  # type: ignore[no-untyped-call]
        yield writer
        writer.finalize(kind | place | centre, metadata)


def properties(table: gpd.GeoDataFrame, cities: list[str]) -> dict[str, NDArray[Any]]:
    """The columns of :func:`write_chips`, (n,) int64 or str each."""
    index = pd.Index(cities)
    stride = table["stride"] / table["width"] if "stride" in table else pd.Series(1.0, table.index)
    vague = table["approximate"] if "approximate" in table else pd.Series(False, table.index)
    dates = table["acquired"] if "acquired" in table else pd.Series("", table.index)
    return {
        "chip_id": table["chip_id"].to_numpy(np.int64),
        "scene": _names(table["scene_id"]),
        "site": _names(table["site"]),
        "date": _names(dates),
        "split": _names(table["split"]),
        "city": index.get_indexer(pd.Index(table["city"])) + 1,
        "truth": index.get_indexer(pd.Index(table["truth"])) + 1,
        "unknown": shapes.unknown_chips(table).to_numpy(np.int64),
        "confidence": _whole(table["confidence"].to_numpy(float)),
        "inner": _whole(np.clip(stride.to_numpy(float), 0, 1)),
        "vague": vague.to_numpy(np.int64),
    } | _top(table, index)


def _top(table: gpd.GeoDataFrame, index: pd.Index[Any]) -> dict[str, NDArray[np.int64]]:
    names = [name for name in table.columns if name.startswith("prob_")]
    if not names:
        return {}
    shares = table[names].to_numpy(np.float32)
    order = np.argsort(-shares, axis=1, kind="stable")[:, : shapes.TOP]
    city = index.get_indexer(pd.Index([name.removeprefix("prob_") for name in names]))[order] + 1
    packed = city * 16384 + _whole(np.take_along_axis(shares, order, axis=1))
    return {f"top{place}": packed[:, place] for place in range(packed.shape[1])}


def _whole(share: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(np.rint(np.nan_to_num(share) * 10_000), np.int64)


def _names(values: pd.Series[Any]) -> NDArray[np.object_]:
    return values.fillna("").astype(str).to_numpy(object)


def _world(outlines: NDArray[np.object_]) -> NDArray[np.float64]:
    """(n, 4, 2) first four corners in Web Mercator: 0 to 1 from west to east and from north to south."""
    rings = shapely.get_exterior_ring(outlines)
    corners = np.stack([shapely.get_coordinates(shapely.get_point(rings, i)) for i in range(4)], axis=1)
    lon, lat = corners[..., 0], np.radians(corners[..., 1].clip(-85.05, 85.05))
    return np.stack([lon / 360 + 0.5, 0.5 - np.arcsinh(np.tan(lat)) / (2 * np.pi)], axis=-1)


def _parts(quads: NDArray[np.float64], zoom: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (tile x, tile y, number of a chip) sorted by tile, and where each tile starts."""
    low = np.floor(quads.min(axis=1) * 2**zoom).astype(np.int64)
    across = np.floor(quads.max(axis=1) * 2**zoom).astype(np.int64) - low + 1
    copies = across.prod(axis=1)
    chips = np.repeat(np.arange(len(quads)), copies)
    nth = np.arange(len(chips)) - np.repeat(copies.cumsum() - copies, copies)
    tile = low[chips] + np.stack([nth % across[chips, 0], nth // across[chips, 0]], axis=1)
    order = np.lexsort((chips, tile[:, 1], tile[:, 0]))
    rows = np.column_stack([tile, chips])[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(rows[:, :2], axis=0) != 0).any(axis=1)])
    return rows, starts


def _head(table: gpd.GeoDataFrame) -> dict[str, Any]:
    return {
        "tile_type": TileType.MVT,
        "tile_compression": Compression.GZIP,
        "bounds": table.geometry.total_bounds.tolist(),
    }


def _described(columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """What the specification of PMTiles wants to know of a vector layer."""
    kinds = {name: "String" if values.dtype == object else "Number" for name, values in columns.items()}
    return {"id": LAYER, "fields": kinds, "minzoom": min(ZOOMS), "maxzoom": max(ZOOMS)}
