"""Quadrilaterals with columns of numbers and names in, one Mapbox Vector Tile out, without a loop over features.

Every part of a feature is a variable-length integer: its tags, the lengths before its parts, and its geometry. So
the features of a tile are a matrix, whose rows become bytes all at once (Mapbox Vector Tile specification 2.1,
section 4). GDAL's driver for PMTiles takes ten times as long, and its bytes differ from run to run.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

EXTENT = 16384
"""Units across a tile: 0.3 m at zoom 13."""

Integers = NDArray[np.int64]


def encode(layer: str, quads: Integers, columns: Mapping[str, Any]) -> bytes:
    """One tile with one layer, compressed; the same input gives the same bytes.

    Args:
        layer: its name.
        quads: (n, 4, 2) int64 corners x, y in units of the tile, y downwards; they may lie outside it.
        columns: name → (n,) values: whole numbers from 0, or str.
    """
    tags, values = _tags(columns)
    body = _bytes(0x0A, layer.encode())
    body += _features(tags, quads)
    body += b"".join(_bytes(0x1A, name.encode()) for name in columns)
    body += values
    body += _varints(np.array([0x28, EXTENT, 0x78, 2]))  # extent, and version 2
    return gzip.compress(_bytes(0x1A, body), compresslevel=6, mtime=0)


def _tags(columns: Mapping[str, Any]) -> tuple[Integers, bytes]:
    """(n, 2 * columns) numbers of keys and values, and the table of the values that they count in."""
    tags, tables, known = [], [], 0
    for key, column in enumerate(columns.values()):
        numbers, found = pd.factorize(np.asarray(column), sort=True)
        tags += [np.full(len(numbers), key), numbers + known]
        tables.append(_values(np.asarray(found)))
        known += len(found)
    return np.stack(tags, axis=1).astype(np.int64), b"".join(tables)


def _values(found: NDArray[Any]) -> bytes:
    """The table of values: message 4 of a layer, with a string (1) or an unsigned number (5) each."""
    if found.dtype == object:
        return b"".join(_bytes(0x22, _bytes(0x0A, str(text).encode())) for text in found)
    rows = np.zeros((len(found), 4), np.int64)
    rows[:, 0], rows[:, 2], rows[:, 3] = 0x22, 0x28, found
    rows[:, 1] = 1 + _sizes(rows[:, 3])
    return _varints(rows)


def _features(tags: Integers, quads: Integers) -> bytes:
    """Features: message 2 of a layer, with tags (2), the type polygon (3) and a geometry (4) each."""
    number, wide = len(tags), tags.shape[1]
    rows = np.zeros((number, 6 + wide + 13), np.int64)
    rows[:, 0] = 0x12
    rows[:, 2] = 0x12
    rows[:, 4 : 4 + wide] = tags
    rows[:, 4 + wide : 6 + wide] = 0x18, 3
    rows[:, 6 + wide] = 0x22
    rows[:, 8 + wide :] = _geometry(quads)
    sizes = _sizes(rows)
    rows[:, 3] = sizes[:, 4 : 4 + wide].sum(axis=1)
    rows[:, 7 + wide] = sizes[:, 8 + wide :].sum(axis=1)
    rows[:, 1] = _sizes(rows)[:, 2:].sum(axis=1)
    return _varints(rows)


def _geometry(quads: Integers) -> Integers:
    """(n, 11) commands of closed rings that run clockwise on the screen, as outer rings must."""
    x, y = quads[..., 0], quads[..., 1]
    area = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    ring = np.where((area < 0)[:, None, None], quads[:, ::-1], quads)
    steps = np.diff(ring, axis=1, prepend=0)
    turned = np.where(steps < 0, -2 * steps - 1, 2 * steps).reshape(len(quads), 8)
    move, line, close = (np.full((len(quads), 1), command) for command in (1 << 3 | 1, 3 << 3 | 2, 1 << 3 | 7))
    return np.concatenate([move, turned[:, :2], line, turned[:, 2:], close], axis=1)


def _sizes(values: Integers) -> Integers:
    """Bytes that each number takes: seven of its bits in each."""
    limits = np.array([1 << 7 * k for k in range(1, 9)], np.int64)
    return np.searchsorted(limits, values, side="right") + 1


def _varints(values: Integers) -> bytes:
    """All numbers in their order, the lowest seven bits first, the highest bit set in all bytes but the last."""
    flat = values.reshape(-1)
    sizes = _sizes(flat)
    place = np.arange(int(sizes.max(initial=1)))
    parts = (flat[:, None] >> (7 * place)) & 0x7F | (place < sizes[:, None] - 1) << 7
    return parts[place < sizes[:, None]].astype(np.uint8).tobytes()


def _bytes(tag: int, data: bytes) -> bytes:
    """A part with its tag and length before it."""
    return _varints(np.array([tag, len(data)])) + data
