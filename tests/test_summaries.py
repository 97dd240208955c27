from __future__ import annotations

import dataclasses
from pathlib import Path

import geopandas as gpd
import layer_tables
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_tables import grid_at, saliency
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.files import write_table
from dlslicer_geo.relevance.summaries import summarize, summarize_cities
from dlslicer_geo.relevance.windows import choose_windows
from dlslicer_geo.types import Saliency

Maps = dict[str, NDArray[np.float32]]


def chip_table(grids: dict[str, GeoBox], *, size: int, stride: int) -> gpd.GeoDataFrame:
    """Chips with their corners in the order of the chip table: counter-clockwise from the lower left."""
    table = layer_tables.chip_table(grids, size=size, stride=stride)
    corners = shapely.get_coordinates(table.geometry).reshape(len(table), 5, 2)
    return table.set_geometry(gpd.GeoSeries(shapely.polygons(corners[:, [3, 2, 1, 0]]), crs=4326))


def scene(number: int, size: int = 480, x: float = 653_000.0) -> tuple[gpd.GeoDataFrame, dict[str, GeoBox]]:
    """A row of ``number`` chips beside each other."""
    grids = {"s": grid_at("EPSG:32643", x, 4_791_000, (size, size * number), 0.5)}
    return chip_table(grids, size=size, stride=size), grids


def of_maps(maps: Maps, size: int = 480) -> Saliency:
    chips, grids = scene(len(next(iter(maps.values()))), size)
    return saliency(chips, grids, maps)


