"""Every rule and modifier of a split: published halves, gaps, folds, years, given splits, drawn chips, balance."""

from __future__ import annotations

import json
import logging
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ALL, HOME, UTM, apart, brute_force, nearest, scene_chips, table
from test_splits import worlds

from dlslicer_geo.chips import cut
from dlslicer_geo.errors import GridError, LeakError, SplitError
from dlslicer_geo.splits import regions, split, verify
from dlslicer_geo.splits.balance import assign, cost
from dlslicer_geo.types import ChipGrid, SplitRule

GSD = 200 / 480


# -- all of them --


@st.composite
def dated(draw: st.DrawFn) -> gpd.GeoDataFrame:
    """Random scenes, of which each has a date of some precision, or none."""
    chips = draw(worlds())
    dates = st.sampled_from(["2016", "2018-07", "2019-12-31", "2020", "2020-01-01", "2021-05", None])
    return chips.assign(
        acquired=chips["scene_id"].map({name: draw(dates) for name in sorted(set(chips["scene_id"]))})
    )


MODIFIERS: list[dict[str, Any]] = [
    {}, {"gap_m": 120}, {"folds": 3, "fold": 1}, {"test_from": "2020"},
    {"folds": 3, "gap_m": 90, "test_from": "2019-06"},
]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    dated(),
    st.sampled_from(["place", "site", "block", "paper", "given"]),
    st.sampled_from(MODIFIERS),
    st.integers(0, 9),
)
def test_no_rule_and_no_modifier_ever_lets_two_splits_share_a_pixel_or_ground(
    chips: gpd.GeoDataFrame, kind: Any, modifiers: dict[str, Any], seed: int
) -> None:
    if kind in ("paper", "given"):
        modifiers = {"gap_m": modifiers.get("gap_m", 0)} | ({"given": "f.csv"} if kind == "given" else {})
    rule = SplitRule(kind=kind, block_m=500, seed=seed, allow_empty=ALL, **modifiers)
    try:
        done, certificate = split(chips, rule, scenes=scene_table(chips), given=drawn_scenes(chips, seed))
    except LeakError:
        assert kind in ("paper", "given")  # they do not choose what stays together
        return
    assert brute_force(done) == (0, 0.0)
    assert certificate["proven"] is True
    assert (done["split"] != "unused").sum() + sum(certificate["dropped"].values()) == len(chips)
    if modifiers.get("gap_m"):
        smallest = certificate["min_distance_m"]["overall"]
        assert smallest is None or smallest >= modifiers["gap_m"]
        assert nearest(done) >= modifiers["gap_m"]
    json.dumps(certificate)


def scene_table(chips: gpd.GeoDataFrame) -> pd.DataFrame:
    """As much of a scene table as the splits read; every scene is a file of its own."""
    scenes = chips.drop_duplicates("scene_id")[["scene_id", "city", "site"]]
    ends = chips.assign(width=chips["col"] + chips["width"], height=chips["row"] + chips["height"])
    sizes = ends.groupby("scene_id")[["width", "height"]].max().reset_index()
    return pd.DataFrame(scenes.merge(sizes).assign(sha256=lambda t: t["scene_id"]))


def drawn_scenes(chips: gpd.GeoDataFrame, seed: int) -> pd.DataFrame:
    names = sorted(set(chips["scene_id"]))
    return pd.DataFrame({
        "scene_id": names, "split": np.random.default_rng(seed).choice(["train", "val", "test"], len(names))
    })  # fmt: skip


# -- paper --


