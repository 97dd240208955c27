"""Every way to split on the command line gives what it promises, and ``verify`` holds a run folder to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely
import towns

from dlslicer_geo.cli import main
from dlslicer_geo.files import read_json, write_json

PARTS = ["train", "val", "test", "val", "train", "train"]
"""Splits that the given files of these tests name for the sites in turn."""

Split = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment of two cities at two dates, and ``run`` with its scenes."""
    folder = tmp_path_factory.mktemp("world")
    experiment = towns.build(folder, towns=("almaty", "new_york"), sites=6, years=(2018, 2020))
    assert main(["scan", str(experiment), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A copy of the run folder beside the same scenes."""
    return Path(shutil.copytree(world / "run", world / tmp_path.name))


@pytest.fixture
def split(world: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Split:
    """Cut and split with these words; gives the run folder."""

    def done(*words: str) -> Path:
        for verb in ("cut", "split"):
            assert main([verb, str(world / "tiny.yaml"), "--out", str(folder), *words]) == 0
        capsys.readouterr()
        return folder

    return done


@pytest.fixture
def refused(world: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Cut and split with these words, which do not go; gives the one sentence."""

    def said(*words: str) -> str:
        verbs = [main([verb, str(world / "tiny.yaml"), "--out", str(folder), *words]) for verb in ("cut", "split")]
        assert verbs[-1] == 2
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("dlslicer-geo: ")]
        assert len(lines) == verbs.count(2)
        return lines[-1]

    return said


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str]]:
    """Exit code and words of ``verify``."""

    def told(run: Path) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["verify", str(run)])
        return code, capsys.readouterr().out

    return told


Verified = Callable[[Path], tuple[int, str]]


@pytest.mark.parametrize(
    "words",
    [
        ("place",),
        ("site", "--split.gap_m", "200"),
        ("block", "--split.block_m", "1000", "--split.gap_m", "50"),
        ("paper",),
        ("place", "--split.folds", "3", "--split.fold", "1"),
        ("site", "--split.test_from", "2020", "--split.fractions", "[0.4, 0.3, 0.3]"),
    ],
    ids=" ".join,
)
def test_every_rule_gives_three_splits_that_verify_proves(
    words: tuple[str, ...], split: Split, verified: Verified
) -> None:
    run = split("--split.kind", *words)
    chips = gpd.read_parquet(run / "chips.parquet")
    used = chips[chips["split"] != "unused"]
    assert set(used["split"]) == {"train", "val", "test"}
    assert (used["unit"] >= 0).all()
    assert used.groupby("unit")["split"].nunique().max() == 1 or words[0] == "paper"
    certificate = read_json(run / "split_certificate.json")
    assert certificate["rule"]["kind"] == words[0]
    assert certificate["min_distance_m"]["overall"] >= certificate["rule"]["gap_m"]
    code, said = verified(run)
    assert code == 0, said
    assert "no two splits share a pixel, ground or an image, and the certificate is true" in said
    assert "DIFFERS" not in said


def test_chips_drawn_at_random_are_split_and_verify_says_that_they_leak(split: Split, verified: Verified) -> None:
    run = split("--split.kind", "random")
    code, said = verified(run)
    assert code == 2
    assert "the splits LEAK, and the certificate is true" in said
    assert "pixels" in said


def test_a_random_draw_of_chips_that_touch_nothing_is_no_lie(split: Split, verified: Verified) -> None:
    """It claims no proof, although one could be had: only the images of the two dates could be shared."""
    run = split("--split.kind", "random", "--chips.stride", "64")
    certificate = read_json(run / "split_certificate.json")
    assert certificate["proven"] is False
    code, said = verified(run)
    assert "and the certificate is true" in said
    assert code == (0 if certificate["shared_ground_m2"] == certificate["shared_pixels"] == 0 else 2)


def test_the_test_folds_together_hold_every_chip_once(world: Path, folder: Path) -> None:
    held: list[int] = []
    for fold in range(3):
        words = ["--split.kind", "place", "--split.folds", "3", "--split.fold", str(fold)]
        for verb in ("cut", "split"):
            assert main([verb, str(world / "tiny.yaml"), "--out", str(folder), *words]) == 0
        chips = gpd.read_parquet(folder / "chips.parquet")
        assert set(chips["fold"]) == {0, 1, 2}
        assert set(chips.loc[chips["split"] == "test", "fold"]) == {fold}
        held += chips.loc[chips["split"] == "test", "chip_id"].tolist()
    assert sorted(held) == chips["chip_id"].tolist()


def test_a_year_shift_tests_on_later_dates_at_other_places(split: Split) -> None:
    run = split("--split.kind", "place", "--split.test_from", "2020", "--split.fractions", "[0.4, 0.3, 0.3]")
    chips, scenes = gpd.read_parquet(run / "chips.parquet"), gpd.read_parquet(run / "scenes.parquet")
    year = chips["scene_id"].map(scenes.set_index("scene_id")["acquired"])
    assert set(year[chips["split"] == "test"]) == {"2020"}
    assert set(year[chips["split"].isin(["train", "val"])]) == {"2018"}
    names = [set(zip(part["city"], part["site"], strict=True)) for _, part in chips.groupby("split") if _ != "unused"]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    left = read_json(run / "split_certificate.json")["dropped"]
    assert sum(left.values()) == (chips["split"] == "unused").sum() == len(chips) // 2


