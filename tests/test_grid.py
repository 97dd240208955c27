"""Images that lie askew are warped to a metric grid, and what is on the ground stays where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from askew import ASKEW, UTM, metric, prepared, read
from PIL import Image
from pyproj import Geod, Transformer

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.rasters import grid
from dlslicer_geo.scenes.values import Placement

Raster = Callable[..., Path]


@pytest.mark.parametrize("kind", ASKEW)
def test_a_landmark_stays_where_it_is_when_an_image_is_warped(tmp_path: Path, kind: str) -> None:
    placement = ASKEW[kind]
    pixels = np.full((400, 300, 3), 60, np.uint8)
    row, col = 123, 217
    pixels[row - 2 : row + 3, col - 2 : col + 3] = 220
    Image.fromarray(pixels).save(tmp_path / "a.png")
    done = prepared(tmp_path / "a.png", tmp_path, placement)
    found, mask = read(done.path)
    light = np.where(mask, found[0].astype(float) - 60, 0)
    y, x = ((np.indices(light.shape) + 0.5) * light).sum(axis=(1, 2)) / light.sum()
    truth = _degrees(placement, col + 0.5, row + 0.5)
    here = _degrees(done.placement, x, y)
    native, gsd_m = (_gsd(p, s) for p, s in ((placement, (400, 300)), (done.placement, found.shape[1:])))
    assert Geod(ellps="WGS84").inv(*truth, *here)[2] < min(native) / 2
    assert gsd_m == pytest.approx([min(native)] * 2, rel=1e-3)
    assert grid.fits(done.placement, found.shape[1:]) is None
    # a pixel at the border is made of fewer pixels, and half of one may be lost there
    area = mask.sum() * min(native) ** 2 / (400 * 300 * native[0] * native[1])
    assert area == pytest.approx(1, abs=0.02)
    assert done.placement.accuracy_m == 3.0


def _degrees(placement: Placement, col: float, row: float) -> tuple[float, float]:
    transformer = Transformer.from_crs(placement.crs, "EPSG:4326", always_xy=True)
    lon, lat = transformer.transform(*(placement.transform * (col, row)))
    return float(lon), float(lat)


def _gsd(placement: Placement, shape: tuple[int, ...]) -> tuple[float, float]:
    """Ground metres between neighbouring pixels at the centre."""
    col, row = shape[1] / 2, shape[0] / 2
    geod = Geod(ellps="WGS84")
    steps = ((0.5, 0.0), (0.0, 0.5))
    across, down = (
        geod.inv(*_degrees(placement, col - x, row - y), *_degrees(placement, col + x, row + y))[2] for x, y in steps
    )
    return float(across), float(down)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rotated", r"rotated by 5\.0°"),
        ("upside down", "rotated by 180°"),
        ("south up", "south up"),
        ("mirrored", "mirrored"),
        ("oblong", r"0\.4\d* by 0\.5\d* m on the ground"),
        ("degrees at 60 north", r"0\.55\d* by 1\.11\d* m on the ground"),
    ],
)
def test_what_is_wrong_with_a_grid_is_said_with_numbers(kind: str, words: str) -> None:
    assert re.search(words, str(grid.fits(ASKEW[kind], (400, 300))))


@pytest.mark.parametrize(
    ("placement", "shape"),
    [
        (UTM, (4800, 4800)),
        (metric(Affine(0.3, 0, 9.5e6, 0, -0.3, 3.2e6), "EPSG:3857"), (4000, 4000)),
        (metric(Affine(1e-5, 0, 10.0, 0, -1e-5, 0.01), "EPSG:4326"), (1000, 1000)),
        (metric(Affine(2e-5, 0, 25.0, 0, -1e-5, 60.0), "EPSG:4326"), (256, 256)),
        (metric(Affine(0.4, 1e-5, 4e5, 1e-5, -0.4, 3e6)), (4800, 4800)),
    ],
)
def test_grids_that_are_level_and_square_on_the_ground_stay(placement: Placement, shape: tuple[int, int]) -> None:
    assert grid.fits(placement, shape) is None


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (metric(Affine(1e-3, 0, 179.9, 0, -1e-3, 60), "EPSG:4326"), "180th meridian"),
        (metric(Affine(1e-3, 0, -180.1, 0, -1e-3, 60), "EPSG:4326"), "180th meridian"),
        (metric(Affine(20, 0, 2e6 - 4e3, 0, -20, 2e6 + 4e3), "EPSG:5041"), "North pole"),
        (metric(Affine(20, 0, 2e6 - 4e3, 0, -20, 2e6 + 4e3), "EPSG:5042"), "South pole"),
        (metric(Affine(1, 0, 1e12, 0, -1, 1e12)), "outside its CRS"),
    ],
)
def test_the_180th_meridian_and_the_poles_are_refused_with_advice(placement: Placement, words: str) -> None:
    for asked in (grid.check_reach, lambda *given: grid.target(placement, (400, 400))):
        with pytest.raises(SceneError, match=words):
            asked(placement.crs, placement.transform, (400, 400))


def test_grids_beside_the_180th_meridian_are_no_trouble() -> None:
    for placement in (
        metric(Affine(1e-3, 0, -180.0, 0, -1e-3, 60), "EPSG:4326"),
        metric(Affine(1e-3, 0, 180.0 - 0.4, 0, -1e-3, 60), "EPSG:4326"),
        metric(Affine(1e-3, 0, 180.0, 0, -1e-3, 60), "EPSG:4326"),
        metric(Affine(0.9, 0, -180.0, 0, -0.45, 90), "EPSG:4326"),
    ):
        grid.check_reach(placement.crs, placement.transform, (400, 400))


def test_holes_do_not_bleed_into_warped_pixels(tmp_path: Path) -> None:
    pixels = np.full((400, 400, 3), 60, np.uint8)
    pixels[100:300, 100:300] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found, mask = read(prepared(tmp_path / "a.png", tmp_path, ASKEW["rotated"]).path)
    assert set(found[:, mask].ravel()) == {60}
    assert mask.sum() == pytest.approx(400**2 - 200**2, rel=0.02)
