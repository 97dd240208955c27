"""What a reader does with a map, in a real browser without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from map_layers import CITIES, chip_layer, naip_layers, scene_layer
from map_pages import Browser, chromium, content_of
from shapely.geometry import box

from dlslicer_geo.types import Layer
from dlslicer_geo.webmap import webmap

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("map")
    layers = naip_layers(Path(__file__).parents[1] / "data", out)
    layers.append(scene_layer(layers, out / "scenes.parquet"))
    return webmap(layers, title="Which city is this?", basemaps=("osm", "satellite")).save(out / "map.html")[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def ring_of(page: Path, city: str, number: int) -> Any:
    chips = next(section for section in content_of(page)["sections"] if section["kind"] == "chips")
    group = next(group for group in chips["groups"] if group["name"] == city)
    return np.array(group["items"][0]["ring"][number]).reshape(4, 2)


def look_at(shown: Any, ring: Any, zoom: int = 18) -> None:
    shown.evaluate(f"map_here().setView({ring.mean(axis=0).tolist()}, {zoom}, {{animate: false}})")
    shown.wait_for_timeout(100)


def colour_at(browser: Browser, at: Any) -> Any:
    """Mean colour of the map round a point."""
    x, y = browser.page.evaluate(f"(p => [p.x, p.y])(map_here().latLngToContainerPoint({at.tolist()}))")
    return browser.pixels(".folium-map")[int(y) - 6 : int(y) + 6, int(x) - 6 : int(x) + 6].reshape(-1, 3).mean(axis=0)


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
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll to the side"
    shown.screenshot(path=tmp_path / "first.png")
    assert browser.requests == [] and browser.errors == []


def test_a_click_on_a_chip_shows_its_picture_its_five_cities_and_its_file(
    page: Path, browser: Browser, tmp_path: Path
) -> None:
    shown = browser.open(page)
    ring = ring_of(page, "chico", 1)
    look_at(shown, ring, 17)
    browser.click_map(*ring.mean(axis=0))
    popup = shown.locator(".dl-popup")
    popup.locator("canvas[data-drawn=yes]").wait_for()
    assert popup.locator("h3").inner_text() == CITIES[4]
    assert popup.locator(".dl-bars li").count() == 5 and popup.locator("img").count() == 0
    said = popup.inner_text()
    assert "wrong: it is chico" in said and "test" in said and "site a, 2018" in said
    drawn = popup.locator("canvas").evaluate(
        "c => Array.from(c.getContext('2d').getImageData(16, 16, 200, 200).data)"
    )
    values = np.array(drawn).reshape(200, 200, 4)
    assert values[..., :3].std() > 15 and (values[..., 3] == 255).all(), "the scene, and all of the chip"
    link = popup.locator("a").get_attribute("href")
    assert link and (page.parent / link).resolve().suffix == ".tif" and (page.parent / link).exists()
    shown.wait_for_timeout(400)
    shown.screenshot(path=tmp_path / "popup.png")
    shown.keyboard.press("Escape")
    popup.wait_for(state="detached")
    assert browser.requests == [] and browser.errors == []


def test_the_keyboard_opens_the_chip_in_the_middle_and_closes_its_card(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    look_at(shown, ring_of(page, "riverside", 2))
    shown.locator(".folium-map").focus()
    shown.keyboard.press("Enter")
    shown.locator(".dl-popup").wait_for()
    assert shown.evaluate("document.activeElement.className") == "leaflet-popup-close-button"
    shown.keyboard.press("Escape")
    shown.locator(".dl-popup").wait_for(state="detached")
    assert shown.evaluate("document.activeElement.classList.contains('folium-map')")
    assert browser.errors == []


def test_search_flies_to_a_city_and_a_scene_and_says_when_there_is_none(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    browser.fly_to("RIVER")
    lat, lon = shown.evaluate("(c => [c.lat, c.lng])(map_here().getCenter())")
    assert 33.8 < lat < 34.1 and -117.7 < lon < -117.2
    ring = ring_of(page, "chico", 2)
    browser.fly_to(next(iter(content_of(page)["scenes"])))
    assert shown.evaluate("map_here().getZoom()") > 15
    before = shown.evaluate("map_here().getCenter().lat")
    assert abs(before - ring.mean(axis=0)[0]) < 0.1
    browser.fly_to("atlantis")
    assert shown.get_by_role("status").first.inner_text() == "Nothing here is called “atlantis”."
    assert shown.evaluate("map_here().getCenter().lat") == before
    for label, said in [("Next place", "chico, 1 of 3"), ("Previous place", "riverside, 3 of 3")]:
        shown.get_by_label(label).click()
        assert shown.get_by_role("status").first.inner_text() == said
    assert browser.requests == [] and browser.errors == []


def test_after_a_search_the_map_stays_where_the_reader_moves_it(page: Path, browser: Browser) -> None:
    """A search field tells of its change when it is left, long after Enter."""
    shown = browser.open(page)
    browser.fly_to("chico")
    shown.evaluate("map_here().panBy([200, 0], {animate: false})")
    before = shown.evaluate("map_here().getCenter().lng")
    shown.get_by_label("Imagery", exact=True).uncheck()
    shown.wait_for_timeout(1200)
    assert shown.evaluate("map_here().getCenter().lng") == before


def test_chips_take_the_colours_of_the_mode_and_the_legend_follows(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    for name in ("What gave it away", "Imagery", "Scene outlines"):
        shown.get_by_label(name, exact=True).uncheck()
    ring = ring_of(page, "chico", 1)
    look_at(shown, ring)
    seen = {}
    for mode in ("city", "confidence", "error", "split"):
        shown.get_by_label("Colour chips by").select_option(mode)
        seen[mode] = colour_at(browser, ring.mean(axis=0)), shown.locator("#dl-panel section").nth(2).inner_text()
    ground = np.array([233, 235, 232])
    for mode, paint in {"city": (0, 114, 178), "error": (213, 94, 0), "split": (0, 114, 178)}.items():
        assert np.abs(seen[mode][0] - (0.6 * np.array(paint) + 0.4 * ground)).max() < 6, mode
    assert "wrong" in seen["error"][1] and "right" in seen["error"][1] and "riverside" not in seen["error"][1]
    assert "Confidence of the answer" in seen["confidence"][1] and "test" in seen["split"][1]
    assert "riverside" in seen["city"][1]
    assert browser.errors == []


def test_depth_opacity_and_switches_change_what_is_seen(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    ring = ring_of(page, "claremont", 1)
    look_at(shown, ring)
    caption, numbers = shown.locator(".dl-scale > span").first, shown.locator(".dl-scale p").first
    assert caption.inner_text().endswith("layer4") and "+2 for" in numbers.inner_text()
    deep = browser.pixels(".folium-map")
    shown.get_by_label("Depth of relevance").select_option("layer2")
    shown.wait_for_timeout(200)
    assert caption.inner_text().endswith("layer2") and "+2 for" not in numbers.inner_text()
    assert np.abs(browser.pixels(".folium-map").astype(int) - deep).mean() > 1, "another picture"
    shown.get_by_label("Opacity of the overlays").fill("0")
    shown.wait_for_timeout(200)
    clear = browser.pixels(".folium-map").astype(int)
    shown.get_by_label("What gave it away", exact=True).uncheck()
    shown.get_by_label("Chips", exact=True).uncheck()
    assert shown.locator(".leaflet-dl-saliency-pane img").count() == 0
    assert shown.locator(".dl-scale").first.is_hidden()
    shown.get_by_label("Chips", exact=True).check()
    assert np.abs(browser.pixels(".folium-map").astype(int) - clear).mean() > 1, "chips are filled again"
    shown.get_by_label("Imagery", exact=True).uncheck()
    assert shown.locator(".leaflet-dl-image-pane img").count() == 0
    assert browser.requests == [] and browser.errors == []


def test_the_swipe_shows_imagery_alone_on_its_left(page: Path, browser: Browser, tmp_path: Path) -> None:
    shown = browser.open(page)
    shown.get_by_label("Chips", exact=True).uncheck()
    ring = ring_of(page, "claremont", 1)
    look_at(shown, ring, 19)
    both = browser.pixels(".folium-map").astype(int)
    shown.get_by_label("What gave it away", exact=True).uncheck()
    bare = browser.pixels(".folium-map").astype(int)
    shown.get_by_label("What gave it away", exact=True).check()
    shown.get_by_role("checkbox", name="Swipe").check()
    handle = shown.get_by_role("slider", name="Swipe")
    x = handle.evaluate("h => h.getBoundingClientRect().left + h.offsetWidth / 2")
    shown.mouse.move(x, 300)
    shown.mouse.down()
    shown.mouse.move(640, 300, steps=4)
    shown.mouse.up()
    swiped = browser.pixels(".folium-map").astype(int)
    left, right = (slice(100, 300), slice(450, 610)), (slice(100, 300), slice(670, 850))
    assert np.abs(swiped[left] - bare[left]).max() < 3 and np.abs(swiped[right] - both[right]).max() < 3
    assert np.abs(both[left] - bare[left]).mean() > 5, "there was something to hide"
    handle.focus()
    for _ in range(5):
        shown.keyboard.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "60"
    shown.evaluate("map_here().panBy([120, 0], {animate: false})")
    moved = browser.pixels(".folium-map").astype(int)
    assert np.abs(moved[100:300, 450:600] - bare[100:300, 570:720]).max() < 3, "the handle stays, the map moves"
    shown.screenshot(path=tmp_path / "swipe.png")
    assert browser.requests == [] and browser.errors == []


def test_ground_is_asked_for_only_when_chosen_and_a_missing_network_is_said_once(
    page: Path, browser: Browser
) -> None:
    shown = browser.open(page)
    assert browser.requests == []
    shown.get_by_label("OpenStreetMap (online)").check()
    status = shown.get_by_text("No network: this ground cannot be loaded.")
    status.wait_for()
    assert {request.split("/")[2] for request in browser.requests} == {"tile.openstreetmap.org"}
    credit = shown.locator(".dl-credit a")
    assert "OpenStreetMap contributors" in credit.inner_text()
    shown.get_by_label("Scenes only").check()
    shown.wait_for_timeout(200)
    asked = len(browser.requests)
    shown.evaluate("map_here().panBy([900, 0], {animate: false})")
    shown.wait_for_timeout(300)
    assert len(browser.requests) == asked and not status.is_visible() and not credit.is_visible()


CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  const places = "#dl-panel *, .leaflet-popup *, .dl-place *, .dl-degree *, .leaflet-control *, .dl-credit *";
  const texts = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll(places)].filter((e) => e.offsetParent && texts(e)).map((e) => {
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent];
  });
}"""


