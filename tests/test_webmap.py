from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from map_layers import CITIES, chip_layer, naip_layers, scene_layer, write
from map_pages import content_of, pixels_of
from pyproj import Transformer
from shapely.geometry import Point, box

from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Channels, Layer
from dlslicer_geo.webmap import webmap
from dlslicer_geo.webmap.overlays import picture, scale_end


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("map")
    layers = naip_layers(Path(__file__).parents[1] / "data", out)
    layers.append(scene_layer(layers, out / "scenes.parquet"))
    webmap(layers, title="Which city is this?").save(out / "map.html")
    return out / "map.html"


def test_the_page_names_nothing_outside_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    loaded = re.findall(r"""(?:\bsrc|<link[^>]*href)\s*=\s*["']([^"']+)""", text) + re.findall(
        r"url\(([^)]+)\)", text
    )
    assert [found for found in loaded if not found.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in text and "L.map(" in text and "//cdn" not in text


def test_the_same_layers_give_the_same_bytes(data_root: Path, tmp_path: Path) -> None:
    layers = naip_layers(data_root, tmp_path)
    webmap(layers).save(tmp_path / "a.html")
    shown_before = webmap(layers)
    shown_before.get_root().render()
    shown_before.save(tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_scenes_of_a_city_share_one_switch(page: Path) -> None:
    sections = {section["kind"]: section for section in content_of(page)["sections"]}
    assert list(sections) == ["chips", "saliency", "scenes", "image"]
    assert [group["name"] for group in sections["saliency"]["groups"]] == ["chico", "claremont", "riverside"]
    assert [len(group["items"]) for group in sections["saliency"]["groups"]] == [4, 4, 4]
    assert sections["saliency"]["notes"] == ["Red speaks for the city."]


def test_names_cannot_break_out_of_the_data(tmp_path: Path) -> None:
    layer = chip_layer(tmp_path / "p.gpkg", [("</script><script>x", "chico", 4, box(0, 0, 1, 1))])
    webmap([layer], title="</title><script>y").save(tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "<script>x" not in text and "<script>y" not in text and "<img src=x" not in text
    assert content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]["scene"] == [
        "</script><script>x"
    ]


def test_a_known_point_of_a_2_km_scene_at_almaty_lies_where_it_is(tmp_path: Path) -> None:
    """Stretched between its corners without warping, this scene is tens of metres off (trap 7)."""
    values = np.zeros((2, 400, 400), np.float32)
    values[0, 40, 350] = 1
    path = write(tmp_path / "s.tif", values, "EPSG:32643", Affine(5, 0, 653_000, 0, -5, 4_791_000), nodata=np.nan)
    webmap([Layer(kind="saliency", path=path, title="s", limits=(-1, 1))]).save(tmp_path / "map.html")
    item = content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]
    alpha = pixels_of(item["depths"][0]["src"])[..., 3].astype(float)
    rows, cols = np.indices(alpha.shape)
    row, col = (rows * alpha).sum() / alpha.sum() + 0.5, (cols * alpha).sum() / alpha.sum() + 0.5
    (south, west), (north, east) = item["bounds"]
    to_web = Transformer.from_crs(4326, 3857, always_xy=True)
    (left, bottom), (right, top) = to_web.transform(west, south), to_web.transform(east, north)
    x = left + (right - left) * col / alpha.shape[1]
    y = top - (top - bottom) * row / alpha.shape[0]
    true_x, true_y = Transformer.from_crs(32643, 3857, always_xy=True).transform(
        653_000 + 350.5 * 5, 4_791_000 - 40.5 * 5
    )
    on_the_ground = np.cos(np.radians(north))
    assert np.hypot(x - true_x, y - true_y) * on_the_ground < 2.5, "half a cell"


def test_saliency_is_clear_at_zero_blue_below_and_red_above(tmp_path: Path) -> None:
    values = np.zeros((2, 4, 60), np.float32)
    values[0, :, :20], values[0, :, 40:], values[1] = -1, 1, 9
    path = write(tmp_path / "s.tif", values, "EPSG:3857", Affine(10, 0, 0, 0, -10, 0), nodata=np.nan)
    webmap([Layer(kind="saliency", path=path, title="s", limits=(-1, 1))]).save(tmp_path / "map.html")
    drawn = pixels_of(
        content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]["depths"][0]["src"]
    ).astype(int)
    middle = drawn[drawn.shape[0] // 2]
    blue, clear, red = middle[10], middle[len(middle) // 2], middle[-10]
    assert blue[2] > blue[0] + 50 and blue[3] == 255 and red[0] > red[2] + 50 and red[3] == 255 and clear[3] == 0


def test_city_numbers_are_never_mixed_and_keep_the_palette_of_the_file(tmp_path: Path) -> None:
    numbers = np.tile(np.array([[0, 3], [3, 255]], np.uint8), (6, 6))[None]
    transform = Affine(100, 0, 653_000, 0, -100, 4_791_000)
    path = write(tmp_path / "c.tif", numbers, "EPSG:32643", transform, nodata=255, photometric="palette")
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {0: (230, 159, 0, 255), 3: (240, 228, 66, 255)})
    webmap([Layer(kind="city", path=path, title="c", cities=CITIES)]).save(tmp_path / "map.html")
    drawn = pixels_of(content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]["src"])
    colours = {tuple(int(v) for v in colour) for colour in drawn.reshape(-1, 4) if colour[3]}
    assert colours == {(230, 159, 0, 255), (240, 228, 66, 255)}


