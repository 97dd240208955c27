"""Chips lie inside their scenes, measure what was promised, and stand where their geometry says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.warp import transform as warp
from rasterio.windows import Window
from rasterio.windows import bounds as window_bounds

from dlslicer_geo import files
from dlslicer_geo.chips import COLUMNS, cut
from dlslicer_geo.errors import GridError, TableError
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid

Raster = Callable[..., Path]
GSD = 200 / 480  # of the published scenes


def scene(scene_id: str = "a", size: tuple[int, int] = (4800, 4800), **columns: Any) -> dict[str, Any]:
    """One row of a scene table; the ground resolution is that of the grid unless given."""
    gsd = columns.pop("gsd", GSD)
    x, y = columns.pop("origin", (500_000.0, 4_790_000.0))
    height, width = size
    return {
        "scene_id": scene_id,
        "city": "ALA",
        "site": "north",
        "acquired": None,
        "crs": "EPSG:32643",
        "transform": (gsd, 0.0, x, 0.0, -gsd, y),
        "height": height,
        "width": width,
        "gsd_m": gsd,
        "georef": "geotiff",
        "valid_fraction": 1.0,
        "geometry": shapely.box(x, y - height * gsd, x + width * gsd, y),
    } | columns


def table(*rows: dict[str, Any]) -> gpd.GeoDataFrame:
    scenes = gpd.GeoDataFrame(pd.DataFrame(list(rows)), geometry="geometry", crs="EPSG:32643")
    return scenes.to_crs("EPSG:4326")


# -- the published grid --


def test_a_published_scene_gives_361_chips_and_its_half_171() -> None:
    chips = cut(table(scene("a"), scene("b", size=(4800, 2400))), ChipGrid(size=480, stride=240, metres=200))
    assert chips["scene_id"].value_counts().to_dict() == {"a": 361, "b": 171}
    assert set(chips["width"]) == set(chips["height"]) == {480}
    assert set(chips["stride"]) == {240}
    assert chips["row"].max() == 4800 - 480


def test_a_remainder_that_does_not_fit_is_left_over() -> None:
    chips = cut(table(scene(size=(719, 959))), ChipGrid(size=480, stride=240, metres=200))
    assert list(zip(chips["row"], chips["col"], strict=True)) == [(0, 0), (0, 240)]


def test_float_noise_in_the_origin_never_adds_or_loses_a_column() -> None:
    random = np.random.default_rng(0)
    origins = random.uniform((2e5, 1e6), (8e5, 9e6), (1000, 2))
    rows = [scene(f"s{number:04d}", gsd=0.6, origin=tuple(origin)) for number, origin in enumerate(origins)]
    chips = cut(table(*rows), ChipGrid(size=480, stride=240, metres=288))
    assert set(chips.groupby("scene_id").size()) == {361}
    # the same grid laid in map units, rounded up as the samplers do or down, is wrong for some of them
    width = (origins[:, 0] + 4800 * 0.6) - origins[:, 0]
    assert (np.ceil((width - 288) / 144) + 1 > 19).any()
    assert (np.floor((width - 288) / 144) + 1 < 19).any()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    size=st.integers(1, 200),
    stride=st.integers(1, 200),
    gsd=st.floats(0.05, 30),
)
def test_every_chip_lies_in_its_scene_and_their_number_is_the_floor(
    height: int, width: int, size: int, stride: int, gsd: float
) -> None:
    stride = min(stride, size) if max(height, width) / stride < 60 else size
    scenes = table(scene(size=(height, width), gsd=gsd))
    grid = ChipGrid(size=size, stride=stride, metres=None)
    if min(height, width) < size:
        with pytest.raises(GridError, match="cannot hold a chip"):
            cut(scenes, grid)
        return
    chips = cut(scenes, grid)
    assert len(chips) == ((height - size) // stride + 1) * ((width - size) // stride + 1)
    assert (chips["row"].min(), chips["col"].min()) == (0, 0)
    assert (chips["row"] + chips["height"]).max() <= height
    assert (chips["col"] + chips["width"]).max() <= width
    assert not chips[["row", "col"]].duplicated().any()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(metres=st.floats(20, 500), gsd=st.floats(0.05, 2), size=st.integers(16, 512), parts=st.integers(1, 5))
def test_a_chip_measures_what_was_promised_within_one_percent(
    metres: float, gsd: float, size: int, parts: int
) -> None:
    grid = ChipGrid(size=size, stride=max(1, size // parts), metres=metres)
    side = round(metres / gsd * 1.02) + 1  # a scene of hardly more than one chip
    try:
        chips = cut(table(scene(size=(side, side), gsd=gsd)), grid)
    except GridError as error:
        assert "enlarged" in str(error) or "more than 1% off" in str(error)
        return
    assert chips["width"].iloc[0] * gsd == pytest.approx(metres, rel=0.01)
    assert abs(chips["stride"].iloc[0] * gsd - metres * grid.stride / size) <= 0.501 * gsd


# -- ground metres (trap 6) --


def test_200_metres_of_banepa_are_756_pixels_not_670(data_root: Path) -> None:
    scenes = scan(data_root / "banepa", pattern=None)
    chips = cut(scenes, ChipGrid(size=480, stride=240, metres=200))
    assert set(chips["width"]) == {756}
    assert set(chips["stride"]) == {378}
    assert len(chips) == ((4352 - 756) // 378 + 1) * ((5632 - 756) // 378 + 1)


def ground_edges(chips: gpd.GeoDataFrame) -> tuple[float, float]:
    """Metres along the lower and the right edge of the first chip, on the ellipsoid."""
    lon, lat = shapely.get_coordinates(chips.geometry.iloc[0]).T
    _, _, metres = Geod(ellps="WGS84").inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
    return float(metres[0]), float(metres[1])


@pytest.mark.parametrize("name", ["bishop_2020_0", "chico_2020_0"])
def test_naip_chips_measure_what_was_promised(data_root: Path, name: str) -> None:
    scenes = scan(data_root / f"naip_cities/{name}.tif")
    assert ground_edges(cut(scenes, ChipGrid(size=256, stride=256, metres=153.6))) == pytest.approx(
        (153.6, 153.6), rel=0.005
    )
    assert len(cut(scenes, ChipGrid(size=128, stride=64, metres=76.8))) == 9


def test_mercator_at_60_degrees_north_takes_twice_the_map_units(raster: Raster) -> None:
    path = raster("a.tif", crs="EPSG:3857", origin=(2_782_987.0, 8_399_737.0), gsd=1.0, size=(500, 500))
    chips = cut(scan(path, pattern=None), ChipGrid(size=200, stride=100, metres=100))
    assert chips["width"].iloc[0] == pytest.approx(200, abs=2)
    assert ground_edges(chips) == pytest.approx((100, 100), rel=0.01)


def test_a_scene_in_degrees_gives_chips_of_the_promised_area(raster: Raster, tmp_path: Path) -> None:
    path = raster("in/a.tif", crs="EPSG:4326", origin=(25.0, 45.0), gsd=1e-5, size=(400, 400))
    scenes = scan(path, pattern=None, prepared=tmp_path / "prepared")
    across, down = ground_edges(cut(scenes, ChipGrid(size=128, stride=64, metres=100)))
    assert across * down == pytest.approx(100**2, rel=0.02)


# -- geometry --


@pytest.mark.parametrize("file", ["naip_cities/bishop_2020_0.tif", "naip_cities/eureka_2020_1.tif", "banepa"])
def test_corners_agree_with_rasterio_within_half_a_pixel(data_root: Path, file: str) -> None:
    scenes = scan(data_root / file, pattern=None)
    chips = cut(scenes, ChipGrid(size=100, stride=70, metres=None))
    with rasterio.open(scenes["path"].iloc[0]) as source:
        crs, transform = source.crs, source.transform
    chip: Any
    for chip in chips.iloc[:: max(1, len(chips) // 25)].itertuples():
        west, south, east, north = window_bounds(Window(chip.col, chip.row, chip.width, chip.height), transform)
        lon, lat = warp(crs, "EPSG:4326", [west, east, east, west], [south, south, north, north])
        corners = np.array(chip.geometry.exterior.coords)[:-1]
        _, _, metres = Geod(ellps="WGS84").inv(corners[:, 0], corners[:, 1], lon, lat)
        assert max(metres) < 0.5 * scenes["gsd_m"].iloc[0]
        assert chip.geometry.exterior.is_ccw


def test_scenes_of_several_zones_keep_their_places() -> None:
    rows = [scene(f"s{zone}", size=(480, 480), crs=f"EPSG:326{zone}") for zone in (43, 18, 60, 43 - 2)]
    chips = cut(table(*rows), ChipGrid())
    lon = shapely.get_x(shapely.centroid(chips.geometry.to_numpy()))
    assert list(chips["scene_id"]) == ["s18", "s41", "s43", "s60"]
    assert lon == pytest.approx([-75, 63, 75, 177], abs=0.01)


# -- order, columns --


def test_chip_ids_do_not_depend_on_the_order_of_the_scenes() -> None:
    rows = [scene(name, size=(700, 1000 + 100 * i)) for i, name in enumerate(["b", "a10", "a2", "C"])]
    first, second = cut(table(*rows), ChipGrid()), cut(table(*rows[::-1]), ChipGrid())
    pd.testing.assert_frame_equal(first, second)
    assert list(first["chip_id"]) == list(range(len(first)))
    order = first[["scene_id", "row", "col"]]
    pd.testing.assert_frame_equal(order, order.sort_values(["scene_id", "row", "col"]))


def test_the_table_comes_back_from_disk_as_promised(tmp_path: Path) -> None:
    chips = cut(table(scene(size=(480, 960)), scene("b", city=None)), ChipGrid())
    assert list(chips.columns) == list(COLUMNS)
    again = files.read_table(files.write_table(chips, tmp_path / "chips.parquet"), COLUMNS)
    pd.testing.assert_series_equal(again["chip_id"], chips["chip_id"])
    assert set(chips["split"]) == {"unused"}
    assert set(chips["fold"]) == set(chips["unit"]) == {-1}
    assert chips["city"].isna().sum() == 361


def test_a_scene_table_without_what_is_needed_is_refused() -> None:
    with pytest.raises(TableError, match="no column gsd_m"):
        cut(table(scene()).drop(columns="gsd_m"), ChipGrid())
    with pytest.raises(TableError, match="two rows for scene a"):
        cut(table(scene(), scene()), ChipGrid())


# -- misfits --


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            scene("z", size=(479, 4800)),
            "it has 479×4800 px and one chip of 200 m at 0.4167 m per pixel takes 480×480",
        ),
        (scene("z", gsd=1.0), "200 m at 1 m per pixel is 200 px, to be enlarged to 480 px, more than 2 times"),
    ],
)
def test_a_scene_that_cannot_hold_a_chip_is_named_with_its_numbers(
    row: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenes = table(scene("a"), row)
    with pytest.raises(GridError, match=rf"scene z cannot hold a chip: {words} \(1 of 2 scenes misfit\): choose"):
        cut(scenes, ChipGrid())
    with caplog.at_level(logging.WARNING, "dlslicer_geo"):
        chips = cut(scenes, ChipGrid(on_misfit="drop"))
    assert set(chips["scene_id"]) == {"a"}
    assert chips.attrs["dropped"] == [{"scene_id": "z", "chips": 0, "reason": words}]
    assert [record.getMessage() for record in caplog.records] == [f"dropped the scene of z: {words}"]


def test_a_window_that_whole_pixels_cannot_meet_is_a_misfit() -> None:
    with pytest.raises(GridError, match=r"100 m at 30 m per pixel is 3 whole px or 90 m, more than 1% off"):
        cut(table(scene(gsd=30.0)), ChipGrid(size=4, stride=4, metres=100))


def test_twice_enlarged_is_still_allowed() -> None:
    assert set(cut(table(scene(gsd=200 / 240)), ChipGrid())["width"]) == {240}


def test_no_chip_at_all_is_an_error_even_when_dropping() -> None:
    with pytest.raises(GridError, match="none of the 1 scenes holds a chip"):
        cut(table(scene(size=(100, 100))), ChipGrid(on_misfit="drop"))
    with pytest.raises(GridError, match="empty"):
        cut(table(scene()).iloc[:0], ChipGrid())


# -- valid share --


def test_chips_outside_the_valid_area_are_dropped_and_counted(raster: Raster) -> None:
    pixels = np.full((3, 400, 400), 90, np.uint8)
    pixels[:, :, :130] = 0
    scenes = scan(raster("a.tif", pixels=pixels, nodata=0), pattern=None)
    chips = cut(scenes, ChipGrid(size=100, stride=100, metres=None, min_valid=0.5))
    assert sorted(set(chips["col"])) == [100, 200, 300]
    share = chips.groupby("col")["valid_fraction"].first()
    assert share.to_list() == pytest.approx([0.7, 1.0, 1.0], abs=0.01)
    assert (chips["valid_fraction"][chips["col"] > 100] == 1).all()
    assert chips.attrs["dropped"] == [
        {"scene_id": "a", "chips": 4, "reason": "less than 0.5 of the chip is valid"},
    ]
    assert list(chips["chip_id"]) == list(range(12))


def test_shares_follow_the_pixels_of_a_slanted_edge(raster: Raster) -> None:
    rows, cols = np.mgrid[:600, :600]
    inside = rows + 2 * cols > 500
    scenes = scan(raster("a.tif", pixels=np.where(inside, 9, 0).astype(np.uint8)[None], nodata=0), pattern=None)
    chips = cut(scenes, ChipGrid(size=60, stride=30, metres=None, min_valid=0))
    starts = chips[["row", "col"]].to_numpy().tolist()
    true = [inside[row : row + 60, col : col + 60].mean() for row, col in starts]
    assert chips["valid_fraction"].to_numpy() == pytest.approx(np.array(true), abs=0.03)


def test_no_valid_chip_is_an_error(raster: Raster) -> None:
    pixels = np.zeros((1, 100, 100), np.uint8)
    pixels[0, :20] = 1
    scenes = scan(raster("a.tif", pixels=pixels, nodata=0), pattern=None)
    with pytest.raises(GridError, match=r"less than 0\.5 of the chip is valid"):
        cut(scenes, ChipGrid(size=100, stride=100, metres=None))


def test_more_than_half_a_million_chips_take_seconds() -> None:
    scenes = table(*(scene(f"s{number:04d}", crs=f"EPSG:326{1 + number % 45:02d}") for number in range(1585)))
    start = time.perf_counter()
    chips = cut(scenes, ChipGrid())
    assert len(chips) == 1585 * 361
    assert time.perf_counter() - start < 30  # measured: 2.4 s on one core