def test_a_csv_by_city_and_site_is_taken_as_it_is(split: Split, tmp_path: Path, verified: Verified) -> None:
    sites = pd.DataFrame({"site": list("012345"), "split": PARTS})
    both = pd.concat([sites.assign(city=city) for city in ("almaty", "new_york")])
    both.to_csv(tmp_path / "sites.csv", index=False)
    run = split("--split.kind", "given", "--split.given", str(tmp_path / "sites.csv"))
    chips = gpd.read_parquet(run / "chips.parquet")
    assert chips["split"].tolist() == [PARTS[int(site)] for site in chips["site"]]
    assert verified(run)[0] == 0


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "parquet"])
def test_polygons_of_a_file_are_taken_wherever_a_chip_lies_wholly_inside(
    suffix: str, split: Split, folder: Path, tmp_path: Path
) -> None:
    scenes = gpd.read_parquet(folder / "scenes.parquet")
    boxes = [shapely.box(*shape.buffer(0.001).bounds) for shape in scenes.geometry]
    half = shapely.clip_by_rect(boxes[0], boxes[0].bounds[0], -90, boxes[0].centroid.x, 90)  # one site is cut in two
    polygons = [half if site == "0" else box for site, box in zip(scenes["site"], boxes, strict=True)]
    names = [PARTS[int(site)] for site in scenes["site"]]
    given = gpd.GeoDataFrame({"split": names}, geometry=polygons, crs="EPSG:4326")
    given = given[~((scenes["site"] == "0") & (scenes["city"] != scenes["city"][0])).to_numpy()]
    path = tmp_path / f"ground.{suffix}"
    given.to_parquet(path) if suffix == "parquet" else given.to_file(path)
    run = split("--split.kind", "given", "--split.given", str(path))
    chips = gpd.read_parquet(run / "chips.parquet")
    whole = chips["site"] != "0"
    assert chips.loc[whole, "split"].tolist() == [PARTS[int(site)] for site in chips.loc[whole, "site"]]
    cut = chips[~whole]
    assert cut["split"].tolist() == ["train" if shape.within(half) else "unused" for shape in cut.geometry]
    assert {"train", "unused"} == set(cut.loc[cut["city"] == scenes["city"][0], "split"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.csv", None, "absent.csv, which does not exist"),
        ("empty.csv", b"", "cannot be read as a table"),
        ("text.gpkg", b"this is text", "text.gpkg, which cannot be read as a table"),
        ("text.parquet", b"this is text", "cannot be read as a table"),
        ("bytes.csv", b"site,split\n\xff\xfe\x00,train\n", "cannot be read as a table"),
        ("typed.csv", b"site,spilt\n0,train\n", "has the columns site, spilt and no column split"),
        ("wrong.csv", b"site,split\n0,tset\n", "row 0 of the given splits says 'tset'"),
        ("both.csv", b"site,split\n0,train\n", "name site 0, which 2 cities have: add a column city"),
        ("lost.csv", b"site,split\n0,train\n77,test\n", "names site 77, of which there is no scene"),
        ("nothing.csv", b"split\ntrain\n", "name scenes by scene_id"),
        ("twice.csv", b"site,split\n0,train\n0,test\n", "put 0 in two splits"),
        ("table.txt", b"site,split\n0,train\n", "table.txt"),
    ],
)
def test_a_given_file_that_cannot_be_meant_is_refused_in_one_sentence(
    name: str, content: bytes | None, words: str, refused: Refused, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert words in refused("--split.kind", "given", "--split.given", str(tmp_path / name))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split.kind", "given"], "kind given and a file go together"),
        (["--split.kind", "chance"], "split.kind"),
        (["--split.folds", "2"], "give at least 3"),
        (["--split.kind", "paper", "--split.test_from", "2020"], "means nothing for split.kind paper"),
        (["--split.test_from", "last year"], "give a date such as"),
        (["--split.gap_m", "-1"], "split.gap_m is -1"),
    ],
)
def test_rules_that_mean_nothing_are_refused_in_one_sentence(words: list[str], said: str, refused: Refused) -> None:
    assert said in refused(*words)


def test_one_chip_moved_to_another_split_by_hand_is_found(split: Split, verified: Verified) -> None:
    run = split("--split.kind", "place")
    chips = gpd.read_parquet(run / "chips.parquet")
    chips.loc[(chips["split"] == "train").idxmax(), "split"] = "test"
    chips.to_parquet(run / "chips.parquet")
    code, said = verified(run)
    assert code == 2
    assert "the splits LEAK, and the tables or the certificate are NOT TRUE" in said
    differing = [line.split("  ")[0] for line in said.splitlines() if line.endswith("DIFFERS")]
    assert {"chips_hash", "shared_pixels", "proven", "min_distance_m"} <= set(differing)


def test_a_certificate_edited_by_hand_is_found_and_the_figure_named(split: Split, verified: Verified) -> None:
    run = split("--split.kind", "place")
    path = run / "split_certificate.json"
    certificate = read_json(path)
    write_json(path, certificate | {"min_distance_m": certificate["min_distance_m"] | {"overall": 12_345.0}})
    code, said = verified(run)
    assert code == 2
    assert [x.split("  ")[0] for x in said.splitlines() if x.endswith("DIFFERS")] == ["min_distance_m"]
    assert "no two splits share a pixel, ground or an image, and the tables or the certificate are NOT TRUE" in said


def test_what_is_no_run_folder_is_not_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "chips.parquet does not exist" in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert "RUN" in capsys.readouterr().err
