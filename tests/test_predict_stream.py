"""Several processes, a killed one, another precision: prediction ends with the bytes it would have had anyway."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.errors import ConfigError, ModelError
from dlslicer_geo.files import read_json
from dlslicer_geo.model import CityClassifier, placed
from dlslicer_geo.predict import predict, read_predictions
from dlslicer_geo.predict.trial import largest
from dlslicer_geo.scenes import scan
from dlslicer_geo.splits import split
from dlslicer_geo.types import ChipGrid, SplitRule

BEGIN = """
import os, signal, sys, torch
torch.set_num_threads(1)
from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.model import CityClassifier
from dlslicer_geo.predict import predict
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid
scenes = scan(sys.argv[1])
chips = cut(scenes, ChipGrid(size=64, stride=32, metres=128.0))
chips["split"] = "test"
data = ChipDataModule(scenes, chips)
torch.manual_seed(0)
model = CityClassifier("resnet10t", cities=data.cities, input_size=64)
world = int(os.environ.get("WORLD_SIZE", "1"))
trainer = {"accelerator": "cpu", "devices": world, "strategy": "ddp" if world > 1 else "auto"}
def killed(items, *, total, label):
    for number, item in enumerate(items):
        if number == 4 and os.environ["RANK"] == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
options = {"progress": killed} if len(sys.argv) > 3 else {}
predict(model, data, out=sys.argv[2], chips_per_part=20, batch_size=8, embedding=True, trainer=trainer, **options)
"""
"""A process that predicts; a third argument names the rank that is killed after its third batch."""


def begun(*arguments: Any, rank: int = 0, world: int = 1, port: int = 0) -> subprocess.Popen[bytes]:
    """One process as a launcher starts it."""
    launched = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({k: str(v) for k, v in launched.items()} if port else {})
    command = [sys.executable, "-W", "error::UserWarning:dlslicer_geo", "-c", BEGIN, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> int:
    """How a process ended, whose words are shown if the test fails."""
    print(process.communicate(timeout=300)[1].decode())
    return process.returncode


def two(*arguments: Any) -> list[int]:
    """How two processes that share the work ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [begun(*arguments, rank=rank, world=2, port=port) for rank in range(2)]
    return [ended(process) for process in ranks]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def made(two_zones: Path) -> tuple[CityClassifier, ChipDataModule]:
    scenes = scan(two_zones)
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=128.0))
    chips, _ = split(chips, SplitRule.by_site(fractions=(0.5, 0.25, 0.25)), scenes=scenes)
    data = ChipDataModule(scenes, chips)
    torch.manual_seed(0)
    return CityClassifier("test_resnet", cities=data.cities, input_size=64).eval(), data


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one_and_a_killed_one_is_made_up_for(
    two_zones: Path, tmp_path: Path
) -> None:
    one, shared, cut_short = (tmp_path / name for name in ("one", "shared", "cut_short"))
    assert ended(begun(two_zones, one)) == 0
    assert two(two_zones, shared) == [0, 0]
    assert contents(shared) == contents(one)
    assert two(two_zones, cut_short, 1)[1] == -9
    left = {path.name: path.stat().st_mtime_ns for path in cut_short.glob("part-*")}
    assert 1 <= len(left) < len(list(one.glob("part-*")))
    assert ended(begun(two_zones, cut_short)) == 0
    assert contents(cut_short) == contents(one)
    assert left.items() <= {path.name: path.stat().st_mtime_ns for path in cut_short.iterdir()}.items()


def test_a_part_that_cannot_be_written_stops_the_run_with_its_own_words(made: Any, tmp_path: Path) -> None:
    (tmp_path / "part-1.parquet" / "in the way").mkdir(parents=True)
    model, data = made
    with pytest.raises(IsADirectoryError, match="part-1"):
        predict(model, data, split="all", out=tmp_path, chips_per_part=20)