def published_scenes() -> gpd.GeoDataFrame:
    """2 cities × 3 sites × 2 scenes, all somewhere in their city; one is of another size, one of odd width."""
    rows = []
    for number in range(12):
        city, site, image = ("ALA", "CHI")[number // 6], f"S{number // 2 % 3}", number % 2
        height, width = {3: (4700, 5000), 5: (4800, 4801), 10: (4700, 5003)}.get(number, (4800, 4800))
        rows.append({
            "scene_id": f"{city}__{site}__{image}", "city": city, "site": site, "acquired": None,
            "crs": "EPSG:32643", "transform": (GSD, 0.0, 650_000.0, 0.0, -GSD, 4_790_000.0),
            "height": height, "width": width, "gsd_m": GSD, "georef": "approximate", "valid_fraction": 1.0,
            "sha256": str(number), "geometry": shapely.box(0, 0, 1, 1),
        })  # fmt: skip
    return gpd.GeoDataFrame(pd.DataFrame(rows), geometry="geometry", crs="EPSG:4326")


def published(scenes: gpd.GeoDataFrame) -> set[tuple[str, int, int, str]]:
    """Membership by protocol.md, one window after the other."""
    found = set()
    for scene in scenes.to_dict("records"):
        sites = sorted(scenes["site"][scenes["city"] == scene["city"]].unique())
        middle = round(scene["width"] / 2)
        halves = [("train", 0, scene["width"])]
        if scene["site"] == sites[-1]:
            halves = [("val", 0, middle), ("test", middle, scene["width"])]
        for name, left, right in halves:
            row = 0
            while row + 480 <= scene["height"]:
                col = left
                while col + 480 <= right:
                    found.add((scene["scene_id"], row, col, name))
                    col += 240
                row += 240
    return found


def members(chips: gpd.GeoDataFrame) -> set[tuple[str, int, int, str]]:
    used = chips[chips["split"] != "unused"]
    return set(zip(used["scene_id"], used["row"], used["col"], used["split"], strict=True))


def test_the_paper_rule_gives_exactly_the_published_windows_and_splits() -> None:
    scenes, rule = published_scenes(), SplitRule.paper()
    chips = cut(scenes, ChipGrid(), regions=regions(scenes, rule))
    done, certificate = split(chips, rule, scenes=scenes)
    assert members(done) == published(scenes)
    assert certificate["dropped"] == {}
    assert certificate["proven"] is True
    counts = done.groupby(["scene_id", "split"]).size()
    assert counts["ALA__S0__0", "train"] == 361
    assert counts["ALA__S2__0", "val"] == counts["ALA__S2__0", "test"] == 171
    assert regions(scenes, rule)["ALA__S2__1"] == [(0, 0, 4800, 2400), (0, 2400, 4800, 2401)]  # 2400.5 rounds to even
    assert regions(scenes, rule)["CHI__S2__0"] == [(0, 0, 4700, 2502), (0, 2502, 4700, 2501)]  # 2501.5 too
    assert list(done["chip_id"]) == list(range(len(done)))
    order = done[["scene_id", "row", "col"]]
    pd.testing.assert_frame_equal(order, order.sort_values(["scene_id", "row", "col"]))


def test_chips_of_whole_scenes_that_lie_across_the_published_cut_are_left_out_and_counted() -> None:
    scenes, rule = published_scenes(), SplitRule.paper()
    done, certificate = split(cut(scenes, ChipGrid()), rule, scenes=scenes)
    across = done[(done["split"] == "unused") & (done["scene_id"] == "ALA__S2__0")]
    assert set(across["col"]) == {2160}
    assert certificate["dropped"] == {"lies across the cut between val and test": (done["split"] == "unused").sum()}


def test_the_paper_rule_needs_the_scenes_and_two_sites_in_a_city() -> None:
    scenes = published_scenes()
    chips = cut(scenes, ChipGrid())
    with pytest.raises(SplitError, match="half their width: give the scene table"):
        split(chips, SplitRule.paper())
    one = scenes[(scenes["city"] == "ALA") | (scenes["site"] == "S1")]
    with pytest.raises(SplitError, match=r"CHI: train 0, val \d+, test \d+"):
        split(chips[chips["scene_id"].isin(one["scene_id"])], SplitRule.paper(), scenes=one)


def test_other_rules_cut_whole_scenes_and_regions_outside_a_scene_are_refused() -> None:
    scenes = published_scenes()
    assert regions(scenes, SplitRule()) == {}
    with pytest.raises(GridError, match=r"region of 10×4801 px from row 0 and column 0 leaves scene ALA__S0__0"):
        cut(scenes, ChipGrid(), regions={"ALA__S0__0": [(0, 0, 10, 4801)]})


# -- gap --


def test_chips_nearer_than_the_gap_are_left_out_and_no_others_of_val() -> None:
    chips = table(scene_chips("one", "ALA", HOME["ALA"], stride=400, grid=(30, 30)))
    done, certificate = split(chips, SplitRule.by_block(1000, gap_m=250, seed=1))
    free, _ = split(chips, SplitRule.by_block(1000, seed=1))
    assert 250 <= certificate["min_distance_m"]["overall"] <= 401
    assert nearest(done) >= 250
    metres = free.geometry.to_crs(UTM["ALA"])
    test = shapely.union_all(np.asarray(metres[free["split"] == "test"].array))
    lost = (free["split"] == "val") & (done["split"] == "unused")
    assert lost.any()
    assert (lost == ((free["split"] == "val") & (metres.distance(test) < 250))).all()
    reasons = set(certificate["dropped"]) - {"touches blocks of two splits"}
    assert reasons == {"val nearer than 250 m to test", "train nearer than 250 m to val or test"}


def test_a_gap_is_kept_between_cities_and_between_scenes_without_a_city() -> None:
    x, y = HOME["ALA"]
    chips = table(*[
        scene_chips(f"s{i:02d}", ("ALA", "BBB", None)[i % 3], (x + 450 * i, y), site=f"S{i}") for i in range(18)
    ])  # fmt: skip
    done, certificate = split(chips, SplitRule(gap_m=400, allow_empty=ALL))
    assert nearest(done) >= 400
    assert certificate["min_distance_m"]["overall"] >= 400


def test_a_gap_between_chips_of_approximate_position_is_refused() -> None:
    chips = table(*apart(4)).assign(approximate=True)
    with pytest.raises(SplitError, match="36 of 36 chips lie somewhere in their city only"):
        split(chips, SplitRule.by_site(gap_m=100))


# -- folds --


@pytest.mark.parametrize("kind", ["place", "site", "block", "random"])
def test_the_test_folds_together_hold_every_chip_once(kind: Any) -> None:
    chips = table(*apart(11), *apart(7, "LAX", grid=(2, 5)))
    tested = np.zeros(len(chips), np.int64)
    units, folds = [], []
    for fold in range(5):
        done, _ = split(chips, SplitRule(kind=kind, block_m=800, folds=5, fold=fold, seed=3))
        tested += (done["split"] == "test").to_numpy()
        assert set(done["fold"][done["split"] == "test"]) == {fold}
        assert set(done["fold"][done["split"] == "val"]) == {(fold + 1) % 5}
        units.append(done["unit"])
        folds.append(done["fold"])
    assert (tested <= 1).all()
    assert ((tested == 1) == (folds[0] >= 0)).all()
    assert kind == "block" or (tested == 1).all()
    assert all((other == folds[0]).all() for other in folds)
    assert all((other == units[0]).all() for other in units)
    sizes = pd.crosstab(chips["city"], folds[0])
    assert (np.ptp(sizes.loc["ALA"]) <= 9) or kind == "block"


# -- years --


def test_a_year_shift_tests_on_later_dates_at_other_places_and_counts_what_it_leaves_out() -> None:
    x, y = HOME["ALA"]
    dates = {"a": "2018", "b": "2019-12", "c": "2020", "d": "2020-06-30"}
    chips = table(*[
        scene_chips(f"p{i:02d}{name}", "ALA", (x + 1000 * i, y), site=f"P{i}").assign(acquired=date)
        for i in range(20) for name, date in dates.items()
    ])  # fmt: skip
    done, certificate = split(chips, SplitRule.by_date("2020"))
    used = done[done["split"] != "unused"]
    test = used["split"] == "test"
    assert set(used["acquired"][test]) == {"2020", "2020-06-30"}
    assert set(used["acquired"][~test]) == {"2018", "2019-12"}
    assert not set(used["site"][test]) & set(used["site"][~test])
    assert certificate["chips"]["ALA"] == {"train": 14 * 18, "val": 2 * 18, "test": 4 * 18, "unused": 20 * 18}
    assert certificate["dropped"] == {
        "taken before 2020 at a test place": 4 * 18,
        "taken from 2020 on at a train or val place": 16 * 18,
    }


def test_dates_that_cannot_be_told_apart_and_missing_dates_are_left_out() -> None:
    chips = table(*apart(16, grid=(1, 1)))
    dates = ["2020", "2020-06", None, "soon"] + ["2020-06-29", "2020-06-30"] * 6
    done, certificate = split(chips.assign(acquired=pd.Series(dates, dtype=object)), SplitRule.by_date("2020-06-30"))
    assert (done["split"][:4] == "unused").all()
    assert certificate["dropped"]["has no date"] == 2
    assert certificate["dropped"]["has a date too coarse to say whether it is before 2020-06-30"] == 2
    with pytest.raises(SplitError, match="'2020-13', which is no day of the calendar"):
        split(chips.assign(acquired=pd.Series(dates, dtype=object)), SplitRule.by_date("2020-13"))


def test_a_year_shift_meets_the_fractions_of_what_each_split_can_use() -> None:
    # places of the early years hold four times as many chips as those of both: a share of all chips would misjudge
    x, y = HOME["ALA"]
    chips = table(*[
        scene_chips(f"p{i:02d}_{year}", "ALA", (x + 1000 * i, y), site=f"P{i}", grid=grid).assign(acquired=year)
        for i in range(30) for year, grid in [("2018", (4, 4)), *([("2020", (2, 2))] if i % 2 else [])]
    ])  # fmt: skip
    _, certificate = split(chips, SplitRule.by_date("2020", fractions=(0.6, 0.2, 0.2)))
    counts = certificate["chips"]["ALA"]
    assert (counts["train"], counts["val"], counts["test"]) == (18 * 16, 6 * 16, 3 * 4)


# -- given --


def test_given_splits_by_scene_city_and_site_or_site_are_taken_as_they_are() -> None:
    chips = table(*apart(5), *apart(4, "LAX"))
    names = ["train", "val", "test", "unused"]
    rule = SplitRule.by_file("splits.csv")
    by_scene = pd.DataFrame({"scene_id": [f"{c}_{i}" for c in UTM for i in range(4)], "split": names * 2})
    by_both = pd.DataFrame(
        {"city": ["ALA"] * 4 + ["LAX"] * 4, "site": [f"S{i}" for i in range(4)] * 2, "split": names * 2}
    )
    for table_of in (by_scene, by_both):
        done, certificate = split(chips, rule, given=table_of)
        found = done.groupby("scene_id")["split"].agg(set).to_dict()
        assert found == {f"{c}_{i}": {names[i]} for c in UTM for i in range(4)} | {"ALA_4": {"unused"}}
        assert certificate["dropped"] == {"unused in the given file": 18, "not named in the given file": 9}
        assert done["unit"].nunique() == 9
    alone = chips[chips["city"] == "ALA"]
    done, _ = split(alone, rule, given=by_both[:3][["site", "split"]])
    assert done.groupby("site")["split"].first().to_list() == ["train", "val", "test", "unused", "unused"]
    with pytest.raises(SplitError, match="site S0, which 2 cities have: add a column city"):
        split(chips, rule, given=by_both[:3][["site", "split"]])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"scene_id": ["ALA_0"], "split": ["training"]}, r"row 0 of the given splits says 'training'"),
        (
            {"scene_id": ["ALA_0", "x"], "split": ["train", "test"]},
            r"row 1 .* names scene_id x, of which .* \(1 of 2",
        ),
        ({"scene_id": ["ALA_0", "ALA_0"], "split": ["train", "test"]}, "put ALA_0 in two splits"),
        ({"scene_id": ["ALA_0"]}, "have no column split but scene_id"),
        ({"name": ["ALA_0"], "split": ["train"]}, "name scenes by scene_id, by city and site, or by site"),
    ],
)
def test_given_splits_that_cannot_be_meant_are_refused_in_a_sentence(rows: dict[str, Any], words: str) -> None:
    with pytest.raises(SplitError, match=words) as caught:
        split(table(*apart(3)), SplitRule.by_file("splits.csv"), given=pd.DataFrame(rows))
    assert "\n" not in str(caught.value)


