"""``explain`` on a real run: what is laid on the ground, summed up and checked, and that a killed run goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from shapely.geometry import box

from dlslicer_geo import model
from dlslicer_geo.cli import main
from dlslicer_geo.files import read_json, sha256_file


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny experiment that is predicted, and not yet explained."""
    return tmp_path_factory.mktemp("fitted")


@pytest.fixture
def run(fitted: Path, tiny: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Experiment file and a copy of its run folder, predicted and scored."""
    experiment = fitted / "tiny.yaml"
    if not experiment.exists():
        (tiny.parent / "scenes").rename(fitted / "scenes")
        experiment.write_text(tiny.read_text())
        for verb in ("scan", "cut", "split", "fit", "predict"):
            assert main([verb, str(experiment), "--out", str(fitted / "run")]) == 0
    copied(fitted / "run", fitted / tmp_path.name)
    return experiment, fitted / tmp_path.name


def copied(source: Path, target: Path) -> Path:
    """A copy of a run folder without what training left there."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("fit")))


def explain(run: tuple[Path, Path], *options: str) -> int:
    return main(["explain", str(run[0]), "--out", str(run[1]), "--explain.layers", "[layer2, layer4]", *options])


def tags_of(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "gis" / "saliency").glob("*.tif")):
        with rasterio.open(path) as raster:
            found.append(raster.tags())
    return found


@pytest.mark.parametrize("chips", ["drawn", "scenes", pytest.param("predicted", marks=pytest.mark.slow), "all"])
def test_the_chips_that_are_asked_for_are_laid_on_the_ground(run: tuple[Path, Path], chips: str) -> None:
    assert explain(run, "--explain.chips", chips, "--explain.per_city", "1") == 0
    table = pd.read_parquet(run[1] / "saliency.parquet")
    cut = gpd.read_parquet(run[1] / "chips.parquet")
    gallery = {"drawn": 2, "predicted": int((cut["split"] == "test").sum()), "all": len(cut)}
    if chips == "scenes":
        whole = cut[cut["scene_id"].isin(set(table["scene_id"]))]
        assert table["scene_id"].nunique() == 2
        assert table["chip_id"].tolist() == whole["chip_id"].tolist()
    else:
        assert len(table) == gallery[chips]
    laid = sum(int(tags["CHIPS"]) for tags in tags_of(run[1]))
    assert laid == len(table)
    joined = table.merge(cut, on=["chip_id", "scene_id"])  # the summary joins the chip table
    assert len(joined) == len(table)
    assert joined["positive_share_layer4"].between(0, 1).all()


@pytest.mark.slow
def test_all_chips_of_a_scene_are_explained_for_one_city(run: tuple[Path, Path]) -> None:
    assert explain(run, "--explain.chips", "all") == 0
    table = pd.read_parquet(run[1] / "saliency.parquet")
    assert (table.groupby("scene_id")["city"].nunique() == 1).all()
    assert {tags["CITY"] for tags in tags_of(run[1])} == set(table["city"])


