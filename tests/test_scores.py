"""Scores: every number against a slow twin or a hand count; baselines on exactly the same chips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores import confusion_frame, score
from dlslicer_geo.types import Predictions

CITIES = ("ALA", "BOM", "CAI", "DEL", "EDI", "FRA", "GVA")


def table(cities: list[str | None], splits: list[str] | str = "test", per_site: int = 4) -> gpd.GeoDataFrame:
    count = len(cities)
    columns = {
        "chip_id": np.arange(count),
        "scene_id": [f"s{i // per_site}" for i in range(count)],
        "city": cities,
        "site": [f"S{i // per_site}" for i in range(count)],
        "split": splits,
    }
    x = np.arange(count) * 0.01
    return gpd.GeoDataFrame(columns, geometry=shapely.box(x, x * 0, x + 0.01, x * 0 + 0.01), crs="EPSG:4326")


def answers(truth: Sequence[str | None], predicted: Sequence[str], chip_id: Any = None) -> Predictions:
    """Predictions that are sure of themselves."""
    probabilities = np.full((len(truth), len(CITIES)), 0.01, np.float32)
    probabilities[np.arange(len(truth)), [CITIES.index(city) for city in predicted]] = 0.94
    ids = np.arange(len(truth)) if chip_id is None else np.asarray(chip_id)
    return Predictions(
        cities=CITIES,
        chip_id=ids.astype(np.int64),
        scene_id=tuple(f"s{i}" for i in ids),
        truth=tuple(truth),
        probabilities=probabilities,
    )


def noisy(count: int, seed: int = 0) -> tuple[Predictions, gpd.GeoDataFrame]:
    random = np.random.default_rng(seed)
    truth = random.choice(CITIES, count).tolist()
    logits = random.normal(size=(count, len(CITIES)))
    logits[np.arange(count), [CITIES.index(city) for city in truth]] += 1.5
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    chips = table(truth)
    found = Predictions(
        cities=CITIES,
        chip_id=np.arange(count),
        scene_id=tuple(chips["scene_id"]),
        truth=tuple(truth),
        probabilities=probabilities,
    )
    return found, chips


def test_the_shares_agree_with_scikit_learn() -> None:
    found, chips = noisy(700)
    metrics = score(found, chips).metrics
    truth = np.array(found.truth)
    assert metrics["n"] == 700
    assert metrics["n_sites"] == chips.groupby(["city", "site"]).ngroups
    assert metrics["chance"] == 1 / 7
    assert metrics["accuracy"] == pytest.approx((truth == np.array(found.city)).mean())
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, found.city))
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, found.city, average="macro"))
    top = top_k_accuracy_score(truth, found.probabilities, k=5, labels=list(CITIES))
    assert metrics["top5_accuracy"] == pytest.approx(top)
    recall = {city: (np.array(found.city)[truth == city] == city).mean() for city in CITIES}
    assert {city: entry["accuracy"] for city, entry in metrics["per_city"].items()} == pytest.approx(recall)
    f1 = f1_score(truth, found.city, average=None, labels=list(CITIES))
    assert [entry["f1"] for entry in metrics["per_city"].values()] == pytest.approx(f1.tolist())
    low, high = metrics["accuracy_interval"]
    assert low < metrics["accuracy"] < high
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_a_city_without_chips_stays_in_the_matrix_and_has_no_accuracy() -> None:
    report = score(answers(["ALA", "ALA", "BOM"], ["ALA", "GVA", "BOM"]), table(["ALA", "ALA", "BOM"]))
    frame = confusion_frame(report)
    assert report.confusion.dtype == np.int64
    assert list(frame.index) == list(frame.columns) == list(CITIES)
    assert (frame.index.name, frame.columns.name) == ("truth", "predicted")
    assert frame.loc["ALA", "GVA"] == 1
    assert frame.loc["GVA"].sum() == 0
    assert frame.to_numpy().sum() == 3
    nothing = {"n": 0, "n_sites": 0, "accuracy": None, "interval": None, "precision": 0.0, "f1": None}
    assert report.metrics["per_city"]["GVA"] == nothing
    assert report.metrics["balanced_accuracy"] == 0.75


def test_a_model_of_a_single_city_can_be_scored() -> None:
    one = Predictions(
        cities=("ALA",), chip_id=np.arange(6), scene_id=("s",) * 6, truth=("ALA",) * 6,
        probabilities=np.ones((6, 1), np.float32),
    )  # fmt: skip
    report = score(one, table(["ALA"] * 6, per_site=2))
    assert report.confusion.tolist() == [[6]]
    assert (report.metrics["accuracy"], report.metrics["order"], report.metrics["chance"]) == (1, ["ALA"], 1)


def test_most_confused_pairs_are_sorted_by_number_and_not_by_the_text_of_a_percentage() -> None:
    # as text, 9 % comes after 10 % and 100 % before 20 %
    truth = ["ALA"] * 100 + ["BOM"] * 100 + ["CAI"] * 2
    said = ["BOM"] * 9 + ["CAI"] * 10 + ["ALA"] * 81 + ["GVA"] * 20 + ["BOM"] * 80 + ["ALA"] * 2
    pairs = score(answers([*truth], said), table([*truth])).metrics["most_confused"]
    assert [(pair["truth"], pair["predicted"], pair["count"]) for pair in pairs] == [
        ("BOM", "GVA", 20),
        ("ALA", "CAI", 10),
        ("ALA", "BOM", 9),
        ("CAI", "ALA", 2),
    ]
    assert [pair["share"] for pair in pairs] == pytest.approx([0.2, 0.1, 0.09, 1.0])


def test_chips_without_a_truth_do_not_count() -> None:
    chips = table(["ALA", None, "BOM"])
    metrics = score(answers(["ALA", None, "BOM"], ["ALA", "CAI", "CAI"]), chips).metrics
    assert (metrics["n"], metrics["accuracy"]) == (2, 0.5)
    with pytest.raises(TableError, match="none of the 1 predictions has a true city"):
        score(answers([None], ["ALA"]), chips)


def test_truths_that_the_model_does_not_know_are_named() -> None:
    with pytest.raises(TableError, match="no city KTM, ZRH, where 3 chips lie"):
        score(answers(["KTM", "ALA", "ZRH", "KTM"], ["ALA"] * 4), table(["KTM", "ALA", "ZRH", "KTM"]))


def test_a_predicted_chip_that_is_not_in_the_table_is_named() -> None:
    with pytest.raises(TableError, match="chip 77 was predicted"):
        score(answers(["ALA", "BOM"], ["ALA", "BOM"], [0, 77]), table(["ALA", "BOM"]))


def test_the_interval_draws_sites_and_not_chips() -> None:
    # ten sites, each all right or all wrong: a bootstrap over chips would be five times narrower
    truth = ["ALA"] * 250
    said = (["ALA"] * 25 + ["BOM"] * 25) * 5
    chips = table([*truth], per_site=25)
    metrics = score(answers([*truth], said), chips).metrics
    low, high = metrics["accuracy_interval"]
    assert metrics["n_sites"] == 10
    assert high - low > 0.4
    assert score(answers([*truth], said), chips, seed=0).metrics["accuracy_interval"] == [low, high]
    alone = score(answers([*truth], said), chips.assign(site="S")).metrics
    assert (alone["n_sites"], alone["accuracy_interval"]) == (1, None)


def test_a_site_name_used_by_two_cities_is_two_sites() -> None:
    chips = table(["ALA", "BOM"]).assign(site="S1")
    assert score(answers(["ALA", "BOM"], ["ALA", "BOM"]), chips).metrics["n_sites"] == 2


def coloured() -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    """Train chips of two cities that differ in colour alone, and test chips of both."""
    random = np.random.default_rng(0)
    cities = random.choice(["ALA", "BOM"], 200, p=[0.8, 0.2]).tolist()
    chips = table(cities, ["train"] * 100 + ["test"] * 100)
    mean = np.where(chips["city"] == "ALA", 100.0, 110.0) + random.normal(0, 4, 200)
    return chips, pd.DataFrame({"chip_id": chips["chip_id"], "mean_1": mean, "std_1": random.normal(20, 1, 200)})


def test_the_baselines_learn_from_train_chips_and_are_scored_on_the_predicted_ones() -> None:
    chips, colour = coloured()
    test = chips[100:]
    truth = test["city"].tolist()
    found = answers(truth, truth, test["chip_id"])
    baselines = score(found, chips, colour=colour.sample(frac=1, random_state=1)).metrics["baselines"]
    assert baselines["most_frequent"]["accuracy"] == pytest.approx((test["city"] == "ALA").mean())
    assert baselines["most_frequent"]["balanced_accuracy"] == 0.5
    assert 0.8 < baselines["colour"]["balanced_accuracy"] < 1
    # with the train labels turned round the colours say the contrary: the test labels are never learnt from
    turned = chips.assign(
        city=chips["city"].where(chips["split"] == "test", chips["city"].map({"ALA": "BOM", "BOM": "ALA"}))
    )
    baselines = score(found, turned, colour=colour).metrics["baselines"]
    assert baselines["colour"]["balanced_accuracy"] < 0.2
    assert baselines["most_frequent"]["accuracy"] == pytest.approx((test["city"] == "BOM").mean())


def test_the_colour_baseline_is_absent_unless_asked_for_and_none_without_train_chips() -> None:
    chips, colour = coloured()
    truth = chips["city"].tolist()
    found = answers([*truth], truth)
    assert set(score(found, chips).metrics["baselines"]) == {"most_frequent"}
    nothing = score(found, chips.assign(split="test"), colour=colour).metrics["baselines"]
    assert nothing == {"most_frequent": None, "colour": None}


def test_colour_tables_that_lack_chips_or_columns_are_refused() -> None:
    chips, colour = coloured()
    truth = chips["city"].tolist()
    found = answers([*truth], truth)
    with pytest.raises(TableError, match="no values for 10 of 300"):
        score(found, chips, colour=colour[:190])
    with pytest.raises(TableError, match=r"no column mean_\* or std_\*"):
        score(found, chips, colour=colour[["chip_id"]])
    with pytest.raises(TableError, match="no column split"):
        score(found, chips.drop(columns="split"))


def test_top_five_is_all_cities_where_there_are_fewer() -> None:
    found, chips = noisy(50)
    few = Predictions(
        cities=CITIES[:3],
        chip_id=found.chip_id,
        scene_id=found.scene_id,
        truth=tuple(CITIES[i % 3] for i in range(50)),
        probabilities=found.probabilities[:, :3],
    )
    assert score(few, chips).metrics["top5_accuracy"] == 1


def test_where_all_cities_are_equally_probable_the_top_is_the_first_columns() -> None:
    flat = Predictions(
        cities=CITIES,
        chip_id=np.arange(7),
        scene_id=("s",) * 7,
        truth=CITIES,
        probabilities=np.full((7, 7), 1 / 7, np.float32),
    )
    metrics = score(flat, table([*CITIES])).metrics
    assert metrics["top5_accuracy"] == pytest.approx(5 / 7)
    assert metrics["accuracy"] == pytest.approx(1 / 7)
