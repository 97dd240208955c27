"""Tables stay columns, and what makes them fast gives the results of the plain way."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from layer_tables import chip_table, grid_at, predictions

from dlslicer_geo import files, similarity
from dlslicer_geo.errors import TableError
from dlslicer_geo.layers import write_predictions
from dlslicer_geo.splits.hashes import nearest_pair
from dlslicer_geo.types import Predictions


def made_up(number: int, cities: int = 4, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    codes = tuple(f"c{n}" for n in range(cities))
    shares = random.dirichlet(np.ones(cities), number).astype(np.float32)
    truth = [
        None if lost else codes[n]
        for n, lost in zip(random.integers(0, cities, number), shares[:, 0] > 0.6, strict=True)
    ]
    return Predictions(
        cities=codes, chip_id=random.permutation(3 * number)[:number].astype(np.int64),
        scene_id=[f"s{n}" for n in random.integers(0, 9, number)], truth=truth, probabilities=shares,
        embedding=random.normal(size=(number, 8)).astype(np.float32), unknown_scores={"energy": -shares.max(axis=1)},
        detector="energy", threshold=-0.5,
    )  # fmt: skip


def test_names_of_chips_are_columns_that_say_what_a_loop_over_chips_says() -> None:
    found = made_up(500)
    best = [found.cities[row.argmax()] for row in found.probabilities]
    assert found.city.tolist() == best
    rows = list(zip(found.probabilities, found.truth, best, strict=True))
    assert found.answer.tolist() == ["unknown" if row.max() < 0.5 else city for row, _, city in rows]
    assert found.home.tolist() == [truth if truth is not None else city for _, truth, city in rows]
    assert found.labelled.tolist() == [truth is not None for truth in found.truth] and 0 < found.labelled.sum() < 500
    for column in (found.scene_id, found.truth, found.city, found.answer, found.home):
        assert isinstance(column, np.ndarray) and column.dtype == object and column.shape == (500,)


def test_taking_chips_takes_every_column_in_the_order_asked_for() -> None:
    found, at = made_up(50), np.array([7, 3, 40])
    some = found.take(at)
    assert some.chip_id.tolist() == [int(found.chip_id[i]) for i in at]
    assert some.truth.tolist() == [found.truth[i] for i in at]
    assert some.scene_id.tolist() == [found.scene_id[i] for i in at]
    assert some.embedding is not None and found.embedding is not None
    assert (some.embedding == found.embedding[at]).all()
    assert (some.unknown_scores["energy"] == found.unknown_scores["energy"][at]).all()


def test_a_draw_is_that_of_one_city_after_the_other() -> None:
    found, random = made_up(400), np.random.default_rng(5)
    home = found.home
    wanted = [
        random.permutation(np.sort(found.chip_id[[own == city for own in home]]))[:7] for city in sorted(set(home))
    ]
    assert found.draw(7, seed=5).tolist() == sorted(np.concatenate(wanted).tolist())
    assert len(found.draw(10_000)) == 400


@pytest.mark.parametrize("planted", [None, 0, 3, 7, 11])
def test_the_nearest_hashes_are_those_of_comparing_all_with_all(planted: int | None) -> None:
    """The first pair of equals counts; a scene of both sets is not compared with itself."""
    random = np.random.default_rng(planted or 1)
    code = random.integers(0, 1 << 64, 4000, dtype=np.uint64)
    if planted is not None:
        flips = random.permutation(64)[:planted]
        code[3900] = code[17] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    one, two = np.r_[0:2000, 3000], np.r_[2000:4000]
    bits = np.bitwise_count(code[one][:, None] ^ code[two]).astype(np.int64)
    bits[one[:, None] == two] = 65
    pairs = [(one[row], two[column]) for row, column in np.argwhere(bits == bits.min())]
    low = min((min(pair), max(pair)) for pair in pairs)
    assert nearest_pair(code, one, two) == (bits.min(), *low) == nearest_pair(code, two, one)
    if planted is not None and planted < 11:
        assert low == (17, 3900)


def test_hashes_that_are_all_alike_or_too_few_have_an_answer_too() -> None:
    code = np.zeros(5000, np.uint64)
    assert nearest_pair(code, np.arange(2500), np.arange(2500, 5000)) == (0, 0, 2500)
    nothing = np.zeros(0, np.int64)
    assert nearest_pair(code, nothing, np.arange(9))[0] == 65 == nearest_pair(code, np.array([4]), np.array([4]))[0]


def points(found: Predictions) -> gpd.GeoDataFrame:
    ids = np.sort(found.chip_id)
    table = {"chip_id": ids, "site": "a", "approximate": False}
    return gpd.GeoDataFrame(table, geometry=shapely.points(ids, 0), crs=4326)


@pytest.mark.slow
def test_of_very_many_chips_look_alikes_are_the_nearest_of_an_equal_draw(caplog: pytest.LogCaptureFixture) -> None:
    number = similarity.LARGEST + 2000
    found = made_up(number, cities=40, seed=3)
    with caplog.at_level(logging.WARNING):
        frame = similarity.similar(found, points(found), neighbours=2)[1]
    each = similarity.LARGEST // 40
    drawn = found.draw(each)
    assert f"among {len(drawn)} of them, at most {each} from each city" in caplog.text and len(drawn) < number
    assert set(frame["like_chip_id"]) <= set(drawn.tolist()) and set(frame["chip_id"]) == set(found.chip_id.tolist())
    home, place = pd.Series(found.home, found.chip_id), pd.Series(np.arange(number), found.chip_id)
    assert found.embedding is not None
    unit = found.embedding / np.linalg.norm(found.embedding, axis=1, keepdims=True)
    for chip in np.random.default_rng(0).choice(found.chip_id, 20, replace=False):
        others = drawn[(home[drawn] != home[chip]).to_numpy()]
        cosine = np.round((unit[place[others].to_numpy()] @ unit[place[chip]]).astype(np.float64), 5)
        mine = frame[frame["chip_id"] == chip]
        assert mine["rank"].tolist() == [1, 2]
        assert mine["cosine"].to_numpy() == pytest.approx(np.sort(cosine)[::-1][:2], abs=2e-5)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_areas_written_by_other_processes_are_the_same_in_the_same_order(tmp_path: Path) -> None:
    grids = {f"s{n}": grid_at("EPSG:32611", 400_000 + 9000 * n, 4_000_000, (960, 960), 0.4) for n in range(5)}
    chips = chip_table(grids, size=480, stride=240)
    found = predictions(chips)
    here = write_predictions(found, chips, tmp_path / "here", provenance={"a": "b"})
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        there = write_predictions(found, chips, tmp_path / "there", provenance={"a": "b"}, executor=executor)
    assert everything(tmp_path / "here") == everything(tmp_path / "there")
    assert [layer.title for layer in here] == [layer.title for layer in there] and len(here) == 11
    relative: list[Any] = [
        [layer.path.relative_to(tmp_path / name) for layer in layers]
        for name, layers in (("here", here), ("there", there))
    ]
    assert relative[0] == relative[1] and all(layer.path.exists() for layer in there)


def test_a_table_is_checked_and_comes_back_as_it_was_the_same_bytes_each_time(tmp_path: Path) -> None:
    chips = chip_table({"s": grid_at("EPSG:32611", 400_000, 4_000_000, (4800, 4800), 0.4)}, size=480, stride=240)
    chips.loc[::3, "city"] = None
    one, two = (files.write_table(chips, tmp_path / name, {"by": "x"}) for name in ("one.parquet", "two.parquet"))
    assert one.read_bytes() == two.read_bytes()
    back = files.read_table(one, {"chip_id": "int", "scene_id": "str", "city": "str?", "geometry": "any"})
    assert back["city"].isna().tolist() == [n % 3 == 0 for n in range(361)]
    assert (back.geometry.to_numpy() == chips.geometry.to_numpy()).all()
    with pytest.raises(TableError, match="column city: 121 of 361 values are missing"):
        files.check_table(back, {"city": "str"}, "the table")
    odd = back.assign(city=[*back["city"][:-1], 7])
    with pytest.raises(TableError, match="column city: holds object, expected str"):
        files.check_table(odd, {"city": "str?"}, "the table")
