from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import duckdb
import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio  # type: ignore[import-untyped]
import pytest
import rasterio
import shapely
from layer_tables import ALMATY, CITIES, chip_table, doubting, grid_at, predictions, saliency
from rio_cogeo.cogeo import cog_validate

from dlslicer_geo.errors import LayerError
from dlslicer_geo.files import write_table
from dlslicer_geo.layers import write_flatgeobuf, write_predictions, write_project, write_saliency
from dlslicer_geo.layers.fills import chip_styles
from dlslicer_geo.layers.rasters import unique_name
from dlslicer_geo.types import Layer

NAMES = ["a/b", "a-b", "a.b", "../a", "..", ".", "", "-", "東京", "京都", "x" * 200, "x" * 201, "a\nb", ".a", "a b"]
NAMES += ["A-b", "a-B", "CHICO", "Chico", "chico"]


@pytest.fixture(scope="module")
def almaty() -> gpd.GeoDataFrame:
    return chip_table({"almaty": ALMATY}, size=480, stride=240)


@pytest.fixture(scope="module")
def written(almaty: gpd.GeoDataFrame, tmp_path_factory: pytest.TempPathFactory) -> list[Layer]:
    folder = tmp_path_factory.mktemp("run") / "gis"
    found = doubting(predictions(almaty), np.arange(len(almaty)) % 3 == 0)
    maps = {"layer2": np.ones((len(almaty), 8, 8), np.float32), "layer4": np.ones((len(almaty), 4, 4), np.float32)}
    return [
        *write_predictions(found, almaty, folder),
        *write_saliency(saliency(almaty, {"almaty": ALMATY}, maps), folder),
    ]


def test_names_that_differ_give_files_that_differ_and_lie_in_their_folder() -> None:
    parts = [(name,) for name in NAMES] + [("a.b", "c"), ("a", "b.c"), ("a-b", "c"), ("a/b", "c")]
    parts += [(unique_name("a/b"),)]  # what was made for another name is not taken by its own
    names = [unique_name(*part) for part in parts]
    assert len({name.lower() for name in names}) == len(parts), "macOS and Windows ignore case"
    for name in names:
        assert Path(name).name == name and len(name) < 200 and not name.startswith(".") and name.isascii()
    assert unique_name("almaty_2020-01-02", "chico", "relevance-cam") == "almaty_2020-01-02.chico.relevance-cam"


def test_two_scenes_whose_names_look_alike_on_disk_keep_their_own_rasters(tmp_path: Path) -> None:
    names = ("a/b", "a-b", "../a-b")
    grids = {name: grid_at("EPSG:32643", 653_000 + 900 * i, 4_791_000, (480, 480), 1) for i, name in enumerate(names)}
    chips = chip_table(grids, size=240, stride=240)
    layers = write_predictions(predictions(chips), chips, tmp_path / "gis")
    layers += write_saliency(
        saliency(chips, grids, {"layer4": np.ones((len(chips), 4, 4), np.float32)}), tmp_path / "gis"
    )
    assert len({layer.path for layer in layers}) == len(layers) == 1 + 3 * 3
    lefts = []
    for layer in layers[1:]:
        with rasterio.open(layer.path) as source:
            lefts.append(round(source.bounds.left))
    assert sorted(lefts) == sorted([653_000, 653_900, 654_800] * 3)
    assert [path.name for path in tmp_path.iterdir()] == ["gis"]


def test_a_scene_called_like_the_area_of_others_keeps_its_own_rasters(tmp_path: Path) -> None:
    """Scenes of few chips are laid together; one of many is laid alone, under its own name."""
    large = "chico_2020_32643"
    grids = {large: grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 1)}
    grids |= {f"small{i}": grid_at("EPSG:32643", 663_000 + 600 * i, 4_791_000, (480, 480), 1) for i in range(2)}
    chips = chip_table(grids, size=60, stride=60).assign(city="chico", acquired="2020")
    chips = chips[(chips["scene_id"] == large) | (chips.groupby("scene_id").cumcount() < 3)]
    layers = write_predictions(predictions(chips), chips, tmp_path / "gis")
    assert sorted(layer.title for layer in layers if layer.kind == "city") == [
        f"{large}: city", f"{large}_together: city",
    ]  # fmt: skip
    assert len({layer.path for layer in layers}) == 5


