"""What the pixels of a scene say: its valid area, its quality, its colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio.enums import ColorInterp

from dlslicer_geo.chips import cut
from dlslicer_geo.errors import SceneError, TableError
from dlslicer_geo.scenes import channel_statistics, scan
from dlslicer_geo.types import ChipGrid, Reading, Scene

Raster = Callable[..., Path]


# -- valid area and quality --


def half_empty(size: int = 200) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.full((3, size, size), 90, np.uint8)
    pixels[:, :, : size // 4] = 0
    return pixels


def corner_on_ground(scene: Scene, col: float, row: float) -> tuple[float, float]:
    x, y = scene.grid.transform * (col, row)
    lon, lat = Transformer.from_crs(str(scene.grid.crs), "EPSG:4326", always_xy=True).transform(x, y)
    return float(lon), float(lat)


def area_share(scenes: gpd.GeoDataFrame) -> float:
    scene = Scene.from_record(scenes.to_dict("records")[0])
    native = scenes.geometry.to_crs(str(scene.grid.crs)).iloc[0]
    return float(native.area / scene.grid.extent.geom.area)


def test_nodata_is_left_out_of_the_valid_area(raster: Raster) -> None:
    scenes = scan(raster("a.tif", pixels=half_empty(), nodata=0), pattern=None)
    assert scenes["valid_fraction"].item() == 0.75
    assert area_share(scenes) == pytest.approx(0.75, abs=0.001)


def test_an_alpha_band_and_a_mask_are_left_out_too(raster: Raster, tmp_path: Path) -> None:
    alpha = np.concatenate([np.full((3, 200, 200), 90, np.uint8), np.full((1, 200, 200), 255, np.uint8)])
    alpha[3, :100] = 0
    path = raster("alpha.tif", pixels=alpha, photometric="rgb", alpha="yes")
    with rasterio.open(path) as source:
        assert source.colorinterp[3] == ColorInterp.alpha
    path = raster("mask.tif", pixels=alpha[:3])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(alpha[3] > 0)
    scenes = scan(tmp_path, pattern=None)
    assert scenes["valid_fraction"].to_list() == [0.5, 0.5]
    assert scenes["saturated_fraction"].to_list() == [0.0, 0.0]


def test_nan_is_not_valid_and_does_not_spoil_the_contrast(raster: Raster) -> None:
    pixels = np.full((3, 40, 40), 0.25, np.float32)
    pixels[:, :10] = np.nan
    scenes = scan(raster("a.tif", pixels=pixels), pattern=None)
    assert scenes["valid_fraction"].item() == 0.75
    assert scenes["contrast"].item() == pytest.approx(0)


def test_a_large_valid_area_is_drawn_to_a_pixel_or_two(raster: Raster) -> None:
    rows, cols = np.mgrid[:2500, :3000]
    inside = np.abs(rows - 1250) + np.abs(cols - 1500) < 1100  # slanted edges
    pixels = np.where(inside, 77, 0).astype(np.uint8)[None]
    scenes = scan(raster("a.tif", pixels=pixels, nodata=0, compress="deflate"), pattern=None)
    assert scenes["valid_fraction"].item() == inside.mean()
    assert area_share(scenes) == pytest.approx(inside.mean(), rel=0.002)
    assert shapely.get_num_coordinates(scenes.geometry.item()) < 200


def test_speckles_of_nodata_do_not_break_the_outline(raster: Raster) -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (1, 300, 300), dtype=np.uint8)
    scenes = scan(raster("a.tif", pixels=pixels, nodata=0), pattern=None)
    assert scenes["valid_fraction"].item() == (pixels > 0).mean()
    assert scenes.geometry.item().is_valid
    assert area_share(scenes) == pytest.approx(1.0, abs=0.01)


def test_a_single_valid_pixel_still_has_an_outline(raster: Raster) -> None:
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, 10, 20] = 5
    scenes = scan(raster("a.tif", pixels=pixels, nodata=0), pattern=None)
    assert area_share(scenes) == pytest.approx(1 / 64**2, rel=0.01)


def test_long_edges_stay_within_half_a_pixel(raster: Raster) -> None:
    pixels = np.full((1, 12, 9000), 90, np.uint8)  # 270 km: a straight line in degrees would be 1.5 km, 50 px off
    scenes = scan(raster("a.tif", pixels=pixels, gsd=30.0, origin=(300_000.0, 6_500_000.0)), pattern=None)
    scene = Scene.from_record(scenes.to_dict("records")[0])
    edge = shapely.points([corner_on_ground(scene, col, 0) for col in range(0, 9001, 50)])
    metres = shapely.distance(edge, shapely.boundary(scenes.geometry.item())) * 111_320
    assert metres.max() < 15


def test_white_holes_show_as_saturated_where_they_are_not_looked_for(raster: Raster) -> None:
    pixels = np.full((3, 200, 200), 90, np.uint8)
    pixels[:, 100:] = 255
    path = raster("a.tif", pixels=pixels)
    scenes = scan(path, pattern=None, reading=Reading(holes=False))
    assert (scenes["valid_fraction"].item(), scenes["saturated_fraction"].item()) == (1, 0.5)
    scenes = scan(path, pattern=None)
    assert (scenes["valid_fraction"].item(), scenes["saturated_fraction"].item()) == (0.5, 0)


def test_contrast_is_a_share_of_the_range_of_the_pixel_type(raster: Raster, tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2
    raster("a.tif", pixels=(board * 255).astype(np.uint8)[None])
    raster("b.tif", pixels=(board * 65535).astype(np.uint16)[None])
    scenes = scan(tmp_path, pattern=None)
    assert scenes["contrast"].to_list() == pytest.approx([0.5, 0.5])
    assert scenes["saturated_fraction"].to_list() == [1.0, 1.0]
    assert scenes["dtype"].to_list() == ["uint8", "uint16"]


def test_a_crs_without_authority_is_kept_as_wkt(raster: Raster) -> None:
    custom = "+proj=tmerc +lat_0=10.5 +lon_0=77.3 +k=1 +x_0=1234 +y_0=777 +ellps=WGS84 +units=m"
    scenes = scan(raster("a.tif", crs=custom, origin=(1300.0, 800.0)), pattern=None)
    assert scenes["crs"].item().startswith("PROJCRS")
    assert scenes["gsd_m"].item() == pytest.approx(0.6, rel=1e-4)


# -- colours --


def test_channel_statistics_are_those_of_a_plain_read(data_root: Path) -> None:
    scenes = scan([data_root / f"naip_cities/{name}.tif" for name in ("eureka_2020_1", "riverside_2018_3")])
    chips = cut(scenes, ChipGrid(size=100, stride=30, metres=None))
    found = channel_statistics(scenes, chips.iloc[::-1])
    assert list(found["chip_id"]) == list(chips["chip_id"])[::-1]
    for scene_id, path in zip(scenes["scene_id"], scenes["path"], strict=True):
        with rasterio.open(path) as source:
            pixels = source.read().astype(np.float64)
        for chip in chips[chips["scene_id"] == scene_id].itertuples():
            part = pixels[:, chip.row : chip.row + chip.height, chip.col : chip.col + chip.width]
            row = found[found["chip_id"] == chip.chip_id].iloc[0]
            assert row[["mean_1", "mean_2", "mean_3"]].to_list() == pytest.approx(part.mean(axis=(1, 2)).tolist())
            assert row[["std_1", "std_2", "std_3"]].to_list() == pytest.approx(part.std(axis=(1, 2)).tolist())


def test_channel_statistics_leave_out_what_is_not_valid(raster: Raster) -> None:
    pixels = half_empty(64)
    scenes = scan(raster("a.tif", pixels=pixels, nodata=0), pattern=None)
    chips = cut(scenes, ChipGrid(size=16, stride=16, metres=None, min_valid=0))
    found = channel_statistics(scenes, chips).to_numpy()[:, 1:]
    empty = (chips["col"] == 0).to_numpy()
    assert np.isnan(found[empty]).all()
    assert (found[~empty] == [90, 0, 90, 0, 90, 0]).all()


def test_grey_scenes_repeat_their_band_and_alpha_is_no_colour(raster: Raster, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(1, 250, (2, 32, 32), dtype=np.uint8)
    grey[1] = 255
    raster("grey.tif", pixels=grey, photometric="minisblack", alpha="yes")
    scenes = scan(tmp_path, pattern=None)
    found = channel_statistics(scenes, cut(scenes, ChipGrid(size=32, stride=32, metres=None)))
    assert found.filter(like="mean").iloc[0].to_list() == pytest.approx([grey[0].mean()] * 3)
    assert found.filter(like="std").iloc[0].to_list() == pytest.approx([grey[0].std()] * 3)


def test_channel_statistics_are_those_of_what_the_model_sees(raster: Raster, tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(100, 4000, (4, 64, 64), dtype=np.uint16)
    raster("wide.tif", pixels=wide, photometric="minisblack", alpha="no")
    scenes = scan(tmp_path, pattern=None, reading=Reading(bands=(4, 1, 2), scaling=(100.0, 2000.0)))
    chips = cut(scenes, ChipGrid(size=32, stride=32, metres=None))
    found = channel_statistics(scenes, chips)
    shown = np.rint(np.clip((wide[[3, 0, 1]].astype(float) - 100) / 1900, 0, 1) * 255)
    for row, col, values in zip(chips["row"], chips["col"], found.to_numpy()[:, 1:], strict=True):
        part = shown[:, row : row + 32, col : col + 32]
        assert values[::2] == pytest.approx(part.mean(axis=(1, 2)), abs=0.01)
        assert values[1::2] == pytest.approx(part.std(axis=(1, 2)), abs=0.01)


def test_channel_statistics_leave_out_holes_that_no_mask_declares(raster: Raster) -> None:
    pixels = np.full((3, 256, 256), 90, np.uint8)
    pixels[:, :, 100:] = 255
    scenes = scan(raster("a.tif", pixels=pixels), pattern=None)
    chips = cut(scenes, ChipGrid(size=64, stride=64, metres=None, min_valid=0.1))
    assert set(chips["col"]) == {0, 64}
    found = channel_statistics(scenes, chips).to_numpy()[:, 1:]
    assert (found == [90, 0, 90, 0, 90, 0]).all()


def test_channel_statistics_say_which_scene_is_missing(raster: Raster, tmp_path: Path) -> None:
    path = raster("a.tif", size=(32, 32))
    scenes = scan(path, pattern=None)
    chips = cut(scenes, ChipGrid(size=32, stride=32, metres=None))
    with pytest.raises(TableError, match="1 scenes not in the scene table, a first"):
        channel_statistics(scenes.iloc[:0], chips)
    path.unlink()
    with pytest.raises(SceneError, match=r"a\.tif cannot be read any more"):
        channel_statistics(scenes, chips)
