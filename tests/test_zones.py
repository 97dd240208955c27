"""Relevance summed up over polygons, and the files that hold it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio  # type: ignore[import-untyped]
import pytest
import rasterio
import shapely
from layer_tables import ALMATY, chip_table, grid_at, map_points, saliency
from odc.geo.geobox import GeoBox
from pyproj import Geod

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import by_polygon, read_polygons, write_polygons, write_saliency
from dlslicer_geo.types import Layer

HALVES = grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 0.5)
"""A scene of 240 m: layer1 is +1 in its western half and -3 in the eastern one."""


def halves(grid: GeoBox, out: Path, *, scene: str = "a", city: str = "chico", times: float = 1.0) -> Layer:
    chips = chip_table({scene: grid}, size=240, stride=240)
    west = (chips["col"] == 0).to_numpy()[:, None, None]
    maps = np.broadcast_to(np.where(west, 1, -3) * times, (len(chips), 8, 8)).astype(np.float32)
    return write_saliency(saliency(chips, {scene: grid}, {"layer1": maps, "layer4": -maps[:, :1, :1]}, city), out)[0]


def box_of(grid: GeoBox, rows: tuple[float, float], cols: tuple[float, float], crs: str | int) -> shapely.Polygon:
    corners = [(cols[0], rows[0]), (cols[1], rows[0]), (cols[1], rows[1]), (cols[0], rows[1])]
    shape = shapely.Polygon(map_points(grid.affine, corners))
    moved = gpd.GeoSeries([shape], crs=str(grid.crs)).to_crs(crs).iloc[0]
    assert isinstance(moved, shapely.Polygon)
    return moved


def test_means_weigh_cells_by_the_exact_share_that_a_polygon_covers(tmp_path: Path) -> None:
    layer = halves(HALVES, tmp_path)
    # 7.3 of 30 px cells on either side of the border at pixel 240; a third of the polygon is west of it
    shapes = [box_of(HALVES, (37, 100), (200, 320), 32643), box_of(HALVES, (3, 9), (1, 2), 32643)]
    found = by_polygon([layer], gpd.GeoDataFrame({"name": ["two sides", "a dot"]}, geometry=shapes, crs=32643))
    assert found["name"].tolist() == ["two sides", "a dot"] and found.crs == "EPSG:4326"
    assert found["mean_layer1"].tolist() == pytest.approx([(40 * 1 - 80 * 3) / 120, 1], rel=1e-6)
    assert found["mean_layer4"].tolist() == pytest.approx([(80 * 3 - 40) / 120, -1], rel=1e-6)
    assert found["positive_share_layer1"].tolist() == pytest.approx([40 / 280, 1], rel=1e-6)
    ground = [Geod(ellps="WGS84").geometry_area_perimeter(shape)[0] for shape in found.geometry]
    assert found["covered_m2"].tolist() == pytest.approx(np.abs(ground), rel=1e-4)
    # the west holds all that is positive on half of the ground
    assert found["enrichment_layer1"].tolist() == pytest.approx([2 * 40 / 120, 2], rel=1e-6)


@pytest.mark.parametrize("crs", [4326, 3857, "+proj=laea +lat_0=43 +lon_0=77"])
def test_polygons_of_any_crs_and_multipolygons_say_the_same(tmp_path: Path, crs: int | str) -> None:
    layer = halves(HALVES, tmp_path)
    parts = [box_of(HALVES, (30, 60), (30, 60), crs), box_of(HALVES, (300, 330), (300, 330), crs)]
    found = by_polygon([layer.path], gpd.GeoDataFrame(geometry=[shapely.MultiPolygon(parts)], crs=crs))
    assert found["mean_layer1"].tolist() == pytest.approx([-1], abs=2e-3)
    assert found["covered_m2"].iloc[0] == pytest.approx(2 * 15**2, rel=2e-3)  # at scale 1.0004 of this UTM zone


def test_a_polygon_larger_than_the_projection_of_a_scene_holds_all_of_it(tmp_path: Path) -> None:
    layer = halves(HALVES, tmp_path)
    world = shapely.box(-180, -89, 180, 89)
    comb = shapely.union_all([shapely.box(-180, -89, 180, 43.0), shapely.box(76, 43, 77.9, 43.5)])
    found = by_polygon([layer], gpd.GeoDataFrame(geometry=[world, comb], crs=4326))
    assert found["mean_layer1"].tolist() == pytest.approx([-1, -1], rel=1e-9)
    assert found["covered_m2"].tolist() == pytest.approx([240**2] * 2, rel=2e-3)


def test_a_turned_scene_is_summed_up_on_its_own_grid(tmp_path: Path) -> None:
    turned = grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 0.5, turn=30)
    layer = halves(turned, tmp_path)
    found = by_polygon([layer], gpd.GeoDataFrame(geometry=[box_of(turned, (37, 100), (200, 320), 4326)], crs=4326))
    assert found["mean_layer1"].tolist() == pytest.approx([(40 - 240) / 120], rel=1e-5)


def test_scenes_of_two_resolutions_are_added_by_the_ground_they_cover(tmp_path: Path) -> None:
    coarse = grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 1.0)
    layers = [halves(HALVES, tmp_path), halves(coarse, tmp_path, scene="b", times=5)]
    polygon = box_of(HALVES, (0, 480), (0, 480), 4326)  # all of the first, the north-western quarter of the other
    found = by_polygon(layers, gpd.GeoDataFrame(geometry=[polygon], crs=4326))
    assert len(found) == 1 and found["scenes"].tolist() == [2]
    assert found["mean_layer1"].tolist() == pytest.approx([(-1 + 5) / 2], rel=1e-4)
    assert found["covered_m2"].iloc[0] == pytest.approx(2 * 240**2, rel=2e-3)


def test_cities_are_kept_apart_and_polygons_without_a_cell_are_kept(tmp_path: Path) -> None:
    chips = chip_table({"a": HALVES}, size=240, stride=240)
    ones = np.ones((4, 8, 8), np.float32)
    layers = [
        *write_saliency(saliency(chips.iloc[2:], {"a": HALVES}, {"layer4": ones[2:]}, "chico"), tmp_path),
        *write_saliency(saliency(chips, {"a": HALVES}, {"layer4": ones}, "boston"), tmp_path),
    ]
    shapes = [box_of(HALVES, rows, (0, 99), 4326) for rows in ((700, 800), (10, 90), (300, 400))]
    found = by_polygon(layers, gpd.GeoDataFrame({"City": [1, 2, 3]}, geometry=shapes, crs=4326))
    assert found["polygon_id"].tolist() == [0, 1, 2, 2] and found["own_City"].tolist() == [1, 2, 3, 3]
    assert found["city"].fillna("none").tolist() == ["none", "boston", "boston", "chico"]
    assert found["scenes"].tolist() == [0, 1, 1, 1] and np.isnan(found["mean_layer4"].iloc[0])
    assert not found.geometry.iloc[0].is_empty


def test_evenly_spread_relevance_is_enriched_nowhere_and_none_at_all_has_no_share(tmp_path: Path) -> None:
    chips = chip_table({"a": ALMATY}, size=480, stride=240).iloc[:40]
    maps = {"layer1": np.full((40, 8, 8), 0.3, np.float32), "layer4": np.zeros((40, 8, 8), np.float32)}
    layers = write_saliency(saliency(chips, {"a": ALMATY}, maps), tmp_path)
    found = by_polygon(layers, gpd.GeoDataFrame(geometry=[box_of(ALMATY, (100, 300), (90, 900), 4326)], crs=4326))
    assert found["enrichment_layer1"].tolist() == pytest.approx([1], rel=1e-6)
    assert found["mean_layer4"].tolist() == [0]
    assert found[["positive_share_layer4", "enrichment_layer4"]].isna().all(axis=None)


def test_the_files_open_coloured_and_are_the_same_bytes_again(tmp_path: Path) -> None:
    layer = halves(HALVES, tmp_path)
    shapes = [box_of(HALVES, (0, 90), (0, 90), 4326), box_of(HALVES, (0, 90), (900, 990), 4326)]
    own = gpd.GeoDataFrame({"fid": [7, 7], "name": ["x", "y"], "tags": [["a"], []]}, geometry=shapes, crs=4326)
    found = by_polygon([layer], own)
    parquet, package = write_polygons(found, tmp_path / "run", provenance={"config": "77"})
    assert files.provenance_of(parquet) == {"config": "77"}
    back = gpd.read_parquet(parquet)
    assert back["own_fid"].tolist() == [7, 7] and back["mean_layer4"].isna().tolist() == [False, True]
    drawn = gpd.read_file(package, layer="polygons")
    assert set(drawn.geom_type) == {"MultiPolygon"} and drawn["tags"].tolist() == ['["a"]', "[]"]
    style = pyogrio.read_dataframe(package, layer="layer_styles")["styleQML"].iloc[0]
    assert 'attr="mean_layer4"' in style and style.count("<range ") == 8 and 'upper="0"' in style
    before = package.read_bytes()
    write_polygons(found, tmp_path / "run", provenance={"config": "77"})
    assert package.read_bytes() == before


def test_what_cannot_be_polygons_is_said_in_one_sentence(tmp_path: Path) -> None:
    layer = halves(HALVES, tmp_path)
    square = box_of(HALVES, (0, 90), (0, 90), 4326)
    bow_tie = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    with pytest.raises(LayerError, match=r"nowhere\.gpkg cannot be read as polygons"):
        read_polygons(tmp_path / "nowhere.gpkg")
    (tmp_path / "text.geojson").write_text("no polygons")
    with pytest.raises(LayerError, match=r"text\.geojson cannot be read as polygons"):
        read_polygons(tmp_path / "text.geojson")
    gpd.GeoDataFrame(geometry=[square, shapely.Point(0, 0)], crs=4326).to_file(tmp_path / "mixed.geojson")
    with pytest.raises(LayerError, match=r"1 of 2 features are no polygons \(number 1 is a Point\)"):
        read_polygons(tmp_path / "mixed.geojson")
    gpd.GeoDataFrame(geometry=[square, bow_tie], crs=4326).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(LayerError, match=r"1 of 2 polygons are not valid \(number 1: Self-intersection"):
        read_polygons(tmp_path / "bad.parquet")
    with pytest.raises(LayerError, match="no polygon in it"):
        by_polygon([layer], gpd.GeoDataFrame(geometry=[], crs=4326))
    with pytest.raises(LayerError, match="has no CRS"):
        by_polygon([layer], gpd.GeoDataFrame(geometry=[square]))
    with pytest.raises(LayerError, match="none of 1 polygons lies on any of 1 saliency files"):
        by_polygon([layer], gpd.GeoDataFrame(geometry=[shapely.box(-1, -1, 1, 1)], crs=4326))
    with pytest.raises(LayerError, match="no saliency file"):
        by_polygon([], gpd.GeoDataFrame(geometry=[square], crs=4326))


def test_scenes_that_lie_somewhere_in_their_city_are_on_no_polygon(tmp_path: Path) -> None:
    layer = halves(HALVES, tmp_path)
    chips = chip_table({"b": HALVES}, size=240, stride=240)
    maps = {name: np.full((4, 8, 8), 100, np.float32) for name in ("layer1", "layer4")}
    vague = write_saliency(replace(saliency(chips, {"b": HALVES}, maps), approximate=("b",)), tmp_path)
    polygons = gpd.GeoDataFrame(geometry=[box_of(HALVES, (0, 480), (0, 480), 4326)], crs=4326)
    assert by_polygon([layer, *vague], polygons)["mean_layer1"].tolist() == pytest.approx([-1], rel=1e-6)
    with pytest.raises(LayerError, match="all 1 saliency files are of scenes that lie somewhere"):
        by_polygon(vague, polygons)


def test_files_that_are_no_saliency_or_of_other_depths_are_named(tmp_path: Path) -> None:
    layer, square = halves(HALVES, tmp_path), box_of(HALVES, (0, 90), (0, 90), 4326)
    polygons = gpd.GeoDataFrame(geometry=[square], crs=4326)
    plain = tmp_path / "plain.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "uint8", "crs": "EPSG:32643"}
    with rasterio.open(plain, "w", **profile, transform=HALVES.affine) as target:
        target.write(np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(LayerError, match=r"plain\.tif is no saliency file"):
        by_polygon([replace(layer, path=plain)], polygons)
    chips = chip_table({"b": HALVES}, size=240, stride=240)
    other = write_saliency(saliency(chips, {"b": HALVES}, {"layer3": np.ones((4, 8, 8), np.float32)}), tmp_path)
    with pytest.raises(LayerError, match=r"has the depths layer3 and .* layer1, layer4"):
        by_polygon([layer, *other], polygons)
