from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from defusedxml import ElementTree
from layer_tables import ALMATY, chip_table, grid_at, map_points, saliency
from odc.geo.geobox import GeoBox
from rasterio.enums import MaskFlags
from rasterio.warp import transform as warp_points
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import write_masked, write_saliency
from dlslicer_geo.types import Channels, Saliency, Scene

NAMES = {"layer2": 28, "layer4": 7}


@pytest.fixture(scope="module")
def almaty() -> gpd.GeoDataFrame:
    return chip_table({"almaty": ALMATY}, size=480, stride=240)


def test_saliency_keeps_raw_values_and_says_how_it_was_made(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scale = np.linspace(0.1, 3, len(almaty), dtype=np.float32)[:, None, None]
    maps = {
        "layer2": random.normal(size=(len(almaty), 28, 28)).astype(np.float32),
        "layer4": np.ones((len(almaty), 7, 7), np.float32) * scale,
    }
    layer = write_saliency(saliency(almaty, {"almaty": ALMATY}, maps), tmp_path, provenance={"config": "77"})[0]
    assert layer.path.name == "almaty.chico.relevance-cam-margin.tif"
    assert cog_validate(layer.path, strict=True)[:2] == (True, [])
    with rasterio.open(layer.path) as source:
        assert source.descriptions == ("layer2", "layer4", "coverage") and np.isnan(source.nodata)
        assert source.crs.to_epsg() == 32643 and source.shape == (280, 280) and source.bounds[:2] == (653000, 4789000)
        deep, coverage = source.read(2), source.read(3)
        tags = source.tags()
    assert deep.min() < 0.2 and deep.max() > 2.9, "no chip was stretched to 0…1"
    assert coverage[0, 0] == 1 and coverage[140, 140] == 4
    assert layer.limits is not None and layer.limits[1] == pytest.approx(np.percentile(deep, 99), rel=1e-5)
    assert tags["NOTE_START"] == "margin" and tags["CITY"] == "chico" and "77" in tags["dlslicer_geo"]
    assert tags["LATTICE"].startswith("14 x 14 cells per stride") and "p99" in tags["PERCENTILES_layer4"]


def test_a_known_point_of_almaty_stays_in_its_cell(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    point = (654_210.0, 4_789_330.0)
    col, row = (int(v) for v in map_points(~ALMATY.affine, [point])[0])
    maps = np.zeros((len(almaty), 56, 56), np.float32)
    for chip, (top, left) in enumerate(almaty[["row", "col"]].to_numpy()):
        if 0 <= row - top < 480 and 0 <= col - left < 480:
            maps[chip, (row - top) * 56 // 480, (col - left) * 56 // 480] = 1
    layer = write_saliency(saliency(almaty, {"almaty": ALMATY}, {"layer1": maps}), tmp_path)[0]
    lon, lat = warp_points("EPSG:32643", "EPSG:4326", [point[0]], [point[1]])
    with rasterio.open(layer.path) as source:
        x, y = warp_points("EPSG:4326", source.crs, lon, lat)
        assert source.index(x[0], y[0]) == np.unravel_index(np.nanargmax(source.read(1)), source.shape)


def test_saliency_of_a_rotated_scene_and_of_two_cities_makes_a_file_each(tmp_path: Path) -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (512, 512), 0.5, turn=20)
    chips = chip_table({"turned": grid}, size=256, stride=256)
    maps = {"layer4": np.ones((4, 7, 7), np.float32)}
    why = saliency(chips, {"turned": grid}, maps)
    both = Saliency(**{name: getattr(why, name) for name in why.__slots__} | {"city": ("chico", "a/b") * 2})
    layers = write_saliency(both, tmp_path)
    assert [layer.path.name.split(".")[1] for layer in layers] == ["a-b", "chico"]
    with rasterio.open(layers[1].path) as source:
        corners = [(0, 0), (14, 0), (14, 14)]
        of_the_scene = map_points(grid.affine, [(0, 0), (512, 0), (512, 512)])
        assert np.allclose(map_points(source.transform, corners), of_the_scene, atol=1e-6)
        assert np.isfinite(source.read(1)).sum() == 7 * 14


def test_chips_of_two_cuts_in_one_scene_are_an_error(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    mixed = almaty.head(2).assign(stride=[240, 120])
    why = saliency(mixed, {"almaty": ALMATY}, {"layer4": np.ones((2, 7, 7), np.float32)})
    with pytest.raises(LayerError, match="2 strides: explain chips of one cut"):
        write_saliency(why, tmp_path)


def scene_of(path: Path, grid: GeoBox, **other: Any) -> Scene:
    scene = Scene(
        scene_id="almaty", city="chico", city_name=None, site="a", path=str(path), source=str(path), grid=grid,
        bands=3, dtype="uint8", nodata=None, gsd_m=0.5, acquired=None, georef="geotiff", accuracy_m=None, sha256="",
        valid_fraction=1.0, channels=Channels(),
    )  # fmt: skip
    return replace(scene, **other)


def test_the_masked_scene_keeps_what_lies_above_mean_and_sigma_and_no_hole(
    raster: Callable[..., Path], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(1, 255, (3, 1300, 1200), dtype=np.uint8)
    pixels[:, 200:330, 150:400] = 0
    path = raster("scene.tif", crs="EPSG:32643", origin=(653_000, 4_791_000), gsd=0.5, pixels=pixels, nodata=0)
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (1300, 1200), 0.5)
    chips = chip_table({"almaty": grid}, size=240, stride=120)  # the last 100 rows are under no chip
    maps = {name: random.normal(size=(len(chips), edge, edge)).astype(np.float32) for name, edge in NAMES.items()}
    layer = write_saliency(saliency(chips, {"almaty": grid}, maps), tmp_path)[0]
    masked = write_masked(layer.path, scene_of(path, grid), tmp_path, provenance={"config": "77"})
    assert masked == tmp_path / "masked" / layer.path.name and cog_validate(masked, strict=True)[:2] == (True, [])
    with rasterio.open(layer.path) as source:
        deep, cell = source.read(2).astype(float), source.res[0] / 0.5
    y, x = ((np.arange(length) + 0.5) / cell - 0.5 for length in grid.shape)
    full = ndimage.map_coordinates(deep, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    full[round(len(deep) * cell) :] = np.nan
    expected = (full > np.nanmean(deep) + np.nanstd(deep)) & (pixels != 0).all(axis=0)
    with rasterio.open(masked) as source:
        assert source.transform == grid.affine and source.dtypes == ("uint8",) * 3
        assert all(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums)
        kept, colours, tags = source.dataset_mask() > 0, source.read(), source.tags()
    assert 0.05 < expected.mean() < 0.3 and (kept != expected).sum() <= 3  # ties with the rounded threshold
    assert np.array_equal(colours[:, kept], pixels[:, kept]) and not colours[:, ~kept].any()
    assert tags["KEPT"].startswith("layer4 above 0.") and tags["CITY"] == "chico" and "77" in tags["dlslicer_geo"]


def test_a_turned_scene_is_masked_on_its_own_grid_and_gaps_between_chips_are_left_out(
    raster: Callable[..., Path], tmp_path: Path
) -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (512, 512), 0.5, turn=20)
    pixels = np.full((1, 512, 512), 900, np.uint16)
    path = raster("turned.tif", crs="EPSG:32643", pixels=pixels, transform=grid.affine)
    chips = chip_table({"almaty": grid}, size=128, stride=128).iloc[[0, 3, 12, 15]]  # the four corners
    maps = np.array([1, 0, 0, 0], np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)
    layer = write_saliency(saliency(chips, {"almaty": grid}, {"layer4": maps}), tmp_path)[0]
    grey = Channels(bands=(1, 1, 1), low=(0, 0, 0), high=(1800, 1800, 1800))
    masked = write_masked(layer.path, scene_of(path, grid, channels=grey), tmp_path)
    with rasterio.open(masked) as source:
        kept = source.dataset_mask() > 0
        assert kept[:128, :128].all() and kept.sum() == 128**2 and np.all(source.read()[:, kept] == 128)
        assert np.allclose(source.transform, grid.affine)


def test_a_saliency_file_of_another_scene_masks_nothing(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    maps = {"layer4": np.ones((len(almaty), 7, 7), np.float32)}
    layer = write_saliency(saliency(almaty, {"almaty": ALMATY}, maps), tmp_path)[0]
    scene = scene_of(tmp_path / "nothing.tif", ALMATY)
    with pytest.raises(LayerError, match=r"is of scene almaty .* give a saliency file of scene astana"):
        write_masked(layer.path, replace(scene, scene_id="astana"), tmp_path)
    with pytest.raises(LayerError, match=r"nothing\.tif cannot be read"):
        write_masked(layer.path, scene, tmp_path)
    assert not list((tmp_path / "masked").iterdir())


def test_qgis_finds_a_style_that_is_symmetric_around_zero_for_the_deepest_band(
    almaty: gpd.GeoDataFrame, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    maps = {name: random.normal(size=(len(almaty), edge, edge)).astype(np.float32) for name, edge in NAMES.items()}
    layer = write_saliency(saliency(almaty, {"almaty": ALMATY}, maps), tmp_path)[0]
    style = ElementTree.parse(layer.path.with_suffix(".qml")).getroot()
    renderer = None if style is None else style.find("pipe/rasterrenderer")
    assert renderer is not None and renderer.get("band") == "2" and renderer.get("type") == "singlebandpseudocolor"
    low, high = (float(renderer.get(f"classification{end}", "nan")) for end in ("Min", "Max"))
    assert layer.limits is not None and -low == high == pytest.approx(layer.limits[1], rel=1e-6)
    stops = [(float(item.get("value", "nan")), item.get("alpha")) for item in renderer.iter("item")]
    values = np.array([value for value, _ in stops])
    assert np.allclose(values, -values[::-1]) and np.all(np.diff(values) > 0) and (0.0, "0") in stops
