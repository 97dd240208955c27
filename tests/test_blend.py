"""Maps of overlapping chips on one lattice: constant stays constant, a point stays in its place, no seam shows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from dlslicer_geo.layers import Lattice, blend, hann


def test_half_overlapping_hann_weights_sum_to_one() -> None:
    position = (np.arange(56) + 0.5) / 56
    assert np.allclose(hann(position[:28]) + hann(position[28:]), 1, atol=1e-12) and hann(position).min() > 0


def test_a_constant_map_stays_constant_up_to_ragged_edges_and_on_any_lattice() -> None:
    for size, stride, cells in [(480, 240, 56), (480, 240, 7), (256, 100, 7), (250, 250, 14), (480, 360, 28)]:
        start = [(0, 0), (0, stride), (stride, 2 * stride), (5 * stride, 0), (37, 11)]
        windows = np.array([(row, col, size, size) for row, col in start])
        lattice = Lattice.over(windows, stride, (cells, cells))
        blended, count = blend(np.full((5, cells, cells), 0.7, np.float32), windows, lattice)
        assert np.abs(blended[count > 0] - 0.7).max() < 1e-6
        assert np.isnan(blended[count == 0]).all() and count.max() >= 2
        area = np.zeros((5 * stride + size + 37, 2 * stride + size + 37), bool)
        for row, col, height, width in windows:
            area[row : row + height, col : col + width] = True
        assert (count > 0).sum() * np.prod(lattice.cell) == pytest.approx(area.sum(), rel=0.1)


def test_the_lattice_divides_the_stride_into_the_cells_of_the_shallowest_layer() -> None:
    windows = np.array([(row, col, 480, 480) for row in range(0, 4321, 240) for col in range(0, 4321, 240)])
    layer1 = Lattice.over(windows, 240, (56, 56))
    assert layer1.shape == (560, 560) and layer1.per_stride == (28, 28)
    assert Lattice.over(windows, 240, (7, 7)).per_stride == (4, 4)  # 3.5 cells per stride, rounded up


def test_a_point_source_lands_within_one_cell() -> None:
    windows = np.array([(row, col, 480, 480) for row in (240, 480, 720) for col in (480, 720, 960)])
    point = np.array([800.0, 1010.0])
    maps = np.zeros((9, 56, 56), np.float32)
    for chip, window in enumerate(windows):
        row, col = ((point - window[:2]) * 56 // 480).astype(int)
        if 0 <= row < 56 and 0 <= col < 56:
            maps[chip, row, col] = 1
    lattice = Lattice.over(windows, 240, (56, 56))
    blended, _ = blend(maps, windows, lattice)
    peak = np.array(np.unravel_index(np.nanargmax(blended), blended.shape)) + np.array(lattice.origin) + 0.5
    assert np.abs(peak * lattice.cell - point).max() <= lattice.cell[0]


def test_blending_agrees_with_a_slow_twin_that_visits_every_cell() -> None:
    random = np.random.default_rng(1)
    windows = np.array([(0, 0, 100, 100), (0, 50, 100, 100), (50, 50, 100, 100), (60, 10, 100, 100)])
    maps = random.normal(size=(4, 7, 7)).astype(np.float32)
    lattice = Lattice.over(windows, 50, (14, 14))
    blended, count = blend(maps, windows, lattice)
    for row, col in random.integers(0, lattice.shape, (60, 2)):
        y, x = (row + 0.5) * lattice.cell[0], (col + 0.5) * lattice.cell[1]
        total = weight = 0.0
        for values, (top, left, height, width) in zip(maps, windows, strict=True):
            v, u = (y - top) / height, (x - left) / width
            if 0 <= v < 1 and 0 <= u < 1:
                rows, cols = np.clip(np.array([v, u]) * 7 - 0.5, 0, 6)
                r, c = min(int(rows), 5), min(int(cols), 5)
                corner = values[r : r + 2, c : c + 2].astype(float)
                value = np.array([1 - rows + r, rows - r]) @ corner @ np.array([1 - cols + c, cols - c])
                share = np.sin(np.pi * v) ** 2 * np.sin(np.pi * u) ** 2
                total, weight = total + share * value, weight + share
        assert (count[row, col] > 0) == (weight > 0)
        if weight:
            assert blended[row, col] == pytest.approx(total / weight, abs=1e-6)


def planted(lattice: Lattice, windows: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Maps (n, 28, 28) of chips that see the same ground and disagree about it.

    The signal on the ground is noise of all scales. Every chip weighs it by its own factor and adds a smooth field
    of its own, as the same place is explained differently in another context; both as strong as the signal.
    """
    random = np.random.default_rng(seed)
    ground = sum(
        ndimage.zoom(random.normal(size=(size, size)), lattice.shape[0] / size, order=1) * share
        for size, share in ((4, 0.5), (8, 0.4), (16, 0.3), (32, 0.25), (64, 0.2))
    )
    at = (windows[:, :2] / lattice.cell[0]).round().astype(int)
    seen = np.stack([np.asarray(ground)[row : row + 28, col : col + 28] for row, col in at])
    own = ndimage.zoom(random.normal(size=(len(at), 7, 7)), (1, 4, 4), order=1)
    factor = np.exp(random.normal(size=(len(at), 1, 1)) * 0.5)
    return np.asarray(factor * seen + own * np.asarray(ground).std(), np.float32)