def test_only_chips_within_the_polygons_are_explained(run: tuple[Path, Path], capsys: Any) -> None:
    cut = gpd.read_parquet(run[1] / "chips.parquet")
    wanted = cut[cut["split"] == "test"].iloc[[0]]
    area = run[1].parent / f"{run[1].name}.gpkg"
    wanted.set_geometry(wanted.to_crs(32643).centroid.buffer(1), crs=32643)[["geometry"]].to_file(area)
    assert explain(run, "--explain.chips", "predicted", "--explain.within", str(area)) == 0
    table = pd.read_parquet(run[1] / "saliency.parquet").merge(cut, on="chip_id")
    ground = wanted.geometry.iloc[0].centroid.buffer(1e-5)
    assert 1 <= len(table) <= 4
    assert gpd.GeoSeries(table["geometry"]).intersects(ground).all()
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326).to_file(area)
    capsys.readouterr()
    assert explain(run, "--explain.within", str(area)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "touches" in said
    assert said.endswith("give other polygons, or take explain.chips all")


def test_relevance_is_summed_over_the_polygons_that_are_given(run: tuple[Path, Path]) -> None:
    cut = gpd.read_parquet(run[1] / "chips.parquet")
    outline = (
        cut.dissolve("scene_id").reset_index()[["scene_id", "geometry"]].rename(columns={"scene_id": "district"})
    )
    given = run[1].parent / f"{run[1].name}.geojson"
    outline.to_file(given)
    assert explain(run, "--explain.polygons", str(given), "--explain.chips", "all") == 0
    table = gpd.read_parquet(run[1] / "polygons.parquet")
    assert set(table["district"]) == set(outline["district"])
    assert gpd.read_file(run[1] / "gis" / "polygons.gpkg", layer="polygons").shape[0] == len(table)
    first = table.iloc[0]
    files = [p for p in (run[1] / "gis" / "saliency").glob("*.tif") if p.name.startswith(f"{first['district']}.")]
    with rasterio.open(files[0]) as raster:
        mean = np.nanmean(raster.read(2))
    assert first["mean_layer4"] == pytest.approx(float(mean), rel=0.02)
    assert explain(run, "--explain.chips", "all") == 0
    assert not (run[1] / "polygons.parquet").exists()  # of other polygons than those asked for


def test_one_city_rather_than_another_is_explained_and_named_in_every_file(run: tuple[Path, Path]) -> None:
    options = ("--explain.target", "almaty", "--explain.rather_than", "new_york", "--explain.masked", "true")
    assert explain(run, *options) == 0
    names = sorted(path.name for path in (run[1] / "gis" / "saliency").glob("*.tif"))
    assert names
    assert all(".almaty-rather-than-new_york.relevance-cam-margin.tif" in name for name in names)
    assert {tags["RATHER_THAN"] for tags in tags_of(run[1])} == {"new_york"}
    assert set(pd.read_parquet(run[1] / "saliency.parquet")["rather_than"]) == {"new_york"}
    masked = sorted(path.name for path in (run[1] / "gis" / "masked").glob("*.tif"))
    assert masked == names


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--explain.rather_than", "almaty"), "give the codes of two cities"),
        (("--explain.target", "almaty", "--explain.rather_than", "almaty"), "give the codes of two cities"),
        (("--explain.target", "almaty", "--explain.rather_than", "tokyo"), "give a city of the model"),
        (("--explain.per_city", "0"), "explain.per_city is 0: give 1 or more"),
        (("--explain.portrait", "-1"), "explain.portrait is -1: give 0 or more"),
        (("--explain.within", "nowhere.gpkg"), "explain.within is"),
        (("--explain.polygons", "nowhere.gpkg"), "explain.polygons is"),
        (("--check.chips", "-3", "--check"), "check.chips is -3"),
        (("--explain.precision", "int4"), "explain.precision"),
    ],
)
def test_questions_that_make_no_sense_end_with_one_sentence(
    run: tuple[Path, Path], capsys: Any, options: tuple[str, ...], said: str
) -> None:
    capsys.readouterr()
    assert explain(run, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dlslicer-geo: ")
    assert said in error
    assert not (run[1] / "saliency.parquet").exists()


def test_the_check_stands_in_the_report_and_in_the_tags(run: tuple[Path, Path]) -> None:
    assert explain(run) == 0
    assert not any("SANITY_HEAD_SHUFFLED_LAYER4" in tags for tags in tags_of(run[1]))
    assert explain(run, "--check", "--check.chips", "4", "--check.layers", "[layer2, layer4]") == 0
    said = read_json(run[1] / "saliency_check.json")
    assert said["chips"] == 4
    assert {(row["method"], row["layer"]) for row in said["rows"]} >= {
        ("relevance-cam-margin", "layer2"),
        ("grad-cam", "layer4"),
    }
    kept = [row["conservation"] for row in said["rows"] if row["method"].startswith("relevance")]
    assert max(kept) <= 1e-5
    assert "Is the explanation right?" in (run[1] / "report.html").read_text()
    assert all("SANITY_HEAD_SHUFFLED_LAYER4" in tags for tags in tags_of(run[1]))
    assert read_json(run[1] / "run.json")["stations"]["check"]["status"] == "done"


@pytest.mark.slow
def test_a_model_is_its_own_twin_and_another_seed_is_less_alike(run: tuple[Path, Path]) -> None:
    options = ("--check", "--check.chips", "4", "--check.layers", "[layer4]")
    assert explain(run, *options, "--check.twin", str(run[1])) == 0
    rows = read_json(run[1] / "saliency_check.json")["rows"]
    assert min(row["twin"] for row in rows) >= 0.9999
    other = run[1].parent / f"{run[1].name}-other"
    copied(run[1], other)
    assert main(["fit", str(run[0]), "--out", str(other), "--seed", "1"]) == 0
    assert main(["predict", str(run[0]), "--out", str(other), "--seed", "1"]) == 0
    assert explain(run, *options, "--check.twin", str(other)) == 0
    rows = read_json(run[1] / "saliency_check.json")["rows"]
    assert max(row["twin"] for row in rows if row["twin"] is not None) < 0.9999


@pytest.mark.slow
def test_a_check_of_other_predictions_is_left_out(run: tuple[Path, Path], caplog: Any) -> None:
    assert explain(run, "--check", "--check.chips", "2", "--check.layers", "[layer4]") == 0
    assert main(["predict", str(run[0]), "--out", str(run[1]), "--predict.split", "all"]) == 0
    caplog.clear()
    assert main(["score", str(run[0]), "--out", str(run[1]), "--predict.split", "all"]) == 0
    assert "about other predictions and is left out" in caplog.text
    assert "check of the saliency is not shown: none was run" in (run[1] / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 6])
