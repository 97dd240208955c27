from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from map_pages import Browser, chromium, content_of, pixels_of
from pyproj import Transformer
from shapely.geometry import Point, box

from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Channels, Layer
from dlslicer_geo.webmap import webmap
from dlslicer_geo.webmap.overlays import picture

CITIES = ("chico", "claremont", "riverside", "eureka", "<img src=x onerror=alert(1)>")
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2")


def write(path: Path, values: Any, crs: str, transform: Affine, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    options = {"count": count, "height": height, "width": width, "dtype": values.dtype, "crs": crs} | profile
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **options) as target:
        target.write(values)
        if count == 2:
            target.descriptions = ("layer4", "coverage")
    return path


def chip_layer(path: Path, rows: list[tuple[str, str, int, Any]]) -> Layer:
    shares = np.sort(np.random.default_rng(0).dirichlet(np.full(5, 0.5), len(rows)), axis=1)[:, ::-1]
    order = np.array([[first, *(i for i in range(5) if i != first)] for _, _, first, _ in rows])
    table = {
        "chip_id": range(len(rows)),
        "scene_id": [scene for scene, *_ in rows],
        "site": "a",
        "acquired": "2018",
        "width": 256,
        "stride": 256,
        "split": "test",
        "truth": [truth for _, truth, *_ in rows],
        "city": [CITIES[first] for _, _, first, _ in rows],
        "confidence": shares[:, 0],
        "colour": [COLOURS[first] for _, _, first, _ in rows],
    }
    table |= {f"prob_{code}": np.take_along_axis(shares, order.argsort(1), 1)[:, i] for i, code in enumerate(CITIES)}
    frame = gpd.GeoDataFrame(table, geometry=[outline for *_, outline in rows], crs=4326)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_file(path, layer="predictions", driver="GPKG")
    return Layer(kind="chips", path=path, title="Predicted city", cities=CITIES, note="Only <b>listed</b> cities.")


def naip_layers(data_root: Path, out: Path) -> list[Layer]:
    """Twelve real scenes of three cities with made-up relevance and predictions."""
    rows, pictures = [], []
    random = np.random.default_rng(0)
    for number, city in enumerate(CITIES[:3]):
        for at, path in enumerate(sorted((data_root / "naip_cities").glob(f"{city}_2018_*.tif"))[:4]):
            with rasterio.open(path) as source:
                crs, place, bounds = str(source.crs), source.transform, source.bounds
            to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
            outline = box(*to_degrees.transform_bounds(*bounds))
            rows.append(
                (path.stem, city, 4 if (number, at) == (0, 1) else (number if at else (number + 1) % 3), outline)
            )
            waves = np.sin(
                np.linspace(0, random.uniform(3, 7), 28)[:, None] + np.linspace(0, random.uniform(3, 7), 28)
            )
            bands = np.stack([waves, np.ones((28, 28))]).astype(np.float32)
            cells = Affine(place.a * 256 / 28, 0, place.c, 0, place.e * 256 / 28, place.f)
            made = write(out / f"{path.stem}.tif", bands, crs, cells, nodata=np.nan)
            options: dict[str, Any] = {
                "group": city,
                "limits": (-1.0 - at, 1.0 + at),
                "note": "Red speaks for the city.",
            }
            pictures.append(Layer(kind="saliency", path=made, title=f"{path.stem}: why {city}", **options))
            pictures.append(Layer(kind="image", path=path, title=path.stem, group=city))
    return [chip_layer(out / "predictions.gpkg", rows), *pictures]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("map")
    layers = naip_layers(Path(__file__).parents[1] / "data", out)
    footprints = gpd.read_file(layers[0].path)[["scene_id", "truth", "geometry"]].rename(columns={"truth": "city"})
    footprints.to_parquet(out / "scenes.parquet")
    layers.append(Layer(kind="scenes", path=out / "scenes.parquet", title="Scenes"))
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
    alpha = pixels_of(item["src"])[..., 3].astype(float)
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
    drawn = pixels_of(content_of(tmp_path / "map.html")["sections"][0]["groups"][0]["items"][0]["src"]).astype(int)
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


def test_a_map_of_very_many_chips_draws_some_and_says_so(tmp_path: Path) -> None:
    square = box(76.9, 43.2, 77, 43.3)
    webmap([chip_layer(tmp_path / "p.gpkg", [("a", "chico", 0, square)] * 50_001)]).save(tmp_path / "map.html")
    content = content_of(tmp_path / "map.html")
    assert content["sections"][0]["notes"][-1] == "One chip in 2 is drawn, 25001 of 50001."
    assert content["places"][0]["chips"] == 25_001


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
    path = write(tmp_path / "s.tif", np.zeros((2, 4, 4), np.float32), "EPSG:3857", Affine(1, 0, 9, 0, -1, 9))
    with pytest.raises(LayerError, match="has no limits"):
        webmap([Layer(kind="saliency", path=path, title="")])


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_map_draws_without_a_network_and_without_complaint(
    page: Path, browser: Browser, size: tuple[int, int], tmp_path: Path
) -> None:
    shown = browser.open(page, *size)
    assert shown.locator(".leaflet-dl-saliency-pane img").count() == 12
    assert shown.locator(".leaflet-dl-image-pane img").count() == 12
    assert shown.locator(".leaflet-dl-chips-pane canvas").count() == 1
    assert shown.locator(".dl-place").count() == 3
    assert shown.locator("h1").inner_text() == "Which city is this?"
    shown.screenshot(path=tmp_path / "first.png")
    assert browser.requests == [] and browser.errors == []


@pytest.mark.browser
def test_a_click_on_a_chip_under_saliency_shows_its_five_cities(page: Path, browser: Browser, tmp_path: Path) -> None:
    shown = browser.open(page)
    browser.fly_to("chico")
    chips = next(s for s in content_of(page)["sections"] if s["kind"] == "chips")["groups"][0]["items"][0]
    ring = np.array(chips["ring"][1]).reshape(4, 2)
    shown.evaluate(f"map_here().setView({ring.mean(axis=0).tolist()}, 17, {{animate: false}})")
    browser.click_map(*ring.mean(axis=0))
    popup = shown.locator(".dl-popup")
    popup.wait_for()
    assert popup.locator("h3").inner_text() == "<img src=x onerror=alert(1)>"
    assert popup.locator(".dl-bars li").count() == 5 and popup.locator("img").count() == 0
    assert "wrong: it is chico" in popup.inner_text() and "test" in popup.inner_text()
    shown.wait_for_timeout(600)
    shown.screenshot(path=tmp_path / "popup.png")
    assert browser.requests == [] and browser.errors == []


@pytest.mark.browser
def test_switches_slider_and_legend_follow_the_reader(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    browser.fly_to("riverside")
    centre = shown.evaluate("(c => [c.lat, c.lng])(map_here().getCenter())")
    assert 33.8 < centre[0] < 34.1 and -117.7 < centre[1] < -117.2
    assert "against" in shown.locator(".dl-scale p").first.inner_text()
    shown.get_by_label("Opacity of the overlays").fill("30")
    assert shown.locator(".leaflet-dl-saliency-pane").evaluate("e => e.style.opacity") == "0.3"
    shown.get_by_label("What gave it away", exact=True).uncheck()
    assert shown.locator(".leaflet-dl-saliency-pane img").count() == 0
    assert shown.locator(".dl-scale").first.is_hidden()
    assert browser.errors == []