def seam(values: NDArray[np.float64], line: int) -> float:
    """Mean step across the lines of chips over the mean step elsewhere."""
    steps = np.abs(np.diff(values[line:-line, line:-line], axis=0)).mean(axis=1)
    across = np.arange(1, len(steps) + 1) % line == 0
    return float(steps[across].mean() / steps[~across].mean())


def test_no_seam_shows_where_chips_begin_and_naive_ways_leave_one() -> None:
    windows = np.array([(row, col, 256, 256) for row in range(0, 1025, 128) for col in range(0, 1025, 128)])
    lattice = Lattice.over(windows, 128, (28, 28))
    found = []
    for seed in range(5):
        maps = planted(lattice, windows, seed)
        last, total, count = (np.zeros(lattice.shape) for _ in range(3))
        for values, (row, col, _, _) in zip(maps, windows // 128 * 14, strict=True):
            here = slice(row, row + 28), slice(col, col + 28)
            last[here], total[here], count[here] = values, total[here] + values, count[here] + 1
        blended = blend(maps, windows, lattice)[0].astype(float)
        found.append([seam(values, 14) for values in (last, total / count, blended)])
    last_wins, mean, hann_weighted = np.mean(found, axis=0)
    print(f"step across chip lines / elsewhere: last wins {last_wins:.2f}, mean {mean:.2f}, Hann {hann_weighted:.2f}")
    assert hann_weighted <= 1.1 < mean < last_wins


def test_coverage_is_the_number_of_chips_over_the_centre_of_a_cell() -> None:
    random = np.random.default_rng(3)
    starts = random.integers(0, 12, (25, 2)) * 40
    windows = np.column_stack([np.unique(starts, axis=0), np.full((len(np.unique(starts, axis=0)), 2), 120)])
    lattice = Lattice.over(windows, 40, (9, 9))
    _, count = blend(np.ones((len(windows), 9, 9), np.float32), windows, lattice)
    y, x = ((np.arange(n) + 0.5 + o) * c for n, o, c in zip(lattice.shape, lattice.origin, lattice.cell, strict=True))
    rows = (y >= windows[:, :1]) & (y < windows[:, :1] + 120)
    cols = (x >= windows[:, 1:2]) & (x < windows[:, 1:2] + 120)
    assert np.array_equal(count, rows.astype(int).T @ cols.astype(int)) and count.max() >= 4
