"""Raster layers in, one PMTiles archive of WebP tiles in EPSG:3857 out; the same files give the same bytes."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from rasterio.transform import from_bounds
from rasterio.warp import transform_bounds

from dlslicer_geo.types import Progress, quiet
from dlslicer_geo.webmap import overlays
from dlslicer_geo.webmap.tiles import archive

GRID = morecantile.tms.get("WebMercatorQuad")
SIDE = 256
"""Pixels along a tile."""

Bytes = NDArray[np.uint8]
Painter = Callable[[Any, Affine], Bytes]
Tile = morecantile.Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One file of a mosaic.

    Args:
        path: the file.
        bounds: west, south, east, north in degrees.
        metres: ground size of a pixel at the equator's scale of EPSG:3857.
        paint: colours of an open raster in a tile, from the transform of the tile's pixels in EPSG:3857.
    """

    path: Path
    bounds: tuple[float, float, float, float]
    metres: float
    paint: Painter


def piece(path: Path, paint: Painter) -> Piece:
    """Measure a file of a mosaic.

    Raises:
        LayerError: if it cannot be read as a raster, or has no CRS.
    """
    with overlays.opened(path) as source:
        bounds = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
        west, _, east, _ = transform_bounds(source.crs, "EPSG:3857", *source.bounds)
        return Piece(path=Path(path), bounds=bounds, metres=(east - west) / source.width, paint=paint)


def zooms(pieces: Sequence[Piece], *, finer: float, deepest: int, most: int) -> tuple[int, int]:
    """The first and the last zoom of a mosaic.

    Args:
        pieces: its files.
        finer: pixels of the last zoom across one of the finest file.
        deepest: the last zoom at most.
        most: tiles at the last zoom, about: more, and the last zoom is a lower one.
    """
    finest = min(one.metres for one in pieces) / finer
    last = next((zoom for zoom in range(deepest) if _metres(zoom) <= finest), deepest)
    while last > 8 and sum(_about(one, last) for one in pieces) > most:
        last -= 1
    return max(0, last - 6), last


def write_mosaic(
    pieces: Sequence[Piece], path: Path, span: tuple[int, int], *, lossy: bool, progress: Progress = quiet
) -> Path:
    """Draw the tiles of the last zoom from the files, those of the others from the tiles; empty ones are left out.

    Args:
        pieces: files; where several have something, the first is seen.
        path: ends in ``.pmtiles``.
        span: the first and the last zoom.
        lossy: for imagery.
        progress: shows how far it is.
    """
    wanted: dict[Tile, list[Piece]] = defaultdict(list)
    for one in pieces:
        for tile in GRID.tiles(*one.bounds, zooms=[span[1]], truncate=True):
            wanted[tile].append(one)
    (south, west), (north, east) = corners(pieces)
    bounds = (west, south, east, north)
    head = {"tile_type": TileType.WEBP, "tile_compression": Compression.NONE, "bounds": bounds}
    with archive(path, head, {"name": path.stem}) as writer:
        drawn = _drawn(wanted, span, progress)
        for tile, rgba in drawn:
            writer.write_tile(zxy_to_tileid(tile.z, tile.x, tile.y), _webp(rgba, lossy))
    return path


def corners(pieces: Sequence[Piece]) -> list[list[float]]:
    """[[south, west], [north, east]] in degrees of all files together."""
    west, south, east, north = np.array([one.bounds for one in pieces]).T
    return [[float(south.min()), float(west.min())], [float(north.max()), float(east.max())]]


def _drawn(
    wanted: dict[Tile, list[Piece]], span: tuple[int, int], progress: Progress
) -> Iterator[tuple[Tile, Bytes]]:
    """Tiles with something in them; a parent as soon as its last child is drawn, so that few are held."""
    order = sorted(wanted, key=lambda tile: zxy_to_tileid(tile.z, tile.x, tile.y))
    left = _descendants(order, span)
    parents: dict[Tile, Bytes] = {}
    for tile in progress(order, total=len(order), label="tiles"):
        rgba: Bytes = _render(tile, wanted[tile])
        while True:
            if rgba[..., 3].any():
                yield tile, rgba
            if tile.z == span[0]:
                break
            parent = GRID.parent(tile)[0]
            canvas = parents.setdefault(parent, np.zeros((SIDE, SIDE, 4), np.uint8))
            row, col = tile.y % 2 * SIDE // 2, tile.x % 2 * SIDE // 2
            canvas[row : row + SIDE // 2, col : col + SIDE // 2] = _halved(rgba)
            left[parent] -= 1
            if left[parent]:
                break
            tile, rgba = parent, parents.pop(parent)


def _descendants(order: list[Tile], span: tuple[int, int]) -> dict[Tile, int]:
    """Children that each parent waits for."""
    left: dict[Tile, int] = {}
    level = set(order)
    for _ in range(span[1] - span[0]):
        counts: dict[Tile, int] = defaultdict(int)
        for tile in level:
            counts[GRID.parent(tile)[0]] += 1
        left |= counts
        level = set(counts)
    return left


def _render(tile: Tile, pieces: list[Piece]) -> Bytes:
    canvas = np.zeros((SIDE, SIDE, 4), np.uint8)
    box = GRID.xy_bounds(tile)
    place = from_bounds(*box, SIDE, SIDE)
    for one in pieces:
        if (canvas[..., 3] > 0).all():
            break
        with rasterio.open(one.path) as source:
            drawn = one.paint(source, place)
        empty = canvas[..., 3] == 0
        canvas[empty] = drawn[empty]
    return canvas


def _halved(rgba: Bytes) -> Bytes:
    """Means of two by two pixels, each weighed by how much of it is seen."""
    blocks = rgba.reshape(SIDE // 2, 2, SIDE // 2, 2, 4).astype(np.float32)
    alpha = blocks[..., 3:].sum(axis=(1, 3))
    colour = (blocks[..., :3] * blocks[..., 3:]).sum(axis=(1, 3)) / np.maximum(alpha, 1)
    return np.concatenate([colour, alpha / 4], axis=-1).round().astype(np.uint8)


def _webp(rgba: Bytes, lossy: bool) -> bytes:
    buffer = io.BytesIO()
    how: dict[str, Any] = {"quality": 75, "method": 4} if lossy else {"lossless": True, "quality": 50, "method": 2}
    Image.fromarray(rgba).save(buffer, "WEBP", **how)
    return buffer.getvalue()


def _metres(zoom: int) -> float:
    """Size of a tile's pixel in EPSG:3857."""
    return 40_075_016.7 / SIDE / float(2**zoom)


def _about(one: Piece, zoom: int) -> float:
    west, south, east, north = one.bounds
    side = 360 / float(2**zoom)
    stretch = float(np.cos(np.radians((south + north) / 2)))
    return (1 + (east - west) / side) * (1 + (north - south) / side / stretch)
