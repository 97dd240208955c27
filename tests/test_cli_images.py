"""Images, downloads and foreign checkpoints from the command line."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate
from servers import Server

from dlslicer_geo import pipeline
from dlslicer_geo.cli import main
from dlslicer_geo.cli.parser import name_of
from dlslicer_geo.config import of_images
from dlslicer_geo.files import read_json, read_table
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.scenes import COLUMNS
from dlslicer_geo.types import Scene

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


def test_a_run_folder_below_the_images_is_no_input(raster: Raster, tmp_path: Path) -> None:
    raster("in/a.tif", gsd=0.6, size=(300, 300))
    words = ["scan", str(tmp_path / "in"), "--prepare", "--out", str(tmp_path / "in/run")]
    assert main(words) == 0
    config = of_images(str(tmp_path / "in"), ["--data.prepare", "all"])
    assert pipeline.run(config, tmp_path / "in/run", stations=("scan",)).worked == []
    assert main([*words, "--force"]) == 0
    assert read_table(tmp_path / "in/run/scenes.parquet", COLUMNS)["scene_id"].tolist() == ["a"]


def test_a_changed_image_of_a_list_is_scanned_again(raster: Raster, tmp_path: Path) -> None:
    image = raster("elsewhere/a.tif", size=(64, 64))
    (tmp_path / "list.txt").write_text("elsewhere/a.tif\n")
    config = of_images(str(tmp_path / "list.txt"))
    assert pipeline.run(config, tmp_path / "run", stations=("scan",)).worked == ["scan"]
    assert pipeline.run(config, tmp_path / "run", stations=("scan",)).worked == []
    image.unlink()
    raster("elsewhere/a.tif", size=(80, 80))
    assert pipeline.run(config, tmp_path / "run", stations=("scan",)).worked == ["scan"]


def test_a_changed_mask_beside_an_unchanged_image_is_seen(raster: Raster, tmp_path: Path) -> None:
    path = raster("in/a.tif", size=(300, 300))
    config = of_images(str(tmp_path / "in"), ["--data.prepare", "all"])
    pipeline.run(config, tmp_path / "run", stations=("scan",))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as target:
        mask = np.full((300, 300), 255, np.uint8)
        mask[:150] = 0
        target.write_mask(mask)
    pipeline.run(config, tmp_path / "run", stations=("scan",))
    scenes = read_table(tmp_path / "run/scenes.parquet", COLUMNS)
    assert scenes["valid_fraction"].item() == pytest.approx(0.5, abs=0.01)


def test_bands_keep_their_numbers_when_a_scene_with_alpha_is_prepared(raster: Raster, tmp_path: Path) -> None:
    pixels = np.stack([np.full((300, 300), value, np.uint8) for value in (40, 80, 255, 160, 200)])
    pixels += np.random.default_rng(0).integers(0, 5, pixels.shape).astype(np.uint8) * (pixels < 255)
    path = raster("in/a.tif", pixels=pixels)
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [
            getattr(ColorInterp, n) for n in ("gray", "undefined", "alpha", "undefined", "undefined")
        ]
    means = []
    for prepare in ("auto", "all"):
        config = of_images(str(tmp_path / "in"), ["--data.bands", "[4,2,1]", "--data.prepare", prepare])
        pipeline.run(config, tmp_path / prepare, stations=("scan",))
        table = read_table(tmp_path / prepare / "scenes.parquet", COLUMNS)
        scene = Scene.from_record(table.to_dict("records")[0])
        with rasterio.open((tmp_path / prepare / scene.path).resolve()) as source:
            read = source.read(list(scene.channels.bands))
        means.append([round(float(band.mean())) for band in read])
    assert means[0] == means[1] == [162, 82, 42]


def test_a_truncated_png_is_refused_though_gdal_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (300, 300, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in/a.png")
    whole = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "in/a.png").write_bytes(whole[: len(whole) * 9 // 10])
    (tmp_path / "in/scenes.csv").write_text("file,lon,lat,gsd_m\na.png,76.95,43.25,0.5\n")
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "run")]) == 2
    assert "cut off or damaged" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.tif"))


def test_ctrl_c_finishes_the_scenes_in_hand_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (1500, 1500, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in/0.jpg")
    for number in range(1, 40):
        os.link(tmp_path / "in/0.jpg", tmp_path / f"in/{number}.jpg")
    rows = "".join(f"{number}.jpg,{70 + number / 10},43.25,0.5\n" for number in range(40))
    (tmp_path / "in/scenes.csv").write_text("file,lon,lat,gsd_m\n" + rows)
    # what runs in the background of a shell ignores the signal, and so would its children
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = heard + "from dlslicer_geo.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "scan", "in", "--out", "run", "--compute.processes", "1"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("run/prepared/*.json")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from here" in said
    assert len(list(tmp_path.glob("run/prepared/*.tif"))) < 20
    assert not list(tmp_path.glob("run/prepared/*.tmp*"))


def test_longitudes_from_0_to_360_are_those_to_the_west(raster: Raster, tmp_path: Path) -> None:
    path = raster("in/a.tif", crs="EPSG:4326", origin=(200.0, -17.0), gsd=1e-5, size=(200, 200))
    assert main(["scan", str(path), "--out", str(tmp_path / "run")]) == 0
    west = read_table(tmp_path / "run/scenes.parquet", COLUMNS).total_bounds[0]
    assert west == pytest.approx(-160, abs=1e-4)


def test_secrets_of_addresses_and_loggers_are_not_written(tmp_path: Path) -> None:
    logger = {"class_path": "x.Y", "init_args": {"tracking_uri": "https://me:PASS@h/x", "api_key": "KEY1"}}
    config = of_images("https://me:PASS@h/a.tif?sig=SIGN", ["--fit.loggers", json.dumps([logger])])
    run = Run(config=config, folder=tmp_path)
    assert not {word for word in ("PASS", "SIGN", "KEY1") if word in json.dumps([run.plain_config, run.provenance])}
    assert name_of("https://h/x.tif?token=SECRET") == "x"
    assert name_of("https://h/search?token=SECRET") == "search"


def test_apply_takes_every_key_of_the_data(tmp_path: Path) -> None:
    asked = of_images("somewhere", ["--data.on_bad", "skip", "--data.pattern", "(?P<city>.*)"]).data
    data = pipeline._reading(asked, {"size": 480, "metres": 200.0}, "somewhere")
    assert (data.on_bad, data.pattern) == ("skip", "(?P<city>.*)")


def test_a_run_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["scan", str(tmp_path), "--out", str(tmp_path / "taken")]) == 2
    assert "cannot be made" in capsys.readouterr().err
