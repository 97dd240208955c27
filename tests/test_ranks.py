"""Several processes under real launchers: one voice, shares that meet, the files of one process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import rasterio
import torch
import towns

from dlslicer_geo import data, model, pipeline
from dlslicer_geo.config import load
from dlslicer_geo.files import read_json, sha256_file
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.types import Compute

T = TypeVar("T")

SCRIPT = Path(__file__).parents[1] / "experiments" / "cluster" / "ddp_two_processes.sh"

ASKED = """
import sys
from dlslicer_geo.pipeline.ranks import rank_and_world, trainer_options
from dlslicer_geo.types import Compute
print(rank_and_world(), trainer_options(Compute(accelerator="gpu")), "torch" in sys.modules)
"""

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "fit"}


def environment(**more: str) -> dict[str, str]:
    """This one, of no launcher, with one thread and more variables."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC"))}
    return plain | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"} | more


@pytest.mark.parametrize("launcher", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_a_process_knows_its_place_from_its_launcher_without_loading_torch(launcher: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], env=environment(**launcher), capture_output=True, text=True)
    where = {"accelerator": "gpu", "devices": 4, "num_nodes": 2, "strategy": "ddp"}
    assert done.stdout.strip() == f"(5, 8) {where} False"


@pytest.mark.parametrize(
    "changed", [{"SLURM_JOB_NAME": "interactive"}, {"SLURM_STEP_ID": ""}], ids=["typed", "batch"]
)
def test_a_slurm_shell_without_srun_is_one_process_and_waits_for_nobody(changed: dict[str, str]) -> None:
    said = {name: value for name, value in (SRUN | changed).items() if value}
    done = subprocess.run([sys.executable, "-c", ASKED], env=environment(**said), capture_output=True, text=True)
    assert done.stdout.startswith("(0, 1) {'accelerator': 'gpu', 'devices': 1}")


def test_one_process_does_the_work_itself_and_waits_for_nobody() -> None:
    ranks.started(Compute())
    ranks.wait()
    assert ranks.first(lambda: "done") == "done"
    assert not torch.distributed.is_initialized()


TALK = """
import os
import sys
from dlslicer_geo.errors import ConfigError
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.types import Compute

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece, beside the other process

ranks.started(Compute(accelerator="cpu"))
ranks.started(Compute(accelerator="cpu"))
rank, world = ranks.rank_and_world()
said = ranks.first(lambda: {"from": ranks.rank_and_world()[0], "of": world})
ranks.wait()
say(rank, said)
ranks.wait()  # the first one takes all with it

def refuse():
    raise ConfigError("this cannot be done")

try:
    ranks.first(refuse)
except ConfigError as error:
    say(rank, error)
    sys.exit(2)
say("nobody comes here")
"""


def launched(*words: str | Path, cwd: Path, **more: str) -> subprocess.Popen[str]:
    """Two processes under torchrun."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *map(str, words),
    ]
    return subprocess.Popen(
        command, env=environment(**more), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_all_hear_the_first_one_and_end_with_it_when_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    process = launched(tmp_path / "talk.py", cwd=tmp_path)
    said, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert sorted(said.splitlines()) == [
        "0 this cannot be done",
        "0 {'from': 0, 'of': 2}",
        "1 {'from': 0, 'of': 2}",
    ], errors


def test_half_an_environment_of_a_launcher_is_refused_in_a_sentence(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dlslicer_geo", "scan", str(tmp_path), "--out", str(tmp_path / "run")]
    half = environment(TORCHELASTIC_RUN_ID="x", RANK="one", WORLD_SIZE="2")
    done = subprocess.run(words, env=half, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is not told which it is" in line


@pytest.mark.slow
def test_what_is_wrong_for_all_is_said_once_in_one_sentence(tmp_path: Path) -> None:
    process = launched("-m", "dlslicer_geo", "fit", "nothing.yaml", "--out", "run", cwd=tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert [line for line in errors.splitlines() if line.startswith("dlslicer-geo:")] == [
        "dlslicer-geo: the experiment file nothing.yaml does not exist: give the path of a YAML file"
    ], errors


def frozen(folder: Path, out: str, progress: Any, **options: Any) -> model.CityClassifier:
    """A head that was trained on the features of a fixed random network."""
    run = Run(config=load(folder / "tiny.yaml"), folder=folder / "run")
    torch.manual_seed(0)
    chips = data.ChipDataModule(run.scenes(), run.chips(), batch_size=options.pop("batch_size"), seed=3)
    net = model.CityClassifier("test_resnet", cities=chips.cities, input_size=32, freeze_backbone=True, lr=0.01)
    return model.fit(net, chips, max_epochs=2, out=folder / out, progress=progress, **options)


def test_adding_up_two_batches_moves_the_weights_as_one_of_twice_the_size(tmp_path: Path) -> None:
    towns.build(tmp_path)
    pipeline.run(load(tmp_path / "tiny.yaml"), tmp_path / "run", stations=("scan", "cut", "split"))
    counted: dict[str, int] = {}

    def count(items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        for item in items:
            counted[label] = counted.get(label, 0) + 1
            yield item

    once = frozen(tmp_path, "once", count, batch_size=16)
    steps = {label: number for label, number in counted.items() if label.startswith("training")}
    counted.clear()
    twice = frozen(tmp_path, "twice", count, batch_size=8, accumulate=2, precision="auto")
    assert steps == {label: number for label, number in counted.items() if label.startswith("training")}
    other = frozen(tmp_path, "other", count, batch_size=8)
    weight, same, differs = (found.head.state_dict()["weight"] for found in (once, twice, other))
    assert torch.allclose(weight, same, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(weight, differs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the script has run an experiment in two processes, and in one."""
    folder = tmp_path_factory.mktemp("two")
    experiment = towns.build(folder, sites=8)
    more = "explain: {chips: all, per_city: 1, layers: [layer2, layer4]}\n"
    text = experiment.read_text().replace("test_resnet", "resnet18").replace("embedding: false", "chips_per_part: 10")
    experiment.write_text(text.replace("max_epochs: 4", "max_epochs: 2") + more)
    words = ["bash", SCRIPT, experiment, folder / "run"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        list(map(str, words)), env=environment(PATH=path), cwd=folder, capture_output=True, text=True, check=False
    )
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(both: Path) -> None:
    said = (both / "said.txt").read_text()
    assert "files, all the same" in said
    assert said.count("epoch 1 of 2") == 1, "one voice"
    assert said.count("test accuracy") == 1
    stations = read_json(both / "run" / "run.json")["stations"]
    assert {record["status"] for record in stations.values()} == {"done"}
    for name in ("saliency.parquet", "saliency_cities.csv", "gis/predictions.gpkg"):
        assert sha256_file(both / "run" / name) == sha256_file(both / "run-alone" / name), name