def test_every_band_has_a_description_statistics_without_nodata_and_its_scale(written: list[Layer]) -> None:
    for layer in written[1:]:
        assert cog_validate(layer.path, strict=True) == (True, [], [])
        assert layer.path.with_suffix(".qml").exists()
        with rasterio.open(layer.path) as source:
            assert all(source.descriptions) and source.nodata is not None
            assert set(source.scales) == {1.0} and set(source.offsets) == {0.0}
            for band in source.indexes:
                values, tags = source.read(band, masked=True), source.tags(band)
                assert float(tags["STATISTICS_MINIMUM"]) == pytest.approx(float(values.min()))
                assert float(tags["STATISTICS_MAXIMUM"]) == pytest.approx(float(values.max())), "255 is no city"
                assert float(tags["STATISTICS_MEAN"]) == pytest.approx(float(values.mean()), rel=1e-5)
                assert float(tags["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * (~values.mask).mean(), rel=1e-3)


def test_a_flatgeobuf_holds_the_chips_is_found_by_place_and_has_a_style(written: list[Layer], tmp_path: Path) -> None:
    path = write_flatgeobuf(written[0].path, tmp_path / "a.fgb")
    chips = gpd.read_file(written[0].path, layer="predictions").sort_values("chip_id", ignore_index=True)
    flat = gpd.read_file(path).sort_values("chip_id", ignore_index=True)
    assert flat.crs == 4326 and flat.geometry.geom_equals(chips.geometry).all()
    assert flat.drop(columns="geometry").equals(chips.drop(columns="geometry"))
    assert pyogrio.read_info(path)["capabilities"]["fast_spatial_filter"]
    place = chips.geometry[7].centroid
    near = pyogrio.read_dataframe(path, bbox=(place.x, place.y, place.x, place.y))
    assert sorted(near["chip_id"]) == sorted(chips.loc[chips.intersects(place), "chip_id"])
    assert 'attr="answer"' in path.with_suffix(".qml").read_text()
    again = write_flatgeobuf(written[0].path, tmp_path / "b" / "a.fgb")
    assert again.read_bytes() == path.read_bytes()


def test_tables_are_read_back_by_duckdb_pyarrow_and_pyogrio(
    almaty: gpd.GeoDataFrame, written: list[Layer], tmp_path: Path
) -> None:
    path = write_table(almaty, tmp_path / "chips.parquet", {"config": "77"})
    query = "SELECT count(*), min(bbox.xmin), max(bbox.ymax), any_value(geometry) FROM read_parquet(?)"
    number, west, north, outline = duckdb.execute(query, [str(path)]).fetchall()[0]
    assert number == len(almaty) and pq.read_table(path).num_rows == len(almaty)
    assert (west, north) == pytest.approx((almaty.total_bounds[0], almaty.total_bounds[3]), abs=1e-5)
    assert shapely.from_wkb(outline).geom_type == "Polygon"
    _, arrow = pyogrio.read_arrow(written[0].path, layer="predictions")
    assert arrow.num_rows == len(almaty) and "prob_chico" in arrow.column_names


def test_the_verdict_knows_unknown_only_where_the_model_can_say_so() -> None:
    def verdict(answers: dict[str, str]) -> tuple[str, list[Any]]:
        style = next(style for style in chip_styles(answers) if style.name == "Right or wrong")
        root = ET.fromstring(style.qml.split("\n", 1)[1])
        renderer = root.find("renderer-v2")
        assert renderer is not None
        return renderer.get("attr", ""), [entry.get("value") for entry in root.iter("category")]

    assert verdict({"chico": "#e69f00"})[1] == ["right", "wrong", "no truth"]
    expression, values = verdict({"chico": "#e69f00", "unknown": "#b8b8b8"})
    assert values == ["right", "wrong", "unknown", "no truth"]
    assert expression.index("IS NULL") < expression.index("'unknown'") < expression.index("'right'")


def test_a_style_of_characters_that_xml_cannot_hold_is_still_a_document() -> None:
    odd = 'a\x00\x0b\ud800<b>&"\n'
    for style in chip_styles({odd: "#e69f00"}):
        ET.fromstring(style.qml.split("\n", 1)[1])
        style.qml.encode()


def test_a_project_of_hundreds_of_layers_folds_its_groups_and_names_each_once(
    written: list[Layer], tmp_path: Path
) -> None:
    city = written[1]
    many = [Layer(kind="city", path=city.path, title=f"{i}", group=f"town {i % 7}") for i in range(300)]
    path = write_project(many, tmp_path / "project.qgz", title="many")[0]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["project.qgs"] and archive.infolist()[0].date_time[0] == 1980
        root = ET.fromstring(archive.read("project.qgs").split(b"\n", 1)[1])
    groups = list(root.iter("layer-tree-group"))
    assert [group.get("expanded") for group in groups] == [None, "1", *["0"] * 7]
    ids = [layer.findtext("id", "") for layer in root.iter("maplayer")]
    assert len(set(ids)) == 300 and min(map(len, ids)) > 10, "QGIS replaces shorter ones"
    assert [layer.get("id") for layer in groups[2].iter("layer-tree-layer")] == ids[:43]
    assert all((layer.findtext("datasource") or "").startswith("../") for layer in root.iter("maplayer"))


def test_a_layer_that_is_gone_is_named(tmp_path: Path) -> None:
    layer = Layer(kind="city", path=tmp_path / "gone.tif", title="gone", cities=CITIES)
    with pytest.raises(LayerError, match=r"gone\.tif cannot be shown in a project"):
        write_project([layer], tmp_path / "project.qgz", title="")
    assert not (tmp_path / "project.qgz").exists()