def test_the_cells_of_a_city_raster_keep_their_edges_on_the_web(tmp_path: Path) -> None:
    """Warped at the resolution of its own cells, an edge would be up to half a cell off: 50 m."""
    numbers = (np.indices((14, 14)).sum(axis=0) % 2).astype(np.uint8)[None]
    path = write(tmp_path / "c.tif", numbers, "EPSG:32643", Affine(100, 0, 653_000, 0, -100, 4_791_000), nodata=255)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {0: (230, 159, 0, 255), 1: (240, 228, 66, 255)})
    webmap([Layer(kind="city", path=path, title="c")]).save(tmp_path / "map.html")
    item = content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]
    drawn = pixels_of(item["src"])
    inside = np.random.default_rng(0).uniform(0.15, 0.85, (200, 2))
    cell = np.random.default_rng(1).integers(0, 14, (200, 2))
    x, y = (cell + inside).T * 100 * np.array([[1], [-1]]) + np.array([[653_000], [4_791_000]])
    web_x, web_y = Transformer.from_crs(32643, 3857, always_xy=True).transform(x, y)
    (south, west), (north, east) = item["bounds"]
    (left, right), (bottom, top) = Transformer.from_crs(4326, 3857, always_xy=True).transform(
        [west, east], [south, north]
    )
    rows = ((top - web_y) / (top - bottom) * drawn.shape[0]).astype(int)
    cols = ((web_x - left) / (right - left) * drawn.shape[1]).astype(int)
    assert ((drawn[rows, cols, 1] == 228) == (cell.sum(axis=1) % 2 == 1)).all()


def test_imagery_is_clear_where_it_is_not_valid_and_never_large(tmp_path: Path) -> None:
    pixels = np.full((3, 300, 3000), 120, np.uint8)
    pixels[:, :, :1500] = 0
    path = write(tmp_path / "i.tif", pixels, "EPSG:32643", Affine(1, 0, 653_000, 0, -1, 4_791_000), nodata=0)
    webmap([Layer(kind="image", path=path, title="i", group="almaty")]).save(tmp_path / "map.html")
    drawn = pixels_of(content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]["src"])
    assert max(drawn.shape) == 2048
    assert drawn[drawn.shape[0] // 2, 100, 3] == 0 and drawn[drawn.shape[0] // 2, -100, 3] == 255


def test_imagery_is_drawn_as_the_model_sees_it(tmp_path: Path) -> None:
    values = np.full((3, 64, 64), 1500, np.uint16)
    path = write(tmp_path / "u.tif", values, "EPSG:32643", Affine(2, 0, 655_000, 0, -2, 4_790_000))
    channels = Channels(bands=(1, 2, 3), low=(1000, 1000, 0), high=(2000, 3000, 1500))
    layer = Layer(kind="image", path=path, title="u", channels=channels)
    drawn = pixels_of(picture(layer)["src"])
    middle = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2]
    assert [int(value) for value in middle[:3]] == pytest.approx([128, 64, 255], abs=4)


