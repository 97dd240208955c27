from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from layer_tables import chip_table, naip_grids, saliency
from numpy.typing import NDArray
from PIL import Image

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import draw_gallery, draw_portraits, gallery, panels, portrait, write_gallery_page
from dlslicer_geo.types import Saliency

ODD = ("a/b", "a-b", "東京", "京都", "<script>alert('$x^$')</script>", "..", "\x00\udcff", "chico")
Images = dict[int, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def naip() -> tuple[gpd.GeoDataFrame, dict[str, Any], Images]:
    """Eight chips of a city with their imagery."""
    data = Path(__file__).parents[1] / "data"
    scenes = [f"chico_2018_{at}" for at in range(8)]
    grids = naip_grids(data, scenes)
    images = {}
    for chip, name in enumerate(scenes):
        with rasterio.open(data / "naip_cities" / f"{name}.tif") as source:
            images[chip] = np.moveaxis(source.read([1, 2, 3]), 0, -1)
    return chip_table(grids, size=256, stride=256), grids, images


def explained(naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], cities: Sequence[str] = ("chico",)) -> Saliency:
    chips, grids, _ = naip
    random = np.random.default_rng(0)
    maps = {
        name: (random.normal(0.3, 1, (8, edge, edge)) * np.arange(1, 9)[:, None, None]).astype(np.float32)
        for name, edge in (("layer1", 48), ("layer2", 24), ("layer3", 12), ("layer4", 6))
    }
    why = saliency(chips, grids, maps)
    return dataclasses.replace(why, city=tuple(cities[at % len(cities)] for at in range(8)))


def chosen(naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], city: str = "chico") -> gpd.GeoDataFrame:
    """A window in each of the chips, as a portrait has them."""
    chips = naip[0]
    table = chips[["chip_id", "scene_id", "site", "acquired", "row", "col", "height", "width", "approximate"]]
    place = {"window_row": 43, "window_col": 85, "window_height": 128, "window_width": 128, "window_mean": 0.5}
    return gpd.GeoDataFrame(
        table.assign(city=city, rank=np.arange(1, len(table) + 1), **place), geometry=chips.geometry
    )


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def enlarged(values: NDArray[np.float64], edge: int) -> NDArray[np.float64]:
    """Bilinear with half-pixel centres, by a route of its own."""
    for axis in (0, 1):
        cells = values.shape[axis]
        at = (np.arange(edge) + 0.5) * cells / edge - 0.5
        values = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, values)
    return values


def page_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_no_relevance_is_neutral_and_opposite_relevance_has_opposite_colours() -> None:
    chip = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    plain = panels.heat(chip, np.zeros((4, 4), np.float32), 2.0)
    assert (np.ptp(plain, axis=-1) == 0).all(), "grey where nothing speaks"
    red, blue = (panels.heat(chip, np.full((4, 4), value, np.float32), 2.0).astype(int) for value in (2, -2))
    assert (red[..., 0] > red[..., 2] + 60).all() and (blue[..., 2] > blue[..., 0] + 60).all()
    beyond = panels.heat(chip, np.full((4, 4), 9, np.float32), 2.0)
    assert np.array_equal(beyond, red), "clipped, not wrapped"
    scale = panels.bar(101, 3).astype(int)
    assert scale.shape == (3, 101, 3) and np.ptp(scale[0, 50]) == 0
    assert scale[0, -1, 0] - scale[0, -1, 2] > 60 and scale[0, 0, 2] - scale[0, 0, 0] > 60


def test_a_scale_ends_at_the_99th_percentile_over_the_chips_of_a_city_and_depth(
    naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images],
) -> None:
    why = explained(naip, ("chico", "other"))
    for at in panels.members(why).values():
        for name, limit in panels.limits(why, at).items():
            assert limit == pytest.approx(np.percentile(np.abs(why.maps[name][at]), 99))
    nothing = dataclasses.replace(why, maps={name: values * 0 for name, values in why.maps.items()})
    assert set(panels.limits(nothing, np.arange(8)).values()) == {1.0}


def test_the_masked_image_keeps_what_the_published_rule_keeps() -> None:
    relevance = np.array([[0, 1, 2], [-3, 8, 1], [0, 0, 5]], np.float32)
    large = enlarged((relevance.astype(float) + 3) / 11, 90)
    kept = panels.kept(relevance, (90, 90))
    assert (kept != (large > large.mean() + large.std())).mean() < 1e-3
    assert np.array_equal(panels.kept(relevance * 0.25 - 2, (90, 90)), kept), "each map is stretched by itself"
    assert not panels.kept(np.full((7, 7), 3, np.float32), (90, 90)).any()
    chip = np.full((90, 90, 3), 200, np.uint8)
    assert np.array_equal(panels.masked(chip, relevance), np.where(kept[..., None], chip, 0))


