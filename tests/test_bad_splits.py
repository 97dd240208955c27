"""Odd input to splits, certificates, predictions and checkpoints ends in one sentence, never in a silent result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
import towns

from dlslicer_geo.cli import main
from dlslicer_geo.errors import ConfigError, ModelError, SplitError, TableError
from dlslicer_geo.files import read_json, write_json
from dlslicer_geo.model import CityClassifier, load
from dlslicer_geo.model.unknown import unknown_scores
from dlslicer_geo.pipeline.checks import verify_run
from dlslicer_geo.pipeline.pieces import check_certificate
from dlslicer_geo.pipeline.readers import other_run
from dlslicer_geo.predict import read_predictions
from dlslicer_geo.types import SplitRule

CITIES = ("almaty", "new_york")
SPLITS = ["train", "train", "val", "test"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment of two cities, four sites each, and ``run``, split by site."""
    folder = tmp_path_factory.mktemp("odd")
    experiment = towns.build(folder, towns=CITIES, sites=4, years=(2020,))
    for verb in ("scan", "cut", "split"):
        words = ["--split.kind", "site", "--split.fractions", "[0.5, 0.25, 0.25]"]
        assert main([verb, str(experiment), "--out", str(folder / "run"), *words]) == 0
    return folder


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """A copy of the run folder beside the same scenes."""
    return Path(shutil.copytree(world / "run", world / tmp_path.name))