def test_approximate_positions_are_said_in_the_panel_and_dashed(tmp_path: Path) -> None:
    scenes = gpd.GeoDataFrame(
        {"city": ["ALA", "ALA"], "site": ["a", "b"], "georef": ["approximate", "geotiff"]},
        geometry=[box(76.9, 43.2, 76.92, 43.22), box(77, 43.2, 77.02, 43.22)],
        crs=4326,
    )
    scenes.to_parquet(tmp_path / "scenes.parquet")
    layer = Layer(kind="scenes", path=tmp_path / "scenes.parquet", title="Scenes")
    webmap([layer]).save(tmp_path / "exact.html")
    groups = content_of(tmp_path / "exact.html")["sections"][0]["groups"]
    assert [group["name"] for group in groups] == ["ALA", "ALA (approximate)"]
    assert content_of(tmp_path / "exact.html")["approximate"] is False
    webmap([dataclasses.replace(layer, approximate=True)]).save(tmp_path / "vague.html")
    assert content_of(tmp_path / "vague.html")["approximate"] is True


def test_a_map_of_two_continents_starts_at_its_first_place(tmp_path: Path) -> None:
    rows = [("a", "riverside", 2, box(-117.5, 33.9, -117.4, 34)), ("b", "chico", 0, box(76.9, 43.2, 77, 43.3))]
    webmap([chip_layer(tmp_path / "p.gpkg", rows)]).save(tmp_path / "map.html")
    assert content_of(tmp_path / "map.html")["start"] == 0
    assert content_of(tmp_path / "map.html")["places"][0]["name"] == "chico"
    near = [("a", "riverside", 2, box(-117.5, 33.9, -117.4, 34)), ("b", "chico", 0, box(-121.9, 39.7, -121.8, 39.8))]
    webmap([chip_layer(tmp_path / "near.gpkg", near)]).save(tmp_path / "near.html")
    assert content_of(tmp_path / "near.html")["start"] == -1


def test_every_depth_is_drawn_on_its_own_scale_and_coverage_is_not(page: Path) -> None:
    saliency = next(s for s in content_of(page)["sections"] if s["kind"] == "saliency")
    item = saliency["groups"][0]["items"][1]
    assert [depth["name"] for depth in item["depths"]] == ["layer2", "layer4"]
    shallow, deep = item["depths"]
    assert deep["limit"] == 2.0, "the layer's own limits"
    assert 2.5 < shallow["limit"] < 3.0, "the 99th percentile of waves three times as high"
    assert shallow["src"] != deep["src"]
    assert scale_end(np.array([0.0, np.nan])) == 1.0
    assert scale_end(np.array([*[1.0] * 99, -5.0, np.nan])) == pytest.approx(1.04)


