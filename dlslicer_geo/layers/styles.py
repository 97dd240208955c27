"""Cities and limits in, colours and QGIS styles (QML text) out.

A style is the part of a QML document that QGIS needs to draw a layer as it is meant; QGIS fills in the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from dlslicer_geo.colours import CONFIDENCE, DIVERGING, UNKNOWN_COLOUR, rgb


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


def chips_qml(answers: Mapping[str, str], *, approximate: bool = False) -> str:
    """QML of chips filled by the column ``answer``: one category, legend entry and symbol per answer.

    What is unknown is hatched. Where the position is approximate, the legend says so and the outlines are dashed.

    Args:
        answers: colours as :func:`categories` gives them.
        approximate: whether the chips lie somewhere in their city only.
    """
    document = ET.Element("qgis", version="3.34", styleCategories="Symbology")
    renderer = ET.SubElement(
        document, "renderer-v2", type="categorizedSymbol", attr="answer", symbollevels="0", forceraster="0"
    )
    entries = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    line = "dash" if approximate else "solid"
    for index, (answer, colour) in enumerate(answers.items()):
        unknown = colour == UNKNOWN_COLOUR
        label = "unknown to the model" if unknown else answer
        label += " (approximate position)" if approximate else ""
        entry = {"render": "true", "symbol": str(index), "value": answer, "label": label, "type": "string"}
        ET.SubElement(entries, "category", entry)
        _add_fill(symbols, str(index), colour, fill="b_diagonal" if unknown else "solid", line=line)
    ET.SubElement(document, "legend", type="default-vector", showLabelLegend="0")
    return _text(document)


def palette_qml(answers: Mapping[str, str]) -> str:
    """QML of a raster of the numbers of answers, with the colours that :func:`categories` gives."""
    document, renderer = _raster("paletted")
    palette = ET.SubElement(renderer, "colorPalette")
    for index, (answer, colour) in enumerate(answers.items()):
        ET.SubElement(palette, "paletteEntry", value=str(index), color=colour, alpha="255", label=answer)
    return _text(document)


def ramp_qml(stops: Sequence[Stop], *, band: int = 1) -> str:
    """QML of a raster of numbers drawn by linear interpolation between the stops, clamped at both ends."""
    low, high = f"{stops[0].value:.9g}", f"{stops[-1].value:.9g}"
    document, renderer = _raster("singlebandpseudocolor", band=band)
    renderer.set("classificationMin", low)
    renderer.set("classificationMax", high)
    shader = ET.SubElement(ET.SubElement(renderer, "rastershader"), "colorrampshader")
    attributes = {"colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0"}
    shader.attrib.update(attributes | {"minimumValue": low, "maximumValue": high})
    for stop in stops:
        entry = {"value": f"{stop.value:.9g}", "color": stop.colour, "alpha": str(stop.alpha)}
        ET.SubElement(shader, "item", entry | {"label": f"{stop.value:.3g}"})
    return _text(document)


def polygons_qml(column: str, limit: float, *, largest: float) -> str:
    """QML of polygons filled by a number in classes of equal width around 0.

    Args:
        column: holds the number; polygons without one are not drawn.
        limit: where the outermost classes would end.
        largest: the largest number by size, where they do end if it is beyond.
    """
    document = ET.Element("qgis", version="3.34", styleCategories="Symbology")
    attributes = {"type": "graduatedSymbol", "graduatedMethod": "GraduatedColor", "symbollevels": "0"}
    renderer = ET.SubElement(document, "renderer-v2", attributes | {"attr": column, "forceraster": "0"})
    ranges = ET.SubElement(renderer, "ranges")
    symbols = ET.SubElement(renderer, "symbols")
    colours = [colour for colour in DIVERGING if colour != DIVERGING[len(DIVERGING) // 2]]
    edges = [limit * step for step in np.linspace(-1, 1, len(colours) + 1).tolist()]
    edges[0], edges[-1] = min(edges[0], -largest), max(edges[-1], largest)
    for index, colour in enumerate(colours):
        low, high = edges[index : index + 2]
        entry = {"render": "true", "symbol": str(index), "lower": f"{low:.17g}", "upper": f"{high:.17g}"}
        ET.SubElement(ranges, "range", entry | {"label": f"{low:.3g} to {high:.3g}"})
        _add_fill(symbols, str(index), colour, fill="solid", line="solid")
    return _text(document)


def _raster(kind: str, *, band: int = 1) -> tuple[ET.Element, ET.Element]:
    document = ET.Element("qgis", version="3.34", styleCategories="Symbology")
    attributes = {"type": kind, "band": str(band), "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = ET.SubElement(ET.SubElement(document, "pipe"), "rasterrenderer", attributes)
    ET.SubElement(renderer, "rasterTransparency")
    return document, renderer


def _add_fill(symbols: ET.Element, name: str, colour: str, *, fill: str, line: str) -> None:
    symbol = ET.SubElement(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1")
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0", "locked": "0"})
    options = ET.SubElement(layer, "Option", type="Map")
    red, green, blue = rgb(colour)
    values = {
        "color": f"{red},{green},{blue},140",
        "style": fill,
        "outline_color": f"{red},{green},{blue},255",
        "outline_style": line,
        "outline_width": "0.4",
        "outline_width_unit": "MM",
    }
    for key, value in values.items():
        ET.SubElement(options, "Option", name=key, type="QString", value=value)


def _text(document: ET.Element) -> str:
    ET.indent(document)
    heading = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return heading + ET.tostring(document, encoding="unicode") + "\n"
