"""What a model does not know, in every file for a GIS and on the map."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio  # type: ignore[import-untyped]
import pytest
import rasterio
from layer_tables import ALMATY, CITIES, ONE_CHIP, chip_table, doubting, grid_at, predictions
from map_pages import Browser, chromium, content_of
from numpy.typing import NDArray
from rio_cogeo.cogeo import cog_validate

from dlslicer_geo.colours import PALETTE, UNKNOWN_COLOUR, city_colour, rgb
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import write_predictions
from dlslicer_geo.types import Layer, Predictions
from dlslicer_geo.webmap import webmap

HATCH = (74, 79, 85)


@pytest.fixture(scope="module")
def almaty() -> gpd.GeoDataFrame:
    return chip_table({"almaty": ALMATY}, size=480, stride=240)


@pytest.fixture(scope="module")
def unknown(almaty: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    return np.random.default_rng(3).random(len(almaty)) < 0.5


def style_of(path: Path) -> ET.Element:
    text = pyogrio.read_dataframe(path, layer="layer_styles", read_geometry=False)["styleQML"][0]
    return ET.fromstring(text.split("\n", 1)[1])


def test_the_geopackage_answers_unknown_and_keeps_the_nearest_city(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    found = doubting(predictions(almaty), unknown)
    path = write_predictions(found, almaty, tmp_path)[0].path
    table = gpd.read_file(path, layer="predictions")
    assert table["answer"].tolist() == list(found.answer) and 0 < (table["answer"] == "unknown").sum() < len(table)
    assert table["city"].tolist() == list(found.city)
    assert np.allclose(table["unknown_score"], np.where(unknown, 0.9, 0.1)), "the score of the detector that decides"
    expected = [
        UNKNOWN_COLOUR if no else city_colour(CITIES.index(city))
        for city, no in zip(found.city, unknown, strict=True)
    ]
    assert table["colour"].tolist() == expected
    metadata = pyogrio.read_info(path, layer="predictions")["dataset_metadata"]
    assert (metadata["DETECTOR"], metadata["THRESHOLD"]) == ("knn", "0.5")


def test_the_style_of_the_geopackage_hatches_the_unknown_and_lists_it_last(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    style = style_of(write_predictions(doubting(predictions(almaty), unknown), almaty, tmp_path)[0].path)
    renderer = style.find("renderer-v2")
    assert renderer is not None and renderer.get("attr") == "answer"
    assert [category.get("value") for category in style.iter("category")] == [*CITIES, "unknown"]
    fills = [[o.get("value") for o in s.iter("Option") if o.get("name") == "style"] for s in style.iter("symbol")]
    assert fills == [["solid"]] * 3 + [["b_diagonal"]]


def test_a_cell_is_unknown_where_most_of_the_chips_that_cover_it_are(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    found = doubting(predictions(almaty), unknown)
    layers = write_predictions(found, almaty, tmp_path)
    with rasterio.open(layers[1].path) as city, rasterio.open(layers[2].path) as confidence:
        numbers, sure, tags = city.read(1), confidence.read(1), (city.tags(), confidence.tags())
        colours = city.colormap(1)
    chips, shares = unknown.reshape(19, 19), found.probabilities.reshape(19, 19, 3)
    halves = 0
    for row, col in np.ndindex(20, 20):
        over = slice(max(row - 1, 0), min(row, 18) + 1), slice(max(col - 1, 0), min(col, 18) + 1)
        mean = shares[over].mean(axis=(0, 1))
        assert numbers[row, col] == (3 if chips[over].mean() > 0.5 else mean.argmax())
        assert sure[row, col] == pytest.approx(mean.max(), abs=1e-6)
        halves += chips[over].mean() == 0.5
    assert halves > 20, "as many for as against is no majority"
    assert colours[3] == (*rgb(UNKNOWN_COLOUR), 255)
    assert all((found["DETECTOR"], found["THRESHOLD"]) == ("knn", "0.5") for found in tags)
    assert all(cog_validate(layer.path, strict=True)[:2] == (True, []) for layer in layers[1:])


def test_the_files_beside_a_city_raster_name_the_unknown_last(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    path = write_predictions(doubting(predictions(almaty), unknown), almaty, tmp_path)[1].path
    names = ET.parse(path.with_name(path.name + ".aux.xml")).getroot()
    assert [category.text for category in names.iter("Category")] == [*CITIES, "unknown"]
    style = ET.fromstring(path.with_suffix(".qml").read_text(encoding="utf-8").split("\n", 1)[1])
    last = [entry.attrib for entry in style.iter("paletteEntry")][-1]
    assert last == {"value": "3", "color": UNKNOWN_COLOUR, "alpha": "255", "label": "unknown"}


def test_a_model_without_a_threshold_never_answers_unknown(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    doubts = doubting(predictions(almaty), unknown)
    for name, found in [("bare", predictions(almaty)), ("scored", dataclasses.replace(doubts, threshold=None))]:
        chips, city, _ = write_predictions(found, almaty, tmp_path / name)
        table = gpd.read_file(chips.path, layer="predictions")
        assert table["answer"].tolist() == table["city"].tolist() == list(found.city)
        assert table["unknown_score"].isna().all() == (name == "bare")
        assert [category.get("value") for category in style_of(chips.path).iter("category")] == list(CITIES)
        with rasterio.open(city.path) as source:
            assert "DETECTOR" not in source.tags() and source.read(1).max() == 2
        assert "still gets one of them" in chips.note and "nknown" not in chips.note + city.note


def test_the_notes_say_what_unknown_means(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    chips, city, confidence = write_predictions(doubting(predictions(almaty), unknown), almaty, tmp_path)
    assert "detector knn scores the chip above 0.5" in chips.note and "keeps 95 %" in chips.note
    assert "Grey cells" in city.note and "nearest city" in confidence.note


def test_predictions_in_another_order_give_the_same_bytes(
    almaty: gpd.GeoDataFrame, unknown: NDArray[np.bool_], tmp_path: Path
) -> None:
    found = doubting(predictions(almaty), unknown)
    turned = dataclasses.replace(
        found,
        chip_id=found.chip_id[::-1],
        scene_id=found.scene_id[::-1],
        truth=found.truth[::-1],
        probabilities=found.probabilities[::-1],
        unknown_scores={name: values[::-1] for name, values in found.unknown_scores.items()},
    )
    for name, what in (("a", found), ("b", turned)):
        write_predictions(what, almaty, tmp_path / name)
    for path in (file for file in (tmp_path / "a").rglob("*") if file.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def many_cities(number: int, *, threshold: float | None) -> Predictions:
    return Predictions(
        cities=tuple(f"c{i}" for i in range(number)),
        chip_id=np.array([0]),
        scene_id=("somewhere",),
        truth=(None,),
        probabilities=np.full((1, number), 1 / number, np.float32),
        unknown_scores={"energy": np.ones(1, np.float32)},
        detector="energy",
        threshold=threshold,
    )


def test_unknown_takes_one_of_the_255_values_of_a_city_raster(tmp_path: Path) -> None:
    chips = chip_table({"somewhere": ONE_CHIP}, size=480, stride=480, city=None)
    city = write_predictions(many_cities(254, threshold=0), chips, tmp_path)[1]
    with rasterio.open(city.path) as source:
        assert source.read(1).tolist() == [[254]] and source.nodata == 255
    assert len(write_predictions(many_cities(255, threshold=None), chips, tmp_path)) == 3
    with pytest.raises(LayerError, match="at most 255 answers, not 256"):
        write_predictions(many_cities(255, threshold=0), chips, tmp_path)


def test_a_city_may_be_called_unknown_only_where_that_is_no_answer(tmp_path: Path) -> None:
    chips = chip_table({"somewhere": ONE_CHIP}, size=480, stride=480)
    named = dataclasses.replace(predictions(chips), cities=("chico", "unknown", "riverside"))
    layers = write_predictions(named, chips, tmp_path)
    webmap(layers).save(tmp_path / "map.html")
    assert content_of(tmp_path / "map.html")["unknown"] is None
    with pytest.raises(LayerError, match="city 1 has the name of the answer 'unknown'"):
        write_predictions(doubting(named, np.array([True])), chips, tmp_path)


def test_the_colour_of_the_unknown_is_a_grey_that_no_city_comes_near() -> None:
    grey = np.array(rgb(UNKNOWN_COLOUR))
    assert np.ptp(grey) == 0
    assert min(np.linalg.norm(grey - rgb(colour)) for colour in PALETTE) > 60


def two_places() -> tuple[gpd.GeoDataFrame, Predictions]:
    """Four chips of chico, one of them unknown and one wrong, and four of a city elsewhere, all of them unknown."""
    chico = chip_table({"c": grid_at("EPSG:32610", 600_000, 4_400_000, (512, 512), 1)}, size=256, stride=256)
    nowhere = chip_table(
        {"b": grid_at("EPSG:32610", 601_000, 4_400_000, (512, 512), 1)}, size=256, stride=256, city=None
    )
    chips = pd.concat([chico, nowhere.assign(site="banepa")], ignore_index=True).assign(chip_id=range(8))
    shares = np.tile(np.array([0.91, 0.06, 0.03], np.float32), (8, 1))
    shares[1] = shares[1, ::-1]
    made = dataclasses.replace(predictions(chips), probabilities=shares, truth=("chico",) * 4 + (None,) * 4)
    return chips, doubting(made, np.arange(8) >= 3)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unknown")
    chips, found = two_places()
    layers: list[Layer] = write_predictions(found, chips, out / "gis")
    webmap(layers).save(out / "map.html")
    webmap(layers[:1]).save(out / "chips.html")
    return out / "map.html"


def test_the_map_counts_answers_and_an_unknown_chip_is_not_right(page: Path) -> None:
    content = content_of(page)
    assert [(city["code"], city["chips"]) for city in content["cities"]] == [
        ("chico", 2), ("claremont", 0), ("riverside", 1),
    ]  # fmt: skip
    assert content["unknown"] == {"colour": UNKNOWN_COLOUR, "chips": 5}
    counts = {
        place["name"]: [place[n] for n in ("chips", "unknown", "known", "right")] for place in content["places"]
    }
    assert counts == {"banepa": [4, 4, 0, 0], "chico": [4, 1, 4, 2]}
    assert content["cities"][0]["colour"] == PALETTE[0], "never the grey of an unknown chip that looks like chico"
    chips = content["sections"][0]["groups"][0]["items"][0]
    assert chips["unknown"] == [1] * 4 and chips["city"] == [0] * 4
    assert "detector knn" in content["sections"][0]["notes"][0]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.browser
def test_the_map_shows_the_unknown_hatched_in_the_legend_and_on_a_card(
    page: Path, browser: Browser, tmp_path: Path
) -> None:
    shown = browser.open(page.with_name("chips.html"))
    assert shown.locator(".dl-swatches li").last.inner_text().split() == ["unknown", "to", "the", "model", "5"]
    assert "50 % right · 63\u00a0% unknown to the model" in shown.locator(".dl-sum").inner_text()
    browser.fly_to("banepa")
    chips = content_of(page)["sections"][0]["groups"][0]["items"][0]
    centre = np.array(chips["ring"][0]).reshape(4, 2).mean(axis=0)
    image = browser.pixels(".folium-map").reshape(-1, 3).astype(int)
    dark = (np.abs(image - np.array(HATCH)).max(axis=1) < 60).sum()
    orange = (np.ptp(image, axis=1) > 100).sum()
    assert dark > 3000 and orange < 3000, "the chips of banepa are hatched in grey, not in the colour of chico"
    browser.click_map(*centre)
    popup = shown.locator(".dl-popup")
    popup.wait_for()
    assert popup.locator("h3").inner_text() == "unknown (nearest: chico 0.91)"
    assert "confidence" not in popup.inner_text() and "true city not known" in popup.inner_text()
    shown.wait_for_timeout(600)
    shown.screenshot(path=tmp_path / "card.png")
    assert browser.requests == [] and browser.errors == []


@pytest.mark.browser
def test_places_too_small_to_see_say_how_much_is_unknown(page: Path, browser: Browser, tmp_path: Path) -> None:
    shown = browser.open(page)
    shown.evaluate("map_here().setZoom(11, {animate: false})")
    names = shown.locator(".dl-place span").all_text_contents()
    assert names == ["banepa100 % unknown", "chico50 % right · 25 % unknown"]
    shown.screenshot(path=tmp_path / "places.png")
    assert browser.requests == [] and browser.errors == []