def test_links_are_relative_to_the_page_and_never_hold_a_secret(tmp_path: Path) -> None:
    paths = ["../a/x y#1.tif", "https://u:p@host/a.tif", "https://host/a.tif?sig=s", "/vsis3/b/a.tif", "s3://b/a.tif"]
    paths += ["https://host/a.tif", "javascript:alert(1)"]
    scenes = gpd.GeoDataFrame(
        {"scene_id": [f"../../{i}" for i in range(7)], "city": "c", "site": None, "path": paths},
        geometry=[box(i, 0, i + 1, 1) for i in range(7)],
        crs=4326,
    )
    (tmp_path / "run").mkdir()
    scenes.to_parquet(tmp_path / "run" / "scenes.parquet")
    made = webmap([Layer(kind="scenes", path=tmp_path / "run" / "scenes.parquet", title="Scenes")])
    for place, before in (("run/map.html", "../a/"), ("elsewhere/deep/map.html", "../../a/")):
        assert made.save(tmp_path / place) == [tmp_path / place]
        facts = content_of(tmp_path / place)["scenes"]
        assert facts["../../0"]["href"] == before + "x%20y%231.tif"
        assert [facts[f"../../{i}"]["href"] for i in range(1, 6)] == [None] * 4 + ["https://host/a.tif"]
        assert facts["../../6"]["href"].endswith("javascript%3Aalert%281%29")
        text = (tmp_path / place).read_text(encoding="utf-8")
        assert "u:p@" not in text and "sig=s" not in text and str(tmp_path) not in text


def test_only_offered_basemaps_may_be_asked_for_images(tmp_path: Path) -> None:
    layer = chip_layer(tmp_path / "p.gpkg", [("a", "chico", 0, box(0, 0, 1, 1))])
    webmap([layer]).save(tmp_path / "none.html")
    webmap([layer], basemaps=("osm",)).save(tmp_path / "osm.html")
    none, osm = ((tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("none", "osm"))
    assert 'img-src data:"' in none and "https://tile" not in none
    assert 'img-src data: https://tile.openstreetmap.org"' in osm and "arcgisonline" not in osm
    with pytest.raises(LayerError, match="no basemap 'google': name some of osm, satellite"):
        webmap([layer], basemaps=("google",))


@pytest.mark.slow
def test_what_exceeds_the_budget_lies_beside_the_page(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 1800, 1800), dtype=np.uint8)
    image = write(tmp_path / "i.tif", noise, "EPSG:32643", Affine(1, 0, 653_000, 0, -1, 4_791_000))
    layers = [
        chip_layer(tmp_path / "p.gpkg", [("i", "chico", 0, box(76.88, 43.25, 76.89, 43.26))]),
        Layer(kind="image", path=image, title="i"),
    ]
    small = webmap(layers).save(tmp_path / "small" / "map.html")
    assert small == [tmp_path / "small" / "map.html"] and small[0].stat().st_size > 1_500_000
    large = webmap(layers, budget_mb=1).save(tmp_path / "large" / "map.html")
    assert large[0].stat().st_size < 1_000_000 and {path.parent.name for path in large[1:]} == {"map"}


def test_what_cannot_be_drawn_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="no layers"):
        webmap([])
    with pytest.raises(LayerError, match="cannot be read as a raster"):
        webmap([Layer(kind="image", path=tmp_path / "none.tif", title="")])
    with pytest.raises(LayerError, match="cannot be read as a table of chips"):
        webmap([Layer(kind="chips", path=tmp_path / "none.gpkg", title="")])
    gpd.GeoDataFrame({"city": ["a"]}, geometry=[Point(0, 0).buffer(1)], crs=4326).to_file(tmp_path / "bare.gpkg")
    with pytest.raises(LayerError, match="has no column chip_id"):
        webmap([Layer(kind="chips", path=tmp_path / "bare.gpkg", title="")])
    layer = chip_layer(tmp_path / "nan.gpkg", [("a", "chico", 0, box(0, 0, 1, 1))])
    table = gpd.read_file(layer.path, layer="predictions").assign(confidence=np.nan)
    table.to_file(layer.path, layer="predictions", driver="GPKG")
    with pytest.raises(LayerError, match="has 1 chips whose confidence is no number"):
        webmap([layer])
    path = write(tmp_path / "s.tif", np.zeros((2, 4, 4), np.float32), "EPSG:3857", Affine(1, 0, 9, 0, -1, 9))
    with pytest.raises(LayerError, match="has no limits"):
        webmap([Layer(kind="saliency", path=path, title="")])
