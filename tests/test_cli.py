"""What a user types and reads: real commands in real processes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import torch
from shapely.affinity import translate

from dlslicer_geo import pipeline
from dlslicer_geo.cli import main
from dlslicer_geo.cli.verbs import VERBS
from dlslicer_geo.files import read_json, write_json

COMMAND = [sys.executable, "-W", "error::ResourceWarning", "-m", "dlslicer_geo.cli"]


def typed(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one sentence a command ends with; its exit code is 2."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    sentences = [line for line in said if line.startswith("dlslicer-geo: ")]
    assert len(sentences) == 1, said
    assert "Traceback" not in "".join(said)
    return sentences[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny experiment that was run once."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def done(finished: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """Experiment file and run folder of a run that is complete; made once for the module."""
    experiment = finished / "tiny.yaml"
    if not experiment.exists():
        (tiny.parent / "scenes").rename(finished / "scenes")
        experiment.write_text(tiny.read_text())
        assert main(["run", str(experiment), "--out", str(finished / "run")]) == 0
        (finished / "said.txt").write_text(capsys.readouterr().out)
    return experiment, finished / "run"


def test_the_run_makes_every_file_that_is_promised(done: tuple[Path, Path]) -> None:
    _, run = done
    promised = (
        "scenes.parquet cut.parquet chips.parquet split_certificate.json model.ckpt predictions/part-0.parquet "
        "gis/predictions.gpkg probes.parquet metrics.json confusion.csv report.html figures/confusion.png "
        "gallery.html figures/gallery/almaty.png figures/gallery/new_york.png saliency.parquet saliency_cities.csv "
        "similarity.csv neighbours.parquet map.html project.qgz catalog.json stac/model.json "
        "stac/scenes/collection.json stac/outputs/collection.json run.json config.yaml"
    )
    assert [name for name in promised.split() if not (run / name).is_file()] == []
    for folder in ("city", "confidence", "saliency"):
        assert list((run / "gis" / folder).glob("*.tif")), folder
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


def test_the_last_screen_lists_what_was_made_and_the_baselines(done: tuple[Path, Path]) -> None:
    said = (done[1].parent / "said.txt").read_text()
    files = ("report.html", "map.html", "project.qgz", "catalog.json", "predictions.gpkg")
    for word in ("test accuracy", "colour", "most frequent", *files, "QGIS"):
        assert word in said


def test_the_record_holds_hashes_seconds_versions_and_the_configuration(done: tuple[Path, Path]) -> None:
    record = read_json(done[1] / "run.json")
    assert set(record["stations"]) == set(pipeline.VERBS)
    assert record["versions"]["torchgeo"]
    assert record["config"]["data"]["root"] == "../scenes"
    for name, station in record["stations"].items():
        assert station["status"] == "done"
        assert bool(station["outputs"]) == (name != "check")  # which is not asked for


def test_every_output_carries_the_configuration_and_the_hash_of_its_input(done: tuple[Path, Path]) -> None:
    import rasterio

    from dlslicer_geo.files import provenance_of

    _, run = done
    for name in ("scenes.parquet", "chips.parquet", "predictions/part-0.parquet", "neighbours.parquet"):
        assert {"version", "config", "config_hash", "input_hash"} <= set(provenance_of(run / name)), name
    for path in (run / "gis").rglob("*.tif"):
        with rasterio.open(path) as source:
            assert {"version", "config", "config_hash", "input_hash"} <= set(
                json.loads(source.tags()["dlslicer_geo"])
            )


def test_a_second_run_does_no_work_and_says_so(
    done: tuple[Path, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    experiment, run = done
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with caplog.at_level("INFO"):
        assert main(["run", str(experiment), "--out", str(run)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert caplog.text.count("up to date, nothing to do") == 12
    assert "Nothing to do" in capsys.readouterr().out


def test_one_changed_key_reruns_only_what_obeys_it(done: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    experiment, run = done
    with caplog.at_level("INFO"):
        assert main(["run", str(experiment), "--out", str(run), "--map.title", "Another title"]) == 0
    # the images on the map are chosen by explain, and the title stands above the report: both obey the map section
    assert caplog.text.count("up to date, nothing to do") == 8
    assert "Another title" in (run / "map.html").read_text()
    assert main(["run", str(experiment), "--out", str(run)]) == 0


def test_from_and_force_do_the_work_again(done: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    experiment, run = done
    with caplog.at_level("INFO"):
        assert main(["run", str(experiment), "--out", str(run), "--from", "similar"]) == 0
    assert "similar: done" in caplog.text
    assert "map: done" in caplog.text
    assert "score" not in caplog.text


def test_a_planted_leak_makes_fit_refuse_naming_both_chips(
    done: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, run = done
    copy = run.parent / "leaking"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("scenes.parquet", "cut.parquet", "chips.parquet", "split_certificate.json"):
        shutil.copy(run / name, copy)
    chips = gpd.read_parquet(copy / "chips.parquet")
    train, test = chips[chips["split"] == "train"].iloc[0], chips[chips["split"] == "test"].iloc[0]
    moved = test["chip_id"]
    centre, goal = test.geometry.centroid, train.geometry.centroid
    chips.loc[moved, "geometry"] = translate(test.geometry, goal.x - centre.x, goal.y - centre.y)
    chips.to_parquet(copy / "chips.parquet")
    said = refused(capsys, "fit", experiment, "--out", copy)
    assert str(moved) in said
    assert test["scene_id"] in said
    assert train["scene_id"] in said
    assert not (copy / "model.ckpt").exists()


def test_fit_refuses_a_split_without_its_certificate(
    done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, run = done
    copy = run.parent / "unproven"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("scenes.parquet", "chips.parquet"):
        shutil.copy(run / name, copy)
    assert "split_certificate.json does not exist" in refused(capsys, "fit", experiment, "--out", copy)
    certificate = read_json(run / "split_certificate.json") | {"chips_hash": "0" * 64}
    write_json(copy / "split_certificate.json", certificate)
    assert "certificate of another chip table" in refused(capsys, "fit", experiment, "--out", copy)


def test_a_killed_prediction_goes_on_and_ends_with_the_same_bytes(done: tuple[Path, Path]) -> None:
    experiment, run = done
    copy = run.parent / "killed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "predictions")
    process = subprocess.Popen(
        [*COMMAND, "predict", str(experiment), "--out", str(copy), "--force"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (copy / "predictions" / "part-0.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = sorted(path.name for path in (copy / "predictions").glob("part-*"))
    whole = sorted(path.name for path in (run / "predictions").glob("part-*"))
    assert left
    assert len(left) < len(whole), "killed too late to prove anything"
    assert typed("run", experiment, "--out", copy).returncode == 0
    for path in [*(run / "predictions").iterdir(), run / "gis" / "predictions.gpkg"]:
        assert path.read_bytes() == (copy / path.relative_to(run)).read_bytes(), path


def test_a_model_is_applied_to_one_new_image(
    done: tuple[Path, Path], raster: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = done
    image = raster("new.tif", crs="EPSG:32719", origin=(300_000, 6_000_000), gsd=2.0, size=(200, 220))
    assert main(["apply", str(run), str(image), "--out", str(tmp_path / "out")]) == 0
    out = tmp_path / "out"
    table = gpd.read_file(out / "gis" / "predictions.gpkg", layer="predictions")
    assert len(table) == 5 * 5
    assert table["truth"].isna().all()
    assert (out / "map.html").exists()
    assert len(list((out / "gis" / "saliency").glob("new.*.tif"))) == 1
    assert "map.html" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["true", "new_york"])
def test_the_true_or_a_named_city_is_explained_on_demand(
    done: tuple[Path, Path], target: str, caplog: pytest.LogCaptureFixture
) -> None:
    experiment, run = done
    copy = run.parent / f"why_{target}"
    shutil.copytree(run, copy)
    assert main(["explain", str(experiment), "--out", str(copy), "--explain.target", target]) == 0
    cities = {path.name.split(".")[1] for path in (copy / "gis" / "saliency").glob("*.tif")}
    assert cities == ({"almaty", "new_york"} if target == "true" else {"new_york"})


def test_an_unknown_city_to_explain_is_refused_with_the_known_ones(done: tuple[Path, Path], capsys: Any) -> None:
    experiment, run = done
    copy = run.parent / "why_nowhere"
    shutil.copytree(run, copy)
    said = refused(capsys, "explain", experiment, "--out", copy, "--explain.target", "tokyo")
    assert "almaty" in said
    assert "new_york" in said


def test_any_lightning_logger_is_taken_by_class_path_and_a_wrong_one_refused(
    done: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    experiment, run = done
    copy = run.parent / "logged"
    shutil.copytree(run, copy)
    given = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "logs")}}
    words = ["fit", str(experiment), "--out", str(copy), "--fit.max_epochs", "1", "--fit.loggers"]
    assert main([*words, json.dumps([given])]) == 0
    assert list((tmp_path / "logs").rglob("metrics.csv"))
    assert "fit.loggers" in refused(capsys, *words, json.dumps([{"class_path": "no.such.Logger"}]))


def test_apply_never_writes_into_the_folder_of_an_experiment(
    done: tuple[Path, Path], raster: Any, capsys: Any
) -> None:
    _, run = done
    before = (run / "scenes.parquet").read_bytes()
    assert "whose tables would be lost" in refused(capsys, "apply", run, raster("new.tif"), "--out", run)
    assert (run / "scenes.parquet").read_bytes() == before


def test_a_text_file_called_tif_is_refused(two_zones: Path, tiny: Path, capsys: Any) -> None:
    (two_zones / "almaty_2020_99.tif").write_text("this is no image")
    said = refused(capsys, "scan", tiny, "--out", tiny.parent / "run")
    assert "almaty_2020_99.tif" in said
    assert not (tiny.parent / "run" / "scenes.parquet").exists()


def test_a_truncated_tiff_is_refused(two_zones: Path, tiny: Path, capsys: Any) -> None:
    path = two_zones / "almaty_2020_0.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "almaty_2020_0.tif" in refused(capsys, "scan", tiny, "--out", tiny.parent / "run")
    assert not (tiny.parent / "run" / "scenes.parquet").exists()


def test_a_scene_without_crs_is_refused_or_listed_as_asked(tiny: Path, raster: Any, capsys: Any) -> None:
    raster("scenes/almaty_2021_1.tif", crs=None)
    said = refused(capsys, "scan", tiny, "--out", tiny.parent / "run")
    assert "almaty_2021_1.tif" in said
    assert "CRS" in said
    assert main(["scan", str(tiny), "--out", str(tiny.parent / "run"), "--data.on_bad", "skip"]) == 0
    rejected = read_json(tiny.parent / "run" / "run.json")["stations"]["scan"]["rejected"]
    assert [Path(one["path"]).name for one in rejected] == ["almaty_2021_1.tif"]


def test_an_empty_folder_is_refused(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "scan", tiny, "--data.root", tmp_path / "empty", "--out", tmp_path / "run")


def test_a_missing_folder_is_refused_before_anything_is_written(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    said = refused(capsys, "run", tiny, "--data.root", tmp_path / "absent", "--out", tmp_path / "run")
    assert "data.root" in said
    assert not (tmp_path / "run").exists()


def test_a_yaml_typo_is_refused_naming_the_known_keys(tiny: Path, capsys: Any) -> None:
    tiny.write_text(tiny.read_text().replace("stride", "strid"))
    assert "chips.strid; known ones are size, stride, metres" in refused(capsys, "scan", tiny)


@pytest.mark.parametrize("pattern", ["(?P<town>.+)", "(?P<city>["])
def test_a_city_pattern_that_names_no_city_is_refused(pattern: str, tiny: Path, tmp_path: Path, capsys: Any) -> None:
    said = refused(capsys, "scan", tiny, "--data.pattern", pattern, "--out", tmp_path / "run")
    assert "city" in said


def test_a_pattern_that_no_file_matches_is_refused(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    said = refused(capsys, "scan", tiny, "--data.pattern", r"x(?P<city>\d)", "--out", tmp_path / "run")
    assert "pattern" in said


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_model_file_with_code_is_refused_and_not_run(raster: Any, tmp_path: Path, capsys: Any) -> None:
    image, mark = raster("new.tif"), tmp_path / "executed"
    plain, zipped = tmp_path / "plain.ckpt", tmp_path / "zipped.ckpt"
    plain.write_bytes(pickle.dumps(Payload(mark)))
    torch.save(Payload(mark), zipped)
    for path in (plain, zipped):
        said = refused(capsys, "apply", path, image, "--out", tmp_path / "out")
        assert "Python code" in said
        assert not mark.exists()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flit", "x.yaml"], "unknown verb 'flit'; known ones are scan, cut"),
        (["scan"], "EXPERIMENT.yaml"),
        (["scan", "absent.yaml"], "absent.yaml does not exist"),
        (["apply", "m", "absent.tif", "--out", "o"], "absent.tif does not exist"),
        (["apply", "m"], "IMAGE"),
    ],
)
def test_wrong_words_are_refused_in_one_sentence(words: list[str], said: str, capsys: Any) -> None:
    assert said in refused(capsys, *words)


def test_a_station_before_its_time_says_what_to_run_first(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    assert "scenes.parquet does not exist" in refused(capsys, "cut", tiny, "--out", tmp_path / "run")


def test_an_unknown_station_after_from_is_refused(tiny: Path, capsys: Any) -> None:
    assert "known ones are scan, cut" in refused(capsys, "run", tiny, "--from", "nowhere")


def test_help_and_version_and_print_config_read_well(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {verb}" in overview for verb in VERBS)
    assert max(map(len, overview.splitlines())) <= 100
    assert main(["--version"]) == 0
    assert main(["scan", str(tiny), "--print_config"]) == 0
    assert "stride: 32" in capsys.readouterr().out


def test_doctor_says_what_works_and_whether_the_data_are_intact(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("torch pair", "they fit", "GDAL", "COG", "devices", "GiB free", "are intact", "no problems"):
        assert word in said, word
    (tmp_path / "checksums.sha256").write_text(f"{'0' * 64}  some.tif\n")
    assert main(["doctor", "--data", str(tmp_path)]) == 2
    assert "missing or changed, first some.tif" in capsys.readouterr().out