def test_ctrl_c_leaves_whole_parts_and_the_next_run_goes_on(made: Any, tmp_path: Path) -> None:
    model, data = made

    def pressed(items: Any, *, total: int, label: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    options: dict[str, Any] = {"split": "all", "chips_per_part": 20, "batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        predict(model, data, out=tmp_path / "a", progress=pressed, **options)
    assert not list((tmp_path / "a").glob(".*"))
    kept = contents(tmp_path / "a")
    predict(model, data, out=tmp_path / "a", **options)
    predict(model, data, out=tmp_path / "b", **options)
    assert kept.items() <= contents(tmp_path / "b").items()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_bf16_is_checked_against_float32_and_the_manifest_says_how_it_went(made: Any, tmp_path: Path) -> None:
    model, data = made
    plain = predict(model, data, split="all", out=tmp_path / "a", precision="float32")
    quick = predict(model, data, split="all", out=tmp_path / "b", precision="bf16")
    manifest = read_json(tmp_path / "b" / "manifest.json")
    apart = np.abs(plain.probabilities - quick.probabilities)
    assert 0 < apart.max() < 0.05
    assert manifest["precision"] == "bf16"
    assert manifest["checked"]["chips"] == min(256, len(plain))
    assert manifest["checked"]["largest_difference"] <= round(float(apart.max()), 6)
    assert "checked" not in read_json(tmp_path / "a" / "manifest.json")


def test_bf16_that_changes_answers_is_warned_of(made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = made
    images = torch.stack([data.dataset[int(i)]["image"] for i in data.chip_ids("all")])
    with torch.no_grad():  # decide by what varies least, where every chip lies near the border
        features = model.embed(images)
        least = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False).Vh[-1]
        model.head.weight.copy_(torch.stack([least, -least]) * 1e6)
        model.head.bias.copy_(-model.head.weight @ features.mean(dim=0))
    predict(model, data, split="all", out=tmp_path, precision="bf16")
    assert "predicting in bf16, as asked" in caplog.text


def test_auto_is_float32_on_a_cpu(made: Any, tmp_path: Path) -> None:
    model, data = made
    predict(model, data, out=tmp_path, split="test", trainer={"accelerator": "cpu", "devices": 1})
    assert read_json(tmp_path / "manifest.json")["precision"] == "float32"


def test_a_run_goes_on_with_the_batches_it_began_with(made: Any, tmp_path: Path) -> None:
    model, data = made
    options: dict[str, Any] = {"split": "all", "chips_per_part": 20}
    predict(model, data, out=tmp_path, **options)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(read_json(path) | {"batch_size": 7}))  # as found on another device
    (tmp_path / "part-1.parquet").unlink()
    totals: list[int] = []

    def counted(items: Any, *, total: int, label: str) -> Iterator[Any]:
        totals.append(total)
        yield from items

    predict(model, data, out=tmp_path, progress=counted, **options)
    assert totals == [-(-len(read_part(tmp_path, 1)) // 7)]
    assert read_json(path)["batch_size"] == 7


def read_part(folder: Path, number: int) -> Any:
    import geopandas as gpd

    return gpd.read_parquet(folder / f"part-{number}.parquet")


def test_the_batch_grows_until_memory_is_short() -> None:
    tried: list[int] = []

    def attempt(number: int) -> None:
        tried.append(number)
        if number > 200:
            raise torch.OutOfMemoryError("device memory is short")

    assert largest(attempt) == 128
    assert tried == [64, 128, 256]
    assert largest(lambda number: None) == 1024


def test_another_error_than_memory_is_not_taken_for_it() -> None:
    def attempt(number: int) -> None:
        raise RuntimeError("a kernel failed")

    with pytest.raises(RuntimeError, match="kernel"):
        largest(attempt)


def test_predictions_come_without_embeddings_and_these_can_be_read(made: Any, tmp_path: Path) -> None:
    model, data = made
    found = predict(model, data, out=tmp_path, embedding=True)
    assert found.embedding is None
    read = read_predictions(tmp_path, embedding=True).embedding
    assert read is not None
    images = torch.stack([data.dataset[int(i)]["image"] for i in found.chip_id])
    with torch.inference_mode():
        assert read == pytest.approx(model.embed(images).numpy(), abs=1e-4)


def test_a_model_is_where_it_was_after_it_was_placed(made: Any) -> None:
    model, _ = made
    with pytest.raises(ModelError), placed(model, "cpu") as device:
        assert model.device == device == torch.device("cpu")
        raise ModelError("something")
    assert model.device == torch.device("cpu")


@pytest.mark.slow
def test_a_compiled_network_says_the_same_whatever_the_length_of_the_last_batch(made: Any, tmp_path: Path) -> None:
    model, data = made
    plain = predict(model, data, split="all", out=tmp_path / "a", batch_size=16)
    quick = predict(model, data, split="all", out=tmp_path / "b", batch_size=16, compile=True)
    assert quick.probabilities == pytest.approx(plain.probabilities, abs=1e-4)
    assert model.quick is None


def test_compiled_and_dense_do_not_go_together(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"predict.compile and predict.dense"):
        predict(*made, out=tmp_path, compile=True, dense=True)