def random_maps(number: int, seed: int = 0) -> Maps:
    random = np.random.default_rng(seed)
    shapes = {"layer3": (number, 14, 14), "layer4": (number, 7, 7)}
    return {name: random.normal(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def naive_gini(values: NDArray[np.float32]) -> float:
    cells = np.maximum(values.astype(float), 0).ravel()
    differences = sum(abs(one - two) for one in cells for two in cells)
    return float(differences / (2 * len(cells) * (len(cells) - 1) * cells.mean()))


def naive_best(values: NDArray[np.float32], steps: int = 60) -> float:
    """Highest mean of any half-edge window, tried at places far closer than the cells."""
    fine = values.astype(float).repeat(steps // values.shape[0], 0).repeat(steps // values.shape[1], 1)
    half = steps // 2
    return max(float(fine[r : r + half, c : c + half].mean()) for r in range(half + 1) for c in range(half + 1))


def test_gini_is_that_of_a_loop_over_all_pairs_of_cells() -> None:
    maps = random_maps(5)
    table = summarize(of_maps(maps))
    for name, values in maps.items():
        assert table[f"gini_{name}"].to_numpy() == pytest.approx([naive_gini(one) for one in values], abs=1e-9)


def test_known_maps_have_known_figures() -> None:
    even, point, half = np.full((6, 6), 2.0), np.zeros((6, 6)), np.full((6, 6), -1.0)
    point[4, 1], half[:, :3] = 3, 3
    table = summarize(of_maps({"layer4": np.stack([even, point, half]).astype(np.float32)}))
    assert table["gini_layer4"].tolist() == pytest.approx([0, 1, 18 / 35])
    assert table["positive_share_layer4"].tolist() == pytest.approx([1, 1, 0.75])
    assert table["mean_layer4"].tolist() == pytest.approx([2, 3 / 36, 1])
    assert "agreement_layer4" not in table


def test_agreement_compares_depths_in_the_same_cells() -> None:
    ramp = np.linspace(-1, 1, 4)[None, :, None] * np.ones((1, 4, 4))
    fine = np.repeat(np.repeat(ramp, 2, axis=1), 2, axis=2)
    maps = {"layer3": np.concatenate([fine, -fine, 0 * fine + 7]), "layer4": np.concatenate([ramp] * 3)}
    table = summarize(of_maps({name: values.astype(np.float32) for name, values in maps.items()}))
    assert table["agreement_layer3"][0] == pytest.approx(np.corrcoef(fine[0, :, 0], enlarged(ramp[0, :, 0]))[0, 1])
    assert table["agreement_layer3"][1] == pytest.approx(-table["agreement_layer3"][0])
    assert np.isnan(table["agreement_layer3"][2]), "nothing correlates with a constant"


def enlarged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the cells, by a route of its own: half-pixel centres, clamped at both ends."""
    return np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), values)


def test_what_is_not_defined_is_null_and_reads_back_as_null(tmp_path: Path) -> None:
    values = np.stack([np.zeros((7, 7)), np.full((7, 7), -1), np.full((7, 7), np.nan), np.eye(7)]).astype(np.float32)
    values[3, 0, 0] = np.inf
    table = pd.read_parquet(write_table(summarize(of_maps({"layer4": values})), tmp_path / "saliency.parquet"))
    assert table["rather_than"].isna().all()
    assert table["positive_share_layer4"].isna().tolist() == [True, False, True, True]
    assert table["positive_share_layer4"][1] == 0
    assert table["gini_layer4"].isna().all()
    assert table["mean_layer4"].isna().tolist() == [False, False, True, True]
    assert table["window_row"].isna().tolist() == [False, False, True, True]
    assert table["window_mean"][:2].tolist() == [0, -1]


@pytest.mark.parametrize("cells", [4, 5, 6, 10, 12])
def test_no_other_place_has_a_better_window(cells: int) -> None:
    values = np.random.default_rng(cells).normal(size=(4, cells, cells)).astype(np.float32)
    table = summarize(of_maps({"layer4": values}))
    assert table["window_mean"].tolist() == pytest.approx([naive_best(one) for one in values], abs=1e-9)


def test_a_bright_corner_is_found_in_pixels_of_the_scene_whatever_the_chip_was_resampled_to() -> None:
    bright = np.zeros((3, 7, 7), np.float32)
    bright[0, :4, 3:], bright[1, 3:, :4], bright[2, 2:5, 2:5] = 1, 1, 1
    why = of_maps({"layer4": bright})
    windows = np.array([[480, 960, 480, 480], [1000, 30, 300, 700], [10, 20, 225, 111]])
    table = summarize(dataclasses.replace(why, windows=windows))
    found = table[["window_row", "window_col", "window_height", "window_width"]].to_numpy(int)
    assert found[0].tolist() == [480, 960 + round(480 * 3 / 7), 240, 240]
    assert found[1].tolist() == [1000 + round(300 * 3 / 7), 30, 150, 350]
    # 3 of 7 cells are smaller than the window, so the first place of all that hold them
    assert found[2].tolist() == [10 + round(225 * 1.5 / 7), 20 + round(111 * 1.5 / 7), 112, 55]
    ends = found[:, :2] + found[:, 2:]
    assert (ends <= windows[:, :2] + windows[:, 2:]).all() and (found[:, :2] >= windows[:, :2]).all()
    assert table["window_mean"].tolist() == pytest.approx([1, 1, 9 / 12.25])


def test_equal_windows_are_the_first_in_reading_order_in_spite_of_rounding() -> None:
    values = np.full((200, 14, 14), 0.1, np.float32) * np.linspace(0.3, 3, 200, dtype=np.float32)[:, None, None]
    table = summarize(of_maps({"layer4": values}, size=56))
    assert (table["window_row"] == 0).all()
    assert np.array_equal(table["window_col"].to_numpy(int), np.arange(200) * 56)


def test_many_chips_are_summarized_as_few_are_and_in_time() -> None:
    from time import perf_counter

    maps = random_maps(3000)
    why = of_maps(maps, size=14)
    start = perf_counter()
    table = summarize(why)
    assert perf_counter() - start < 10
    pd.testing.assert_frame_equal(
        table.iloc[2000:2010].reset_index(drop=True), summarize(why.select(np.isin(why.chip_id, range(2000, 2010))))
    )
    assert summarize(why.select(np.zeros(3000, bool))).columns.tolist() == table.columns.tolist()


def test_cities_have_a_row_per_depth_with_means_and_percentiles() -> None:
    why = of_maps(random_maps(40))
    table = summarize(dataclasses.replace(why, city=("riverside", "chico") * 20, rather_than="bishop"))
    table.loc[0, "gini_layer3"] = np.nan
    cities = summarize_cities(table)
    assert list(zip(cities["city"], cities["layer"], cities["chips"], strict=True)) == [
        ("chico", "layer3", 20), ("chico", "layer4", 20), ("riverside", "layer3", 20), ("riverside", "layer4", 20),
    ]  # fmt: skip
    mine = table[table["city"] == "riverside"]
    last = cities.iloc[3]
    assert last["mean_p90"] == pytest.approx(np.percentile(mine["mean_layer4"], 90))
    assert last["window_mean_p10"] == pytest.approx(np.percentile(mine["window_mean"], 10))
    assert cities.iloc[2]["gini"] == pytest.approx(mine["gini_layer3"][1:].mean())
    assert np.isnan(last["agreement"]) and np.isnan(cities.iloc[2]["window_mean"])
    assert set(cities["rather_than"]) == {"bishop"}
    assert len(summarize_cities(table.assign(rather_than=None))) == 4


def planted(row: int, col: int, chips: gpd.GeoDataFrame, bright: float = 1.0) -> NDArray[np.float32]:
    """Maps of 8×8 cells in which one square of ground is bright, in whatever chip it is seen."""
    maps = np.zeros((len(chips), 8, 8), np.float32)
    for at, (top, left, height) in enumerate(chips[["row", "col", "height"]].to_numpy()):
        cells = (np.arange(8) + 0.5) * height / 8
        inside = [
            (start <= origin + cells) & (origin + cells < start + 240) for start, origin in ((row, top), (col, left))
        ]
        maps[at] = bright * np.outer(*inside)
    return maps


def test_a_place_seen_by_four_chips_in_two_years_is_shown_once() -> None:
    grids = {
        "old": grid_at("EPSG:32643", 653_000, 4_791_000, (960, 960), 0.5),
        "new": grid_at("EPSG:32643", 653_010, 4_791_005, (960, 960), 0.5),
    }
    chips = chip_table(grids, size=480, stride=240)
    maps = planted(360, 360, chips) + 0.01 * np.random.default_rng(0).random((len(chips), 8, 8), np.float32)
    chosen = choose_windows(summarize(saliency(chips, grids, {"layer4": maps})), chips)
    assert (chosen["window_mean"] > 0.9).sum() == 1
    assert chosen["rank"].tolist() == list(range(1, len(chosen) + 1))
    assert chosen["window_mean"].is_monotonic_decreasing
    assert not overlaps(chosen)


def overlaps(chosen: gpd.GeoDataFrame) -> bool:
    """Whether two windows have more than a thousandth in common, each pair looked at."""
    shapes = list(chosen.to_crs(chosen.estimate_utm_crs()).geometry) if len(chosen) else []
    return any(
        one.intersection(two).area > 2e-3 * min(one.area, two.area)
        for at, one in enumerate(shapes)
        for two in shapes[:at]
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    stride=st.sampled_from([60, 120, 240]),
    shift=st.tuples(st.floats(-150, 150), st.floats(-150, 150)),
    turn=st.floats(0, 90),
)
def test_windows_of_a_portrait_never_share_ground(
    seed: int, stride: int, shift: tuple[float, float], turn: float
) -> None:
    x, y = 500_000 + shift[0], 4_791_000 + shift[1]
    grids = {
        "old": grid_at("EPSG:32643", 500_000, 4_791_000, (720, 720), 0.5),
        "new": grid_at("EPSG:32643", x, y, (720, 720), 0.6, turn),
    }
    chips = chip_table(grids, size=240, stride=stride)
    maps = np.random.default_rng(seed).normal(size=(len(chips), 7, 7)).astype(np.float32)
    table = summarize(saliency(chips, grids, {"layer4": maps}))
    chosen = choose_windows(table, chips)
    assert len(chosen) == 10 or len(chosen) >= 4
    assert not overlaps(chosen)
    assert chosen["window_mean"][0] == table["window_mean"].max()
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(pd.DataFrame(choose_windows(shuffled, chips)), pd.DataFrame(chosen))


def test_neighbouring_windows_that_only_touch_are_both_shown() -> None:
    chips, grids = scene(4)
    maps = np.zeros((4, 8, 8), np.float32)
    maps[0::2, :4, 4:], maps[1::2, :4, :4] = 1, 1  # right half beside left half
    chosen = choose_windows(summarize(saliency(chips, grids, {"layer4": maps})), chips)
    assert chosen["window_col"].tolist() == [240, 480, 1200, 1440]


def test_a_window_lies_on_the_ground_where_its_pixels_are() -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (960, 960), 0.5, turn=30)
    chips = chip_table({"s": grid}, size=480, stride=480)
    window = choose_windows(summarize(saliency(chips, {"s": grid}, {"layer4": planted(480, 600, chips)})), chips)
    row, col = window["window_row"][0], window["window_col"][0]
    assert (row, col) == (480, 600)
    corners = [(col, row), (col + 240, row), (col + 240, row + 240), (col, row + 240)]
    there = gpd.GeoSeries([shapely.Polygon([grid.affine * corner for corner in corners])], crs=str(grid.crs))
    drawn = window.to_crs(str(grid.crs)).geometry[0]
    assert drawn.symmetric_difference(there[0]).area < 1e-3 * drawn.area


def test_portraits_cross_the_date_line_and_leave_out_other_cities_and_what_speaks_against() -> None:
    grids = {"fiji": grid_at("EPSG:32701", 176_700, 8_100_000, (480, 4800), 5)}
    chips = chip_table(grids, size=480, stride=480)
    assert chips.geometry.bounds["maxx"].max() > 179 and chips.geometry.bounds["minx"].min() < -179
    maps = np.full((10, 4, 4), 1, np.float32) * np.arange(10, 0, -1, dtype=np.float32)[:, None, None]
    maps[3] = -1
    why = saliency(chips, grids, {"layer4": maps})
    homes = chips.assign(city=pd.Series(["chico", "elsewhere", None, *["chico"] * 7], dtype=object))
    chosen = choose_windows(summarize(why), homes, number=20)
    assert chosen["chip_id"].tolist() == [0, 2, 4, 5, 6, 7, 8, 9]
    assert len(choose_windows(summarize(why), homes, number=3)) == 3
    assert len(choose_windows(summarize(why), homes, number=0)) == 0
    assert chosen.geometry.bounds["maxx"].max() < 180.2


def test_scenes_that_lie_somewhere_in_their_city_are_told_apart_by_site() -> None:
    grids = {name: grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 0.5) for name in ("a18", "a20", "b18")}
    chips = chip_table(grids, size=480, stride=480).assign(approximate=True, site=["a", "a", "b"])
    maps = np.ones((3, 4, 4), np.float32) * np.array([1, 2, 3], np.float32)[:, None, None]
    chosen = choose_windows(summarize(saliency(chips, grids, {"layer4": maps})), chips)
    assert chosen["scene_id"].tolist() == ["b18", "a20"], "their drawn positions say nothing, their sites do"


def test_nothing_to_choose_is_an_empty_table_and_a_strange_chip_is_an_error() -> None:
    chips, grids = scene(2)
    table = summarize(saliency(chips, grids, {"layer4": -np.ones((2, 4, 4), np.float32)}))
    none = choose_windows(table, chips)
    assert len(none) == 0 and none.crs == 4326 and "window_mean" in none
    with pytest.raises(RelevanceError, match="1 of 2 summarized chips are not in the chip table, such as chip 1"):
        choose_windows(table.assign(window_mean=1.0), chips.head(1))
