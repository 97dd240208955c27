from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pyogrio  # type: ignore[import-untyped]
import pytest
import rasterio
from affine import Affine
from layer_tables import ALMATY, CITIES, ONE_CHIP, chip_table, grid_at, naip_grids, predictions, saliency
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from dlslicer_geo.colours import PALETTE, city_colour
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import write_predictions, write_saliency
from dlslicer_geo.types import Predictions


@pytest.fixture(scope="module")
def almaty() -> gpd.GeoDataFrame:
    return chip_table({"almaty": ALMATY}, size=480, stride=240)


@pytest.fixture
def naip(data_root: Path) -> tuple[gpd.GeoDataFrame, dict[str, GeoBox]]:
    grids = naip_grids(data_root, [f"chico_2018_{i}" for i in range(4)])
    return chip_table(grids, size=256, stride=256), grids


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_raster_is_a_strict_cog_and_lists_its_categories(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    layers = write_predictions(predictions(almaty), almaty, tmp_path, provenance={"config": "77"})
    assert [layer.kind for layer in layers] == ["chips", "city", "confidence"]
    for layer in layers[1:]:
        valid, errors, warnings = cog_validate(layer.path, strict=True)
        assert valid and not errors and not warnings
        assert layer.path.with_suffix(".qml").exists()
    with rasterio.open(tmp_path / "city" / "almaty.tif") as city:
        assert city.nodata == 255 and city.descriptions == ("predicted city",) and city.dtypes == ("uint8",)
        colours = city.colormap(1)
        assert ["#{:02x}{:02x}{:02x}".format(*colours[i][:3]) for i in range(3)] == list(PALETTE[:3])
        assert city.tags()["CITIES"] == " ".join(CITIES) and "77" in city.tags()["dlslicer_geo"]
    names = ET.parse(tmp_path / "city" / "almaty.tif.aux.xml").getroot()
    assert [category.text for category in names.iter("Category")] == list(CITIES)


def test_a_large_cog_has_overviews_and_stays_strict(tmp_path: Path) -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_792_000, (1200, 1200), 10)
    chips = chip_table({"wide": grid}, size=2, stride=58).assign(stride=2)
    for layer in write_predictions(predictions(chips), chips, tmp_path)[1:]:
        assert cog_validate(layer.path, strict=True)[0]
        with rasterio.open(layer.path) as source:
            assert min(source.shape) > 512 and source.overviews(1)


def test_cells_coincide_with_the_stride_cells_of_a_scene_in_its_own_zone(
    almaty: gpd.GeoDataFrame, tmp_path: Path
) -> None:
    write_predictions(predictions(almaty), almaty, tmp_path)
    with rasterio.open(tmp_path / "city" / "almaty.tif") as city:
        assert city.crs.to_epsg() == 32643 and city.shape == (20, 20)
        assert city.transform.almost_equals(Affine(100, 0, 653_000, 0, -100, 4_791_000), precision=1e-5)


def test_a_cell_averages_the_chips_that_cover_its_centre(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    found = predictions(almaty)
    write_predictions(found, almaty, tmp_path)
    with (
        rasterio.open(tmp_path / "city" / "almaty.tif") as city,
        rasterio.open(tmp_path / "confidence" / "almaty.tif") as confidence,
    ):
        numbers, sure = city.read(1), confidence.read(1)
    chip = found.probabilities.reshape(19, 19, 3)
    for row, col in [(0, 0), (5, 7), (19, 3)]:
        mean = chip[max(row - 1, 0) : min(row, 18) + 1, max(col - 1, 0) : min(col, 18) + 1].mean(axis=(0, 1))
        assert numbers[row, col] == mean.argmax() and sure[row, col] == pytest.approx(mean.max(), abs=1e-6)


def test_a_centre_on_the_edge_of_two_chips_belongs_to_the_one_that_begins_there(tmp_path: Path) -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_789_480, (480, 1920), 1)
    chips = chip_table({"edge": grid}, size=480, stride=320)
    write_predictions(predictions(chips), chips, tmp_path)
    with rasterio.open(tmp_path / "confidence" / "edge.tif") as confidence:
        chip = predictions(chips).probabilities
        assert len(chips) == 5 and confidence.read(1)[0, 1] == pytest.approx(chip[1].max(), abs=1e-6)


def test_small_scenes_of_a_city_share_an_area_and_ground_without_a_chip_is_nodata(
    naip: tuple[gpd.GeoDataFrame, dict[str, GeoBox]], tmp_path: Path
) -> None:
    chips, _ = naip
    layers = write_predictions(predictions(chips), chips, tmp_path)
    assert [layer.path.name for layer in layers[1:]] == ["chico_2018_32610.tif"] * 2
    with rasterio.open(layers[1].path) as city, rasterio.open(layers[2].path) as confidence:
        assert (city.read(1) != 255).sum() == 4
        assert np.array_equal(np.isfinite(confidence.read(1)), city.read(1) != 255)
        assert city.res == pytest.approx((153.6, 153.6), abs=1e-3)


def test_an_area_south_of_the_equator_lies_in_a_southern_zone(tmp_path: Path) -> None:
    grid = grid_at("EPSG:32756", 300_000, 6_250_600, (600, 600), 1)
    chips = chip_table({"sydney": grid}, size=200, stride=200)
    city = write_predictions(predictions(chips), chips, tmp_path)[1]
    with rasterio.open(city.path) as source:
        assert source.crs.to_epsg() == 32756 and tuple(source.bounds) == pytest.approx(
            (300_000, 6_250_000, 300_600, 6_250_600)
        )


