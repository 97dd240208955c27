"""What cannot be read by window, or lies askew, is written once: same values, same place, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from askew import ASKEW, CHIPS, UTM, found_at, jpg, photo, prepared, read
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.rasters import image, prepare
from dlslicer_geo.scenes.values import Header, Placement
from dlslicer_geo.types import ChipGrid, Reading

Raster = Callable[..., Path]


# -- when --


HEADER = Header(
    driver="GTiff", width=1000, height=1000, bands=3, dtype="uint8", block=(256, 256), crs=UTM.crs,
    transform=UTM.transform,
)  # fmt: skip
EMBEDDED = Placement(crs=UTM.crs, transform=UTM.transform, georef="geotiff")


@pytest.mark.parametrize(
    ("header", "placement", "words"),
    [
        ({}, {}, None),
        ({"block": (32, 256)}, {}, None),
        ({"block": (2, 640)}, {}, None),
        ({"driver": "JPEG"}, {}, "JPEG cannot be read by window"),
        ({"driver": "WEBP"}, {}, "WEBP cannot be read by window"),
        ({"driver": "JP2OpenJPEG"}, {}, "JPEG 2000 is slow"),
        ({"block": (4800, 4800)}, {}, "its blocks measure 4800 by 4800 px"),
        ({}, {"georef": "world-file"}, r"position is not in the file but from another source \(world-file\)"),
        ({"crs": None}, {}, "position is not in the file"),
        ({"transform": Affine(1, 0, 0, 0, -1, 9)}, {}, "another one"),
    ],
)
def test_why_an_image_must_be_prepared(header: dict[str, Any], placement: dict[str, Any], words: str | None) -> None:
    asked = found_at("a.tif"), replace(HEADER, **header), replace(EMBEDDED, **placement)
    if words is None:
        assert prepare.why(*asked, Reading()) is None
        assert prepare.why(*asked, Reading(prepare="never")) is None
        assert prepare.why(*asked, Reading(prepare="all")) == "data.prepare is all"
        return
    assert re.search(words, str(prepare.why(*asked, Reading())))
    with pytest.raises(SceneError, match=rf"{words}.*so it must be prepared: set data.prepare to auto"):
        prepare.why(*asked, Reading(prepare="never"))


def test_a_signed_address_is_copied_and_forgotten() -> None:
    assert prepare.why(found_at("a.tif", secret=True), HEADER, EMBEDDED, Reading()) == (
        "its address is signed and not kept"
    )


@pytest.mark.parametrize(
    ("gsd_m", "chips", "block"),
    [
        (0.4, ChipGrid(size=480, stride=240, metres=None), 480),
        (200 / 480, ChipGrid(), 480),
        (0.4166, ChipGrid(), 496),
        (0.6, ChipGrid(), 336),
        (0.05, ChipGrid(), 1024),
        (10.0, ChipGrid(), 256),
    ],
)
def test_blocks_are_as_large_as_a_chip_within_limits(gsd_m: float, chips: ChipGrid, block: int) -> None:
    assert prepare.block_of(gsd_m, chips) == block


# -- values --


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_prepared_jpg_has_the_pixels_that_pillow_decodes(tmp_path: Path, subsampling: int) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo()).save(path, quality=85, subsampling=subsampling)
    done = prepared(path, tmp_path)
    pixels, mask = read(done.path)
    with Image.open(path) as decoded:
        assert (pixels.transpose(1, 2, 0) == np.asarray(decoded)).all()
    assert mask.all()
    assert done.placement == UTM
    assert done.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_png_webp_and_grey_jpg_keep_their_pixels_too(tmp_path: Path) -> None:
    picture = Image.fromarray(photo(300))
    for name, shown, options in (
        ("a.png", picture, {}),
        ("a.webp", picture, {"lossless": True}),
        ("grey.jpg", picture.convert("L"), {"quality": 90}),
        ("a.jp2", picture, {"irreversible": False}),
    ):
        shown.save(tmp_path / name, **options)
        pixels, _ = read(prepared(tmp_path / name, tmp_path).path)
        with Image.open(tmp_path / name) as decoded:
            assert (pixels.transpose(1, 2, 0).squeeze() == np.asarray(decoded)).all(), name


def test_a_prepared_scene_is_a_valid_cog_with_overviews_tags_and_no_loss(tmp_path: Path) -> None:
    done = prepared(jpg(tmp_path / "a.jpg", 1300), tmp_path)
    valid, errors, warnings = cog_validate(str(done.path), strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(done.path) as source:
        assert source.overviews(1) == [2, 4]
        assert source.block_shapes[0] == (480, 480)
        assert source.compression is None  # decoding would cost more than all the rest of a read
        assert source.crs.to_epsg() == 32645
        assert source.transform == UTM.transform
        note = json.loads(source.tags()["dlslicer_geo"])
    assert note["source"] == str(tmp_path / "a.jpg")
    assert (note["georef"], note["raw_sha256"]) == ("sidecar", done.digest)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_bands_and_types_are_kept_and_a_fourth_band_is_no_alpha(raster: Raster, tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).integers(1, 200, (5, 300, 300)).astype(dtype)
    path = raster("a.tif", pixels=values, photometric="minisblack", alpha="no")
    pixels, mask = read(prepared(path, tmp_path).path)
    assert pixels.dtype == dtype
    assert (pixels == values).all()
    assert mask.all()
    path = raster("nir.tif", pixels=values[:4].astype(np.uint8), photometric="rgb", alpha="no")
    with rasterio.open(prepared(path, tmp_path).path) as source:
        assert source.colorinterp[3] == ColorInterp.undefined
        assert (source.read() == values[:4].astype(np.uint8)).all()


def test_alpha_nodata_nan_masks_and_holes_become_one_mask(raster: Raster, tmp_path: Path) -> None:
    values = np.ascontiguousarray(photo(300).transpose(2, 0, 1))
    outside = np.zeros((300, 300), bool)
    outside[:120, :90] = True
    alpha = np.concatenate([values, np.where(outside, 0, 255)[None].astype(np.uint8)])
    raster("alpha.tif", pixels=alpha, photometric="rgb", alpha="yes")
    raster("nodata.tif", pixels=np.where(outside, 3, values).astype(np.uint8), nodata=3)
    raster("hole.tif", pixels=np.where(outside, 255, values).astype(np.uint8))
    raster("nan.tif", pixels=np.where(outside, np.nan, values).astype(np.float32))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(raster("mask.tif", pixels=values), "r+") as target:
        target.write_mask(~outside)
    for name in ("alpha", "nodata", "hole", "nan", "mask"):
        done = prepared(tmp_path / f"{name}.tif", tmp_path)
        pixels, mask = read(done.path)
        assert (mask == ~outside).all(), name
        assert (pixels[:, mask] == values[:, ~outside]).all(), name
        assert pixels.shape[0] == 3
        found = image.inspect(str(done.path), done.placement, Reading())
        assert found["valid_fraction"] == pytest.approx((~outside).mean())
        assert found["nodata"] is None
        assert found["holes_fraction"] == (outside.mean() if name == "hole" else 0)
        assert cog_validate(str(done.path), strict=True)[:2] == (True, [])
    _, mask = read(prepared(tmp_path / "hole.tif", tmp_path, holes=False).path)
    assert mask.all()


def test_a_palette_is_kept_on_its_grid_and_becomes_colours_when_warped(raster: Raster, tmp_path: Path) -> None:
    index = np.kron(np.arange(9).reshape(3, 3), np.ones((100, 100))).astype(np.uint8)[None]
    path = raster("a.tif", pixels=index, photometric="palette")
    colours = {i: (20 + 20 * i, 200 - 20 * i, 40, 255) for i in range(9)}
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, colours)
    with rasterio.open(prepared(path, tmp_path).path) as source:
        assert source.colorinterp == (ColorInterp.palette,)
        assert {i: source.colormap(1)[i] for i in range(9)} == colours
        assert (source.read() == index).all()
    turned = replace(UTM, transform=Affine.translation(4e5, 3e6) * Affine.rotation(10) * Affine.scale(0.4, -0.4))
    pixels, _ = read(prepared(path, tmp_path, turned).path)
    assert pixels.shape[0] == 3
    assert pixels[2].max() == 40


def test_the_date_of_the_raw_image_stays(raster: Raster, tmp_path: Path) -> None:
    path = raster("a.tif")
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="2019:05:04 12:00:00")
    done = prepared(path, tmp_path)
    assert image.inspect(str(done.path), done.placement, Reading())["tagged"] == "2019-05-04"


# -- once, and whole --


def test_two_runs_give_the_same_bytes_and_the_second_keeps_the_first(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    first = prepared(path, tmp_path)
    before, when = first.path.read_bytes(), first.path.stat().st_mtime_ns
    second = prepared(path, tmp_path)
    assert (first.kept, second.kept) == (False, True)
    assert (second.placement, second.digest) == (first.placement, first.digest)
    assert first.path.stat().st_mtime_ns == when
    for file in first.path.parent.iterdir():
        file.unlink()
    assert prepared(path, tmp_path).path.read_bytes() == before
    assert sorted(file.name for file in first.path.parent.iterdir()) == ["a.json", "a.tif"]


def test_a_damaged_raster_another_image_or_other_settings_are_written_anew(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    done = prepared(path, tmp_path)
    whole = done.path.read_bytes()
    done.path.write_bytes(whole[:-5000] + bytes([7]) * 5000)
    assert not prepared(path, tmp_path).kept
    assert done.path.read_bytes() == whole
    (done.path.parent / "a.json").write_text("{")
    assert not prepared(path, tmp_path).kept
    assert not prepared(path, tmp_path, holes=False).kept
    assert not prepared(path, tmp_path, replace(UTM, transform=Affine(0.4, 0, 1e5, 0, -0.4, 3e6))).kept
    jpg(path, seed=1)
    assert not prepared(path, tmp_path).kept
    assert prepared(path, tmp_path).kept


def test_threads_write_the_same_bytes_as_one_after_the_other(tmp_path: Path) -> None:
    paths = [jpg(tmp_path / f"{i}.jpg", seed=i) for i in range(6)]
    one = [prepared(path, tmp_path).path.read_bytes() for path in paths]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda path: prepared(path, tmp_path / "threads"), paths))
    assert [each.path.read_bytes() for each in done] == one


def test_a_killed_run_leaves_nothing_under_a_final_name_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg", 2400)
    script = (
        "import sys; from pathlib import Path; from askew import prepared\n"
        "print('go', flush=True); prepared(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    out = tmp_path / "killed" / "out"
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        end = time.monotonic() + 60
        while not list(out.glob(".a.*.work/native.tif")) and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert [name.name for name in out.iterdir() if not name.name.startswith(".")] == []
    assert list(out.iterdir()) != []  # it was in the middle of it
    done = prepared(path, tmp_path / "killed")
    assert sorted(name.name for name in out.iterdir()) == ["a.json", "a.tif"]
    assert done.path.read_bytes() == prepared(path, tmp_path / "other").path.read_bytes()


def test_an_image_that_breaks_off_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SceneError, match=r"it cannot be read .*truncated"):
        prepared(path, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_image_of_nothing_but_white_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((100, 100, 3), 255, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SceneError, match="no valid pixel"):
        prepared(tmp_path / "a.png", tmp_path)


# -- disk --


@pytest.mark.parametrize("kind", ["level", "rotated", "oblong"])
@pytest.mark.parametrize("size", [(700, 900), (1500, 1100), (60, 80)])
def test_the_estimate_is_an_upper_bound_of_what_is_written(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(5, 250, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    placement = ASKEW.get(kind, UTM)
    job = image.header(str(tmp_path / "a.png")), placement
    estimate = prepare.estimate([job], grid=CHIPS)
    written = prepared(tmp_path / "a.png", tmp_path, placement).path.stat().st_size
    assert written < estimate.bytes < 8 * written + 3e6
    assert estimate.seconds > 0
    assert prepare.estimate([job]).bytes >= estimate.bytes
    four = prepare.estimate([job] * 4, 2, CHIPS)
    assert estimate.bytes * 2 < four.bytes < estimate.bytes * 4


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    prepare.check_room(tmp_path / "not/yet", prepare.Estimate(bytes=1, seconds=1.0))
    with pytest.raises(SceneError, match=r"may take 1000000000\.0 GB in .*not/yet, where .* GB are free: make room"):
        prepare.check_room(tmp_path / "not/yet", prepare.Estimate(bytes=10**18, seconds=1.0))
    assert not (tmp_path / "not").exists()


# -- speed --


def windows_touch(path: Path, number: int) -> Iterator[int]:
    with rasterio.open(path) as source:
        tall, wide = source.block_shapes[0]
        for row, col in np.random.default_rng(0).integers(0, min(source.shape) - 480, (number, 2)).tolist():
            yield ((row + 479) // tall - row // tall + 1) * ((col + 479) // wide - col // wide + 1)


@pytest.mark.slow
def test_a_window_of_a_full_scene_touches_four_blocks_at_most_and_equals_a_pillow_crop(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg", 4800)
    done = prepared(path, tmp_path)
    assert max(windows_touch(done.path, 10_000)) <= 4
    assert cog_validate(str(done.path), strict=True) == (True, [], [])
    with rasterio.open(done.path) as source, Image.open(path) as decoded:
        assert source.overviews(1) == [2, 4, 8, 16]
        for row, col in np.random.default_rng(1).integers(0, 4320, (30, 2)).tolist():
            crop = np.asarray(decoded.crop((col, row, col + 480, row + 480))).transpose(2, 0, 1)
            assert (source.read(window=Window(col, row, 480, 480)) == crop).all()


def test_blocks_hold_four_to_a_window(tmp_path: Path) -> None:
    assert max(windows_touch(prepared(jpg(tmp_path / "a.jpg", 1500), tmp_path).path, 2000)) <= 4
    assert math.isclose(prepare.block_of(0.4, CHIPS), 480)