def boxes(*splits: tuple[str, float, float], crs: int = 32643, step: float = 0.0) -> gpd.GeoDataFrame:
    """Polygons of the ALA scene below: from column metre to column metre."""
    x, y = HOME["ALA"]
    shapes = [shapely.box(x + west - step, y - 2000, x + east, y) for _, west, east in splits]
    return gpd.GeoDataFrame({"split": [name for name, _, _ in splits]}, geometry=shapes, crs=32643).to_crs(crs)


@pytest.mark.parametrize("crs", [32643, 3857])
def test_chips_wholly_inside_given_polygons_are_taken_and_those_that_reach_out_are_not(crs: int) -> None:
    chips = table(scene_chips("one", "ALA", HOME["ALA"], stride=200, grid=(5, 19)))  # 200 m every 100 m: 2 km wide
    # two polygons of one split side by side are one region; an edge that is touched from inside is not passed
    given_polygons = boxes(("train", 0, 500), ("train", 500, 1000), ("val", 1000, 1300), ("test", 1300, 1950))
    done, certificate = split(chips, SplitRule.by_file("areas.gpkg"), given=given_polygons.to_crs(crs))
    west = done["col"] * 0.5
    inside = [west + 200 <= 1000, (west >= 1000) & (west + 200 <= 1300), (west >= 1300) & (west + 200 <= 1950)]
    want = np.select(inside, ["train", "val", "test"], "unused")
    if crs == 32643:
        assert (done["split"] == want).all()
    else:  # the edges of another projection bend: chips on them may reach out, none inside is lost
        assert ((done["split"] == want) | (done["split"] == "unused")).all()
        on_edge = (done["row"] == 0) | west.isin([0, 800, 1000, 1100, 1300])
        assert (done["split"] == want)[~on_edge].all()
    assert certificate["dropped"] == {"reaches out of the given regions": (done["split"] == "unused").sum()}
    assert set(done["unit"][done["split"] == "test"]) == {3}


