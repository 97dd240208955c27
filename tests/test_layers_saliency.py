from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from layer_tables import ALMATY, chip_table, grid_at, map_points, saliency
from rasterio.warp import transform as warp_points
from rio_cogeo.cogeo import cog_validate

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import (
    Lattice,
    blend,
    hann,
    write_saliency,
)
from dlslicer_geo.types import Saliency


@pytest.fixture(scope="module")
def almaty() -> gpd.GeoDataFrame:
    return chip_table({"almaty": ALMATY}, size=480, stride=240)


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


def test_saliency_keeps_raw_values_and_says_how_it_was_made(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scale = np.linspace(0.1, 3, len(almaty), dtype=np.float32)[:, None, None]
    maps = {
        "layer2": random.normal(size=(len(almaty), 28, 28)).astype(np.float32),
        "layer4": np.ones((len(almaty), 7, 7), np.float32) * scale,
    }
    layer = write_saliency(saliency(almaty, {"almaty": ALMATY}, maps), tmp_path, provenance={"config": "77"})[0]
    assert layer.path.name == "almaty.chico.relevance-cam-margin.tif"
    assert cog_validate(layer.path, strict=True)[:2] == (True, [])
    with rasterio.open(layer.path) as source:
        assert source.descriptions == ("layer2", "layer4", "coverage") and np.isnan(source.nodata)
        assert source.crs.to_epsg() == 32643 and source.shape == (280, 280) and source.bounds[:2] == (653000, 4789000)
        deep, coverage = source.read(2), source.read(3)
        tags = source.tags()
    assert deep.min() < 0.2 and deep.max() > 2.9, "no chip was stretched to 0…1"
    assert coverage[0, 0] == 1 and coverage[140, 140] == 4
    assert layer.limits is not None and layer.limits[1] == pytest.approx(np.percentile(deep, 99), rel=1e-5)
    assert tags["NOTE_START"] == "margin" and tags["CITY"] == "chico" and "77" in tags["dlslicer_geo"]
    assert tags["LATTICE"].startswith("14 x 14 cells per stride") and "p99" in tags["PERCENTILES_layer4"]


def test_a_known_point_of_almaty_stays_in_its_cell(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    point = (654_210.0, 4_789_330.0)
    col, row = (int(v) for v in map_points(~ALMATY.affine, [point])[0])
    maps = np.zeros((len(almaty), 56, 56), np.float32)
    for chip, (top, left) in enumerate(almaty[["row", "col"]].to_numpy()):
        if 0 <= row - top < 480 and 0 <= col - left < 480:
            maps[chip, (row - top) * 56 // 480, (col - left) * 56 // 480] = 1
    layer = write_saliency(saliency(almaty, {"almaty": ALMATY}, {"layer1": maps}), tmp_path)[0]
    lon, lat = warp_points("EPSG:32643", "EPSG:4326", [point[0]], [point[1]])
    with rasterio.open(layer.path) as source:
        x, y = warp_points("EPSG:4326", source.crs, lon, lat)
        assert source.index(x[0], y[0]) == np.unravel_index(np.nanargmax(source.read(1)), source.shape)


def test_saliency_of_a_rotated_scene_and_of_two_cities_makes_a_file_each(tmp_path: Path) -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (512, 512), 0.5, turn=20)
    chips = chip_table({"turned": grid}, size=256, stride=256)
    maps = {"layer4": np.ones((4, 7, 7), np.float32)}
    why = saliency(chips, {"turned": grid}, maps)
    both = Saliency(**{name: getattr(why, name) for name in why.__slots__} | {"city": ("chico", "a/b") * 2})
    layers = write_saliency(both, tmp_path)
    assert [layer.path.name.split(".")[1] for layer in layers] == ["a-b", "chico"]
    with rasterio.open(layers[1].path) as source:
        corners = [(0, 0), (14, 0), (14, 14)]
        of_the_scene = map_points(grid.affine, [(0, 0), (512, 0), (512, 512)])
        assert np.allclose(map_points(source.transform, corners), of_the_scene, atol=1e-6)
        assert np.isfinite(source.read(1)).sum() == 7 * 14


def test_chips_of_two_cuts_in_one_scene_are_an_error(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    mixed = almaty.head(2).assign(stride=[240, 120])
    why = saliency(mixed, {"almaty": ALMATY}, {"layer4": np.ones((2, 7, 7), np.float32)})
    with pytest.raises(LayerError, match="2 strides: explain chips of one cut"):
        write_saliency(why, tmp_path)
