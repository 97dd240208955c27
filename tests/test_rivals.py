"""Beside the shares: other runs, probes, baselines, votes, distance, drawn chips; each against a hand count."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Geod
from test_scores import CITIES, answers, noisy, table

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores import score
from dlslicer_geo.types import Predictions

TWO = ["ALA", "BOM"]


def units(chips: gpd.GeoDataFrame, size: int) -> gpd.GeoDataFrame:
    """The same chips in units of ``size`` chips."""
    return chips.assign(unit=np.arange(len(chips)) // size)


def run(right: Any, truth: list[str]) -> Predictions:
    """A run of two cities that is right where ``right`` (n,) says so."""
    other = {"ALA": "BOM", "BOM": "ALA"}
    return answers([*truth], [city if yes else other[city] for city, yes in zip(truth, right, strict=True)])


def test_equal_runs_seldom_differ_significantly_though_whole_units_do() -> None:
    """A test that counts chips would find a difference in most of these pairs."""
    truth = [city for city in TWO for _ in range(100)]
    chips = units(table([*truth]), 10)
    random = np.random.default_rng(0)
    p, by_chips, held = [], [], []
    for _ in range(60):
        one, two = (np.repeat(random.random(20) < 0.7, 10) for _ in range(2))
        found = score(run(one, truth), chips, against=("b", run(two, truth))).metrics["against"]
        p.append(found["p"])
        by_chips.append(found["mcnemar"]["p"])
        held.append(found["interval"][0] <= 0 <= found["interval"][1])
    # four standard errors of a share of 0.05 seen in 60 runs
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(np.array(by_chips) < 0.05) > 0.4
    assert np.mean(held) >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / 60)


def test_a_real_difference_between_runs_is_found_with_its_sign_and_size() -> None:
    truth = [city for city in TWO for _ in range(200)]
    random = np.random.default_rng(1)
    worse = random.random(400) < 0.7
    better = worse | (random.random(400) < 0.5)
    chips = units(table([*truth]), 10)
    # the other run has chips of its own, in another order
    other = answers([*truth, "BOM"], [*run(worse, truth).city, "BOM"], [*range(400), 999]).select(np.arange(401) > 9)
    found = score(run(better, truth), chips, against=("old", other)).metrics["against"]
    assert (found["name"], found["n"]) == ("old", 391 - 1)
    assert found["accuracy"] == better[10:].mean()
    assert found["other_accuracy"] == worse[10:].mean()
    assert found["difference"] == pytest.approx(better[10:].mean() - worse[10:].mean())
    assert 0 < found["interval"][0] < found["difference"] < found["interval"][1]
    assert found["p"] < 0.001
    assert (found["mcnemar"]["only_this"], found["mcnemar"]["only_other"]) == ((better & ~worse)[10:].sum(), 0)
    assert score(other.select(other.chip_id < 400), chips, against=("new", run(better, truth))).metrics["against"][
        "difference"
    ] == pytest.approx(-found["difference"])


def test_columns_of_another_run_may_stand_in_another_order() -> None:
    found, chips = noisy(200)
    turned = replace(found, cities=CITIES[::-1], probabilities=found.probabilities[:, ::-1])
    assert score(found, chips, against=("same", turned)).metrics["against"]["difference"] == 0


def test_runs_that_share_no_chip_or_differ_in_a_truth_cannot_be_compared() -> None:
    found = answers(TWO, TWO)
    with pytest.raises(TableError, match="this run and b predicted no chip in common"):
        score(found, table([*TWO]), against=("b", answers(TWO, TWO, [7, 8])))
    with pytest.raises(TableError, match="differ in the true city of 1 of 2 chips"):
        score(found, table([*TWO]), against=("b", answers(["ALA", "CAI"], TWO)))


def test_a_probe_is_compared_with_the_same_chips_unchanged() -> None:
    truth = ["ALA"] * 20
    found = answers([*truth], ["ALA"] * 10 + ["BOM"] * 10)
    some = [*range(5, 15)]  # half of them are right unchanged, while all chips together are, too
    probes = pd.DataFrame({
        "chip_id": [*some, *range(4), 999],
        "probe": ["grey"] * 10 + ["blur"] * 4 + ["grey"],
        "city": ["ALA"] * 1 + ["BOM"] * 9 + ["ALA"] * 3 + ["nowhere"] + ["ALA"],
    })  # fmt: skip
    measured = score(found, units(table([*truth]), 2), probes=probes).metrics["probes"]
    assert list(measured) == ["grey", "blur"]
    assert (measured["grey"]["n"], measured["grey"]["accuracy"]) == (10, 0.1)
    assert measured["grey"]["drop"]["accuracy"] == pytest.approx(0.5 - 0.1)
    assert (measured["blur"]["n"], measured["blur"]["accuracy"]) == (4, 0.75)
    assert measured["blur"]["drop"]["accuracy"] == pytest.approx(1 - 0.75)
    better = score(found, table([*truth]), probes=pd.DataFrame({"chip_id": some, "probe": "x", "city": "ALA"}))
    assert better.metrics["probes"]["x"]["drop"]["accuracy"] == -0.5


def test_probes_without_columns_or_scored_chips_are_refused() -> None:
    found, chips = answers(TWO, TWO), table([*TWO])
    probes = pd.DataFrame({"chip_id": [9], "probe": ["grey"], "city": ["ALA"]})
    with pytest.raises(TableError, match="none of the 1 chips of the probe grey was scored"):
        score(found, chips, probes=probes)
    with pytest.raises(TableError, match="the probe table has no column city"):
        score(found, chips, probes=probes.drop(columns="city"))


def test_the_frozen_baseline_is_scored_on_the_same_chips_and_the_gain_is_paired() -> None:
    found, chips = noisy(280)
    chips = units(chips, 7).assign(split=["train", *["test"] * 279])
    random = np.random.default_rng(0)
    frozen = pd.DataFrame({"chip_id": found.chip_id, "city": random.choice(CITIES, 280)})
    frozen.loc[0, "city"] = "nowhere"
    shuffled = pd.concat([frozen, pd.DataFrame({"chip_id": [999], "city": ["ALA"]})]).sample(frac=1, random_state=0)
    metrics = score(found, chips, frozen=shuffled).metrics
    baseline = metrics["baselines"]["frozen"]
    share = (frozen["city"].to_numpy() == np.array(found.truth)).mean()
    assert baseline["accuracy"] == pytest.approx(share)
    assert baseline["gain"]["accuracy"] == pytest.approx(metrics["accuracy"] - share)
    low, high = baseline["gain"]["interval"]
    assert low < baseline["gain"]["accuracy"] < high
    assert baseline["gain"]["p"] < 0.001
    own = score(found, chips, frozen=pd.DataFrame({"chip_id": found.chip_id, "city": found.city})).metrics
    gain = own["baselines"]["frozen"]["gain"]
    assert (gain["accuracy"], gain["p"]) == (0, 1)
    # 40 units that do not differ: no more is said of others than that
    assert gain["interval"] == pytest.approx([0.025 ** (1 / 40) - 1, 1 - 0.025 ** (1 / 40)])
    with pytest.raises(TableError, match="no answer for 1 of 280 scored chips"):
        score(found, chips, frozen=frozen[1:])


def test_chips_of_a_scene_outvote_their_wrong_ones_by_how_sure_they_are() -> None:
    """By hand: a majority would be wrong in both scenes, and a mean of probabilities in s1."""
    chips = table(["ALA"] * 6, per_site=3).assign(site="S", unit=[0, 0, 0, 1, 1, 1])
    # log odds of ALA: s0 2.2 - 0.2 - 0.2 > 0; s1 13.8 - 1.4 - 1.4 > 0, but 0.999999 + 0.2 + 0.2 < 3 / 2
    ala = np.array([0.9, 0.45, 0.45, 0.999999, 0.2, 0.2])
    found = Predictions(
        cities=("ALA", "BOM"), chip_id=np.arange(6), scene_id=tuple(chips["scene_id"]), truth=("ALA",) * 6,
        probabilities=np.stack([ala, 1 - ala], axis=1).astype(np.float32),
    )  # fmt: skip
    metrics = score(found, chips).metrics
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert (metrics["votes"]["scene"]["n"], metrics["votes"]["scene"]["accuracy"]) == (2, 1)
    assert metrics["votes"]["site"] == {"n": 1, "accuracy": 1.0, "interval": None}


def test_votes_beat_chips_and_a_certain_zero_does_not_break_them() -> None:
    truth = [city for city in CITIES for _ in range(20)]
    random = np.random.default_rng(2)
    said = [city if random.random() < 0.6 else str(random.choice(CITIES)) for city in truth]
    found = answers([*truth], said)
    hard = replace(found, probabilities=(found.probabilities > 0.5).astype(np.float32))
    chips = table([*truth], per_site=10).assign(unit=np.arange(140) // 10)
    for run_ in (found, hard):
        metrics = score(run_, chips).metrics
        assert metrics["accuracy"] < 0.75
        assert (metrics["votes"]["scene"]["n"], metrics["votes"]["scene"]["accuracy"]) == (14, 1)
        low, high = metrics["votes"]["scene"]["interval"]
        assert low == pytest.approx(0.025 ** (1 / 14))
        assert high == 1


def test_sites_of_one_name_in_two_cities_vote_by_themselves() -> None:
    found = answers(["ALA", "ALA", "BOM"], ["ALA", "ALA", "ALA"])
    chips = table(["ALA", "ALA", "BOM"]).assign(site="S1")
    assert score(found, chips).metrics["votes"]["site"]["n"] == 2


def along(degrees: list[float], latitude: float) -> Any:
    """Chips at longitudes, of a tenth of a thousandth of a degree."""
    lon, lat, half = np.array(degrees), np.full(len(degrees), latitude), 5e-5
    return shapely.box(lon - half, lat - half, lon + half, lat + half)


def test_distance_is_metres_on_the_ground_to_the_nearest_train_chip_of_any_city() -> None:
    # at 60° north a degree of longitude is half as long; the nearest train chip lies beyond the date line
    degrees = [179.99, -179.98, -179.97, 179.97]
    chips = table(["BOM", "ALA", "ALA", "ALA"], ["train", "test", "test", "test"]).set_geometry(
        gpd.GeoSeries(along(degrees, 60), crs=4326)
    )
    found = answers(["ALA"] * 3, ["ALA", "BOM", "ALA"], [1, 2, 3])
    bins = score(found, chips).metrics["distance"]["bins"]
    metres = [Geod(ellps="sphere").inv(179.99, 60, lon, 60)[2] for lon in (179.97, -179.98, -179.97)]
    assert [bins[0]["low_m"], bins[1]["low_m"], bins[1]["high_m"]] == pytest.approx(metres, rel=1e-3)
    assert metres[0] == pytest.approx(0.02 * 111_195 / 2, rel=1e-3)
    assert [(entry["n"], entry["accuracy"]) for entry in bins] == [(1, 1), (2, 0.5)]


def test_bins_of_distance_hold_about_equally_many_chips_and_all_of_them() -> None:
    found, chips = noisy(300)
    where = np.random.default_rng(0).exponential(0.02, 300)
    chips = pd.concat([chips, table(["ALA"], "train").assign(chip_id=300)], ignore_index=True)
    chips = chips.set_geometry(gpd.GeoSeries(along([*where, 0.0], 10), crs=4326))
    bins = score(found, chips).metrics["distance"]["bins"]
    assert [entry["n"] for entry in bins] == pytest.approx([50] * 6, abs=1)
    assert sum(entry["n"] for entry in bins) == 300
    assert all(one["high_m"] <= two["low_m"] for one, two in pairwise(bins))
    hits = sum(entry["n"] * entry["accuracy"] for entry in bins)
    assert hits == pytest.approx((np.array(found.city) == np.array(found.truth)).sum())


@pytest.mark.parametrize("changes", [{"split": "test"}, {"approximate": [True, False, False]}])
def test_there_is_no_distance_without_train_chips_or_places(changes: dict[str, Any]) -> None:
    chips = table(["ALA", "ALA", "BOM"], ["train", "test", "test"]).assign(**changes)
    metrics = score(answers(["ALA", "BOM"], TWO, [1, 2]), chips).metrics
    assert metrics["distance"] is None
    assert any("no more than their city" in text for text in metrics["caveats"]) == ("approximate" in changes)


def test_drawn_chips_are_so_many_of_each_city_never_twice_and_the_same_again() -> None:
    truth = ["ALA"] * 50 + ["BOM"] * 30 + ["CAI"] * 5
    found = answers([*truth], ["ALA"] * 85)
    chips = table([*truth])
    drawn = score(found, chips, per_city=10, seed=4)
    ids = drawn.metrics["drawn"]["chip_ids"]
    assert drawn.confusion.sum(axis=1).tolist()[:3] == [10, 10, 5]
    assert len(set(ids)) == len(ids) == drawn.metrics["n"] == 25
    assert {key: value for key, value in drawn.metrics["drawn"].items() if key != "chip_ids"} == {
        "per_city": 10, "seed": 4, "n_before": 85,
    }  # fmt: skip
    assert drawn.metrics["accuracy"] == 10 / 25
    assert score(found, chips, per_city=10, seed=4).metrics == drawn.metrics
    assert score(found, chips, per_city=10, seed=5).metrics["drawn"]["chip_ids"] != ids
    # the draw alone decides: the drawn chips by themselves give the same report
    alone = score(found.select(np.isin(found.chip_id, ids)), chips, seed=4).metrics
    assert alone["intervals"] == drawn.metrics["intervals"]
    assert score(found, chips).metrics["drawn"] is None
    with pytest.raises(TableError, match="0 chips per city"):
        score(found, chips, per_city=0)


def test_a_draw_takes_every_chip_about_as_often() -> None:
    truth = ["ALA"] * 20 + ["BOM"] * 20
    found, chips = answers([*truth], [*truth]), table([*truth])
    ids = [score(found, chips, per_city=5, seed=seed).metrics["drawn"]["chip_ids"] for seed in range(24)]
    often = np.bincount(np.concatenate(ids), minlength=40)
    # 24 draws that take a chip with probability 1/4: five standard deviations
    assert often.min() > 0
    assert np.abs(often - 6).max() <= 5 * np.sqrt(24 * 0.25 * 0.75)


def test_cities_that_are_taken_for_each_other_stand_side_by_side() -> None:
    pairs = {"ALA": "FRA", "FRA": "ALA", "BOM": "EDI", "EDI": "BOM"}
    truth = [city for city in CITIES for _ in range(10)]
    said = [pairs.get(city, city) if i % 10 < 4 else city for i, city in enumerate(truth)]
    order = score(answers([*truth], said), table([*truth])).metrics["order"]
    assert sorted(order) == sorted(CITIES)
    assert abs(order.index("ALA") - order.index("FRA")) == 1
    assert abs(order.index("BOM") - order.index("EDI")) == 1


def test_sites_are_listed_by_city_and_name_with_their_own_accuracy() -> None:
    truth = ["BOM", "ALA", "BOM", "ALA", "ALA"]
    chips = table([*truth]).assign(site=["b", "b", "a", "a", "b"])
    sites = score(answers([*truth], ["BOM", "ALA", "ALA", "BOM", "BOM"]), chips).metrics["per_site"]
    assert sites == [
        {"city": "ALA", "site": "a", "n": 1, "accuracy": 0.0},
        {"city": "ALA", "site": "b", "n": 2, "accuracy": 0.5},
        {"city": "BOM", "site": "a", "n": 1, "accuracy": 0.0},
        {"city": "BOM", "site": "b", "n": 1, "accuracy": 1.0},
    ]


def test_precision_is_of_the_chips_given_to_a_city_and_none_where_there_are_none() -> None:
    truth = ["ALA"] * 4 + ["BOM"] * 2
    cities = score(answers([*truth], ["ALA"] * 3 + ["BOM"] + ["ALA", "ALA"]), table([*truth])).metrics["per_city"]
    assert (cities["ALA"]["accuracy"], cities["ALA"]["precision"]) == (0.75, 3 / 5)
    assert (cities["BOM"]["accuracy"], cities["BOM"]["precision"]) == (0, 0)
    assert cities["CAI"]["precision"] is None


def test_the_top_three_hold_the_truth_at_ranks_one_to_three() -> None:
    ranks = np.array([[0.4, 0.3, 0.2, 0.06, 0.04, 0, 0]] * 5, np.float32)
    found = replace(answers(list(CITIES[:5]), ["ALA"] * 5), probabilities=ranks)
    metrics = score(found, table(list(CITIES[:5]))).metrics
    assert (metrics["accuracy"], metrics["top3_accuracy"], metrics["top5_accuracy"]) == (0.2, 0.6, 1)
    assert set(metrics["intervals"]) >= {"top3_accuracy", "top5_accuracy"}


def test_caveats_say_what_the_table_gives_away() -> None:
    truth = ["ALA"] * 4 + ["BOM"] * 4
    chips = table([*truth], ["test"] * 4 + ["train"] * 4).assign(unit=[0, 0, 1, 1, 1, 2, 2, 2])
    said = " ".join(score(answers([*truth, None], [*truth, "ALA"]), chips).metrics["caveats"])
    assert "4 of 8 scored chips are train chips" in said
    assert "LEAK: 2 of 8 scored chips lie in units that also hold train chips" in said
    assert "1 predicted chips have no true city" in said
    assert "5 of 7 cities have no scored chips" in said
    whole = " ".join(score(answers(["ALA"], ["ALA"]), chips).metrics["caveats"])
    assert "All chips lie in one unit" in whole
    assert "LEAK" not in whole
    none = [city for city in CITIES for _ in range(10)]
    quiet = score(answers([*none], [*none]), units(table([*none]), 2))
    assert quiet.metrics["caveats"] == []
    assert "no units" in " ".join(score(answers([*none], [*none]), table([*none])).metrics["caveats"])


def test_the_unit_of_the_table_is_drawn_whatever_its_sites_are() -> None:
    truth = [city for city in TWO for _ in range(40)]
    right = np.repeat(np.random.default_rng(3).random(8) < 0.6, 10)
    chips = table([*truth], per_site=1)
    wide = score(run(right, truth), units(chips, 10), unit="place").metrics
    slim = score(run(right, truth), chips).metrics
    assert (wide["n_units"], wide["n_sites"], wide["interval"]["unit"]) == (8, 80, "place")
    assert (slim["n_units"], slim["interval"]["unit"]) == (80, "site")
    assert np.ptp(wide["accuracy_interval"]) > 2 * np.ptp(slim["accuracy_interval"])


def test_a_cut_table_without_a_split_draws_sites_and_says_so() -> None:
    found, chips = noisy(70)
    metrics = score(found, chips.assign(unit=-1), unit="place").metrics
    assert metrics["interval"]["unit"] == "site"
    assert metrics["n_units"] == metrics["n_sites"]


def test_the_unknown_block_of_drawn_chips_is_of_those_chips() -> None:
    truth = ["ALA"] * 10 + ["BOM"] * 10
    scores = np.arange(20, dtype=np.float32)
    found = replace(answers([*truth], ["ALA"] * 20), detector="knn", threshold=14.0, unknown_scores={"knn": scores})
    whole = score(found, table([*truth])).metrics["unknown"]
    assert (whole["detector"], whole["threshold"], whole["known_kept"]) == ("knn", 14.0, 15 / 20)
    assert whole["accuracy_of_known"] == 10 / 15
    drawn = score(found, table([*truth]), per_city=3, seed=1).metrics
    at = np.array(drawn["drawn"]["chip_ids"])
    assert drawn["unknown"]["known_kept"] == (at <= 14).mean()
    none = score(replace(found, threshold=-1.0), table([*truth])).metrics["unknown"]
    assert (none["known_kept"], none["accuracy_of_known"]) == (0, None)
