"""A split that leaks is called a leak wherever its scores are read, and two runs are compared chip by chip."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import towns

from dlslicer_geo.cli import main
from dlslicer_geo.files import read_json
from dlslicer_geo.predict import read_predictions

STATIONS = ("scan", "cut", "split", "fit", "predict", "probe", "score")


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on chips drawn at random, up to its report; what was logged and shown lies beside it."""
    folder = tmp_path_factory.mktemp("leaking")
    towns.build(folder, towns=("almaty", "new_york"))
    return folder / "run"


@pytest.fixture
def done(leaking: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Path:
    """The run, made once for the module."""
    if not leaking.exists():
        with caplog.at_level("WARNING"):
            assert [station(verb, leaking) for verb in STATIONS] == [0] * len(STATIONS)
        (leaking.parent / "logged.txt").write_text(caplog.text)
        (leaking.parent / "shown.txt").write_text(capsys.readouterr().out)
    return leaking


def station(verb: str, run: Path, *words: str) -> int:
    experiment = run.parent / "tiny.yaml"
    return main([verb, str(experiment), "--out", str(run), "--split.kind", "random", "--fit.max_epochs", "2", *words])


def test_a_random_split_trains_with_a_warning_and_every_output_calls_it_a_leak(done: Path) -> None:
    assert "split.kind random leaks" in (done.parent / "logged.txt").read_text()
    shown = (done.parent / "shown.txt").read_text()
    assert "THE SPLITS LEAK" in shown
    assert "share ground" not in shown
    assert read_json(done / "split_certificate.json")["proven"] is False
    page = (done / "report.html").read_text()
    assert "This split leaks:" in page
    assert "NOT disjoint" in page
    metrics = read_json(done / "metrics.json")
    assert metrics["interval"]["unit"] == "scene"
    assert any(sentence.startswith("LEAK: ") for sentence in metrics["caveats"])


def test_the_report_of_a_run_has_its_probes_and_its_baselines(done: Path) -> None:
    metrics = read_json(done / "metrics.json")
    assert set(metrics["probes"]) == {"grey", "colour only"}
    for values in metrics["probes"].values():
        assert values["drop"]["accuracy"] == pytest.approx(metrics["accuracy"] - values["accuracy"])
    assert {"most_frequent", "colour"} <= set(metrics["baselines"])
    assert metrics["unknown"]["detector"] == "knn"
    page = (done / "report.html").read_text()
    for word in ("colour only", "most frequent", "calibration", "unknown"):
        assert word in page


def test_score_against_another_run_compares_the_chips_that_both_have_predicted(done: Path) -> None:
    other, again = done.parent / "other", done.parent / "again"
    for copy in (other, again):
        shutil.copytree(done, copy)
    assert station("fit", other, "--seed", "5", "--fit.max_epochs", "1") == 0
    assert station("predict", other) == 0
    assert station("score", again, "--against", str(other)) == 0
    own, theirs = read_json(done / "metrics.json"), read_predictions(other / "predictions")
    against = read_json(again / "metrics.json")["against"]
    assert (against["name"], against["n"]) == ("other", own["n"])
    assert against["accuracy"] == own["accuracy"]
    right = np.array(theirs.city) == np.array(theirs.truth)
    assert against["other_accuracy"] == pytest.approx(right.mean())
    assert against["difference"] == pytest.approx(against["accuracy"] - against["other_accuracy"])
    assert against["interval"][0] <= against["difference"] <= against["interval"][1]
    assert {"only_this", "only_other", "p"} <= set(against["mcnemar"])
    assert own["against"] is None
    assert "On the same" in (again / "report.html").read_text()


def test_a_run_over_other_chips_and_one_without_predictions_are_refused(
    done: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    assert station("score", done, "--against", str(tmp_path / "absent")) == 2
    assert "score.against is" in capsys.readouterr().err
    other = done.parent / "coarse"
    shutil.copytree(done, other)
    for verb in ("cut", "split", "predict"):
        assert station(verb, other, "--chips.size", "48", "--chips.stride", "48", "--chips.metres", "96") == 0
    capsys.readouterr()
    assert station("score", done, "--against", str(other)) == 2
    assert "has predicted none of these chips" in capsys.readouterr().err
    shutil.rmtree(other / "predictions")
    assert station("score", done, "--against", str(other)) == 2
    assert "manifest.json does not exist" in capsys.readouterr().err
    assert read_json(done / "metrics.json")["against"] is None
