"""Large white or black areas count as holes, whether a mask declares them or not, and nothing smaller does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from scipy import ndimage

from dlslicer_geo.scenes.rasters import image
from dlslicer_geo.scenes.rasters.holes import LEAST_PX, Search, strips
from dlslicer_geo.scenes.rasters.tally import SAMPLES, THUMBNAIL_PX, scale
from dlslicer_geo.scenes.values import Placement
from dlslicer_geo.types import Reading

Raster = Callable[..., Path]
Array = np.ndarray[Any, Any]


def inspected(path: Path, **reading: Any) -> dict[str, Any]:
    about = image.header(str(path))
    assert about.crs is not None
    assert about.transform is not None
    placement = Placement(crs=about.crs, transform=about.transform, georef="geotiff")
    return image.inspect(str(path), placement, Reading(**reading))


def ground(*shape: int, dtype: str = "uint8") -> Array:
    """Pixels that are neither black nor white."""
    return np.random.default_rng(sum(shape)).integers(20, 100, shape).astype(dtype)


# -- real imagery --


def test_the_two_white_holes_of_banepa_are_found_to_the_pixel(data_root: Path) -> None:
    path = data_root / "banepa/banepa_oam_z19.tif"
    with rasterio.open(path) as source:
        white = (source.read() >= 254).all(axis=0)
        labels, _ = ndimage.label(white)
        sizes = np.bincount(labels.ravel())[1:]
        large = np.flatnonzero(sizes >= LEAST_PX) + 1
        middles = [source.transform * (x + 0.5, y + 0.5) for y, x in _inner(labels, large)]
    assert len(large) == 2
    found = inspected(path)
    assert 0.96 <= found["valid_fraction"] <= 0.99
    # a hole takes the white pixels of the cells that its edge cuts along, which are 4 px wide here
    assert found["holes_fraction"] * white.size == pytest.approx(sizes[large - 1].sum(), rel=0.02)
    to_degrees = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    for x, y in middles:
        assert not found["geometry"].covers(shapely.Point(to_degrees.transform(x, y)))
    kept = inspected(path, holes=False)
    assert (kept["valid_fraction"], kept["holes_fraction"]) == (1, 0)


def _inner(labels: Array, large: Array) -> list[tuple[int, int]]:
    """The pixel farthest from the edge in each area."""
    found = []
    for label in large:
        rows, cols = ndimage.find_objects((labels == label).astype(np.uint8))[0]
        area = np.pad(labels[rows, cols] == label, 1)
        y, x = np.unravel_index(ndimage.distance_transform_edt(area).argmax(), area.shape)
        found.append((rows.start + int(y) - 1, cols.start + int(x) - 1))
    return found


@pytest.mark.slow
def test_none_of_the_naip_scenes_has_a_hole(data_root: Path) -> None:
    paths = sorted((data_root / "naip_cities").glob("*.tif"))
    with rasterio.Env():
        holes = [path.name for path in paths if inspected(path)["holes_fraction"] > 0]
    assert len(paths) == 1291
    assert holes == []


# -- what is a hole --


@pytest.mark.parametrize(
    ("dtype", "value", "is_hole"),
    [
        ("uint8", 255, True),
        ("uint8", 254, True),  # JPEG leaves rings
        ("uint8", 253, False),
        ("uint8", 1, True),
        ("uint8", 2, False),
        ("uint16", 65535, True),
        ("uint16", 65534, False),
        ("uint16", 0, True),
        ("uint16", 1, False),
        ("int16", 32767, True),
        ("int16", 0, True),
        ("int16", -5, False),
        ("float32", 0.0, True),
        ("float32", 1.0, False),
    ],
)
def test_white_and_black_depend_on_the_type(raster: Raster, dtype: str, value: float, is_hole: bool) -> None:
    pixels = ground(3, 200, 200, dtype=dtype)
    pixels[:, 40:140, 60:160] = value
    found = inspected(raster("a.tif", pixels=pixels))
    assert found["holes_fraction"] == (0.25 if is_hole else 0)
    assert found["valid_fraction"] == (0.75 if is_hole else 1)


def test_the_smallest_hole_has_4096_pixels_and_a_roof_stays(raster: Raster) -> None:
    pixels = ground(3, 300, 300)
    pixels[:, 10:74, 10:74] = 255  # 64²
    pixels[:, 100:163, 100:165] = 255  # 4095
    pixels[:, 250:270, 250:280] = 255
    assert inspected(raster("a.tif", pixels=pixels))["holes_fraction"] * 300**2 == pytest.approx(4096)


def test_areas_that_touch_at_a_corner_are_two_and_those_that_share_an_edge_are_one(raster: Raster) -> None:
    pixels = ground(3, 300, 300)
    pixels[:, 10:60, 10:60] = 255
    pixels[:, 60:110, 60:110] = 255
    assert inspected(raster("corner.tif", pixels=pixels))["holes_fraction"] == 0
    pixels[:, 60:110, 59:110] = 255
    assert inspected(raster("edge.tif", pixels=pixels))["holes_fraction"] * 300**2 == pytest.approx(2500 + 2550)


def test_white_beside_black_is_two_areas(raster: Raster) -> None:
    pixels = ground(3, 200, 200)
    pixels[:, 10:60, 10:70] = 255
    pixels[:, 60:110, 10:70] = 0
    assert inspected(raster("a.tif", pixels=pixels))["holes_fraction"] == 0


def test_only_one_channel_that_is_full_is_no_hole(raster: Raster) -> None:
    pixels = ground(3, 200, 200)
    pixels[0, 20:180, 20:180] = 255
    assert inspected(raster("a.tif", pixels=pixels))["holes_fraction"] == 0


def test_holes_in_an_image_of_many_strips_and_coarse_cells_are_counted_exactly(raster: Raster) -> None:
    pixels = ground(3, 2600, 4200)  # cells of 4 px, several strips
    pixels[:, 301:1403, 1001:1102] = 0
    pixels[:, 2001:2066, 3001:3066] = 255
    path = raster("a.tif", pixels=pixels, tiled=True)
    assert sum(1 for _ in strips((2600, 4200), 3)) > 3
    found = inspected(path)
    assert found["holes_fraction"] * pixels[0].size == pytest.approx(1102 * 101 + 65 * 65, abs=0.01)
    with rasterio.open(path) as source:
        inside = shapely.Point(
            Transformer.from_crs(source.crs, "EPSG:4326", always_xy=True).transform(*(source.transform * (1050, 800)))
        )
    assert not found["geometry"].covers(inside)


def test_what_a_mask_declares_is_no_hole_and_a_hole_inside_a_mask_is(raster: Raster) -> None:
    pixels = ground(3, 300, 300)
    pixels[:, :, :100] = 0
    pixels[:, 100:200, 200:300] = 255
    found = inspected(raster("a.tif", pixels=pixels, nodata=0))
    assert found["holes_fraction"] == pytest.approx(1 / 9)
    assert found["valid_fraction"] == pytest.approx(1 - 1 / 3 - 1 / 9)


def test_images_of_one_bit_have_no_holes(raster: Raster) -> None:
    pixels = np.zeros((1, 200, 200), np.uint8)
    pixels[:, :, ::50] = 1
    assert inspected(raster("a.tif", pixels=pixels, nbits=1))["valid_fraction"] == 1


def test_white_means_the_declared_number_of_bits(raster: Raster) -> None:
    pixels = ground(3, 200, 200, dtype="uint16")
    pixels[:, :100] = 4095
    assert inspected(raster("a.tif", pixels=pixels, nbits=12))["holes_fraction"] == 0.5


def test_a_search_keeps_no_pixels() -> None:
    search = Search((100_000, 100_000), np.dtype(np.uint8))
    assert search.count.nbytes < 20e6


# -- quality --


def test_blur_is_the_variance_of_the_laplacian_across_strips_and_falls_when_the_image_is_blurred(
    raster: Raster,
) -> None:
    pixels = ground(3, 1500, 2000)
    found = inspected(raster("a.tif", pixels=pixels, tiled=True))["blur"]
    grey = pixels.mean(axis=0) / 255
    assert found == pytest.approx(ndimage.laplace(grey)[1:-1, 1:-1].var(), rel=1e-5)
    soft = ndimage.gaussian_filter(pixels, (0, 2, 2))
    assert inspected(raster("b.tif", pixels=soft, tiled=True))["blur"] < found / 50


def test_blur_does_not_see_the_edge_of_a_mask_and_does_not_depend_on_the_type(raster: Raster) -> None:
    pixels = ground(3, 200, 200)
    pixels[:, 50:150, 50:150] = 0
    valid = pixels[0] > 0
    inner = ndimage.binary_erosion(valid, iterations=1, border_value=0)
    expected = ndimage.laplace(pixels.mean(axis=0) / 255)[inner].var()
    assert inspected(raster("a.tif", pixels=pixels, nodata=0))["blur"] == pytest.approx(expected, rel=1e-4)
    smooth = ndimage.gaussian_filter(ground(3, 200, 200).astype(np.float32), (0, 3, 3))
    one, other = (inspected(raster(f"{k}.tif", pixels=smooth * k))["blur"] for k in (1, 100))
    assert one == pytest.approx(other, rel=1e-3)


def test_a_thumbnail_averages_what_is_valid_and_keeps_the_shape(raster: Raster) -> None:
    pixels = ground(3, 384, 960)
    pixels[:, :, :480] = 0
    found = inspected(raster("a.tif", pixels=pixels, nodata=0))["thumbnail"]
    assert found.shape == (38, THUMBNAIL_PX, 3)
    assert (found[:, :48] == 0).all()
    assert np.abs(found[:, 48:].mean(axis=(0, 1)) - pixels[:, :, 480:].mean(axis=(1, 2))).max() < 0.5
    assert found[:, 48:].std() < pixels[:, :, 480:].std() / 5  # averaged, not picked
    assert inspected(raster("small.tif", pixels=ground(3, 20, 30)))["thumbnail"].shape == (20, 30, 3)


def test_samples_are_spread_over_the_valid_pixels(raster: Raster) -> None:
    pixels = np.repeat(np.linspace(1000, 3000, 600)[None, :, None], 3, axis=0).repeat(800, axis=2).astype(np.uint16)
    pixels[:, :, 400:] = 7
    found = inspected(raster("a.tif", pixels=pixels, nodata=7))
    samples = found["samples"]
    assert samples.dtype == np.float32
    assert samples.shape[0] == 3
    assert SAMPLES / 2 < samples.shape[1] <= SAMPLES
    assert np.percentile(samples, [2, 50, 98]) == pytest.approx([1040, 2000, 2960], rel=0.01)
    assert inspected(raster("b.tif"))["samples"] is None


def test_scaling_is_one_for_all_scenes_and_never_divides_by_zero() -> None:
    dark, light = np.full((3, 100), 10, np.float32), np.full((3, 300), 90, np.float32)
    dark[2], light[2] = 5, 5
    low, high = scale([dark, light])
    assert low[:2] == (10, 10)
    assert high[:2] == (90, 90)
    assert low[2] < 5 < high[2]


def test_the_outline_of_a_warped_or_eastern_grid_stays_within_180_degrees(raster: Raster) -> None:
    grid = Affine(1e-5, 0, 190.0, 0, -1e-5, 10.0)
    outline = inspected(raster("a.tif", crs="EPSG:4326", transform=grid))["geometry"]
    assert outline.bounds == pytest.approx((-170.0, 10 - 256e-5, -170 + 256e-5, 10.0), abs=1e-9)
