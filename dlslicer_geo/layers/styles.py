"""Cities and limits in, ramps and QGIS styles (QML text) of rasters out.

A style is the part of a QML document that QGIS needs to draw a layer as it is meant; QGIS fills in the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from dlslicer_geo.colours import CONFIDENCE, DIVERGING
from dlslicer_geo.types import Channels

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Stop(NamedTuple):
    """One colour of a ramp: from this value on, this colour and opacity (0 to 255)."""

    value: float
    colour: str
    alpha: int


def diverging(limit: float) -> list[Stop]:
    """A ramp from ``-limit`` to ``limit`` whose opacity grows with the distance from 0."""
    steps = np.linspace(-1, 1, len(DIVERGING))
    return [
        Stop(limit * float(step), colour, round(255 * abs(float(step))))
        for step, colour in zip(steps, DIVERGING, strict=True)
    ]


def sequential() -> list[Stop]:
    """The ramp of a confidence, 0 to 1, opaque."""
    return [Stop(i / (len(CONFIDENCE) - 1), colour, 255) for i, colour in enumerate(CONFIDENCE)]


def palette_qml(answers: Mapping[str, str]) -> str:
    """QML of a raster of the numbers of answers, with the colours that :func:`categories` gives."""
    root, renderer = _raster("paletted")
    palette = ET.SubElement(renderer, "colorPalette")
    for index, (answer, colour) in enumerate(answers.items()):
        ET.SubElement(palette, "paletteEntry", value=str(index), color=colour, alpha="255", label=answer)
    return text(root)


def ramp_qml(stops: Sequence[Stop], *, band: int = 1) -> str:
    """QML of a raster of numbers drawn by linear interpolation between the stops, clamped at both ends."""
    low, high = f"{stops[0].value:.9g}", f"{stops[-1].value:.9g}"
    root, renderer = _raster("singlebandpseudocolor", band=band)
    renderer.set("classificationMin", low)
    renderer.set("classificationMax", high)
    shader = ET.SubElement(ET.SubElement(renderer, "rastershader"), "colorrampshader")
    attributes = {"colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0"}
    shader.attrib.update(attributes | {"minimumValue": low, "maximumValue": high})
    for stop in stops:
        entry = {"value": f"{stop.value:.9g}", "color": stop.colour, "alpha": str(stop.alpha)}
        ET.SubElement(shader, "item", entry | {"label": f"{stop.value:.3g}"})
    return text(root)


def colours_qml(channels: Channels) -> str:
    """QML of imagery: three bands as red, green and blue, between what is black and what is white."""
    root, renderer = _raster("multibandcolor")
    del renderer.attrib["band"]
    for index, colour in enumerate(("red", "green", "blue")):
        renderer.set(f"{colour}Band", str(channels.bands[index]))
        if channels.low is None or channels.high is None:
            continue
        contrast = ET.SubElement(renderer, f"{colour}ContrastEnhancement")
        ET.SubElement(contrast, "minValue").text = f"{channels.low[index]:.9g}"
        ET.SubElement(contrast, "maxValue").text = f"{channels.high[index]:.9g}"
        ET.SubElement(contrast, "algorithm").text = "StretchToMinimumMaximum"
    return text(root)


def document() -> ET.Element:
    """An empty style."""
    return ET.Element("qgis", version="3.22", styleCategories="Symbology|Labeling|MapTips")


def text(root: ET.Element) -> str:
    """A document of QGIS as text; characters that XML cannot hold are replaced."""
    ET.indent(root)
    heading = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return heading + xml(root) + "\n"


def xml(root: ET.Element) -> str:
    """An element as text; characters that XML cannot hold are replaced."""
    return _NOT_XML.sub("\ufffd", ET.tostring(root, encoding="unicode"))


def _raster(kind: str, *, band: int = 1) -> tuple[ET.Element, ET.Element]:
    root = document()
    attributes = {"type": kind, "band": str(band), "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = ET.SubElement(ET.SubElement(root, "pipe"), "rasterrenderer", attributes)
    ET.SubElement(renderer, "rasterTransparency")
    return root, renderer
