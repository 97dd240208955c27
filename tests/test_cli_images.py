"""Images, downloads and foreign checkpoints from the command line."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rio_cogeo.cogeo import cog_validate
from servers import Server

from dlslicer_geo import pipeline
from dlslicer_geo.cli import main
from dlslicer_geo.config import of_images
from dlslicer_geo.files import read_json, read_table
from dlslicer_geo.scenes import COLUMNS

Raster = Callable[..., Path]


def jpg(path: Path, size: tuple[int, int] = (300, 400)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(3).integers(0, 255, (size[0] // 10, size[1] // 10, 3), np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((10, 10, 1), np.uint8))).save(path)
    return path


def test_a_folder_of_images_needs_no_experiment_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jpg(tmp_path / "in/a.jpg")
    (tmp_path / "in/scenes.csv").write_text(
        "file,lon,lat,gsd_m,city,site,date\na.jpg,76.95,43.25,0.5,ALA,NORTH,2021-07\n"
    )
    out = tmp_path / "run"
    assert main(["scan", str(tmp_path / "in"), "--out", str(out)]) == 0
    assert "scenes.html" in capsys.readouterr().out
    scenes = read_table(out / "scenes.parquet", COLUMNS)
    one = scenes.iloc[0]
    assert (one["city"], one["site"], one["acquired"], one["georef"]) == ("ALA", "NORTH", "2021-07", "sidecar")
    assert (one["path"], one["source"]) == ("prepared/a.tif", "../in/a.jpg")
    assert cog_validate(out / one["path"], strict=True)[0]
    assert "a.jpg" not in (out / "scenes.html").read_text()[:200]
    assert str(tmp_path) not in (out / "scenes.html").read_text()


def test_a_second_scan_has_nothing_to_do_and_a_lost_raster_is_written_again(tmp_path: Path) -> None:
    jpg(tmp_path / "in/a.jpg")
    (tmp_path / "in/scenes.csv").write_text("file,lon,lat,gsd_m\na.jpg,76.95,43.25,0.5\n")
    out = tmp_path / "run"
    config = of_images(str(tmp_path / "in"))
    assert pipeline.run(config, out, stations=("scan",)).worked == ["scan"]
    table, raster = (out / "scenes.parquet").read_bytes(), (out / "prepared/a.tif").read_bytes()
    assert pipeline.run(config, out, stations=("scan",)).worked == []
    (out / "prepared/a.tif").write_bytes(raster[:1000])
    assert pipeline.run(config, out, stations=("scan",)).worked == ["scan"]
    assert (out / "prepared/a.tif").read_bytes() == raster
    assert (out / "scenes.parquet").read_bytes() == table


def test_prepare_writes_every_scene_in_blocks_that_fit_the_chips(raster: Raster, tmp_path: Path) -> None:
    raster("in/a.tif", gsd=0.6, size=(700, 700))
    out = tmp_path / "run"
    assert main(["scan", str(tmp_path / "in"), "--prepare", "--out", str(out)]) == 0
    with rasterio.open(out / "prepared/a.tif") as source:
        assert source.block_shapes[0] == (336, 336)  # 200 m are 333 px of 0.6 m
    assert main(["scan", str(tmp_path / "in"), "--data.prepare", "never", "--out", str(out)]) == 0
    assert read_table(out / "scenes.parquet", COLUMNS)["prepared"].isna().all()


def test_wide_pixels_are_read_by_the_model_as_the_data_set_was_scaled(raster: Raster, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name, level in (("a_2020_0", 400), ("a_2020_1", 800), ("b_2020_0", 2000), ("b_2020_1", 2400)):
        values = random.integers(level, level + 600, (4, 64, 64)).astype(np.uint16)
        raster(f"in/{name}.tif", pixels=values, gsd=1.0, origin=(4e5 + 5 * level, 4e6))
    (tmp_path / "e.yaml").write_text(
        "data: {root: in, bands: [4, 3, 2]}\nchips: {size: 32, stride: 32, metres: 32}\n"
        "split: {fractions: [0.5, 0, 0.5]}\nmodel: {name: resnet18, weights: false, input_size: 32}\n"
        "fit: {max_epochs: 1, batch_size: 8}\n"
    )
    config = str(tmp_path / "e.yaml")
    for verb in ("scan", "cut"):
        assert main([verb, config, "--out", str(tmp_path / "run")]) == 0
    scenes = read_table(tmp_path / "run/scenes.parquet", COLUMNS)
    assert {tuple(channels) for channels in scenes["channels"]} == {(4, 3, 2)}
    assert len({tuple(low) for low in scenes["low"]}) == 1
    assert 400 <= scenes["low"].iloc[0][0] < 800 < 2400 < scenes["high"].iloc[0][0] <= 3000


def test_a_model_takes_its_bands_and_scaling_to_new_images() -> None:
    chip = {"size": 480, "metres": 200.0, "bands": [4, 3, 2], "low": [1.0, 2.0, 3.0], "high": [10.0, 20.0, 30.0]}
    asked = of_images("somewhere", ["--data.gsd_m", "0.5"]).data
    data = pipeline._reading(asked, chip, "somewhere")
    assert data.bands == (4, 3, 2)
    assert data.stretches() == ((1.0, 10.0), (2.0, 20.0), (3.0, 30.0))
    assert data.gsd_m == 0.5
    own = of_images("somewhere", ["--data.bands", "[1,2,3]", "--data.scaling", "[0,99]"]).data
    assert pipeline._reading(own, chip, "somewhere").stretches() == ((0, 99),) * 3


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["scan", "absent"], "does not exist"),
        (["scan", ".", "--data.scaling", "[9,1]"], "data.scaling"),
        (["scan", ".", "--data.gsd_m", "-1"], "data.gsd_m is -1"),
        (["scan", ".", "--data.bands", "[0,1,2]"], "data.bands"),
        (["scan", ".", "--data.crs", "EPSG:0"], "EPSG:0"),
        (["download", "dl-slicer", "--out", "x", "--city", "XXX"], "'XXX' is none of the 45"),
        (["download", "imagenet", "--out", "x"], "imagenet"),
        (["import-checkpoint", "absent.pth", "--out", "x"], "absent.pth"),
    ],
)
def test_wrong_words_get_one_sentence_and_nothing_is_written(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    jpg(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text("0.5\n0\n0\n-0.5\n658247\n4790430\n")
    assert main([*words, *(["--out", "x"] if words[0] == "scan" else [])]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert complaint in said
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("model.ckpt"))


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_with_code_is_named_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.pth").write_bytes(pickle.dumps(Evil(tmp_path / "created")))
    assert main(["import-checkpoint", str(tmp_path / "best.pth"), "--out", str(tmp_path / "model")]) == 2
    assert "system" in capsys.readouterr().err
    assert not (tmp_path / "created").exists()
    assert not (tmp_path / "model").exists() or not list((tmp_path / "model").iterdir())


def test_an_address_with_a_password_leaves_no_trace_in_the_outputs(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=40, width=40, count=3, dtype="uint8", crs="EPSG:32643",
        transform=Affine(1, 0, 658_000, 0, -1, 4_790_000),
    ) as target:  # fmt: skip
        target.write(np.random.default_rng(0).integers(1, 250, (3, 40, 40), np.uint8))
    (tmp_path / "served").mkdir()
    (tmp_path / "a.tif").rename(tmp_path / "served/a.tif")
    with Server(tmp_path / "served", login="me:s3cret") as server:
        address = f"http://me:s3cret@{server.host}/a.tif?sig=t0ken"
        command = [sys.executable, "-m", "dlslicer_geo.cli", "scan", address, "--out", "run"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        clean = f"http://{server.host}/a.tif"
    assert done.returncode == 0, done.stderr
    scenes = read_table(tmp_path / "run/scenes.parquet", COLUMNS)
    assert scenes["source"].item() == clean
    assert scenes["path"].item().startswith("prepared/")
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"s3cret" not in content and b"t0ken" not in content, path
    assert "s3cret" not in done.stdout + done.stderr and "t0ken" not in done.stdout + done.stderr
    assert read_json(tmp_path / "run/run.json")["config"]["data"]["root"].startswith("http://127.0.0.1")