def test_given_polygons_that_overlap_or_lack_a_crs_are_refused() -> None:
    chips = table(scene_chips("one", "ALA", HOME["ALA"], stride=400, grid=(5, 10)))
    rule = SplitRule.by_file("areas.gpkg")
    with pytest.raises(SplitError, match=r"polygons of train and test overlap on .* m²"):
        split(chips, rule, given=boxes(("train", 0, 500), ("test", 499, 1000)))
    with pytest.raises(SplitError, match="no coordinate reference system"):
        split(chips, rule, given=gpd.GeoDataFrame({"split": ["train"]}, geometry=[shapely.box(0, 0, 1, 1)]))
    points = boxes(("train", 0, 500)).set_geometry(gpd.GeoSeries([shapely.Point(0, 0)], crs=32643))
    with pytest.raises(SplitError, match="row 0 of the given splits has a Point"):
        split(chips, rule, given=points)
    with pytest.raises(SplitError, match="polygons mean nothing for them"):
        split(chips.assign(approximate=True), rule, given=boxes(("train", 0, 500)))


def test_given_splits_that_share_ground_raise() -> None:
    x, y = HOME["ALA"]
    chips = table(scene_chips("a", "ALA", (x, y)), scene_chips("b", "ALA", (x, y)))
    rows = pd.DataFrame({"scene_id": ["a", "b"], "split": ["train", "test"]})
    with pytest.raises(LeakError):
        split(chips, SplitRule.by_file("splits.csv"), given=rows)


