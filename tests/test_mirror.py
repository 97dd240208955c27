"""Runs on object storage: a real local server that speaks S3, and real commands that are killed and go on."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlslicer_geo.cli import main
from dlslicer_geo.files import write_json, write_text
from dlslicer_geo.pipeline.mirror import NOTES, Mirror, folder_of, mirrored
from dlslicer_geo.pipeline.paths import relative_to

ADDRESS = "s3://bucket/runs/first"
COMMAND = [sys.executable, "-m", "dlslicer_geo.cli"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that speaks S3."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def store(server: str, tmp_path: Path) -> Iterator[Any]:
    """An empty bucket, and an empty cache on this machine."""
    import fsspec

    said = {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_DEFAULT_REGION": "us-east-1", "DLSLICER_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(said)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("bucket")
    yield system
    system.rm("bucket", recursive=True)
    os.environ.clear()
    os.environ.update(before)


def new_machine(tmp_path: Path) -> None:
    """Forget what this machine has."""
    os.environ["DLSLICER_CACHE"] = str(tmp_path / f"cache{time.monotonic_ns()}" / "deeper")


def names(system: Any) -> set[str]:
    """Files that the store has."""
    system.invalidate_cache()
    return {path.removeprefix("bucket/runs/first/") for path in system.find("bucket/runs/first")}


def test_what_is_finished_is_put_and_what_is_not_is_not(store: Any) -> None:
    with mirrored(ADDRESS) as folder:
        for name in ("a.txt", "gis/city/b.tif", "gis/.b.12.tmp.tif", "prepared/.x.1.work/raw", "store/x.npy"):
            write_text(folder / name, name)
        (folder / "fit").mkdir()
        (folder / "fit/half.work").write_text("half")
    assert names(store) == {"a.txt", "gis/city/b.tif"}
    assert store.cat_file("bucket/runs/first/gis/city/b.tif") == b"gis/city/b.tif"


def test_nothing_is_fetched_or_put_twice(store: Any, tmp_path: Path) -> None:
    with mirrored(ADDRESS) as folder:
        write_text(folder / "a.txt", "one")
        write_text(folder / "b/c.txt", "two")
    first = store.info("bucket/runs/first/a.txt")["LastModified"]
    time.sleep(1.1)  # the server's clock counts seconds
    stamp = (folder / "a.txt").stat().st_mtime_ns
    with mirrored(ADDRESS) as again:
        assert again == folder
    store.invalidate_cache()
    assert store.info("bucket/runs/first/a.txt")["LastModified"] == first
    assert (folder / "a.txt").stat().st_mtime_ns == stamp
    new_machine(tmp_path)
    with mirrored(ADDRESS) as other:
        assert other != folder
        assert (other / "b/c.txt").read_text() == "two"
    store.invalidate_cache()
    assert store.info("bucket/runs/first/a.txt")["LastModified"] == first


def test_the_store_wins_where_both_have_changed_and_the_folder_where_only_it_has(store: Any) -> None:
    with mirrored(ADDRESS) as folder:
        for name in ("both", "mine", "theirs", "removed", "removed_mine"):
            write_text(folder / name, "old")
    for name in ("both", "mine", "removed_mine", "never_put"):
        write_text(folder / name, "changed here")
    for name in ("both", "theirs"):
        store.pipe_file(f"bucket/runs/first/{name}", b"changed there")
    store.rm([f"bucket/runs/first/{name}" for name in ("removed", "removed_mine")])
    with mirrored(ADDRESS):
        pass
    here = {path.name: path.read_text() for path in folder.iterdir() if path.name != NOTES}
    assert here == {
        "both": "changed there", "theirs": "changed there",
        "mine": "changed here", "removed_mine": "changed here", "never_put": "changed here",
    }  # fmt: skip
    assert {name: store.cat_file(f"bucket/runs/first/{name}").decode() for name in names(store)} == here


def test_run_json_never_speaks_of_files_that_the_store_lacks(store: Any) -> None:
    copy = Mirror(ADDRESS)
    copy.fetch()
    write_text(copy.folder / "growing", "1")
    copy.put()
    assert names(store) == set()  # seen once: it may be growing
    write_text(copy.folder / "made.parquet", "whole")
    write_json(copy.folder / "run.json", {"stations": {"scan": {"status": "done"}}})
    copy.put()
    assert names(store) == {"growing", "made.parquet", "run.json"}
    times = {name: store.info(f"bucket/runs/first/{name}")["LastModified"] for name in names(store)}
    assert times["run.json"] == max(times.values())


def test_what_a_station_removes_is_removed_there_unless_the_whole_folder_is_gone(store: Any) -> None:
    with mirrored(ADDRESS) as folder:
        write_json(folder / "run.json", {})
        write_text(folder / "stale.tif", "old")
        write_text(folder / "kept.tif", "old")
    with mirrored(ADDRESS):
        (folder / "stale.tif").unlink()
    assert names(store) == {"run.json", "kept.tif"}
    with mirrored(ADDRESS):
        shutil.rmtree(folder)
        folder.mkdir()
    assert names(store) == {"run.json", "kept.tif"}


def test_finished_files_are_put_while_the_work_goes_on(store: Any) -> None:
    with mirrored(ADDRESS) as folder:
        write_text(folder / "part-0.parquet", "x")
        until = time.monotonic() + 30
        while not names(store):
            assert time.monotonic() < until
            time.sleep(0.2)


def test_a_store_that_cannot_be_used_is_one_sentence_before_any_work(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()

    def said(out: str) -> str:
        assert main(["scan", str(tmp_path / "in"), "--out", out]) == 2
        told: str = capsys.readouterr().err.strip().splitlines()[-1]
        assert "Traceback" not in told
        return told

    assert "s3://absent/run cannot be written" in said("s3://absent/run")
    secret = said("s3://me:p4ss@absent/run?sig=t0ken")
    assert "check the address and the credentials" in secret
    assert not {word for word in ("p4ss", "t0ken") if word in secret}
    assert "holds no run folder: give a folder, or s3" in said("https://127.0.0.1:1/run")
    assert "holds no run folder" in said("/vsis3/bucket/run")
    assert "install dlslicer-geo[gcs]" in said("gs://bucket/run")


def test_paths_outside_of_a_mirrored_folder_stay_whole(store: Any, tmp_path: Path) -> None:
    with mirrored(ADDRESS) as folder:
        assert relative_to(folder, "/data/x.tif") == "/data/x.tif"
        assert relative_to(folder / "ablation/a", str(folder / "prepared/x.tif")) == "../../prepared/x.tif"
    assert relative_to(tmp_path / "run", str(tmp_path / "data/x.tif")) == "../data/x.tif"


def test_only_what_is_asked_for_is_fetched_and_nothing_is_put(store: Any, tmp_path: Path) -> None:
    with mirrored(ADDRESS) as folder:
        write_text(folder / "chips.parquet", "table")
        write_text(folder / "gis/large.tif", "pixels")
    new_machine(tmp_path)
    with mirrored(ADDRESS, only=("chips.parquet",)) as folder:
        write_text(folder / "mine.txt", "x")
    assert {path.name for path in folder.rglob("*")} == {"chips.parquet", "mine.txt", NOTES}
    assert names(store) == {"chips.parquet", "gis/large.tif"}


def test_every_station_may_work_on_another_machine(
    store: Any, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for verb in ("scan", "cut", "split", "split"):
        assert main([verb, str(tiny), "--out", ADDRESS]) == 0
        new_machine(tmp_path)
    assert "split: up to date, nothing to do" in caplog.text
    assert f"All of it is at {ADDRESS}" in capsys.readouterr().out
    assert main(["verify", ADDRESS]) == 0
    assert not (folder_of(ADDRESS) / "scenes.html").exists()
    table = store.cat_file("bucket/runs/first/chips.parquet")
    assert table == (folder_of(ADDRESS) / "chips.parquet").read_bytes()


@pytest.mark.slow
def test_a_run_killed_on_one_machine_goes_on_on_another(
    store: Any, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*COMMAND, "run", str(tiny), "--out", ADDRESS]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while "chips.parquet" not in names(store) or "split" not in stations(store):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    was = stations(store)
    assert set(was) < {"scan", "cut", "split", "fit", "predict"}
    new_machine(tmp_path)
    assert main(["run", str(tiny), "--out", ADDRESS, "--compute.accelerator", "cpu"]) == 0
    assert "split: up to date" in caplog.text
    now = stations(store)
    assert {record["status"] for record in now.values()} == {"done"}
    for record in now.values():  # whatever is called done is there, as it was made
        assert set(record["outputs"]) <= names(store)
    local = folder_of(ADDRESS)
    for name in names(store):
        assert store.cat_file(f"bucket/runs/first/{name}") == (local / name).read_bytes(), name
    new_machine(tmp_path)
    assert main(["verify", ADDRESS]) == 0
    assert not (folder_of(ADDRESS) / "model.ckpt").exists()
    assert main(["map", str(tiny), "--out", ADDRESS]) == 0
    assert "map: up to date" in caplog.text
    new_machine(tmp_path)
    images = str(next((tiny.parent / "scenes").glob("*.tif")))
    assert main(["apply", ADDRESS, images, "--out", "s3://bucket/runs/second"]) == 0
    store.invalidate_cache()
    assert store.exists("bucket/runs/second/map.html")


def stations(store: Any) -> dict[str, Any]:
    """What the store's run.json says."""
    store.invalidate_cache()
    path = "bucket/runs/first/run.json"
    found: dict[str, Any] = json.loads(store.cat_file(path))["stations"] if store.exists(path) else {}
    return {name: record for name, record in found.items() if record["status"] == "done"}
