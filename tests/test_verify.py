"""A run's split is verified without trusting who wrote it: what was changed afterwards is found, whatever it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from geopandas import GeoDataFrame

from dlslicer_geo import chips as chip_room
from dlslicer_geo import scan, split
from dlslicer_geo import scenes as scene_room
from dlslicer_geo.errors import TableError
from dlslicer_geo.files import read_json, read_table, write_json, write_table
from dlslicer_geo.pipeline.checks import Verdict, verify_run
from dlslicer_geo.types import ChipGrid, SplitRule

Change = Callable[[GeoDataFrame], GeoDataFrame]

OFF = "chips whose geometry is not their window's"


@pytest.fixture
def run(raster: Callable[..., Path], tmp_path: Path) -> Path:
    """A run folder up to the split: two cities, five sites each, sixteen chips a scene."""
    folder = tmp_path / "run"
    for i in range(10):
        city, crs, x = [("almaty", "EPSG:32643", 650_000.0), ("new_york", "EPSG:32618", 580_000.0)][i % 2]
        pixels = np.random.default_rng(i).integers(0, 255, (3, 160, 160), dtype=np.uint8)
        origin = (x + 4000 * i, 4_700_000.1)
        raster(f"scenes/{city}_2020_{i}.tif", crs=crs, origin=origin, gsd=2.0, pixels=pixels)
    scenes = scan(tmp_path / "scenes")
    chips, certificate = split(
        chip_room.cut(scenes, ChipGrid(size=64, stride=32, metres=128)),
        SplitRule.by_site(fractions=(0.5, 0.25, 0.25)),
        scenes=scenes,
    )
    scenes.attrs, chips.attrs = {}, {}
    write_table(scenes, folder / "scenes.parquet")
    write_table(chips, folder / "chips.parquet")
    write_json(folder / "split_certificate.json", certificate)
    return folder


def test_an_honest_run_is_sound_and_proven_and_every_figure_stands_beside_the_recomputed_one(run: Path) -> None:
    found = verify_run(run)
    assert (found.sound, found.proven, len(found.leaks)) == (True, True, 0)
    certificate = read_json(run / "split_certificate.json")
    rows = {row.what: row for row in found.rows}
    for name in ("chips_hash", "scenes_hash", "chips", "shared_pixels", "shared_ground_m2", "min_distance_m"):
        assert rows[name].agrees is True and rows[name].stated == certificate[name]
    assert rows["rule"].agrees is None  # the tables cannot tell with which rule they were made
    assert {"proven", "leaks", "nearest_images", "duplicate_images"} <= rows.keys()


def test_a_certificate_that_is_missing_is_not_sound_and_one_that_is_none_is_refused(run: Path) -> None:
    (run / "split_certificate.json").unlink()
    found = verify_run(run)
    assert (found.sound, found.proven) == (False, True)
    assert disagreeing(found) == {"split_certificate.json"}
    write_json(run / "split_certificate.json", [1, 2])
    with pytest.raises(TableError, match="is no certificate"):
        verify_run(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shared_pixels", 5),
        ("tolerance_m2", 10.0),
        ("chips_hash", "0" * 64),
        ("proven", 1),
        ("approximate_chips", None),
    ],
)
def test_every_figure_that_was_changed_in_the_certificate_is_found(run: Path, name: str, value: Any) -> None:
    certificate = read_json(run / "split_certificate.json")
    write_json(run / "split_certificate.json", certificate | {name: value})
    found = verify_run(run)
    assert disagreeing(found) == {name}
    assert (found.sound, found.proven) == (False, True)
    certificate.pop(name)
    write_json(run / "split_certificate.json", certificate)
    assert disagreeing(verify_run(run)) == {name}


def test_a_distance_that_was_embellished_deep_inside_the_certificate_is_found(run: Path) -> None:
    certificate = read_json(run / "split_certificate.json")
    gaps = certificate["min_distance_m"]["per_city"]
    gaps["almaty"] += 0.1
    write_json(run / "split_certificate.json", certificate)
    assert disagreeing(verify_run(run)) == {"min_distance_m"}
    gaps["almaty"] -= 0.1
    gaps["paris"] = 1.0
    write_json(run / "split_certificate.json", certificate)
    assert disagreeing(verify_run(run)) == {"min_distance_m"}


def test_one_chip_moved_to_another_split_is_found_with_the_pairs_that_it_leaks_to(run: Path) -> None:
    found = tampered(run, "chips", lambda chips: put(chips, 5, split="unused"))
    assert (disagreeing(found), found.proven) == ({"chips_hash", "chips"}, True)
    other = {"train": "val", "val": "test", "test": "train", "unused": "val"}
    found = tampered(run, "chips", lambda chips: put(chips, 5, split=other[chips["split"][6]]))
    assert (found.sound, found.proven) == (False, False)
    assert {"chips_hash", "chips", "shared_pixels", "proven", "leaks", "min_distance_m"} <= disagreeing(found)
    assert set(found.leaks["kind"]) == {"pixels"} and 1 <= len(found.leaks) <= 20
    assert (found.leaks[["chip_id", "other_chip_id"]] == 5).any(axis=1).all()


def test_one_window_shifted_away_from_its_geometry_is_found(run: Path) -> None:
    found = tampered(run, "chips", lambda chips: put(chips, 7, row=chips["row"][7] + 1))
    assert disagreeing(found) >= {"chips_hash", OFF}
    assert recomputed(found, OFF) == 1


def test_a_leak_cannot_be_hidden_by_moving_the_geometry_of_the_chips(run: Path) -> None:
    """Two scenes of one place in two splits, whose chips are drawn where they would share nothing."""
    train, test = read_splits(run)

    def lay_over(scenes: GeoDataFrame) -> GeoDataFrame:
        names = scenes["scene_id"].tolist()
        return put(scenes, names.index(test), transform=scenes["transform"][names.index(train)])

    found = tampered(run, "scenes", lay_over)
    assert (found.sound, found.proven) == (False, False)
    assert set(found.leaks["kind"]) == {"ground"}
    assert set(found.leaks["scene_id"]) | set(found.leaks["other_scene_id"]) == {train, test}
    assert recomputed(found, OFF) == 16
    assert {"scenes_hash", "shared_ground_m2"} <= disagreeing(found)


@pytest.mark.parametrize("change", ["moved", "reversed", "triangle"])
def test_a_geometry_that_does_not_follow_from_scene_and_window_is_found(run: Path, change: str) -> None:
    drawn: dict[str, Callable[[Any], Any]] = {
        "moved": lambda shape: shapely.transform(shape, lambda xy: xy + np.array([0, 1e-7])),  # a centimetre
        "reversed": shapely.reverse,
        "triangle": lambda shape: shapely.Polygon(shapely.get_coordinates(shape)[:3]),
    }
    found = tampered(run, "chips", lambda chips: put(chips, 3, geometry=drawn[change](chips.geometry[3])))
    assert disagreeing(found) == {OFF}  # the hash is of the windows, from which the proof is made
    assert recomputed(found, OFF) == 1
    assert found.proven


def test_chips_called_approximate_are_held_to_their_scene(run: Path) -> None:
    """Otherwise the ground that they share would not be looked at."""
    found = tampered(run, "chips", lambda chips: chips.assign(approximate=True))
    assert disagreeing(found) == {"chips called approximate when their scene is not, or the reverse"}
    assert recomputed(found, "approximate_chips") == 0


def test_other_cities_windows_out_of_the_scene_and_double_numbers_are_found(run: Path) -> None:
    def spoil(chips: GeoDataFrame) -> GeoDataFrame:
        chips = put(put(chips, 0, city="nowhere"), 1, site="S99")
        return put(put(chips, 2, row=10_000), 3, chip_id=4)

    found = tampered(run, "chips", spoil)
    assert recomputed(found, "chips of another city, site or date than their scene") == 2
    assert recomputed(found, "chips outside their scene") == 1
    assert recomputed(found, "chips numbered twice") == 1


@pytest.mark.parametrize("column", ["sha256", "duplicate_of"])
def test_an_image_that_is_in_two_splits_under_two_names_is_found(run: Path, column: str) -> None:
    train, test = read_splits(run)

    def repeat(scenes: GeoDataFrame) -> GeoDataFrame:
        value = scenes.set_index("scene_id")["sha256"][train] if column == "sha256" else train
        return scenes.assign(**{column: scenes[column].where(scenes["scene_id"] != test, value)})

    found = tampered(run, "scenes", repeat)
    assert (found.sound, found.proven) == (False, False)
    assert found.leaks[["kind", "split", "other_split"]].values.tolist() == [
        ["image", *sorted(["train", "test"], key=lambda name: train if name == "train" else test)]
    ]
    assert set(found.leaks.iloc[0][["scene_id", "other_scene_id"]]) == {train, test}
    assert recomputed(found, "duplicate_images") == 1


def test_chips_of_scenes_that_are_not_there_are_refused(run: Path) -> None:
    with pytest.raises(TableError, match=r"1[06] chips are of scenes that the scene table lacks, such as \w+"):
        tampered(run, "scenes", lambda scenes: scenes[1:])


def test_a_random_split_is_sound_when_it_says_that_it_leaks(run: Path) -> None:
    from dlslicer_geo.splits import proof

    chips = read_table(run / "chips.parquet", chip_room.COLUMNS)
    scenes = read_table(run / "scenes.parquet", scene_room.COLUMNS)
    leaky = chips.assign(split=np.random.default_rng(0).choice(["train", "val", "test"], len(chips)))
    write_table(leaky, run / "chips.parquet")
    write_json(run / "split_certificate.json", proof.measure(leaky, scenes=scenes))
    found = verify_run(run)
    assert (found.sound, found.proven) == (True, False)
    assert len(found.leaks) == 6
    assert recomputed(found, "leaks")["pixels"] > 100


def test_a_run_that_was_moved_is_verified_from_its_tables_alone(run: Path, tmp_path: Path) -> None:
    shutil.move(run, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "scenes")  # the images are gone
    assert verify_run(str(tmp_path / "elsewhere")).sound
    with pytest.raises(TableError, match="does not exist"):
        verify_run(run)


def tampered(run: Path, name: str, change: Change) -> Verdict:
    path = run / f"{name}.parquet"
    write_table(change(read_table(path, {})), path)
    return verify_run(run)


def put(table: GeoDataFrame, at: int, **values: Any) -> GeoDataFrame:
    """The table with other values in one row."""
    return table.assign(**{n: [*table[n][:at], value, *table[n][at + 1 :]] for n, value in values.items()})


def read_splits(run: Path) -> tuple[str, str]:
    """A scene of train and one of test, of one city."""
    chips = pd.DataFrame(read_table(run / "chips.parquet", chip_room.COLUMNS).drop(columns="geometry"))
    first = chips[chips["city"] == "almaty"].groupby("split")["scene_id"].first()
    return str(first["train"]), str(first["test"])


def disagreeing(found: Verdict) -> set[str]:
    return {row.what for row in found.rows if row.agrees is False}


def recomputed(found: Verdict, what: str) -> Any:
    return {row.what: row for row in found.rows}[what].recomputed