# -- random --


def test_chips_drawn_at_random_meet_the_fractions_and_are_called_a_leak() -> None:
    chips = table(*apart(5, grid=(4, 5)), *apart(2, "LAX", grid=(5, 10)))
    done, certificate = split(chips, SplitRule(kind="random", seed=7))
    assert certificate["chips"]["ALA"] == {"train": 70, "val": 10, "test": 20, "unused": 0}
    assert certificate["proven"] is False
    pixels, _ = brute_force(done)
    assert certificate["shared_pixels"] == pixels > 0
    with pytest.raises(LeakError):
        verify(done)
    again, _ = split(chips[::-1], SplitRule(kind="random", seed=7))
    assert (again["split"][::-1] == done["split"]).all()


def test_a_random_draw_that_happens_to_share_nothing_is_still_not_proven() -> None:
    chips = table(scene_chips("one", "ALA", HOME["ALA"], stride=400, grid=(4, 5)))
    _, certificate = split(chips, SplitRule(kind="random"))
    assert (certificate["shared_pixels"], certificate["proven"]) == (0, False)


# -- what stays together --


def test_scenes_that_the_scan_calls_duplicates_stay_together_through_scenes_that_are_gone() -> None:
    chips = table(*apart(12, grid=(1, 1)))
    scenes = pd.DataFrame({"scene_id": [f"ALA_{i}" for i in range(12)], "sha256": list("abcdefghijkl")})
    copies = {"ALA_3": "ALA_1", "ALA_7": "ALA_3", "ALA_8": "gone", "ALA_9": "gone"}
    scenes["duplicate_of"] = scenes["scene_id"].map(copies)
    for kind in ("place", "site"):
        for seed in range(6):
            done, certificate = split(chips, SplitRule(kind=kind, seed=seed), scenes=scenes)
            of = done.set_index("scene_id")["split"]
            assert of["ALA_1"] == of["ALA_3"] == of["ALA_7"]
            assert of["ALA_8"] == of["ALA_9"]
            assert certificate["joined_units"] == 3


