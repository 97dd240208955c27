"""Predictions are complete, say what they mean, and a killed run ends with the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest

from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.errors import SplitError, TableError
from dlslicer_geo.files import provenance_of
from dlslicer_geo.model import CityClassifier
from dlslicer_geo.predict import predict, read_predictions
from dlslicer_geo.scenes import scan
from dlslicer_geo.splits import split
from dlslicer_geo.types import ChipGrid, Reading, SplitRule


@pytest.fixture
def made(two_zones: Path) -> tuple[CityClassifier, ChipDataModule]:
    scenes = scan(two_zones)
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=128.0))
    chips, _ = split(chips, SplitRule.by_site(fractions=(0.5, 0.25, 0.25)), scenes=scenes)
    data = ChipDataModule(scenes, chips, batch_size=16)
    return CityClassifier("resnet10t", cities=data.cities, input_size=64).eval(), data


def test_every_chip_of_the_split_is_predicted_once_in_parts_of_whole_scenes(made: Any, tmp_path: Path) -> None:
    model, data = made
    found = predict(model, data, split="train", out=tmp_path, chips_per_part=20, embedding=True)
    assert found.chip_id.tolist() == data.chip_ids("train").tolist()
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert list(found.truth) == data.chips["city"].to_numpy()[found.chip_id].tolist()
    parts = [gpd.read_parquet(path) for path in sorted(tmp_path.glob("part-*.parquet"))]
    assert len(parts) > 1
    scenes = [set(part["scene_id"]) for part in parts]
    assert sum(map(len, scenes)) == len(set.union(*scenes))
    assert all(len(part) >= 20 for part in parts[:-1])


def test_columns_of_a_part_follow_from_its_probabilities(made: Any, tmp_path: Path) -> None:
    model, data = made
    predict(model, data, out=tmp_path, embedding=True, provenance={"version": "x"})
    part = gpd.read_parquet(tmp_path / "part-0.parquet")
    p = part[["prob_almaty", "prob_new_york"]].to_numpy(np.float64)
    assert part["confidence"].to_numpy() == pytest.approx(p.max(axis=1))
    assert part["margin"].to_numpy() == pytest.approx(abs(p[:, 0] - p[:, 1]), abs=1e-6)
    assert part["entropy"].to_numpy() == pytest.approx(-(p * np.log2(p)).sum(axis=1), abs=1e-5)
    assert [row[0] for row in part["top5"]] == part["city"].tolist()
    assert len(part["embedding"][0]) == 512
    assert part.crs == "EPSG:4326"
    assert provenance_of(tmp_path / "part-0.parquet")["version"] == "x"


def test_a_run_that_lost_parts_goes_on_and_ends_with_the_same_bytes(made: Any, tmp_path: Path) -> None:
    model, data = made
    predict(model, data, split="all", out=tmp_path / "whole", chips_per_part=20)
    predict(model, data, split="all", out=tmp_path / "killed", chips_per_part=20)
    kept = tmp_path / "killed" / "part-0.parquet"
    before = kept.stat().st_mtime_ns
    for path in sorted((tmp_path / "killed").glob("part-*.parquet"))[1:]:
        path.unlink()
    (tmp_path / "killed" / ".part-1.123.tmp.parquet").write_bytes(b"half a file")
    with pytest.raises(TableError, match="lacks"):
        read_predictions(tmp_path / "killed")
    predict(model, data, split="all", out=tmp_path / "killed", chips_per_part=20)
    assert kept.stat().st_mtime_ns == before
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()}


def test_parts_of_another_model_are_not_kept(made: Any, tmp_path: Path) -> None:
    model, data = made
    first = predict(model, data, out=tmp_path)
    other = CityClassifier("resnet10t", cities=data.cities, input_size=64).eval()
    assert not np.array_equal(first.probabilities, predict(other, data, out=tmp_path).probabilities)


def test_an_unknown_city_has_no_truth(made: Any, tmp_path: Path) -> None:
    model, data = made
    chips = data.chips.assign(city=None)
    found = predict(model, ChipDataModule(data.scenes, chips, cities=model.cities), split="all", out=tmp_path)
    assert set(found.truth) == {None}
    assert len(found.draw(3)) == 3 * len(set(found.city))


def test_only_chips_with_a_truth_are_labelled_when_read_back(made: Any, tmp_path: Path) -> None:
    model, data = made
    chips = data.chips.assign(city=data.chips["city"].where(data.chips["city"] != "almaty", None))
    found = predict(model, ChipDataModule(data.scenes, chips, cities=model.cities), split="all", out=tmp_path)
    assert set(found.truth) == {None, "new_york"}
    assert (found.labelled == (data.chips["city"] == "new_york")).all()
    assert set(found.home) <= {"almaty", "new_york"}


def test_a_part_that_was_cut_off_is_made_again(made: Any, tmp_path: Path) -> None:
    model, data = made
    predict(model, data, split="all", out=tmp_path, chips_per_part=20)
    part = tmp_path / "part-1.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    predict(model, data, split="all", out=tmp_path, chips_per_part=20)
    assert part.read_bytes() == whole


def test_an_unknown_split_is_refused_with_the_known_ones(made: Any, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="train, val, test, all"):
        predict(*made, split="tset", out=tmp_path)


def test_draw_takes_as_many_of_each_city_and_follows_the_seed(made: Any, tmp_path: Path) -> None:
    model, data = made
    found = predict(model, data, split="all", out=tmp_path)
    drawn = found.draw(5, seed=1)
    assert drawn.tolist() == found.draw(5, seed=1).tolist() != found.draw(5, seed=2).tolist()
    assert data.chips.iloc[drawn]["city"].value_counts().to_dict() == {"almaty": 5, "new_york": 5}


def test_bands_in_another_order_are_predicted_anew(made: Any, two_zones: Path, tmp_path: Path) -> None:
    model, data = made
    first = predict(model, data, out=tmp_path)
    swapped = ChipDataModule(scan(two_zones, reading=Reading(bands=(3, 1, 2))), data.chips)
    assert not np.array_equal(predict(model, swapped, out=tmp_path).probabilities, first.probabilities)
