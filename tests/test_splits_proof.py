"""The proof of a split: planted leaks are found and named, distances are ground metres, TorchGeo's splits leak."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from places import ALL, HOME, UTM, apart, brute_force, planted, scene_chips, table
from pyproj import Geod, Transformer

from dlslicer_geo.errors import LeakError, SplitError, TableError
from dlslicer_geo.splits import chips_hash, scenes_hash, split, verify
from dlslicer_geo.splits.proof import measure, violations
from dlslicer_geo.types import SplitRule


def test_the_certificate_is_recomputed_from_the_tables_alone() -> None:
    chips = table(*apart(4))
    scenes = pd.DataFrame({"scene_id": sorted(set(chips["scene_id"]))}).assign(sha256=lambda t: t["scene_id"] + "00")
    done, certificate = split(chips, SplitRule(seed=4), scenes=scenes)
    proof = verify(done, scenes=scenes)
    assert {key: certificate[key] for key in proof} == proof
    assert certificate["rule"]["seed"] == certificate["seed"] == 4
    assert proof["duplicate_images"] == 0
    assert proof["duplicate_images_note"] is None
    assert proof["scenes_hash"] == scenes_hash(scenes[::-1])
    assert proof["chips_hash"] == chips_hash(done[::-1])
    alone = verify(done)
    assert (alone["duplicate_images"], alone["scenes_hash"]) == (None, None)
    assert "no scene table" in alone["duplicate_images_note"]
    assert "split" not in chips.columns


def test_the_hash_changes_when_one_chip_changes_its_split() -> None:
    done, certificate = split(table(*apart(4)), SplitRule())
    done.loc[0, "split"] = "unused"
    assert chips_hash(done) != certificate["chips_hash"]


@pytest.mark.parametrize(("one", "two"), list(combinations(("train", "val", "test"), 2)))
def test_a_planted_pixel_leak_is_named_with_both_chips_in_any_two_splits(one: str, two: str) -> None:
    chips = planted(table(*apart(2)), {0: one, 4: two})  # one step right and one down: a quarter of a chip
    with pytest.raises(LeakError, match=rf"chip [04] .*chip [04] \(scene ALA_0, \w+\) share {200 * 200} pixels"):
        verify(chips)
    assert verify(planted(chips, {0: one, 2: two}))["shared_pixels"] == 0  # two steps right: they touch


def test_a_single_shared_pixel_and_a_single_shared_square_metre_are_found() -> None:
    chips = table(scene_chips("a", "ALA", HOME["ALA"], stride=399, grid=(2, 2)))
    with pytest.raises(LeakError, match="share 1 pixels"):
        verify(planted(chips, {0: "train", 3: "test"}))
    x, y = HOME["ALA"]
    chips = table(
        scene_chips("a", "ALA", (x, y), grid=(1, 1)), scene_chips("b", "ALA", (x + 199, y - 199), grid=(1, 1))
    )
    with pytest.raises(LeakError, match=r"chip \d \(scene a, train\) and chip \d \(scene b, test\) share 1\.00 m²"):
        verify(planted(chips, {0: "train", 1: "test"}))


def test_ground_shared_by_scenes_of_different_dates_cities_and_zones_is_found() -> None:
    to_next = Transformer.from_crs(32643, 32644, always_xy=True)
    x, y = 744_000.0, 4_790_000.0  # almost 78° E, where the next zone starts
    there = to_next.transform(x, y)
    chips = table(
        scene_chips("a", "ALA", (x, y), grid=(1, 1)),
        scene_chips("b", "BBB", (there[0], there[1]), epsg=32644, grid=(1, 1)),
    )
    with pytest.raises(LeakError, match=r"scene a, val.*scene b, train"):
        verify(planted(chips, {0: "val", 1: "train"}))
    done, certificate = split(chips, SplitRule(allow_empty=ALL))
    assert certificate["joined_units"] == 1
    assert done["split"].nunique() == 1


def test_ground_shared_across_the_antimeridian_is_found() -> None:
    to_degrees = Transformer.from_crs(32760, 4326, always_xy=True)
    to_west = Transformer.from_crs(4326, 32701, always_xy=True)
    x, y = Transformer.from_crs(4326, 32760, always_xy=True).transform(180.0, -16.8)  # Taveuni, Fiji
    a = scene_chips("a", "TVU", (x - 100, y), epsg=32760, grid=(1, 1))
    b = scene_chips("b", "TVU", to_west.transform(*to_degrees.transform(x + 20, y)), epsg=32701, grid=(1, 1))
    assert a.geometry.bounds["maxx"].item() > 179.99 and b.geometry.bounds["maxx"].item() < -179.99
    with pytest.raises(LeakError, match=r"scene a, train.*scene b, test"):
        verify(planted(table(a, b), {0: "train", 1: "test"}))


def test_one_file_under_two_names_in_two_splits_is_named_with_both_scenes() -> None:
    chips = table(*apart(2, grid=(1, 1)))
    scenes = pd.DataFrame({"scene_id": ["ALA_0", "ALA_1"], "sha256": ["same", "same"]})
    leak = planted(chips, {0: "train", 1: "test"})
    with pytest.raises(LeakError, match=r"scenes ALA_0 \(train\) and ALA_1 \(test\) are the same image"):
        verify(leak, scenes=scenes)
    assert verify(leak, scenes=scenes.assign(sha256=["a", "b"]))["duplicate_images"] == 0
    assert verify(planted(chips, {0: "train", 1: "train"}), scenes=scenes)["duplicate_images"] == 0
    with pytest.raises(TableError, match="no sha256 for scene ALA_1"):
        verify(leak, scenes=scenes[:1])


def test_near_duplicates_in_two_splits_are_one_image_also_through_a_third_and_an_unused_scene() -> None:
    chips = planted(table(*apart(3, grid=(1, 1))), {0: "train", 2: "test"})  # ALA_1 is in no split
    scenes = pd.DataFrame(
        {"scene_id": ["ALA_0", "ALA_1", "ALA_2"], "sha256": ["a", "b", "b"], "duplicate_of": [None, "ALA_0", None]}
    )
    found = violations(chips, scenes=scenes)
    assert found.to_dict("records") == [
        {"kind": "image", "chip_id": -1, "other_chip_id": -1, "scene_id": "ALA_0", "other_scene_id": "ALA_2"}
        | {"split": "train", "other_split": "test", "amount": 1}
    ]
    with pytest.raises(LeakError, match=r"scenes ALA_0 \(train\) and ALA_2 \(test\) are the same image, and 0 more"):
        verify(chips, scenes=scenes)
    assert measure(chips, scenes=scenes.assign(duplicate_of=None))["proven"]
    figures = measure(chips.assign(approximate=True), scenes=scenes)
    assert (figures["leaks"]["image"], figures["shared_ground_m2"]) == (1, None)
    assert "duplicate_of" in figures["approximate_note"]


def test_the_two_images_that_look_most_alike_are_told_and_are_no_leak() -> None:
    chips = planted(table(*apart(4, grid=(1, 1))), {0: "train", 1: "train", 2: "test"})
    scenes = pd.DataFrame({"scene_id": [f"ALA_{i}" for i in range(4)], "sha256": list("abcd")})
    assert measure(chips, scenes=scenes)["nearest_images"] is None
    # ALA_0 and ALA_1 are in one split, ALA_3 is in none, and ALA_1 differs from ALA_2 in three bits
    hashed = scenes.assign(phash=["00000000000000f0", "00000000000000f1", "00000000000000ff", "00000000000000f1"])
    figures = measure(chips, scenes=hashed)
    assert figures["nearest_images"] == {"bits": 3, "scenes": ["ALA_1", "ALA_2"]}
    assert figures["proven"]
    some: list[Any] = ["00000000000000f0", None, None, None]
    assert measure(chips, scenes=scenes.assign(phash=some))["nearest_images"] is None
    some[1] = "f1"
    with pytest.raises(TableError, match="phash of scene ALA_1 is 'f1'"):
        measure(chips, scenes=scenes.assign(phash=some))


def test_a_table_full_of_leaks_is_measured_whole_and_listed_worst_first() -> None:
    chips = table(*(scene_chips(f"s{i}", "ALA", (HOME["ALA"][0] + 50 * i, HOME["ALA"][1])) for i in range(3)))
    leaky = chips.assign(split=np.random.default_rng(1).choice(["train", "val", "test"], len(chips)))
    figures, found = measure(leaky), violations(leaky)
    pixels, ground = brute_force(leaky)
    within = brute_force_within(leaky)
    assert figures["shared_pixels"] == pixels
    assert figures["shared_ground_m2"] == pytest.approx(ground - within, rel=1e-6)
    assert figures["leaks"] == {**found["kind"].value_counts().to_dict(), "image": None}
    assert not figures["proven"]
    for kind, rows in found.groupby("kind"):
        assert rows["amount"].is_monotonic_decreasing
        assert rows["amount"].sum() == pytest.approx(
            figures["shared_pixels" if kind == "pixels" else "shared_ground_m2"]
        )
        pd.testing.assert_frame_equal(
            violations(leaky, limit=4).query("kind == @kind").reset_index(drop=True), rows[:4].reset_index(drop=True)
        )


def brute_force_within(chips: gpd.GeoDataFrame) -> float:
    """Ground that chips of one scene in two splits share."""
    return sum(brute_force(gpd.GeoDataFrame(part))[1] for _, part in chips.groupby("scene_id"))


def test_a_city_as_wide_as_the_world_and_a_chip_across_the_cut_of_the_map_hide_nothing() -> None:
    here = from_degrees(32625, -33.0, 68.1)
    far = [
        scene_chips(f"far{i}", "A", from_degrees(32630 + i, 6.0 * i - 3, 40.0), epsg=32630 + i)
        for i in range(0, 25, 6)
    ]
    over = [
        scene_chips(name, "A", (here[0] - 90 + x, here[1]), epsg=32625, grid=(1, 1))
        for name, x in (("a", 0), ("b", 150))
    ]
    chips = table(*over, *far)
    number = {row["scene_id"]: row["chip_id"] for row in chips.to_dict("records")}
    found = violations(planted(chips, {number["a"]: "train", number["b"]: "test", number["far6"]: "test"}))
    assert found[["scene_id", "other_scene_id"]].values.tolist() == [["a", "b"]]
    assert found["amount"].item() == pytest.approx(50 * 200, rel=0.01)


def from_degrees(epsg: int, lon: float, lat: float) -> tuple[float, float]:
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    return float(x), float(y)


def test_distances_are_ground_metres_per_city_and_over_all() -> None:
    x, y = 655_000.0, 4_790_000.0
    chips = table(
        scene_chips("a", "ALA", (x, y), grid=(1, 1)),
        scene_chips("b", "ALA", (x + 1200, y), grid=(1, 1)),
        scene_chips("c", "BBB", (x + 1200, y - 500), grid=(1, 1)),
        *apart(1, "LAX", grid=(1, 1)),
    )
    gaps = verify(planted(chips, {0: "train", 1: "test", 2: "train", 3: "test"}))["min_distance_m"]
    assert gaps["per_city"] == {"ALA": pytest.approx(1000, rel=1e-3), "BBB": None, "LAX": None}
    assert gaps["overall"] == pytest.approx(300, rel=1e-3)
    # cities on two continents: the way over the ellipsoid between Almaty and Los Angeles
    far = verify(planted(chips, {0: "train", 3: "test"}))["min_distance_m"]
    lon, lat = chips.geometry.bounds["minx"].to_numpy(), chips.geometry.bounds["miny"].to_numpy()
    assert far["overall"] == pytest.approx(Geod(ellps="WGS84").inv(lon[0], lat[0], lon[3], lat[3])[2], rel=1e-3)


def test_a_table_that_was_not_split_or_split_wrongly_is_refused() -> None:
    chips = table(*apart(1))
    with pytest.raises(SplitError, match="no column split"):
        verify(chips)
    with pytest.raises(SplitError, match="9 chips have the split 'Train'"):
        verify(chips.assign(split="Train"))
    with pytest.raises(SplitError, match="empty"):
        split(chips[:0], SplitRule())
    with pytest.raises(TableError, match="EPSG:32643"):
        verify(gpd.GeoDataFrame(chips.assign(split="train")).to_crs(32643))


def test_torchgeo_splits_leak_on_a_real_raster_and_ours_do_not(
    raster: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = raster("scene.tif", crs="EPSG:32643", origin=HOME["ALA"], gsd=0.5, size=(1000, 1000))
    leaking = leaks_of_torchgeo(path, size=64)
    chips = table(scene_chips("scene", "ALA", HOME["ALA"], size=64, stride=64, grid=(15, 15)))
    done, certificate = split(chips, SplitRule.by_block(128, fractions=(0.5, 0.0, 0.5)))
    ours = certificate["chips"]["ALA"]["test"]
    said = "; ".join(f"torchgeo {name}: {bad} of {number}" for name, (bad, number) in leaking.items())
    with capsys.disabled():
        print(f"\ntest chips that share pixels with train: {said}; ours, by block: 0 of {ours}")
    assert all(bad > 0 for bad, _ in leaking.values()) and len(leaking) == 2
    assert ours > 0
    assert (certificate["proven"], certificate["shared_pixels"]) == (True, 0)
    assert brute_force(done) == (0, 0.0)


def leaks_of_torchgeo(path: Path, size: int) -> dict[str, tuple[int, int]]:
    """Test chips of each way to split that share pixels with a train chip of the grid sampler, and all test chips."""
    from torchgeo.datasets import RasterDataset, random_grid_cell_assignment, roi_split
    from torchgeo.samplers import GridGeoSampler

    west, south, east, north = HOME["ALA"][0], HOME["ALA"][1] - 500, HOME["ALA"][0] + 500, HOME["ALA"][1]
    middle = west + 240  # no whole number of chips: the sampler rounds up
    halves = [shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torchgeo deprecate what this test is about
        dataset = RasterDataset(path)
        generator = torch.Generator().manual_seed(0)
        ways = {
            "random_grid_cell_assignment": random_grid_cell_assignment(
                dataset, [0.5, 0.5], grid_size=6, generator=generator
            ),
            "roi_split": roi_split(dataset, halves),
        }
        chips = {
            name: [[box_of(chip) for chip in GridGeoSampler(part, size=size)] for part in parts]
            for name, parts in ways.items()
        }
    return {name: (leaking_chips(train, test), len(test)) for name, (train, test) in chips.items()}


def leaking_chips(train: list[Any], test: list[Any]) -> int:
    """Test boxes that share more than a pixel, a quarter of a square metre, with a train box."""
    shared = shapely.area(shapely.intersection(np.array(test)[:, None], np.array(train)[None, :]))
    return int((shared.max(axis=1) > 0.25).sum())


def box_of(chip: Sequence[slice]) -> Any:
    return shapely.box(chip[0].start, chip[1].start, chip[0].stop, chip[1].stop)


@pytest.mark.slow
def test_half_a_million_chips_are_proven_in_half_a_minute() -> None:
    parts = []
    for i in range(1585):
        city = sorted(UTM)[i % 2]
        origin = (HOME[city][0] + 2500 * (i // 2 % 28), HOME[city][1] + 2500 * (i // 56))
        parts.append(scene_chips(f"{city}_{i:04d}", city, origin, site=f"S{i}", epsg=UTM[city], grid=(19, 19)))
    done, _ = split(table(*parts), SplitRule())
    start = time.process_time()
    proof = verify(done)
    assert proof["shared_pixels"] == 0
    assert time.process_time() - start < 30
