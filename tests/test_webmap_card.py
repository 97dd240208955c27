"""Scenes of several dates over one place: every chip there can be read, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from map_layers import chip_layer
from map_pages import Browser, chromium
from shapely.geometry import box

from dlslicer_geo.webmap import webmap

pytestmark = pytest.mark.browser

OUTLINE = box(-121.84, 39.728, -121.838, 39.7295)

PICKED = """(() => {
  let number = 0;
  map_here().eachLayer((layer) => { number += layer.options.pane === "dl-picked" && Boolean(layer.getLatLngs); });
  return number;
})()"""
"""Outlines of chips whose card is open."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_the_card_turns_to_the_chips_of_other_dates(browser: Browser, tmp_path: Path) -> None:
    rows = [(f"chico_{year}", "chico", at, OUTLINE) for at, year in enumerate((2016, 2018, 2020))]
    shown = browser.open(webmap([chip_layer(tmp_path / "p.gpkg", rows)]).save(tmp_path / "map.html")[0])
    browser.click_map(OUTLINE.centroid.y, OUTLINE.centroid.x)
    popup, seen = shown.locator(".dl-popup"), set()
    for at in (1, 2, 3):
        assert popup.get_by_role("status").inner_text() == f"{at} of 3 chips here"
        seen.add(popup.locator("p", has_text="chip ").last.inner_text().split()[3].strip(","))
        assert shown.evaluate(PICKED) == 1, "the outline of one chip"
        popup.get_by_label("Next chip here").press("Enter")
        assert shown.evaluate("document.activeElement.ariaLabel") == "Next chip here"
    assert seen == {"chico_2016", "chico_2018", "chico_2020"}
    assert popup.get_by_role("status").inner_text() == "1 of 3 chips here"
    popup.get_by_label("Previous chip here").click()
    assert popup.get_by_role("status").inner_text() == "3 of 3 chips here"
    shown.screenshot(path=tmp_path / "card.png")
    assert browser.requests == [] and browser.errors == []


def test_a_chip_that_lies_alone_has_nothing_to_turn_to(browser: Browser, tmp_path: Path) -> None:
    shown = browser.open(
        webmap([chip_layer(tmp_path / "p.gpkg", [("chico", "chico", 0, OUTLINE)])]).save(tmp_path / "map.html")[0]
    )
    browser.click_map(OUTLINE.centroid.y, OUTLINE.centroid.x)
    shown.locator(".dl-popup").wait_for()
    assert shown.locator(".dl-turn").count() == 0