def test_the_gallery_holds_every_chip_at_every_depth_on_one_scale_per_city(
    naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path
) -> None:
    why = explained(naip, ("chico", "other"))
    paths = draw_gallery(why, naip[2], tmp_path, captions={0: "true chico\npredicted a_city_with_a_long_name, 0.93"})
    assert [path.name for path in paths] == ["chico.png", "chico.svg", "other.png", "other.svg"]
    drawn = pixels_of(paths[0])
    mine = [0, 2, 4, 6]
    for row, chip in enumerate(mine):
        top = gallery.TOP + row * (gallery.PANEL + gallery.SEAM)
        picture = panels.square(naip[2][chip], gallery.PANEL)
        row_of = drawn[top : top + gallery.PANEL]
        assert np.array_equal(row_of[:, gallery.LEFT : gallery.LEFT + gallery.PANEL], picture)
        for column, (name, maps) in enumerate(why.maps.items()):
            limit = float(np.percentile(np.abs(maps[mine]), 99))
            left = gallery.LEFT + gallery.PANEL + gallery.GAP
            left += column * (2 * gallery.PANEL + gallery.SEAM + gallery.GAP)
            heat, masked = (
                row_of[:, start : start + gallery.PANEL] for start in (left, left + gallery.PANEL + gallery.SEAM)
            )
            assert np.array_equal(heat, panels.heat(picture, maps[chip], limit)), name
            assert np.array_equal(masked, panels.masked(picture, maps[chip])), name
    caption = drawn[gallery.TOP : gallery.TOP + gallery.PANEL, : gallery.LEFT]
    assert (caption < 128).any() and (caption[:, -2:] > 250).all(), "a caption does not run into its chip"
    below = drawn[-gallery.BOTTOM :]
    assert (np.ptp(below.astype(int), axis=-1) > 60).any() and (below < 128).all(axis=-1).any()


def test_every_odd_name_of_a_city_has_a_file_of_its_own_and_is_text(
    naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path
) -> None:
    why = explained(naip, ODD)
    names = {"chico": "Chico \N{PILE OF POO} $\\frac{1}{0}$ 東京\u202e"}
    for folder in ("a", "b"):
        paths = draw_gallery(why, naip[2], tmp_path / folder, names=names, captions={0: "<b>$_$\x00\udcff</b>"})
    assert "\0" not in page_text(write_gallery_page(tmp_path / "a.html", why, naip[2]))
    assert len({path.name.lower() for path in paths}) == 2 * len(ODD)
    assert {path.parent for path in paths} == {tmp_path / "b"} and all(path.exists() for path in paths)
    assert {path.stem for path in paths} >= {"chico", "a-b"}
    assert [path.read_bytes() for path in paths] == [(tmp_path / "a" / path.name).read_bytes() for path in paths]
    page = tmp_path / "gallery.html"
    for _ in range(2):
        before = page.read_bytes() if page.exists() else b""
        write_gallery_page(page, why, naip[2], names=names, captions={0: "<b>&\x00\udcff"}, title="<i>why</i>")
    text = page_text(page)
    assert page.read_bytes() == before
    assert "<script" not in text and "<b>&" not in text and "<i>" not in text and "&lt;script&gt;" in text


def test_a_window_is_cut_from_the_image_of_a_chip_of_another_size() -> None:
    record = {"row": 480, "col": 960, "height": 480, "width": 400, "window_row": 720, "window_col": 960}
    record |= {"window_height": 240, "window_width": 200}
    image = np.zeros((256, 256, 3), np.uint8)
    image[128:, :128] = (10, 200, 30)
    assert (portrait.cut_out(record, image, 60) == (10, 200, 30)).all()
    drawn = portrait.outlined(record, panels.square(image, 100))
    yellow = (drawn == portrait.OUTLINE).all(axis=-1)
    rows, cols = np.flatnonzero(yellow.any(axis=1)), np.flatnonzero(yellow.any(axis=0))
    assert (rows[0], rows[-1], cols[0], cols[-1]) == (51, 98, 1, 48) and not yellow[60:90, 10:40].any()


def test_a_portrait_is_drawn_for_every_city_with_a_window(
    naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path
) -> None:
    windows = chosen(naip).assign(city=["chico"] * 7 + ["東京"])
    windows["approximate"] = [True] + [False] * 7
    windows["acquired"] = windows["acquired"].where(windows["chip_id"] > 3, None)
    why = explained(naip)
    for folder in ("a", "b"):
        paths = draw_portraits(windows.sample(frac=1, random_state=3), why, naip[2], tmp_path / folder)
    assert len(paths) == 4 and [path.name for path in paths[:2]] == ["chico.png", "chico.svg"]
    assert [path.read_bytes() for path in paths] == [(tmp_path / "a" / path.name).read_bytes() for path in paths]
    drawn = pixels_of(paths[0])
    first = windows.to_dict("records")[0]
    place = slice(portrait.TOP, portrait.TOP + portrait.PANEL), slice(portrait.GAP, portrait.GAP + portrait.PANEL)
    assert np.array_equal(drawn[place], portrait.cut_out(first, naip[2][0], portrait.PANEL))
    assert "approximate" in portrait.origin_of(first) and "2018" not in portrait.origin_of({**first, "scene_id": "s"})
    assert draw_portraits(windows.head(0), why, naip[2], tmp_path) == []