def test_every_text_stands_out_from_what_is_behind_it(page: Path, browser: Browser) -> None:
    """WCAG 2.2 AA, 1.4.3: 4.5 to 1."""
    shown = browser.open(page)
    ring = ring_of(page, "chico", 1)
    texts = shown.evaluate(CONTRAST)
    look_at(shown, ring)
    browser.click_map(*ring.mean(axis=0))
    shown.locator(".dl-popup").wait_for()
    shown.get_by_label("Satellite (online)").check()
    texts += shown.evaluate(CONTRAST)
    assert len(texts) > 60
    assert [text for text in texts if text[0] < 4.5] == []


EVIL = [
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=1</script>",
    "\"quote'",
    "$formula$",
    "../../x",
]


def test_hostile_names_are_text_everywhere(browser: Browser, tmp_path: Path) -> None:
    rows = [(name, name, i, box(76.9 + i / 50, 43.2, 76.91 + i / 50, 43.21)) for i, name in enumerate(EVIL)]
    chips = chip_layer(tmp_path / "p.gpkg", rows)
    table = gpd.read_file(chips.path, layer="predictions")
    table.assign(site=EVIL, acquired=EVIL[0], split=EVIL[1]).to_file(chips.path, layer="predictions", driver="GPKG")
    scenes = table[["scene_id", "geometry"]].assign(
        city=EVIL, city_name=EVIL, site=EVIL, path=EVIL, georef="approximate"
    )
    scenes.to_parquet(tmp_path / "scenes.parquet")
    layers = [chips, Layer(kind="scenes", path=tmp_path / "scenes.parquet", title=EVIL[0], note=EVIL[1])]
    webmap(layers, title=EVIL[0], basemaps=("osm",)).save(tmp_path / "map.html")
    shown = browser.open(tmp_path / "map.html")
    for name, _, _, outline in rows:
        browser.fly_to(name)
        assert shown.get_by_role("status").first.inner_text() == name
        browser.click_map(outline.centroid.y, outline.centroid.x)
        shown.locator(".dl-popup").wait_for()
        assert name in shown.locator(".dl-popup").inner_text()
        shown.keyboard.press("Escape")
        shown.locator(".dl-popup").wait_for(state="detached")
    for mode in ("confidence", "error", "split", "city"):
        shown.get_by_label("Colour chips by").select_option(mode)
    for switch in shown.locator("#dl-panel .dl-layer summary").all():
        switch.click()
    for switch in shown.locator("#dl-panel input[type=checkbox]").all():
        switch.click()
    assert shown.evaluate("typeof window.pwned") == "undefined"
    assert shown.locator("#dl-panel img, .leaflet-popup img, .dl-place img").count() == 0
    assert shown.locator("h1").inner_text() == EVIL[0] and shown.title() == EVIL[0]
    assert json.dumps(EVIL[1])[1:-1] not in (tmp_path / "map.html").read_text(encoding="utf-8")
    assert browser.requests == [] and browser.errors == []


