"""Colours are told apart by the colour-blind, and a city has the same one wherever it is shown."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import colorcet
import numpy as np
import pytest
import rasterio
from layer_tables import ALMATY, CITIES, chip_table, predictions
from map_pages import content_of
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from dlslicer_geo import colours
from dlslicer_geo.layers import write_predictions
from dlslicer_geo.report.cells import BLUES
from dlslicer_geo.webmap import webmap

Floats = NDArray[np.float64]

VISIONS = {
    "normal": np.eye(3),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanope": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""What is left of linear red, green and blue at full severity: Machado, Oliveira and Fernandes, A
Physiologically-based Model for Simulation of Color Vision Deficiency, IEEE TVCG 15(6), 2009."""

TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
"""Linear sRGB to OKLab: Ottosson, A perceptual color space for image processing, 2020."""


def linear(names: Any) -> Floats:
    shares = np.array([colours.rgb(name) for name in names]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def oklab(names: Any, vision: str = "normal") -> Floats:
    seen = (linear(names) @ VISIONS[vision].T).clip(0, 1)
    return np.asarray(np.cbrt(seen @ TO_CONES.T) @ TO_LAB.T)


def lightness(names: Any) -> Floats:
    """L* of CIELAB."""
    luminance = linear(names) @ [0.2126, 0.7152, 0.0722]
    return np.asarray(np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27))


def nearest(names: Any, vision: str) -> float:
    seen = oklab(names, vision)
    return min(float(np.linalg.norm(seen[one] - seen[two])) for one, two in combinations(range(len(seen)), 2))


@pytest.mark.parametrize(("vision", "least"), [("normal", 0.15), ("deuteranope", 0.075), ("protanope", 0.09),
                                               ("tritanope", 0.08)])  # fmt: skip
def test_the_first_eight_cities_are_told_apart_by_every_eye(vision: str, least: float) -> None:
    """A step of 0.02 in OKLab is about the smallest that is seen."""
    assert nearest(colours.PALETTE[:8], vision) > least


@pytest.mark.parametrize("vision", VISIONS)
def test_right_wrong_and_unknown_are_told_apart_by_every_eye(vision: str) -> None:
    assert nearest([colours.RIGHT, colours.WRONG, colours.UNKNOWN_COLOUR], vision) > 0.1


def test_the_palette_has_45_colours_of_its_own_and_begins_again_after_them() -> None:
    assert len(set(colours.PALETTE)) == 45 and colours.UNKNOWN_COLOUR not in colours.PALETTE
    assert colours.city_colour(45) == colours.city_colour(0)


def test_saliency_is_drawn_with_nine_even_steps_of_cet_d1a() -> None:
    steps = [colorcet.CET_D1A[round(at)] for at in np.linspace(0, 255, 9)]
    off = np.abs(np.array([colours.rgb(one) for one in steps]) - [colours.rgb(two) for two in colours.DIVERGING])
    assert off.max() <= 2


def test_both_sides_of_the_saliency_colours_weigh_the_same_and_their_steps_are_even() -> None:
    light = lightness(colours.DIVERGING)
    assert np.abs(light - light[::-1]).max() < 2, "no side is darker than the other"
    steps = np.diff(light[:5])
    assert steps.min() > 0 and steps.max() / steps.min() < 1.5


@pytest.mark.parametrize("ramp", [colours.CONFIDENCE, [to_hex(BLUES(share)) for share in np.linspace(0, 1, 9)]])
def test_ramps_of_shares_only_ever_get_darker_so_that_they_can_be_printed_in_grey(ramp: Any) -> None:
    assert np.diff(lightness(ramp)).max() < -4


def test_a_city_has_one_colour_in_every_layer_and_on_the_map(tmp_path: Path) -> None:
    """The middle city of the model is not predicted at all: numbers by what is there would shift those after it."""
    chips = chip_table({"almaty": ALMATY}, size=480, stride=240)
    found = predictions(chips)
    share = found.probabilities.copy()
    share[:, 1] = 0
    found = dataclasses.replace(found, probabilities=share / share.sum(axis=1, keepdims=True))
    assert CITIES[1] not in set(found.city)
    layers = write_predictions(found, chips, tmp_path)
    wanted = dict(zip(CITIES, colours.PALETTE, strict=False))
    there = {city: wanted[city] for city in set(found.city)}
    with closing(sqlite3.connect(tmp_path / "predictions.gpkg")) as base:
        table = base.execute("SELECT table_name FROM gpkg_contents WHERE data_type = 'features'").fetchone()[0]
        said = dict(base.execute(f'SELECT DISTINCT answer, colour FROM "{table}"').fetchall())
        style = ET.fromstring(base.execute("SELECT styleQML FROM layer_styles").fetchone()[0])
    assert said == there
    with rasterio.open(tmp_path / "city" / "almaty.tif") as city:
        assert [city.colormap(1)[at][:3] for at in range(len(CITIES))] == [colours.rgb(c) for c in wanted.values()]
    entries = ET.parse(tmp_path / "city" / "almaty.qml").iter("paletteEntry")
    assert {entry.attrib["label"]: entry.attrib["color"] for entry in entries}.items() >= there.items()
    text = ET.tostring(style, encoding="unicode")
    assert all(",".join(map(str, colours.rgb(colour))) in text for colour in there.values())
    page = webmap(layers, title="A map").save(tmp_path / "map.html")[0]
    cities = json.dumps(content_of(page))
    assert all(colour in cities for colour in there.values())