@pytest.fixture
def refused(world: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Split with these words, which does not go and leaves the tables as they were; gives the one sentence."""

    def said(*words: str) -> str:
        before = (run / "chips.parquet").read_bytes()
        assert main(["split", str(world / "tiny.yaml"), "--out", str(run), *words]) == 2
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("dlslicer-geo: ")]
        assert len(lines) == 1 and (run / "chips.parquet").read_bytes() == before
        return lines[0]

    return said


def table(run: Path) -> pd.DataFrame:
    """One row per scene: its id, city and site, and a split by site."""
    scenes = gpd.read_parquet(run / "scenes.parquet").sort_values(["city", "site"], ignore_index=True)
    return pd.DataFrame(scenes[["scene_id", "city", "site"]]).assign(split=SPLITS * len(CITIES))


def edit(run: Path, name: str, column: str, value: Any) -> None:
    """Change one value of the first row of a table of the run."""
    stored = gpd.read_parquet(run / name)
    values = stored[column].tolist()
    values[0] = value
    stored[column] = gpd.GeoSeries(values, crs=stored.crs) if column == "geometry" else values
    stored.to_parquet(run / name, schema_version="1.1.0", write_covering_bbox=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--split.seed", "-1"), "split.seed is -1: give 0 or more"),
        (("--split.kind", "given", "--split.given", ""), "kind given and a file go together"),
        (("--split.kind", "given", "--split.given", "x" * 5000), "which does not exist"),
        (("--split.kind", "site", "--split.folds", "1000000000000"), "folds is 1000000000000 and there are 8 sites"),
        (("--split.kind", "site", "--split.folds", "9"), "take at most one fold for each"),
        (("--split.kind", "random", "--split.folds", str(2**70)), "chips: take at most one fold for each"),
    ],
)  # fmt: skip
def test_a_number_or_a_path_that_nothing_can_be_made_of_is_refused(
    refused: Callable[..., str], words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused(*words)


def test_a_date_in_other_digits_is_refused() -> None:
    with pytest.raises(ConfigError, match="give a date"):
        SplitRule(test_from="２０２０")


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("no_rows.csv", lambda t: t[:0], "none of the 0 rows of the given splits says train, val or test"),
        ("unused.csv", lambda t: t.assign(split="unused"), "none of the 8 rows"),
        ("no_id.csv", lambda t: t.assign(scene_id=t["scene_id"].where(t.index != 3)), "row 3 of the given splits"),
        ("lists.parquet", lambda t: t.assign(split=[["train"]] * len(t)), "row 0 of the given splits says array("),
        ("bytes.parquet", lambda t: t.assign(split=t["split"].str.encode("utf-8")), "says b'train'"),
    ],
)  # fmt: skip
def test_a_given_table_that_says_nothing_or_something_else_is_refused(
    run: Path, refused: Callable[..., str], name: str, make: Callable[[pd.DataFrame], pd.DataFrame], sentence: str
) -> None:
    file, made = run / name, make(table(run)[["scene_id", "split"]])
    made.to_csv(file, index=False) if file.suffix == ".csv" else made.to_parquet(file)
    assert sentence in refused("--split.kind", "given", "--split.given", str(file))


def test_a_given_table_with_two_columns_split_is_refused(run: Path, refused: Callable[..., str]) -> None:
    (run / "twice.csv").write_text(
        "scene_id,split,split\n" + "".join(f"{x},train,test\n" for x in table(run)["scene_id"])
    )
    assert "has two columns split" in refused("--split.kind", "given", "--split.given", str(run / "twice.csv"))


def test_sites_that_are_numbers_in_the_given_table_are_the_sites_that_are_texts(world: Path, run: Path) -> None:
    numbers = table(run)[["city", "site", "split"]].astype({"site": np.int64})
    numbers.to_parquet(run / "numbers.parquet")
    words = ["--split.kind", "given", "--split.given", str(run / "numbers.parquet")]
    assert main(["split", str(world / "tiny.yaml"), "--out", str(run), *words]) == 0
    found = gpd.read_parquet(run / "chips.parquet").merge(numbers.astype({"site": str}), on=["city", "site"])
    assert (found["split_x"] == found["split_y"]).all() and set(found["split_x"]) == set(SPLITS)


def test_given_polygons_in_two_layers_none_at_all_or_without_a_closed_ring_are_refused(
    run: Path, refused: Callable[..., str]
) -> None:
    shapes = gpd.GeoDataFrame({"split": ["train"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    words = ("--split.kind", "given", "--split.given")
    for layer in ("one", "two"):
        shapes.to_file(run / "two.gpkg", layer=layer)
    assert "has 2 layers (one, two): give a file with one" in refused(*words, str(run / "two.gpkg"))
    shapes[:0].to_file(run / "none.gpkg")
    assert "none of the 0 rows" in refused(*words, str(run / "none.gpkg"))
    ring = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}
    feature = {"type": "Feature", "properties": {"split": "train"}, "geometry": ring}
    write_json(run / "open.geojson", {"type": "FeatureCollection", "features": [feature]})
    with pytest.warns(RuntimeWarning, match="Non closed ring"):
        assert "cannot be read as a table" in refused(*words, str(run / "open.geojson"))


@pytest.mark.parametrize(
    ("name", "column", "value", "sentence"),
    [
        ("scenes.parquet", "crs", "EPSG:999999", "'EPSG:999999', which is no place on Earth"),
        ("scenes.parquet", "crs", 'LOCAL_CS["x"]', "which is no place on Earth"),
        ("scenes.parquet", "transform", [1.0, 2.0], "transforms that are not 6 numbers"),
        ("scenes.parquet", "transform", [np.nan] * 6, "chips lie nowhere on the ground, such as chip 0"),
        ("chips.parquet", "col", 2**62, "1 chips lie nowhere on the ground, such as chip 0"),
        ("chips.parquet", "width", -(2**62), "1 chips lie nowhere on the ground, such as chip 0"),
    ],
)
def test_verify_names_what_cannot_be_placed(run: Path, name: str, column: str, value: Any, sentence: str) -> None:
    edit(run, name, column, value)
    with pytest.raises(TableError) as error:
        verify_run(run)
    assert sentence in str(error.value)


def test_verify_finds_a_date_that_was_changed_in_the_chip_table(run: Path) -> None:
    edit(run, "chips.parquet", "acquired", "1999")
    found = [row.what for row in verify_run(run).rows if row.agrees is False]
    assert found == ["chips of another city, site or date than their scene"]


def test_a_certificate_that_is_a_folder_or_is_nested_without_end_is_no_certificate(run: Path) -> None:
    path = run / "split_certificate.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(TableError, match="is no JSON"):
        verify_run(run)
    path.unlink()
    path.mkdir()
    with pytest.raises(TableError, match="cannot be read"):
        verify_run(run)


def test_no_model_is_fitted_on_scenes_that_the_certificate_is_not_about(run: Path) -> None:
    path = run / "split_certificate.json"
    chips = gpd.read_parquet(run / "chips.parquet")
    edit(run, "scenes.parquet", "crs", "EPSG:3857")
    with pytest.raises(SplitError, match="is the certificate of another scen"):
        check_certificate(gpd.read_parquet(run / "scenes.parquet"), chips, path)
    path.write_text("[1]")
    with pytest.raises(SplitError, match="is the certificate of another chip"):
        check_certificate(gpd.read_parquet(run / "scenes.parquet"), chips, path)


@pytest.mark.parametrize("shape", [shapely.Polygon(), shapely.Polygon([(0, 0), (np.inf, 1), (1, 1)])])
def test_a_chip_without_an_outline_is_not_proven_but_named(run: Path, shape: shapely.Polygon) -> None:
    chips, scenes = gpd.read_parquet(run / "chips.parquet"), gpd.read_parquet(run / "scenes.parquet")
    outlines = chips.geometry.to_numpy().copy()
    outlines[5] = shape
    with pytest.raises(TableError, match=r"1 of .* chips have no outline on the ground, such as that in row 5"):
        check_certificate(scenes, chips.set_geometry(outlines, crs=chips.crs), run / "split_certificate.json")


@pytest.fixture
def predicted(run: Path) -> Path:
    """A run folder with predictions of its test chips, as ``predict`` writes them."""
    chips = gpd.read_parquet(run / "chips.parquet")
    test = pd.DataFrame(chips[chips["split"] == "test"])
    part = test[["chip_id", "scene_id"]].assign(truth=test["city"], prob_almaty=0.6, prob_new_york=0.4)
    part = part.assign(score_softmax=0.4, score_energy=-1.0, score_knn=0.1)
    (run / "predictions").mkdir()
    part.to_parquet(run / "predictions" / "part-0.parquet")
    manifest = {"key": "0", "parts": 1, "temperature": 1.0, "detector": "knn", "threshold": 0.5}
    write_json(run / "predictions" / "manifest.json", manifest)
    return run


@pytest.mark.parametrize(
    "odd",
    [
        {"parts": 0}, {"parts": "a"}, {"parts": None}, {"temperature": None}, {"temperature": -1.0},
        {"temperature": 0.0}, {"detector": "zz"}, {"detector": None}, {"threshold": "x"}, {"detector": ["knn"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_predict_does_not_write_is_refused(predicted: Path, odd: dict[str, Any]) -> None:
    assert len(read_predictions(predicted / "predictions")) > 0
    path = predicted / "predictions" / "manifest.json"
    write_json(path, read_json(path) | odd)
    with pytest.raises(TableError, match="which predict does not write: run predict again"):
        read_predictions(predicted / "predictions")
    path.write_text("[]")
    with pytest.raises(TableError, match="is no list of parts"):
        read_predictions(predicted / "predictions")


def test_a_part_that_is_cut_off_or_lacks_a_column_is_refused(predicted: Path) -> None:
    path = predicted / "predictions" / "part-0.parquet"
    whole = pd.read_parquet(path)
    for lost in ("truth", "score_knn"):
        whole.drop(columns=lost).to_parquet(path)
        with pytest.raises(TableError, match=f"lacks the columns {lost}"):
            read_predictions(path.parent)
    whole.drop(columns=["prob_almaty", "prob_new_york"]).to_parquet(path)
    with pytest.raises(TableError, match="lacks the columns prob_<city>"):
        read_predictions(path.parent)
    for odd in ({"prob_almaty": np.nan}, {"prob_almaty": "x"}, {"chip_id": 5}):
        whole.assign(**odd).to_parquet(path)
        with pytest.raises(TableError, match="probabilities that are no numbers, or a chip twice"):
            read_predictions(path.parent)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TableError, match="has a part that is damaged"):
        read_predictions(path.parent)


def test_runs_are_not_compared_on_chips_that_the_other_was_trained_on(predicted: Path) -> None:
    chips = gpd.read_parquet(predicted / "chips.parquet")
    test = int((chips["split"] == "test").sum())
    assert len(other_run(predicted, chips)[1]) == test
    moved = chips["chip_id"].isin(chips["chip_id"][chips["split"] == "test"].head(3))
    theirs = chips.assign(split=chips["split"].where(~moved, "train"))
    theirs.to_parquet(predicted / "chips.parquet", schema_version="1.1.0", write_covering_bbox=True)
    assert len(other_run(predicted, chips)[1]) == test - 3
    with pytest.raises(TableError, match="none of these chips in the same split"):
        other_run(predicted, chips.assign(split="val"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A checkpoint as ``fit`` writes it, and what is in it."""
    model = CityClassifier("resnet10t", cities=CITIES, weights=False, input_size=32, chip={"size": 64, "metres": 128})
    hyper = {**model.hparams, "detector": "knn"}
    found = {"hyper_parameters": hyper, "state_dict": model.state_dict()}
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    torch.save(found, path)
    assert load(path).cities == CITIES
    return path, found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cities", []), ("cities", ["a"]), ("cities", ["a", "a"]), ("cities", 5), ("cities", None), ("model", 5),
        ("input_size", 0), ("input_size", "x"), ("input_size", 10**6), ("chip", "x"), ("detector", "zz"),
        ("detector", ["knn"]),
    ],
)  # fmt: skip
def test_a_checkpoint_that_says_what_no_model_has_is_refused(
    stored: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, value: Any
) -> None:
    torch.save(stored[1] | {"hyper_parameters": stored[1]["hyper_parameters"] | {name: value}}, tmp_path / "odd.ckpt")
    with pytest.raises(ModelError, match=rf"odd.ckpt says that {name} is .*: train again"):
        load(tmp_path / "odd.ckpt")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("bank", None, "has no bank: it was not calibrated by this version, train again"),
        ("bank", "x", "has no bank"),
        ("bank", torch.full((4, 7), torch.nan), "are no such numbers"),
        ("temperature", torch.tensor(-2.0), "are no such numbers"),
        ("temperature", torch.tensor(torch.nan), "are no such numbers"),
        ("thresholds", torch.full((3,), torch.nan), "are no such numbers"),
        ("thresholds", torch.ones(5), "does not fit resnet10t"),
    ],
)
def test_a_checkpoint_from_before_calibration_or_with_broken_numbers_is_refused(
    stored: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, value: Any, sentence: str
) -> None:
    state = {key: numbers for key, numbers in stored[1]["state_dict"].items() if key != name}
    torch.save(stored[1] | {"state_dict": state | ({} if value is None else {name: value})}, tmp_path / "odd.ckpt")
    with pytest.raises(ModelError, match=sentence):
        load(tmp_path / "odd.ckpt")


