"""The same work by threads, processes and a real Dask cluster, and what happens when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from dlslicer_geo.cli import main
from dlslicer_geo.config import of_images
from dlslicer_geo.errors import ConfigError, DlslicerError, SceneError
from dlslicer_geo.pipeline.executors import CONNECT_S, WORTH_BYTES, pool
from dlslicer_geo.pipeline.mirror import folder_of
from dlslicer_geo.scenes import survey
from dlslicer_geo.types import Compute

SCENES = 5
RECIPES = Path(__file__).parents[1] / "experiments/cluster"
HEARD = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""What runs in the background of a shell ignores Ctrl-C, and so would its children."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """JPGs with a table of positions, one of them cut off."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = ["file,lon,lat,gsd_m"]
    for number in range(SCENES):
        noise = np.random.default_rng(number).integers(0, 255, (300, 320, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.jpg")
        rows.append(f"{number}.jpg,{70 + number / 10},43.25,0.5")
    (folder / "scenes.csv").write_text("\n".join(rows))
    bad = folder / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:9000])
    return folder


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """The address of a Dask scheduler with so many worker processes."""
    distributed: Any = import_module("distributed")
    with distributed.LocalCluster(
        n_workers=workers, processes=True, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as made:
        yield str(made.scheduler_address)


def scanned(images: Path, out: Path, *words: str) -> dict[str, bytes]:
    """Everything that ``scan --prepare`` writes."""
    words = ("scan", str(images), "--out", str(out), "--prepare", "--data.on_bad", "skip", *words)
    assert main(words) == 0
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    """Every file of a run without what says when."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    del files["run.json"]
    return files


def gone(pid: int) -> bool:
    """Whether a process has ended, within ten seconds."""
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def alone(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> tuple[dict[str, bytes], list[str]]:
    """What one thread writes, and says."""
    files = scanned(images, tmp_path / "run", "--compute.processes", "1")
    (tmp_path / "run").rename(tmp_path / "alone")  # the name of the folder stands in the report
    return files, said(caplog)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("dlslicer_geo.scenes")]
    caplog.clear()
    return lines


def test_processes_write_and_say_the_same_as_one_thread(
    images: Path, tmp_path: Path, alone: tuple[dict[str, bytes], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    files = scanned(images, tmp_path / "run", "--compute.processes", "2")
    assert files.keys() == alone[0].keys()
    assert [name for name in files if files[name] != alone[0][name]] == []
    assert said(caplog) == alone[1]
    assert sum("1.jpg is not a scene" in line for line in alone[1]) == 1
    assert len([name for name in files if name.endswith(".tif")]) == SCENES - 1


@pytest.mark.slow
def test_a_dask_cluster_writes_and_says_the_same_as_one_thread(
    images: Path, tmp_path: Path, alone: tuple[dict[str, bytes], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    with cluster(2) as address:
        assert scanned(images, out, "--scheduler", address) == alone[0]
        assert said(caplog) == alone[1]
        before = {path: path.stat().st_mtime_ns for path in out.glob("prepared/*.tif")}
        assert scanned(images, out, "--scheduler", address, "--force") == alone[0]
        assert {path: path.stat().st_mtime_ns for path in out.glob("prepared/*.tif")} == before
    assert address.encode() not in (out / "run.json").read_bytes()


@pytest.mark.slow
def test_the_recipe_for_dask_writes_the_same_too(
    images: Path, tmp_path: Path, alone: tuple[dict[str, bytes], list[str]]
) -> None:
    words = [str(RECIPES / "dask_scan.sh"), str(images), str(tmp_path / "run"), "--data.on_bad", "skip"]
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of an environment that is not activated
    around = os.environ | {"PORT": port, "PATH": path}
    done = subprocess.run(words, env=around, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "run") == alone[0]


def test_the_recipe_for_kubernetes_runs_an_experiment_that_there_can_be() -> None:
    parts = list(yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text()))
    settings, service, claim, job = parts
    container = job["spec"]["template"]["spec"]["containers"][0]
    mount, cache = (m["mountPath"] for m in container["volumeMounts"][:2])
    verb, experiment, option, address = container["command"][-4:]
    assert Path(mount) == Path(experiment).parent
    assert cache == next(e["value"] for e in container["env"] if e["name"] == "DLSLICER_CACHE")
    assert (
        claim["metadata"]["name"]
        == job["spec"]["template"]["spec"]["volumes"][1]["persistentVolumeClaim"]["claimName"]
    )
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500"
    assert f"--rdzv-endpoint={first}" in container["command"]
    assert (verb, option) == ("run", "--out")
    assert folder_of(address).name == "cities"
    path = Path(experiment).name
    sections = yaml.safe_load(settings["data"][path])
    config = of_images(
        sections["data"]["root"], [f"--{s}.{k}={v}" for s, keys in sections.items() for k, v in keys.items()]
    )
    assert config.compute.accelerator == "gpu"


def test_only_enough_work_is_given_to_processes() -> None:
    def kind(compute: Compute, **options: Any) -> type[Executor]:
        with pool(compute, **options) as executor:
            return type(executor)

    assert kind(Compute(), reads=WORTH_BYTES - 1) is ThreadPoolExecutor
    assert kind(Compute(), at_most=1) is ThreadPoolExecutor
    assert kind(Compute(processes=1)) is ThreadPoolExecutor
    assert kind(Compute(processes=2), reads=10) is ProcessPoolExecutor  # who asks for processes gets them
    assert kind(Compute(processes=2), reads=WORTH_BYTES) is ProcessPoolExecutor


def test_a_worker_process_computes_with_one_thread_and_hears_no_ctrl_c() -> None:
    with pool(Compute(processes=2)) as executor:
        assert executor.submit(os.getenv, "GDAL_NUM_THREADS").result() == "1"
        assert executor.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
        pid = executor.submit(os.getpid).result()
    assert pid != os.getpid()
    assert gone(pid)


def test_a_worker_process_that_dies_is_one_sentence() -> None:
    with (
        pytest.raises(DlslicerError, match=r"one of 2 worker processes died.*nothing half-written.*run again"),
        pool(Compute(processes=2)) as executor,
    ):
        list(executor.map(os._exit, [3]))


def test_an_error_of_a_task_comes_back_as_it_is() -> None:
    with pytest.raises(ValueError, match="invalid literal"), pool(Compute(processes=2)) as executor:
        list(executor.map(int, ["1", "x"]))


def test_nobody_at_the_scheduler_s_address_is_one_sentence(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(images), "--out", str(tmp_path / "run"), "--scheduler", "nowhere://x"]) == 2
    assert "compute.scheduler is 'nowhere://x': give the address" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/prepared/*"))


@pytest.mark.slow
def test_a_cluster_that_is_gone_without_workers_or_with_dying_ones_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"nobody answers at compute\.scheduler tcp://127\.0\.0\.1:1 within"):
        pool(Compute(scheduler="tcp://127.0.0.1:1")).__enter__()
    with cluster(0) as address, pytest.raises(ConfigError, match=f"no worker for {CONNECT_S} s"):
        list(pool(Compute(scheduler=address)).__enter__().map(abs, [1]))
    with (
        cluster(1) as address,
        pytest.raises(DlslicerError, match=r"a worker of the Dask cluster at .* died"),
        pool(Compute(scheduler=address)) as executor,
    ):
        list(executor.map(os._exit, [3]))


class Elsewhere(ThreadPoolExecutor):
    """Workers of another machine: while they work, a folder of this one is not there."""

    def __init__(self, hidden: Path) -> None:
        super().__init__(1)
        self.hidden, self.aside = hidden, hidden.with_name("aside")

    def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> Iterator[Any]:
        if self.hidden.exists():
            self.hidden.rename(self.aside)
        results = list(super().map(fn, *iterables))
        if self.hidden.exists():
            self.hidden.rename(self.hidden.with_name("theirs"))
        if self.aside.exists():
            self.aside.rename(self.hidden)
        return iter(results)


def test_workers_that_do_not_see_the_same_paths_are_told_of_a_shared_file_system(
    images: Path, tmp_path: Path
) -> None:
    (images / "1.jpg").unlink()
    for hidden, said in ((images, "it is not there on"), (tmp_path / "made", "is not seen from here")):
        with (
            Elsewhere(hidden) as executor,
            pytest.raises(SceneError, match=rf"{said}.*one shared file system, with the same paths"),
        ):
            survey(images, pattern=None, prepared=tmp_path / "made", executor=executor)


def test_ctrl_c_ends_processes_after_the_scenes_in_hand(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(3).integers(0, 255, (1500, 1500, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in/0.jpg")
    for number in range(1, 40):
        os.link(tmp_path / "in/0.jpg", tmp_path / f"in/{number}.jpg")
    rows = "".join(f"{number}.jpg,{70 + number / 10},43.25,0.5\n" for number in range(40))
    (tmp_path / "in/scenes.csv").write_text("file,lon,lat,gsd_m\n" + rows)
    code = HEARD + "from dlslicer_geo.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "scan", "in", "--out", "run", "--compute.processes", "2"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("run/prepared/*.json")):
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from here" in said
    assert "Traceback" not in said
    assert len(list(tmp_path.glob("run/prepared/*.tif"))) < 20
    assert not [path for path in tmp_path.glob("run/prepared/.*") if path.suffix == ".work" or ".tmp" in path.name]


def test_workers_of_a_killed_process_end_by_themselves(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from dlslicer_geo.pipeline.executors import pool\n"
        "from dlslicer_geo.types import Compute\n"
        "with pool(Compute(processes=2)) as executor:\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    executor.submit(time.sleep, 100)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    assert gone(pid)
