"""A real browser reads the tiles of a large map from `serve` and from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_layers import naip_layers, scene_layer
from map_pages import Browser, chromium, content_of, served
from pyproj import Transformer
from tile_worlds import ACROSS, COLOURS, EVIL, NORTH, STRIDE, WEST, ZONE, layers

from dlslicer_geo.webmap import webmap


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    webmap(layers(folder), title=EVIL, budget_mb=0.1).save(folder / "map.html")
    return folder


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(run_folder: Path) -> Iterator[str]:
    with served(run_folder) as found:
        yield found


def look_at(page: Any, row: float, col: float, zoom: float) -> tuple[float, float]:
    """Centre the map on a point of the grid of chips, in strides; its latitude and longitude."""
    to_degrees = Transformer.from_crs(ZONE, 4326, always_xy=True)
    lon, lat = to_degrees.transform(WEST + STRIDE * col, NORTH - STRIDE * row)
    page.evaluate(f"void map_here().setView([{lat}, {lon}], {zoom}, {{animate: false}})")
    return lat, lon


COLOUR_IN_THE_MIDDLE = """() => {
  const at = L.point(innerWidth / 2, innerHeight / 2);
  for (const canvas of document.querySelectorAll('.leaflet-dl-chips-pane canvas')) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(at.x - box.left) / box.width, (at.y - box.top) / box.height];
    if (canvas.width && x >= 0 && y >= 0 && x < 1 && y < 1) {
      const found = canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data;
      if (found[3] > 0) return [...found].slice(0, 3);
    }
  }
  return null;
}"""


def colour(page: Any) -> list[int]:
    return list(page.wait_for_function(COLOUR_IN_THE_MIDDLE).json_value())


def near(found: list[int], wanted: str) -> bool:
    return all(abs(a - int(wanted[i : i + 2], 16)) < 8 for a, i in zip(found, (1, 3, 5), strict=True))


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_chips_from_tiles_are_drawn_recoloured_and_clicked(
    run_folder: Path, address: str, browser: Browser, size: tuple[int, int], tmp_path: Path
) -> None:
    page = browser.visit(f"{address}map.html", *size)
    if size[0] < 640:
        page.locator("#dl-panel summary").first.click()
    page.get_by_label("What gave it away", exact=True).uncheck()
    lat, lon = look_at(page, 5.0, 5.0, 17)  # the middle of the chip of row and column 4
    page.wait_for_selector(".leaflet-dl-chips-pane canvas.leaflet-tile")
    assert near(colour(page), COLOURS[0])
    page.get_by_label("Colour chips by").select_option("error")
    page.wait_for_function(f"() => {{ const c = ({COLOUR_IN_THE_MIDDLE})(); return c && c[2] > 150; }}")
    assert near(colour(page), "#0072b2")
    if size[0] < 640:
        page.locator("#dl-panel summary").first.click()
    browser.click_map(lat, lon)
    popup = page.locator(".dl-popup")
    popup.wait_for()
    assert f"chip {1000 + 4 * ACROSS + 4} of {EVIL}" in popup.inner_text() and "almaty" in popup.inner_text()
    assert popup.locator(".dl-bars li").count() == 3 and popup.locator("img").count() == 0
    check_picture(popup)
    page.screenshot(path=tmp_path / "large.png")
    assert page.evaluate("() => window.pwned") is None
    assert browser.errors == [] and browser.requests == []


def check_picture(popup: Any) -> None:
    """The picture of the chip of row and column 4: its part of the ramps of ``image_layer``, and all of it."""
    popup.locator("canvas[data-drawn=yes]").wait_for()
    drawn = popup.locator("canvas").evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, 232, 232).data)")
    picture = np.array(drawn).reshape(232, 232, 4)[8:-8, 8:-8].astype(float)
    assert picture[..., 3].min() == 255, "no gap between tiles"
    across = 255 / (STRIDE * (ACROSS + 1))
    red, green = picture[..., 0], picture[..., 1]
    assert red.mean() == pytest.approx(500 * across, abs=1) and green.mean() == pytest.approx(500 * across, abs=1)
    assert red[:, -8:].mean() - red[:, :8].mean() == pytest.approx(200 * across, abs=6)
    assert green[-8:].mean() - green[:8].mean() == pytest.approx(200 * across, abs=6)


@pytest.mark.browser
def test_search_and_swipe_do_what_they_say_on_a_large_map(address: str, browser: Browser) -> None:
    page = browser.visit(f"{address}map.html")
    page.get_by_label("Chips", exact=True).uncheck()
    browser.fly_to("almaty")
    assert (
        page.evaluate("map_here().getBounds().contains([43.255, 76.89])")
        and page.evaluate("map_here().getZoom()") > 13
    )
    look_at(page, 9.0, 9.0, 16)
    for pane in ("saliency", "image"):
        tiles = f"[...document.querySelectorAll('.leaflet-dl-{pane}-pane img')]"
        page.wait_for_function(f"() => {tiles}.length && {tiles}.every((tile) => tile.naturalWidth)")
    page.wait_for_timeout(500)
    both = browser.pixels(".folium-map").astype(int)
    page.get_by_role("checkbox", name="Swipe").check()
    page.get_by_role("slider", name="Swipe").focus()
    page.keyboard.press("End")
    bare = browser.pixels(".folium-map").astype(int)
    assert np.abs(both - bare)[300:500, 600:700].mean() > 20, "there is something to hide"
    for _ in range(5):
        page.keyboard.press("PageDown")
    swiped = browser.pixels(".folium-map").astype(int)
    left, right = (slice(300, 500), slice(550, 610)), (slice(300, 500), slice(670, 730))
    assert np.abs(swiped[left] - bare[left]).max() < 3 and np.abs(swiped[right] - both[right]).max() < 3
    assert browser.errors == [] and browser.requests == []


@pytest.mark.browser
def test_at_every_zoom_there_are_cells_or_chips(address: str, browser: Browser) -> None:
    """Leaflet rounds a zoom to that of its tiles, and drops tiles below the least zoom without rounding."""
    page = browser.visit(f"{address}map.html")
    page.get_by_label("What gave it away", exact=True).uncheck()
    for zoom in (11, 12, 12.25, 12.5, 12.75, 13, 13.25):
        look_at(page, 5.0, 5.0, zoom)
        assert near(colour(page), COLOURS[0]), zoom
        tiled = page.locator(".leaflet-dl-chips-pane canvas.leaflet-tile").count() > 0
        assert tiled == (zoom >= 12.5)
    assert browser.errors == [] and browser.requests == []


@pytest.mark.browser
def test_a_chip_from_tiles_lies_within_a_pixel_of_where_it_is(address: str, browser: Browser) -> None:
    """At zoom 18, against pyproj: corners as the popup outlines them."""
    page = browser.visit(f"{address}map.html")
    lat, lon = look_at(page, 5.0, 5.0, 18)
    page.wait_for_selector(".leaflet-dl-chips-pane canvas.leaflet-tile")
    colour(page)
    browser.click_map(lat, lon)
    page.locator(".dl-popup").wait_for()
    on_screen = "(at) => { const p = map_here().project(at, 18); return [p.x, p.y]; }"
    found = page.evaluate(
        "() => { let ring; map_here().eachLayer((one) => { if (one.options.pane === 'dl-picked' && one.getLatLngs)"
        f"ring = one; }}); return ring.getLatLngs()[0].map({on_screen}); }}"
    )
    to_degrees = Transformer.from_crs(ZONE, 4326, always_xy=True)
    wanted = []
    for row, col in ((4, 4), (4, 6), (6, 6), (6, 4)):
        east, north = to_degrees.transform(WEST + STRIDE * col, NORTH - STRIDE * row)
        wanted.append(page.evaluate(f"({on_screen})([{north}, {east}])"))
    off = np.linalg.norm(np.array(found)[:, None] - np.array(wanted), axis=-1).min(axis=0)
    assert off.max() <= 1


@pytest.mark.browser
def test_saliency_tiles_are_shown_and_switched(address: str, browser: Browser) -> None:
    page = browser.visit(f"{address}map.html")
    look_at(page, 6, 6, 15)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.leaflet-dl-saliency-pane img')].some((i) => i.naturalWidth)"
    )
    page.get_by_label("Opacity of the overlays").fill("30")
    assert page.locator(".leaflet-dl-saliency-pane").evaluate("e => e.style.opacity") == "0.3"
    page.get_by_label("What gave it away", exact=True).uncheck()
    assert page.locator(".leaflet-dl-saliency-pane img").count() == 0
    assert browser.errors == [] and browser.requests == []


@pytest.mark.browser
def test_from_disk_there_is_an_overview_and_chosen_files_are_read(run_folder: Path, browser: Browser) -> None:
    page = browser.open(run_folder / "map.html")
    look_at(page, 5, 5, 17)
    assert "dlslicer-geo serve" in page.locator(".dl-tiles").inner_text()
    page.get_by_label("What gave it away", exact=True).uncheck()
    colour(page)
    assert page.locator(".leaflet-dl-chips-pane canvas.leaflet-tile").count() == 0
    page.mouse.click(640, 400)
    page.locator(".dl-popup").wait_for()
    assert "right of" in page.locator(".dl-popup").inner_text()
    page.keyboard.press("Escape")
    page.get_by_label("Files of the folder map").set_input_files([run_folder / "map" / "chips.pmtiles"])
    page.wait_for_selector(".leaflet-dl-chips-pane canvas.leaflet-tile")
    assert "chips.pmtiles" in page.locator(".dl-tiles [role=status]").inner_text()
    assert near(colour(page), COLOURS[0])
    browser.click_map(*look_at(page, 5.3, 5.3, 17))
    card, texts = page.locator(".dl-popup"), set()
    for at in (1, 2, 3, 4):  # at half overlap four chips lie over a point
        assert card.get_by_role("status").inner_text() == f"{at} of 4 chips here"
        texts.add(card.inner_text().replace(f"{at} of 4", ""))
        card.get_by_label("Next chip here").click()
    assert len(texts) == 4 and card.locator(".dl-bars").count() == 1
    assert page.evaluate("() => window.pwned") is None
    assert browser.errors == [] and browser.requests == []


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_a_page_that_holds_everything_works_from_serve_too(
    data_root: Path, browser: Browser, size: tuple[int, int], tmp_path: Path
) -> None:
    layers = naip_layers(data_root, tmp_path)
    layers.append(scene_layer(layers, tmp_path / "scenes.parquet"))
    content = content_of(webmap(layers).save(tmp_path / "map.html")[0])
    ring = np.array(content["sections"][0]["groups"][0]["items"][0]["ring"][1]).reshape(4, 2).mean(axis=0).tolist()
    with served(tmp_path) as address:
        page = browser.visit(address, *size)
        panel = page.locator("#dl-panel summary").first
        if size[0] < 640:
            panel.click()
        browser.fly_to(content["places"][0]["name"])
        assert page.evaluate(f"map_here().getBounds().contains({ring})")
        assert page.locator(".leaflet-dl-saliency-pane img").count() == 12
        page.get_by_label("What gave it away", exact=True).uncheck()
        assert page.locator(".leaflet-dl-saliency-pane img").count() == 0
        if size[0] < 640:
            panel.click()
        page.evaluate(f"void map_here().setView({ring}, 17, {{animate: false}})")
        browser.click_map(*ring)
        page.locator(".dl-popup canvas[data-drawn=yes]").wait_for()
        assert page.locator(".dl-popup a").count() == 0, "what lies outside the run is no link: it is not served"
        assert browser.errors == [] and browser.requests == []