def test_a_small_scene_of_an_unknown_city_stays_alone(tmp_path: Path) -> None:
    chips = chip_table({"somewhere": ONE_CHIP}, size=480, stride=480, city=None)
    layers = write_predictions(predictions(chips), chips, tmp_path)
    assert layers[1].path.name == "somewhere.tif" and layers[1].group == "a"


def test_the_geopackage_has_a_row_per_chip_its_style_and_the_chips_geometry(
    almaty: gpd.GeoDataFrame, tmp_path: Path
) -> None:
    found = predictions(almaty)
    path = write_predictions(found, almaty, tmp_path, provenance={"config": "77"})[0].path
    table = gpd.read_file(path, layer="predictions")
    assert table.crs == 4326 and table["chip_id"].tolist() == found.chip_id.tolist()
    assert table.geometry.geom_equals(almaty.geometry).all()
    assert table["city"].tolist() == list(found.city)
    assert np.allclose(table[[f"prob_{code}" for code in CITIES]], found.probabilities)
    ranked = np.sort(found.probabilities, axis=1)[:, ::-1].astype(float)
    assert np.allclose(table["margin"], ranked[:, 0] - ranked[:, 1])
    assert table["entropy"].between(0, 1).all()
    assert table["top5"][0].startswith(f"{found.city[0]} {found.confidence[0]:.2f}; ")
    assert table["colour"].tolist() == [city_colour(CITIES.index(code)) for code in found.city]
    style = pyogrio.read_dataframe(path, layer="layer_styles", read_geometry=False)
    assert style["f_table_name"].tolist() == ["predictions"] * 4
    assert style["useAsDefault"].tolist() == [True, False, False, False]
    legend = ET.fromstring(style["styleQML"][0].split("\n", 1)[1]).iter("category")
    assert [category.get("value") for category in legend] == list(CITIES)
    with closing(sqlite3.connect(path)) as database:
        assert "77" in str(database.execute("SELECT metadata FROM gpkg_metadata").fetchall())


def test_an_unknown_truth_is_null_and_one_city_has_no_entropy(tmp_path: Path) -> None:
    chips = chip_table({"somewhere": ONE_CHIP}, size=480, stride=480, city=None)
    one = Predictions(
        cities=("chico",),
        chip_id=np.array([0]),
        scene_id=("somewhere",),
        truth=(None,),
        probabilities=np.ones((1, 1), np.float32),
    )
    table = gpd.read_file(write_predictions(one, chips, tmp_path)[0].path, layer="predictions")
    assert table["truth"].isna().all() and table["entropy"][0] == 0 and table["margin"][0] == 1


def test_predictions_come_back_to_their_chips_whatever_their_order(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    found = predictions(almaty)
    turned = Predictions(
        cities=found.cities,
        chip_id=found.chip_id[::-1],
        scene_id=found.scene_id[::-1],
        truth=found.truth[::-1],
        probabilities=found.probabilities[::-1],
    )
    write_predictions(found, almaty, tmp_path / "a")
    write_predictions(turned, almaty, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_same_input_gives_the_same_bytes(
    naip: tuple[gpd.GeoDataFrame, dict[str, GeoBox]], tmp_path: Path
) -> None:
    chips, grids = naip
    maps = {"layer4": np.random.default_rng(0).normal(size=(len(chips), 7, 7)).astype(np.float32)}
    why = saliency(chips, grids, maps)
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    for name in ("a", "b"):
        write_predictions(predictions(chips), chips, tmp_path / name)
        write_saliency(why, tmp_path / name)
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_every_output_of_approximate_chips_says_so(tmp_path: Path) -> None:
    grids = {f"s{i}": grid_at("EPSG:32643", 653_000 + 500 * i, 4_791_000, (480, 480), 2000 / 4800) for i in range(2)}
    chips = chip_table(grids, size=480, stride=480).assign(approximate=True)
    layers = write_predictions(predictions(chips), chips, tmp_path)
    assert all(layer.approximate for layer in layers)
    assert sorted(path.name for path in (tmp_path / "city").glob("*.tif")) == ["s0.tif", "s1.tif"]  # no neighbours
    for layer in layers[1:]:
        with rasterio.open(layer.path) as source:
            assert source.tags()["POSITION"].startswith("approximate")
    assert gpd.read_file(layers[0].path, layer="predictions")["approximate"].all()
    with closing(sqlite3.connect(layers[0].path)) as database:
        found = database.execute("SELECT styleQML, description FROM layer_styles").fetchall()
    assert "chico (approximate position)" in found[0][0]
    assert all("(approximate position)" in style and 'value="dash"' in style for style, _ in found)
    assert all("no distance" in description for _, description in found)
    why = saliency(chips, grids, {"layer4": np.ones((2, 4, 4), np.float32)})
    exact, vague = write_saliency(dataclasses.replace(why, approximate=("s1",)), tmp_path)
    assert (exact.approximate, vague.approximate) == (False, True)
    with rasterio.open(vague.path) as source:
        assert "POSITION" in source.tags()


def test_a_chip_that_is_not_in_the_table_is_an_error(almaty: gpd.GeoDataFrame, tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="360 of 361 predicted chips are not in the chip table"):
        write_predictions(predictions(almaty), almaty.head(1), tmp_path)
    with pytest.raises(LayerError, match="no predictions"):
        write_predictions(predictions(almaty.head(0)), almaty, tmp_path)


def test_the_palette_has_45_distinct_colours_and_then_repeats() -> None:
    assert len(set(PALETTE)) == 45 and city_colour(45) == PALETTE[0]
