"""Places where no work can be done: one sentence each, before anything is done."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import towns

from dlslicer_geo.cli import main
from dlslicer_geo.config.devices import check_compute
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.types import Compute


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--compute.accelerator", "abacus"), "compute.accelerator is abacus, which is no kind of device"),
        (("--compute.accelerator", "tpu"), "compute.accelerator is tpu, which is not on this machine"),
        (("--compute.strategy", "fsdp"), "compute.strategy is fsdp"),
        (("--compute.strategy", "ddp_spawn"), "compute.strategy is ddp_spawn"),
        (("--scheduler", "nonsense"), "compute.scheduler is 'nonsense'"),
        (("--scheduler", "http://host/b"), "compute.scheduler is 'http://host/b'"),
        (("--compute.scheduler", ""), "compute.scheduler is ''"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run_folder_is_made(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = towns.build(tmp_path, towns=("almaty",), sites=1, pixels=16)
    assert main(["scan", str(experiment), "--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["tcp://10.0.0.7:8786", "tls://head:8786", "head:8786", "tcp://[::1]:8786"])
def test_addresses_that_dask_prints_are_taken(address: str) -> None:
    check_compute(Compute(scheduler=address))


def test_each_device_keeps_the_whole_network() -> None:
    check_compute(Compute(strategy="ddp_find_unused_parameters_true"))
    with pytest.raises(ConfigError, match="deepspeed"):
        check_compute(Compute(strategy="deepspeed"))


def test_a_file_in_the_place_of_a_folder_is_one_sentence_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = towns.build(tmp_path, towns=("almaty",), sites=1, pixels=160)
    out = tmp_path / "out"
    (out / "prepared").parent.mkdir()
    (out / "prepared").write_text("not a folder")
    assert main(["scan", str(experiment), "--prepare", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert str(out / "prepared") in said
    assert "Traceback" not in said


def test_a_reader_process_says_the_same_sentence_as_this_one(tmp_path: Path) -> None:
    experiment = towns.build(tmp_path, towns=("almaty",), sites=1)
    out = tmp_path / "out"
    assert [main([verb, str(experiment), "--out", str(out)]) for verb in ("scan", "cut")] == [0, 0]
    scenes, chips = gpd.read_parquet(out / "scenes.parquet"), gpd.read_parquet(out / "cut.parquet")
    scenes["path"] = str(tmp_path / "gone.tif")
    said = []
    for workers in (0, 2):
        data = ChipDataModule(scenes, chips, workers=workers)
        with pytest.raises(SceneError) as caught:
            list(data.loader(np.arange(4)))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[1]


@pytest.mark.slow
def test_ctrl_c_while_training_ends_with_130_and_a_sentence(tmp_path: Path) -> None:
    experiment = str(towns.build(tmp_path, sites=3))
    out = str(tmp_path / "out")
    assert [main([verb, experiment, "--out", out]) for verb in ("scan", "cut", "split")] == [0, 0, 0]
    words = [sys.executable, "-m", "dlslicer_geo", "fit", experiment, "--out", out, "--fit.max_epochs", "300"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("epoch ") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert said.endswith("stopped; the same command goes on from here\n")
    assert "Traceback" not in said
