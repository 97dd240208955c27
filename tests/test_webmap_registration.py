"""Known points lie where they are: within one screen pixel at zoom 18, through Leaflet's own projection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from layer_tables import chip_table, grid_at
from map_layers import chip_layer, write
from map_pages import Browser, chromium
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window

from dlslicer_geo.types import Layer
from dlslicer_geo.webmap import webmap

pytestmark = pytest.mark.browser

CROSSING = (3690, 3520)
"""Column and row in Banepa's orthophoto where a street meets the Araniko Highway."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def stand_at(browser: Browser, lon: float, lat: float, zoom: int = 18) -> None:
    browser.page.evaluate(f"map_here().setView([{lat}, {lon}], {zoom}, {{animate: false}})")
    browser.page.wait_for_timeout(250)


def on_screen(browser: Browser, lon: float, lat: float) -> NDArray[np.float64]:
    """Where Leaflet says that a point is, x and y in screen pixels, not rounded to whole ones."""
    script = f"""(m => {{ const at = m.project([{lat}, {lon}]), corner = m.getPixelBounds().min;
      return [at.x - corner.x, at.y - corner.y]; }})(map_here())"""
    at = np.array(browser.page.evaluate(script))
    rounded = browser.page.evaluate(f"(p => [p.x, p.y])(map_here().latLngToContainerPoint([{lat}, {lon}]))")
    assert np.abs(at - rounded).max() <= 0.51
    return at


def test_points_442_m_apart_at_almaty_lie_where_they_are(browser: Browser, tmp_path: Path) -> None:
    """Stretched between its corners without warping, this scene is metres off."""
    pixels = np.full((3, 1600, 1600), 60, np.uint8)
    marks = [(200, 250), (200 + 884, 250), (1400, 1450)]
    for col, row in marks:
        pixels[:, row - 2 : row + 3, col - 2 : col + 3] = 255
    place = Affine(0.5, 0, 653_000, 0, -0.5, 4_791_000)
    path = write(tmp_path / "i.tif", pixels, "EPSG:32643", place)
    webmap([Layer(kind="image", path=path, title="i")]).save(tmp_path / "map.html")
    browser.open(tmp_path / "map.html")
    to_degrees = Transformer.from_crs(32643, 4326, always_xy=True)
    for col, row in marks:
        lon, lat = to_degrees.transform(*(place * (col + 0.5, row + 0.5)))
        stand_at(browser, lon, lat)
        x, y = on_screen(browser, lon, lat)
        left, top = round(x) - 20, round(y) - 20
        light = browser.pixels(".folium-map")[top : top + 40, left : left + 40].astype(float).mean(axis=2)
        weight = np.clip(light - 120, 0, None)
        rows, cols = np.indices(weight.shape)
        seen = np.array([(cols * weight).sum(), (rows * weight).sum()]) / weight.sum() + 0.5 + (left, top)
        assert np.hypot(*(seen - (x, y))) < 1


def test_the_corners_of_a_chip_lie_where_its_pixels_are(browser: Browser, tmp_path: Path) -> None:
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 442 / 480, turn=7)
    table = chip_table({"a": grid}, size=480, stride=480)
    layer = chip_layer(tmp_path / "p.gpkg", [("a", "chico", 0, table.geometry[0])])
    webmap([layer]).save(tmp_path / "map.html")
    browser.open(tmp_path / "map.html", 1900, 1400)  # a chip is clipped at the edge of the window
    to_degrees = Transformer.from_crs(32643, 4326, always_xy=True)
    corners = [to_degrees.transform(*(grid.affine * at)) for at in [(0, 0), (480, 0), (480, 480), (0, 480)]]
    middle = table.geometry[0].centroid
    stand_at(browser, middle.x, middle.y)
    browser.click_map(middle.y, middle.x)
    outline = browser.page.locator(".leaflet-dl-picked-pane path")
    outline.wait_for(state="attached")
    script = """p => { const m = p.getScreenCTM(), n = p.getAttribute('d').match(/-?[\\d.]+/g).map(Number);
      return [0, 2, 4, 6].map((i) => [n[i] + m.e, n[i + 1] + m.f]); }"""
    drawn = np.array(outline.evaluate(script))
    truth = np.array([on_screen(browser, lon, lat) for lon, lat in corners])
    assert np.hypot(*(drawn - truth).T).max() < 1
    assert np.ptp(truth, axis=0).min() > 600, "442 m are many pixels at this latitude"


def shift_between(seen: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """How far ``seen`` lies right of and below ``truth``, in pixels: the peak of their correlation."""
    window = np.hanning(len(truth))[:, None] * np.hanning(len(truth))
    one, two = (np.fft.fft2((part - part.mean()) * window) for part in (seen, truth))
    peak = np.fft.fftshift(np.fft.ifft2(one * two.conj()).real)
    row, col = np.unravel_index(peak.argmax(), peak.shape)

    def finer(before: float, at: float, after: float) -> float:
        return 0.5 * (before - after) / (before - 2 * at + after)

    down = row + finer(*peak[row - 1 : row + 2, col])
    across = col + finer(*peak[row, col - 1 : col + 2])
    return np.array([across, down]) - len(truth) // 2


def test_a_road_crossing_of_banepa_lies_where_the_orthophoto_has_it(
    data_root: Path, browser: Browser, tmp_path: Path
) -> None:
    path = data_root / "banepa" / "banepa_oam_z19.tif"
    webmap([Layer(kind="image", path=path, title="Imagery")]).save(tmp_path / "map.html")
    browser.open(tmp_path / "map.html")
    col, row = CROSSING
    with rasterio.open(path) as source:
        x, y = source.transform * (col, row)
        native = source.read(window=Window(col - 256, row - 256, 512, 512)).mean(axis=0)
    truth = native.reshape(256, 2, 256, 2).mean(axis=(1, 3))  # zoom 19 to zoom 18
    lon, lat = Transformer.from_crs(3857, 4326, always_xy=True).transform(x, y)
    stand_at(browser, lon, lat)
    at = on_screen(browser, lon, lat)
    left, top = np.round(at).astype(int) - 128
    seen = browser.pixels(".folium-map")[top : top + 256, left : left + 256].astype(float).mean(axis=2)
    off = shift_between(seen, truth) + np.round(at) - at
    assert np.hypot(*off) < 1
    assert np.corrcoef(seen.ravel(), truth.ravel())[0, 1] > 0.8, "the same place"
    browser.page.screenshot(path=tmp_path / "crossing.png")