def test_a_file_without_weights_is_no_checkpoint(stored: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for odd in ({"state_dict": None}, {"state_dict": [1]}, {"hyper_parameters": None}):
        torch.save(stored[1] | odd, tmp_path / "odd.ckpt")
        with pytest.raises(ModelError, match="is no checkpoint of dlslicer_geo"):
            load(tmp_path / "odd.ckpt")


def test_a_bank_of_another_version_is_named_and_not_multiplied() -> None:
    with pytest.raises(ModelError, match=r"remembers training chips as \(4, 7\) numbers, and its network gives 5"):
        unknown_scores(torch.zeros(2, 3), torch.ones(2, 5), torch.ones(4, 7))


@pytest.mark.parametrize("chip", [{"size": "x", "metres": 3.0}, {"size": 64}, {"size": 64, "metres": "far"}])
def test_a_model_that_does_not_say_its_chips_is_not_applied(
    stored: tuple[Path, dict[str, Any]], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    chip: dict[str, Any],
) -> None:  # fmt: skip
    torch.save(
        stored[1] | {"hyper_parameters": stored[1]["hyper_parameters"] | {"chip": chip}}, tmp_path / "odd.ckpt"
    )
    image = sorted((world / "scenes").rglob("*.tif"))[0]
    assert main(["apply", str(tmp_path / "odd.ckpt"), str(image), "--out", str(tmp_path / "out")]) == 2
    assert "does not say what chips it was trained on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert json.loads((world / "run" / "split_certificate.json").read_text())["proven"]