@pytest.mark.slow
def test_what_two_processes_did_is_up_to_date_for_one(both: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dlslicer_geo", "run", str(both / "tiny.yaml"), "--out", str(both / "run")],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.count("up to date, nothing to do") == 12, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_after_a_process_was_killed_only_what_is_missing_is_done(both: Path, verb: str) -> None:
    files = {"predict": ("predictions", "part-*.parquet"), "explain": ("gis/saliency", "[!.]*.tif")}
    name, pattern = files[verb]
    whole = sorted((both / "run" / name).glob(pattern))
    for attempt in range(8):  # on a busy machine all may be done before the kill
        folder = Path(shutil.copytree(both / "run", both / f"killed-{verb}-{attempt}"))
        shutil.rmtree(folder / name)
        if verb == "explain":
            shutil.rmtree(folder / "explain")
        words = ("-m", "dlslicer_geo", verb, both / "tiny.yaml", "--out", folder, "--compute.accelerator", "cpu")
        code, there = killed_at_first(words, both, folder / name, pattern)
        if 0 < len(there) < len(whole):
            break
    assert 0 < len(there) < len(whole)
    assert code != 0
    again = launched(*words, cwd=both)
    errors = again.communicate(timeout=600)[1]
    assert again.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert [sha256_file(folder / name / path.name) for path in whole] == [sha256_file(path) for path in whole]


def killed_at_first(words: Iterable[str | Path], cwd: Path, place: Path, pattern: str) -> tuple[int, dict[Path, int]]:
    """Exit code, and files with their times, after one of two processes was killed when the first file appeared."""
    process = launched(*words, cwd=cwd)
    while process.poll() is None and not list(place.glob(pattern)):
        time.sleep(0.002)
    with suppress(FileNotFoundError, ProcessLookupError, IndexError):  # all was done before
        kill_one(process)
    process.communicate(timeout=240)
    return process.returncode, {path: path.stat().st_mtime_ns for path in place.glob(pattern)}


def kill_one(launcher: subprocess.Popen[str]) -> None:
    """Kill the second of the processes that a launcher has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


@pytest.mark.slow
def test_a_training_of_two_processes_goes_on_from_its_last_epoch(both: Path) -> None:
    folder = Path(shutil.copytree(both / "run", both / "longer"))
    words = ("-m", "dlslicer_geo", "fit", both / "tiny.yaml", "--out", folder, "--compute.accelerator", "cpu")
    state = read_json(folder / "run.json")
    process = launched(*words, "--fit.max_epochs", "12", cwd=both)
    last = folder / "fit" / "last.ckpt"
    last.unlink()
    while process.poll() is None and not last.exists():
        time.sleep(0.01)
    kill_one(process)
    process.communicate(timeout=240)
    assert read_json(folder / "run.json")["stations"]["fit"]["key"] != state["stations"]["fit"]["key"]
    before = torch.load(last, weights_only=True)["epoch"]
    again = launched(*words, "--fit.max_epochs", "12", cwd=both)
    errors = again.communicate(timeout=600)[1]
    assert again.returncode == 0, errors
    epochs = [line.split(",")[0] for line in (folder / "fit" / "csv" / "metrics.csv").read_text().splitlines()]
    assert before < 11 and torch.load(last, weights_only=True)["epoch"] == 11, epochs


@pytest.mark.slow
def test_saliency_of_two_processes_has_no_temporary_files_left(both: Path) -> None:
    hidden = [path for path in (both / "run").rglob(".*") if path.is_file()]
    assert not hidden
    with rasterio.open(next((both / "run" / "gis" / "saliency").glob("*.tif"))) as source:
        assert int(source.tags()["CHIPS"]) == 16
