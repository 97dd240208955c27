"""From the file to the colours that the model sees, whatever the file is."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import features
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from servers import Answer, Server

from dlslicer_geo import pixels
from dlslicer_geo.errors import SceneError
from dlslicer_geo.types import Channels

Raster = Callable[..., Path]
WHOLE = Window(0, 0, 40, 30)


def noise(bands: int, dtype: str = "uint8", size: tuple[int, int] = (30, 40)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(bands).integers(3, 120, (bands, *size)).astype(dtype)


def seen_by_model(path: Path, wanted: tuple[int, int, int] | None = None, **limits: Any) -> np.ndarray[Any, Any]:
    with pixels.opened(path) as source:
        channels = pixels.default_channels(source, wanted)
        return pixels.read(source, WHOLE, Channels(bands=channels.bands, **limits))


# -- channels --


def test_uint8_in_red_green_blue_is_read_as_it_is_in_the_file(raster: Raster) -> None:
    values = noise(3)
    assert (seen_by_model(raster("a.tif", pixels=values)) == values).all()


def test_bands_are_mapped_in_the_order_that_was_asked_for(raster: Raster) -> None:
    values = noise(5)
    path = raster("a.tif", pixels=values, photometric="minisblack", alpha="no")
    assert (seen_by_model(path, (4, 1, 2)) == values[[3, 0, 1]]).all()
    assert (seen_by_model(path, (5, 5, 2)) == values[[4, 4, 1]]).all()
    assert (seen_by_model(path) == values[:3]).all()


def test_bands_declared_as_blue_green_red_are_put_in_order(raster: Raster) -> None:
    values = noise(4)
    path = raster("a.tif", pixels=values, photometric="minisblack", alpha="no")
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    assert (seen_by_model(path) == values[[3, 2, 1]]).all()


def test_alpha_is_no_colour_and_grey_stands_for_all_three(raster: Raster) -> None:
    values = noise(2)
    path = raster("a.tif", pixels=values, photometric="minisblack", alpha="yes")
    assert (seen_by_model(path) == values[[0, 0, 0]]).all()


def test_a_band_that_is_not_there_is_refused(raster: Raster) -> None:
    with pytest.raises(SceneError, match=r"it has 3 band\(s\), so there is no band 4: change data.bands"):
        seen_by_model(raster("a.tif", pixels=noise(3)), (4, 1, 2))


def test_a_palette_is_looked_up(raster: Raster) -> None:
    index = np.random.default_rng(0).integers(0, 4, (1, 30, 40), dtype=np.uint8)
    path = raster("a.tif", pixels=index, photometric="palette")
    colours = {0: (0, 0, 0), 1: (255, 0, 9), 2: (7, 200, 50), 3: (90, 91, 92)}
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, colours)
    found = seen_by_model(path)
    assert (found == np.array([colours[i] for i in range(4)])[index[0]].transpose(2, 0, 1)).all()


def test_gif_and_palette_png_look_as_pillow_shows_them(tmp_path: Path) -> None:
    image = Image.fromarray(noise(3).transpose(1, 2, 0)).quantize(32)
    for name in ("a.png", "a.gif"):
        image.save(tmp_path / name)
        with Image.open(tmp_path / name) as shown:
            expected = np.asarray(shown.convert("RGB")).transpose(2, 0, 1)
        assert (seen_by_model(tmp_path / name) == expected).all(), name


# -- scaling --


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float32", "float64", "int8", "uint8"])
def test_every_type_is_scaled_between_its_limits_and_clipped(raster: Raster, dtype: str) -> None:
    values = noise(3, dtype)
    values[:, 0, :4] = [0, 20, 70, 120]
    low, high = (20.0, 0.0, 20.0), (70.0, 100.0, 120.0)
    found = seen_by_model(raster("a.tif", pixels=values), low=low, high=high)
    assert found.dtype == np.uint8
    assert found[0, 0, :4].tolist() == [0, 0, 255, 255]
    assert found[1, 0, :4].tolist() == [0, 51, 178, 255]  # 178.5 to even
    for band in range(3):
        exact = (values[band].astype(np.float64) - low[band]) / (high[band] - low[band]) * 255
        assert np.abs(found[band] - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4


def test_large_integers_keep_their_differences(raster: Raster) -> None:
    values = np.full((3, 30, 40), 4_000_000_000, np.uint32)
    values[:, :, 20:] += 255
    found = seen_by_model(raster("a.tif", pixels=values), low=(4e9,) * 3, high=(4e9 + 510,) * 3)
    assert set(found[:, :, :20].ravel()) == {0}
    assert set(found[:, :, 20:].ravel()) == {128}  # float32 would not know 255 from 0 here


def test_nan_and_minus_infinity_are_black_and_infinity_is_white(raster: Raster) -> None:
    values = np.full((3, 30, 40), 0.5, np.float32)
    values[:, 0, :4] = [np.nan, -np.inf, np.inf, 3e38]
    found = seen_by_model(raster("a.tif", pixels=values), low=(0.0,) * 3, high=(1.0,) * 3)
    assert found[:, 0, :4].tolist() == [[0, 0, 255, 255]] * 3
    assert set(found[:, 1:].ravel()) == {128}


def test_wide_pixels_without_limits_are_refused_instead_of_cut_off(raster: Raster) -> None:
    with pytest.raises(SceneError, match="pixels are uint16 and nothing says which are black and white"):
        seen_by_model(raster("a.tif", pixels=noise(3, "uint16")))


def test_one_bit_images_are_read(raster: Raster) -> None:
    values = np.random.default_rng(0).integers(0, 2, (1, 30, 40), dtype=np.uint8)
    found = seen_by_model(raster("a.tif", pixels=values, nbits=1))
    assert (found == values[[0, 0, 0]] * 255).all()


# -- opening --


def test_plain_images_are_opened_in_threads_without_touching_the_warnings_of_others(tmp_path: Path) -> None:
    for i in range(8):
        Image.fromarray(noise(3).transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    before = list(warnings.filters)

    def open_often(i: int) -> int:
        return sum(_shape(tmp_path / f"{i}.png")[0] for _ in range(40))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_often, range(8))) == [30 * 40] * 8
    assert list(warnings.filters) == before


def _shape(path: Path) -> tuple[int, int]:
    with pixels.opened(path) as source:
        return source.shape[0], source.shape[1]


def test_what_gdal_says_is_told_without_credentials() -> None:
    error = OSError("'/vsicurl/https://me:pass@host/a.tif?sig=topsecret' does not exist;\n  see https://h/x?key=abc.")
    said = pixels.words(error)
    assert said.startswith("'/vsicurl/https://host/a.tif' does not exist; see https://h/x")
    assert not any(word in said for word in ("pass", "topsecret", "abc"))
    assert "topsecret" not in pixels.words(
        OSError("/vsicurl?url=https%3A%2F%2Fh&header.Authorization=topsecret failed")
    )


# -- remote --


@pytest.fixture
def remote(raster: Raster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Path]:
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    for name in pixels.NETWORK.keys() - {"GDAL_HTTP_RETRY_DELAY"}:
        monkeypatch.delenv(name, raising=False)
    values = np.random.default_rng(0).integers(0, 255, (3, 2048, 2048), dtype=np.uint8)
    path = raster("big.tif", pixels=values, tiled=True, blockxsize=256, blockysize=256)
    return Server(tmp_path), path


def test_a_remote_window_costs_a_small_part_of_the_file(remote: tuple[Server, Path]) -> None:
    server, path = remote
    with server:
        with pixels.opened(f"/vsicurl/{server.address}/big.tif") as source:
            found = source.read(window=Window(300, 300, 100, 100))
        asked = [request for request in server.requests if request.method == "GET"]
    with rasterio.open(path) as source:
        assert (found == source.read(window=Window(300, 300, 100, 100))).all()
    ranges = [request.headers["range"].removeprefix("bytes=").split("-") for request in asked]
    assert sum(int(last) - int(first) + 1 for first, last in ranges) < path.stat().st_size / 10
    assert {request.path for request in server.requests} == {"/big.tif"}  # the folder is not listed


def test_a_server_that_is_busy_twice_is_asked_again(remote: tuple[Server, Path]) -> None:
    server, path = remote
    busy, body = Answer(status=503), path.read_bytes()
    with server:
        address = server.put("/busy.tif", busy, busy, Answer(body=body, headers={"Content-Type": "image/tiff"}))
        with pixels.opened(f"/vsicurl/{address}") as source:
            assert source.shape == (2048, 2048)
        assert server.asked("/busy.tif") >= 3


def test_network_options_of_the_user_stay_and_local_files_keep_their_folder(remote: tuple[Server, Path]) -> None:
    from rasterio._env import get_gdal_config

    server, _ = remote
    with server, pixels.opened(f"/vsicurl/{server.address}/big.tif"):
        assert os.environ["GDAL_HTTP_RETRY_DELAY"] == "0.05"
        assert os.environ["GDAL_HTTP_TIMEOUT"] == "60"
        assert get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN") is None


def test_threads_that_lay_out_valid_areas_never_see_a_warning() -> None:
    cells = np.zeros((200, 200), np.uint8)
    cells[50:] = 1
    raised: list[BaseException] = []

    def sieve() -> None:
        try:
            for _ in range(300):
                with pixels.HUSH:
                    features.sieve(cells, 16)
        except Warning as error:
            raised.append(error)

    threads = [threading.Thread(target=sieve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