def test_what_cannot_be_drawn_is_named(naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path) -> None:
    why, images = explained(naip), naip[2]
    with pytest.raises(LayerError, match="no saliency to draw"):
        draw_gallery(why.select(np.zeros(8, bool)), images, tmp_path)
    with pytest.raises(LayerError, match="1 of 8 chips have no image, the first is 7"):
        draw_gallery(why, {chip: images[chip] for chip in range(7)}, tmp_path)
    broken = {name: values.copy() for name, values in why.maps.items()}
    broken["layer3"][5, 0, 0] = np.nan
    with pytest.raises(LayerError, match="1 of 8 maps of layer3 are not finite, the first is of chip 5"):
        write_gallery_page(tmp_path / "g.html", dataclasses.replace(why, maps=broken), images)
    few = why.select(np.arange(8) < 3)
    with pytest.raises(LayerError, match="5 of 8 windows have no saliency, such as that of chip 3"):
        draw_portraits(chosen(naip), few, images, tmp_path)
    with pytest.raises(LayerError, match="window 4 of chico is in chip 3, which has no image"):
        write_gallery_page(tmp_path / "g.html", few, {at: images[at] for at in range(3)}, windows=chosen(naip))
    assert not list(tmp_path.iterdir())


def test_the_page_of_45_cities_is_below_25_megabytes_and_names_every_picture(
    naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path
) -> None:
    page = write_gallery_page(tmp_path / "gallery.html", explained(naip), naip[2], windows=chosen(naip))
    text = page_text(page)
    assert len(text) / 8 * 450 < 25e6
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "@import" not in text and "url(" not in text
    pictures = re.findall(r"<img [^>]*>", text)
    assert len(pictures) == 1 + 4 + 8 * (1 + 4) + 8 and all(" alt=" in picture for picture in pictures)
    assert sum(' alt=""' in picture for picture in pictures) == 4, "only the colour bars, whose ends are text"
    assert "relevance-cam-margin" in text and "abc" in text, "method and model"


def test_a_pair_of_cities_is_named_with_both(
    naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path
) -> None:
    why = dataclasses.replace(explained(naip), rather_than="riverside")
    text = page_text(write_gallery_page(tmp_path / "g.html", why, naip[2], names={"riverside": "Riverside"}))
    assert "blue-violet what speaks for Riverside (riverside) instead" in text


@pytest.mark.parametrize("ground", ["--ground", "--paper"])
def test_text_of_the_page_has_a_contrast_of_more_than_4_5_in_both_schemes(ground: str) -> None:
    css = (Path(gallery.__file__).parent / "gallery.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*\}", css)]
    assert len(schemes) == 2
    for scheme in schemes:
        for name in ("--ink", "--soft", "--accent"):
            assert contrast(scheme[name], scheme[ground]) > 4.5


def contrast(one: str, two: str) -> float:
    """WCAG 2.1, relative luminance."""
    levels = []
    for colour in (one, two):
        parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(levels) / min(levels)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_window_and_leads_to_every_city_offline(
    width: int, naip: tuple[gpd.GeoDataFrame, dict[str, Any], Images], tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    why = explained(naip, [*ODD[:7], "a_name_without_end" * 9])
    page_file = write_gallery_page(
        tmp_path / "gallery.html", why, naip[2], windows=chosen(naip, "a/b"), captions={0: "predicted " + "x" * 90}
    )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_context(offline=True).new_page()
        page.set_viewport_size({"width": width, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(page_file.as_uri())
        links = page.locator("nav a")
        assert links.count() == 8
        for at in range(8):
            links.nth(at).click()
            named = " ".join(links.nth(at).inner_text().split())
            expect(page.locator("section:target h2")).to_have_text(named)  # which waits until it is there
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
        sizes = page.evaluate("[...document.querySelectorAll('.chip figure img')].map(i => i.naturalWidth)")
        assert sizes == [2 * 128 + 2] * 32
        wide = page.evaluate("document.querySelector('.chip figure img').getBoundingClientRect().width")
        assert wide >= 220, "details stay large enough to be seen"
        page.screenshot(path=tmp_path / "gallery.png")
        chromium.close()
    assert said == []