def test_a_killed_explain_goes_on_and_ends_with_the_same_bytes(run: tuple[Path, Path], finished: int) -> None:
    experiment, folder = run
    whole = folder.parent / f"{folder.name}-whole"
    copied(folder, whole)
    assert explain((experiment, whole), "--explain.chips", "all") == 0
    words = ["explain", str(experiment), "--out", str(folder), "--explain.layers", "[layer2, layer4]"]
    words += ["--explain.chips", "all"]
    process = subprocess.Popen([sys.executable, "-m", "dlslicer_geo.cli", *words], stderr=subprocess.DEVNULL)
    saliency = folder / "gis" / "saliency"
    while process.poll() is None and len(list(saliency.glob("[!.]*.tif"))) < finished:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path.name: path.stat().st_mtime_ns for path in saliency.glob("[!.]*.tif")}
    assert finished <= len(there) < len(list((whole / "gis" / "saliency").glob("*.tif")))
    assert explain(run, "--explain.chips", "all") == 0
    for name, written in there.items():
        assert (saliency / name).stat().st_mtime_ns == written  # not made again
    assert same_saliency(whole, folder)


def same_saliency(one: Path, other: Path) -> bool:
    """Whether two run folders have the same rasters, to the byte, and the same summaries."""
    made = sorted(path.relative_to(one) for path in one.rglob("*.tif"))
    assert made == sorted(path.relative_to(other) for path in other.rglob("*.tif"))
    pd.testing.assert_frame_equal(
        pd.read_parquet(one / "saliency.parquet"), pd.read_parquet(other / "saliency.parquet")
    )
    return [name for name in made if sha256_file(one / name) != sha256_file(other / name)] == []


@pytest.mark.slow
def test_what_is_deleted_of_a_finished_explain_is_made_again_and_nothing_else(run: tuple[Path, Path]) -> None:
    assert explain(run, "--explain.chips", "all") == 0
    whole = run[1].parent / f"{run[1].name}-whole"
    copied(run[1], whole)
    files = sorted((run[1] / "gis" / "saliency").glob("*.tif"))
    written = {path: path.stat().st_mtime_ns for path in files[1:]}
    files[0].unlink()
    (run[1] / "gallery.html").unlink()
    next((run[1] / "explain").rglob("part-*.parquet")).unlink()
    assert explain(run, "--explain.chips", "all") == 0
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == written
    assert same_saliency(whole, run[1])
    assert (run[1] / "gallery.html").read_bytes() == (whole / "gallery.html").read_bytes()


@pytest.mark.slow
def test_another_question_leaves_nothing_of_the_one_before(run: tuple[Path, Path]) -> None:
    assert explain(run, "--explain.chips", "all", "--explain.masked", "true") == 0
    assert explain(run, "--explain.chips", "drawn", "--explain.method", "grad-cam") == 0
    table = pd.read_parquet(run[1] / "saliency.parquet")
    assert set(table["method"]) == {"grad-cam"}
    names = [path.name for path in (run[1] / "gis" / "saliency").iterdir()]
    assert all(".grad-cam." in name for name in names)
    assert len(names) == 2 * table["scene_id"].nunique()
    assert list((run[1] / "gis" / "masked").iterdir()) == []


@pytest.mark.slow
def test_a_title_or_another_picture_does_not_explain_anything_again(run: tuple[Path, Path]) -> None:
    assert explain(run, "--explain.chips", "predicted") == 0
    written = {path: path.stat().st_mtime_ns for path in (run[1] / "gis" / "saliency").glob("*.tif")}
    assert explain(run, "--explain.chips", "predicted", "--explain.portrait", "3", "--map.title", "Another") == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert explain(run, "--explain.chips", "predicted", "--force") == 0
    assert not set(written.values()) & {path.stat().st_mtime_ns for path in written}


def test_a_wrong_question_costs_nothing_that_is_there(run: tuple[Path, Path], capsys: Any) -> None:
    assert explain(run, "--explain.target", "almaty") == 0
    before = {path: sha256_file(path) for path in run[1].rglob("*") if path.is_file() and path.name != "run.json"}
    assert explain(run, "--explain.target", "tokyo") == 2
    far = run[1].parent / f"{run[1].name}.gpkg"
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326).to_file(far)
    assert explain(run, "--explain.polygons", str(far)) == 2
    assert "touches explain.polygons" in capsys.readouterr().err
    after = {path: sha256_file(path) for path in before if path.name != "config.yaml"}
    assert after == {path: sha for path, sha in before.items() if path.name != "config.yaml"}


@pytest.mark.slow
def test_the_city_of_scenes_that_were_not_predicted_is_asked_of_the_model(run: tuple[Path, Path]) -> None:
    assert explain(run, "--explain.chips", "all") == 0
    table = pd.read_parquet(run[1] / "saliency.parquet")
    cut = gpd.read_parquet(run[1] / "chips.parquet")
    assert set(table["scene_id"]) == set(cut["scene_id"])
    assert set(table["city"]) <= set(model.load(run[1] / "model.ckpt").cities)