def test_a_long_heading_covers_neither_the_scale_nor_what_is_fitted_on_a_phone(
    page: Path, browser: Browser, tmp_path: Path
) -> None:
    rows = [(f"s{i}", "chico", i % 3, box(76.9, 43.2 + i / 9, 76.91, 43.21 + i / 9)) for i in range(9)]
    webmap([chip_layer(tmp_path / "p.gpkg", rows)], title="A heading of several lines " * 4).save(
        tmp_path / "map.html"
    )
    shown = browser.open(tmp_path / "map.html", 390, 844)
    top = shown.locator("#dl-panel").bounding_box()["y"]
    scale = shown.locator(".leaflet-control-scale-line").bounding_box()
    assert top < 740 and scale["y"] + scale["height"] < top
    lowest = shown.evaluate("map_here().latLngToContainerPoint([43.2, 76.9]).y")
    assert lowest < top, "the southernmost chip"
    assert browser.errors == []


def test_a_reader_who_asks_for_less_motion_is_there_at_once(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    shown.emulate_media(reduced_motion="reduce")
    shown.get_by_label("Search").fill("chico")
    shown.get_by_label("Search").press("Enter")
    lat = shown.evaluate("map_here().getCenter().lat")
    shown.emulate_media(reduced_motion="no-preference")
    assert abs(lat - ring_of(page, "chico", 0).mean(axis=0)[0]) < 0.1


def test_every_control_is_reached_with_the_tab_key_and_shows_its_focus(page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    shown.get_by_role("checkbox", name="Swipe").check()
    shown.locator("#dl-panel > details > summary").focus()
    reached = set()
    for _ in range(40):
        shown.keyboard.press("Tab")
        seen = "e => [e.type || e.className || e.tagName, getComputedStyle(e).outlineStyle]"
        kind, outline = shown.evaluate(f"({seen})(document.activeElement)")
        reached.add(kind)
        if kind in ("search", "checkbox", "select-one", "range", "radio", "button"):
            assert outline != "none", kind
    assert {"search", "button", "checkbox", "select-one", "range", "radio"} <= reached
    assert shown.get_by_role("slider", name="Swipe").get_attribute("tabindex") == "0"
