"""Chips in, the square blocks that they lie in out, on the lattice that cuts fewest of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import shapely

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.ground import Floats, Ground, Integers, project

EDGE_M = 1e-7
"""A chip ends on the edge of a block when it passes it by no more than this: coordinates come back from degrees
to about 1e-8 m, and this much along the edge of a chip stays far below ``TOLERANCE_M2``."""


def blocks_of(ground: Ground, block_m: float) -> tuple[Integers, dict[str, Any]]:
    """Number the blocks that each chip's bounding box touches, in the UTM grid of its city.

    The lattice of each city and UTM zone is shifted so that fewest chips lie across one of its lines, east and north
    by themselves; of equals, the shift nearest to the round numbers of the zone from above.

    Args:
        ground: the chips.
        block_m: edge of a block in metres.

    Returns:
        (n, 4) block under the four corners of the box, all equal for a chip wholly inside one block; and per city a
        list of its lattices: ``epsg``, ``origin_m`` (shift east and north), ``chips`` and ``across`` (chips that lie
        across a line).

    Raises:
        SplitError: if a chip is larger than a block, or lies somewhere in its city only.
    """
    if not ground.exact.all():
        raise SplitError(
            f"{int((~ground.exact).sum())} of {len(ground.exact)} chips lie somewhere in their city only "
            "(approximate position), so that blocks of ground mean nothing for them: take split.kind site"
        )
    code = ground.city * 100_000 + ground.epsg
    order = np.argsort(code, kind="stable")
    corners = np.empty((len(code), 4, 3), np.int64)
    lattices: dict[str, Any] = {}
    for number, rows in enumerate(np.split(order, np.flatnonzero(np.diff(code[order])) + 1)):
        epsg = int(ground.epsg[rows[0]])
        box = shapely.bounds(project(ground.polygon[rows], epsg))
        _check_size(box, block_m)
        origin = np.array([_origin(box[:, axis], box[:, axis + 2], block_m) for axis in (0, 1)])
        low = np.floor((box[:, :2] + EDGE_M - origin) / block_m).astype(np.int64)
        high = np.maximum(low, np.floor((box[:, 2:] - EDGE_M - origin) / block_m).astype(np.int64))
        for at, (x, y) in enumerate([(low, low), (low, high), (high, low), (high, high)]):
            corners[rows, at] = np.column_stack([np.full(len(rows), number), x[:, 0], y[:, 1]])
        across = int((low != high).any(axis=1).sum())
        lattice = {"epsg": epsg, "origin_m": origin.round(3).tolist(), "chips": len(rows), "across": across}
        lattices.setdefault(ground.cities[ground.city[rows[0]]], []).append(lattice)
    return _number(corners), lattices


def _check_size(box: Floats, block_m: float) -> None:
    largest = float((box[:, 2:] - box[:, :2]).max())
    if largest > block_m + 2 * EDGE_M:
        raise SplitError(
            f"split.block_m is {block_m:g} m and the largest chip covers {largest:.1f} m: take blocks of at least "
            "several chips' edges"
        )


def _origin(low: Floats, high: Floats, block_m: float) -> float:
    """Shift of the lines, 0 to ``block_m``, that the fewest of the intervals reach across."""
    start = (low + EDGE_M) % block_m
    end = start + np.maximum(high - low - 2 * EDGE_M, 0)
    shift = np.unique(np.concatenate([[0.0], low % block_m, high % block_m]))
    start, end = np.sort(start), np.sort(end)
    # a line at the shift, and the next one, which intervals that wrap around reach
    across = np.searchsorted(start, shift) - np.searchsorted(end, shift, side="right")
    across += len(end) - np.searchsorted(end, shift + block_m, side="right")
    return float(shift[across.argmin()])


def _number(corners: Integers) -> Integers:
    """Number (n, 4, 3) triples densely, in sorted order."""
    flat = corners.reshape(-1, 3)
    flat = flat - flat.min(axis=0)
    extent = flat.max(axis=0) + 1
    key = (flat[:, 0] * extent[1] + flat[:, 1]) * extent[2] + flat[:, 2]
    number: Integers = pd.factorize(key, sort=True)[0].reshape(-1, 4).astype(np.int64)
    return number
