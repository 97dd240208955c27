"""What a leak is worth and whether unlearnt cities are told, measured on small cities; a second call does no work."""

from __future__ import annotations

import math
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import towns

from dlslicer_geo.cli import main
from dlslicer_geo.files import read_json, read_table
from dlslicer_geo.model import load
from dlslicer_geo.pipeline.checks import verify_run
from dlslicer_geo.types import DETECTORS

GAP = 100.0


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an ablation: overlapping chips, blocks of 256 m in scenes of 512 m."""
    folder = tmp_path_factory.mktemp("ablation")
    experiment = towns.build(folder, towns=("almaty", "new_york"), pixels=256)
    words = [str(experiment), "--out", str(folder / "run"), "--split.block_m", "256", "--gap", str(GAP)]
    (folder / "words.txt").write_text("\n".join(words))
    assert main(["ablate", *words]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def left_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study that leaves each of three cities out."""
    folder = tmp_path_factory.mktemp("left_out")
    experiment = towns.build(folder)
    assert main(["leave-city-out", str(experiment), "--out", str(folder / "run"), "--fit.max_epochs", "2"]) == 0
    return folder / "run"


def test_an_ablation_has_a_leg_that_leaks_and_legs_that_are_proven_and_as_large(ablation: Path) -> None:
    table = pd.read_csv(ablation / "ablation.csv").set_index("name")
    assert table.index.tolist() == ["random", "block-256m-gap-100m", "site"]
    assert table["n_train"].nunique() == 1
    assert table["proven"].tolist() == [False, True, True]
    assert table["shared_pixels"]["random"] > 0
    assert (table[["shared_pixels", "shared_ground_m2"]].drop("random") == 0).all(axis=None)
    assert table["min_distance_m"]["random"] == 0
    assert table["min_distance_m"]["block-256m-gap-100m"] >= GAP
    assert table["min_distance_m"]["site"] > 3000
    assert table["accuracy"].between(0, 1).all()
    assert (table["low"] <= table["accuracy"] + 1e-9).all() and (table["accuracy"] <= table["high"] + 1e-9).all()
    rows = read_json(ablation / "ablation.json")["rows"]
    assert [row["accuracy"] for row in rows] == pytest.approx(table["accuracy"].tolist())
    assert (ablation / "figures" / "ablation.png").stat().st_size > 5_000


def test_every_leg_trains_on_as_many_chips_of_each_city_and_its_certificate_is_true(ablation: Path) -> None:
    legs = sorted(path for path in (ablation / "ablation").iterdir())
    counts = []
    for leg in legs:
        chips = gpd.read_parquet(leg / "chips.parquet")
        counts.append(chips.loc[chips["split"] == "train", "city"].value_counts().sort_index().to_dict())
        verdict = verify_run(leg)
        assert verdict.sound, [row for row in verdict.rows if row.agrees is False]
        assert verdict.proven == (leg.name != "random")
        drawn = read_json(leg / "split_certificate.json")["dropped"]
        assert (chips["split"] == "unused").sum() == sum(drawn.values())
    assert counts[0] == counts[1] == counts[2]
    assert set(counts[0]) == {"almaty", "new_york"}


def test_a_second_ablation_trains_nothing(ablation: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in ablation.rglob("model.ckpt")}
    words = (ablation.parent / "words.txt").read_text().splitlines()
    with caplog.at_level("INFO"):
        assert main(["ablate", *words]) == 0
    assert len(before) == 3
    assert before == {path: path.stat().st_mtime_ns for path in ablation.rglob("model.ckpt")}
    assert caplog.text.count("up to date, nothing to do") == 2 + 3 * 3


def test_a_city_that_was_left_out_is_not_learnt_and_all_its_chips_are_asked_for(left_out: Path) -> None:
    scenes = read_table(left_out / "scenes.parquet", {})
    for city in towns.TOWNS:
        leg = left_out / "leave_city_out" / city
        chips = gpd.read_parquet(leg / "chips.parquet")
        own = chips["city"] == city
        assert set(chips.loc[own, "split"]) == {"test"}
        assert {"train", "val", "test"} <= set(chips.loc[~own, "split"])
        assert load(leg).cities == tuple(sorted(set(towns.TOWNS) - {city}))
        assert verify_run(leg).proven
    assert set(scenes["city"]) == set(towns.TOWNS)


def test_leaving_cities_out_gives_a_row_for_each_with_areas_and_false_alarms(left_out: Path) -> None:
    table = pd.read_csv(left_out / "leave_city_out.csv").set_index("city")
    study = read_json(left_out / "leave_city_out.json")
    assert table.index.tolist() == sorted(towns.TOWNS)
    assert (table["n"] == 4 * 16).all()
    assert (table["n_known"] == 2 * 16).all()
    for name in DETECTORS:
        assert table[f"auroc_{name}"].between(0, 1).all()
        assert table[f"fpr95_{name}"].between(0, 1).all()
        assert study["mean"]["auroc"][name] == pytest.approx(table[f"auroc_{name}"].mean())
    assert table["auroc_knn"].mean() > 0.8  # another colour is told apart
    assert set(study["per_city"]) == set(towns.TOWNS)
    assert study["auroc"] == study["mean"]["auroc"][study["detector"]]
    assert math.isfinite(study["fpr95"])


def test_two_cities_are_too_few_to_leave_one_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = towns.build(tmp_path, towns=("almaty", "bishop"))
    assert main(["leave-city-out", str(experiment), "--out", str(tmp_path / "run")]) == 2
    assert "there are 2 cities: at least 3 are needed" in capsys.readouterr().err