def test_blocks_are_laid_where_they_cut_fewest_chips() -> None:
    # scenes of 400 m every 1000 m, 300 m off the round numbers: lines at those would cut chips of every scene
    x, y = 654_300.0, 4_790_100.0
    parts = [scene_chips(f"s{i}{j}", "ALA", (x + 1000 * i, y + 1000 * j)) for i in range(4) for j in range(4)]
    flat = [scene.to_crs(32643) for scene in parts]
    cut_by_round = sum(
        int((np.floor(f.bounds["miny"] / 500) != np.floor((f.bounds["maxy"] - 1e-6) / 500)).sum()) for f in flat
    )
    _, certificate = split(table(*parts), SplitRule.by_block(500))
    lattice = certificate["blocks"]["ALA"][0]
    assert cut_by_round > 0
    assert (lattice["across"], lattice["chips"]) == (0, 144)
    assert certificate["dropped"] == {}


def test_units_number_what_stayed_together() -> None:
    chips = table(*apart(6), *[part.assign(scene_id="twin_" + part["scene_id"]) for part in apart(6)])
    done, certificate = split(chips, SplitRule())
    assert done.groupby("unit")["site"].nunique().eq(1).all()
    assert done["unit"].nunique() == 6 == sum(certificate["units"].values())
    assert set(done["fold"]) == {-1}


def test_chips_per_city_and_what_is_left_out_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    chips = table(scene_chips("one", "ALA", HOME["ALA"], stride=100, grid=(30, 30)))
    with caplog.at_level(logging.INFO, "dlslicer_geo"):
        _, certificate = split(chips, SplitRule.by_block(500))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.splitlines()[1].split() == ["train", "val", "test", "unused"]
    counts = certificate["chips"]["ALA"]
    assert first.splitlines()[2].split() == [
        "ALA",
        *(str(counts[name]) for name in ("train", "val", "test", "unused")),
    ]
    assert second == f"left out {counts['unused']} chips: {counts['unused']} touches blocks of two splits"


# -- balance --


def test_the_draw_is_within_one_unit_of_the_best_of_all_assignments() -> None:
    random = np.random.default_rng(5)
    for trial in range(60):
        size = random.integers(1, 40, random.integers(4, 12))
        fractions = ((0.7, 0.1, 0.2), (0.5, 0.25, 0.25), (0.8, 0.0, 0.2))[trial % 3]
        chips = np.tile(size[:, None], (1, 3))
        found = assign(np.arange(len(size)), np.zeros(len(size), np.int64), chips, fractions, seed=trial)
        mine = np.array([size[found == s].sum() for s in range(3)])
        have = every_total(size, [s for s in range(3) if fractions[s]])
        full = (have[:, np.array(fractions) > 0] > 0).all(axis=1)
        off = ((have[full] / size.sum() - fractions) ** 2).sum(axis=1)
        assert all(mine[s] > 0 for s in range(3) if fractions[s])
        assert cost(mine.astype(float), chips, fractions) == pytest.approx(
            ((mine / size.sum() - fractions) ** 2).sum()
        )
        if len(size) <= 9:  # few enough that ours has tried all
            assert cost(mine.astype(float), chips, fractions) == pytest.approx(off.min())
        best = have[full][off.argmin()]
        assert np.abs(mine - best).max() <= size.max()


def every_total(size: np.ndarray[Any, Any], wanted: list[int]) -> np.ndarray[Any, Any]:
    """Chips per split of every assignment there is; those of equal totals once."""
    totals = {(0, 0, 0)}
    for chips in size.tolist():
        totals = {tuple(t + chips * (at == s) for at, t in enumerate(total)) for total in totals for s in wanted}
    return np.array(sorted(totals))


def test_exchanging_units_comes_nearer_than_the_largest_first() -> None:
    # largest first puts 6 + 3 + 3 against 5 + 5; 6 + 5 and 5 + 3 + 3 are even
    size = np.array([6, 5, 5, 3, 3])
    found = assign(np.arange(5), np.zeros(5, np.int64), np.tile(size[:, None], (1, 2)), (0.5, 0.5), seed=0)
    assert sorted(np.bincount(found, size)) == [11, 11]
