"""Answers, splits and limits in, QGIS styles (QML text) of chips and polygons out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from dlslicer_geo.colours import CONFIDENCE, DIVERGING, RIGHT, SPLITS, UNKNOWN_COLOUR, WRONG, rgb
from dlslicer_geo.layers.geopackage import Style
from dlslicer_geo.layers.styles import document, text
from dlslicer_geo.types import APPROXIMATE_NOTE, UNKNOWN

LABELS_BELOW = 7_500
"""Chips bear their answer as text where the map is drawn larger than 1 : 7,500, at which 150 m are 2 cm."""

SURE = "format_number(\"confidence\" * 100, 0) || ' %'"
"""The confidence, which is that of the most probable city: it says nothing of an answer of unknown."""

TINTED, FILLED, HATCHED = 40, 80, 200
"""Opacity of fills, of 255: imagery and relevance shine through, hatching is thin and must not. Cities, which a
project shows with both, have coloured outlines and are but tinted."""

HAIR = 1e-6
"""A share may leave 0 to 1 by a rounding error; the outermost classes take it in."""

_PLAIN = "replace(coalesce({}, '–'), map('&', '&amp;', '<', '&lt;'))"
"""A value as text of a map tip, which is HTML; QGIS replaces in the order of the keys."""


class Fill(NamedTuple):
    """One class of a legend: what it is called, its colour, whether it is hatched, and how opaque if not."""

    label: str
    colour: str
    hatched: bool = False
    opacity: int = FILLED


def chip_styles(answers: Mapping[str, str], *, approximate: bool = False) -> list[Style]:
    """The four styles of chips, the first of which QGIS opens: predicted city, confidence, right or wrong, split.

    What is unknown is hatched. Where the position is approximate, the legend says so and the outlines are dashed.

    Args:
        answers: colours as :func:`~dlslicer_geo.colours.categories` gives them.
        approximate: whether the chips lie somewhere in their city only.
    """
    unknown = UNKNOWN_COLOUR in answers.values()
    cities = {
        answer: Fill("unknown to the model", colour, True)
        if colour == UNKNOWN_COLOUR
        else Fill(answer, colour, opacity=TINTED)
        for answer, colour in answers.items()
    }
    verdict, verdicts = _verdicts(unknown)
    edges, ramp = _shares()
    splits = {name: Fill(name, colour) for name, colour in SPLITS.items()}
    made = {
        "Predicted city": (categorised("answer", cities, vague=approximate), "the most probable city"),
        "Confidence": (graduated("confidence", edges, ramp, vague=approximate), "of the most probable city"),
        "Right or wrong": (categorised(verdict, verdicts, vague=approximate), "the answer against the truth"),
        "Split": (
            categorised("split", splits, vague=approximate),
            "what the chip was for: training, validation, test",
        ),
    }
    place = f"; position {APPROXIMATE_NOTE}" if approximate else ""
    return [Style(name=name, qml=_said(root), description=f"{about}{place}") for name, (root, about) in made.items()]


def polygons_qml(column: str, limit: float, *, largest: float) -> str:
    """QML of polygons filled by a number in classes of equal width around 0.

    Args:
        column: holds the number; polygons without one are not drawn.
        limit: where the outermost classes would end.
        largest: the largest number by size, where they do end if it is beyond.
    """
    colours = [colour for colour in DIVERGING if colour != DIVERGING[len(DIVERGING) // 2]]
    edges = [limit * step for step in np.linspace(-1, 1, len(colours) + 1).tolist()]
    edges[0], edges[-1] = min(edges[0], -largest), max(edges[-1], largest)
    pairs = zip(edges, edges[1:], colours, strict=False)
    return text(graduated(column, edges, [Fill(f"{low:.3g} to {high:.3g}", colour) for low, high, colour in pairs]))


def outlines_qml(colour: str) -> str:
    """QML of polygons of which only the outline is drawn."""
    root = document()
    symbols = ET.SubElement(ET.SubElement(root, "renderer-v2", type="singleSymbol", symbollevels="0"), "symbols")
    _add_symbol(symbols, "0", Fill("", colour), style="no", line="solid")
    return text(root)


def categorised(expression: str, classes: Mapping[str, Fill], *, vague: bool = False) -> ET.Element:
    """A style with one symbol for each value of an expression."""
    root = document()
    attributes = {"type": "categorizedSymbol", "attr": expression, "symbollevels": "0", "forceraster": "0"}
    renderer = ET.SubElement(root, "renderer-v2", attributes)
    entries, symbols = ET.SubElement(renderer, "categories"), ET.SubElement(renderer, "symbols")
    for index, (value, fill) in enumerate(classes.items()):
        entry = {"render": "true", "symbol": str(index), "value": value, "label": _label(fill, vague)}
        ET.SubElement(entries, "category", entry | {"type": "string"})
        _add_fill(symbols, str(index), fill, vague=vague)
    return root


def graduated(column: str, edges: Sequence[float], classes: Sequence[Fill], *, vague: bool = False) -> ET.Element:
    """A style with one symbol between each two edges of a number."""
    root = document()
    attributes = {"type": "graduatedSymbol", "graduatedMethod": "GraduatedColor", "symbollevels": "0"}
    renderer = ET.SubElement(root, "renderer-v2", attributes | {"attr": column, "forceraster": "0"})
    ranges, symbols = ET.SubElement(renderer, "ranges"), ET.SubElement(renderer, "symbols")
    for index, (low, high, fill) in enumerate(zip(edges, edges[1:], classes, strict=False)):
        entry = {"render": "true", "symbol": str(index), "lower": f"{low:.17g}", "upper": f"{high:.17g}"}
        ET.SubElement(ranges, "range", entry | {"label": _label(fill, vague)})
        _add_fill(symbols, str(index), fill, vague=vague)
    return root


def _verdicts(unknown: bool) -> tuple[str, dict[str, Fill]]:
    """An expression that judges an answer, and what it can say."""
    doubt = f"WHEN \"answer\" = '{UNKNOWN}' THEN 'unknown' " if unknown else ""
    judge = (
        f"""CASE WHEN "truth" IS NULL THEN 'no truth' {doubt}WHEN "answer" = "truth" THEN 'right' ELSE 'wrong' END"""
    )
    said = {"right": Fill("right", RIGHT), "wrong": Fill("wrong", WRONG)}
    said |= {"unknown": Fill("unknown to the model", UNKNOWN_COLOUR, True)} if unknown else {}
    return judge, said | {"no truth": Fill("truth not known", "#ffffff")}


def _shares() -> tuple[list[float], list[Fill]]:
    """Edges of the classes of a share, and the classes."""
    edges = np.linspace(0, 1, len(CONFIDENCE) + 1).tolist()
    pairs = zip(edges, edges[1:], CONFIDENCE, strict=False)
    ramp = [Fill(f"{low:.1f} to {high:.1f}", colour) for low, high, colour in pairs]
    return [-HAIR, *edges[1:-1], 1 + HAIR], ramp


def _label(fill: Fill, vague: bool) -> str:
    return f"{fill.label} (approximate position)" if vague else fill.label


def _add_fill(symbols: ET.Element, name: str, fill: Fill, *, vague: bool) -> None:
    style = "b_diagonal" if fill.hatched else "solid"
    _add_symbol(symbols, name, fill, style=style, line="dash" if vague else "solid")


def _add_symbol(symbols: ET.Element, name: str, fill: Fill, *, style: str, line: str) -> None:
    symbol = ET.SubElement(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1")
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0", "locked": "0"})
    options = ET.SubElement(layer, "Option", type="Map")
    red, green, blue = rgb(fill.colour)
    pale = min(red, green, blue) > 200  # on a light ground its outline would be lost
    outline = "90,90,90" if pale else f"{red},{green},{blue}"
    values = {
        "color": f"{red},{green},{blue},{HATCHED if fill.hatched else fill.opacity}",
        "style": style,
        "outline_color": f"{outline},255",
        "outline_style": line,
        "outline_width": "0.5",
        "outline_width_unit": "MM",
    }
    for key, value in values.items():
        ET.SubElement(options, "Option", name=key, type="QString", value=value)


def _said(root: ET.Element) -> str:
    """The style with what is said of a chip: a map tip, and a label when one is near enough to read it."""
    root.set("labelsEnabled", "1")
    settings = ET.SubElement(ET.SubElement(root, "labeling", type="simple"), "settings", calloutType="simple")
    words = f'"answer" || if("answer" = "city", \'\\n\' || {SURE}, \'\')'
    style = {"fieldName": words, "isExpression": "1", "fontSize": "9", "fontSizeUnit": "Point", "fontWeight": "75"}
    written = ET.SubElement(settings, "text-style", style | {"textColor": "20,20,20,255", "textOpacity": "1"})
    buffer = {"bufferDraw": "1", "bufferSize": "0.7", "bufferSizeUnits": "MM", "bufferColor": "255,255,255,255"}
    ET.SubElement(
        written, "text-buffer", buffer | {"bufferOpacity": "1", "bufferNoFill": "1", "bufferJoinStyle": "128"}
    )
    ET.SubElement(settings, "placement", placement="1")
    scale = {"scaleVisibility": "1", "scaleMin": "1", "scaleMax": str(LABELS_BELOW)}
    ET.SubElement(settings, "rendering", scale | {"obstacle": "0"})
    rows = {
        "truth": _PLAIN.format('"truth"'),
        "top five": _PLAIN.format('"top5"'),
        "scene": _PLAIN.format('"scene_id"'),
        "split": _PLAIN.format('"split"'),
    }
    answer, city = _PLAIN.format('"answer"'), _PLAIN.format('"city"')
    nearest = f"if(\"answer\" = \"city\", '', 'nearest: ' || {city} || ' ')"
    tip = f"<b>[% {answer} %]</b> [% {nearest} || {SURE} %]"
    tip += "".join(f"<br>{name}: [% {value} %]" for name, value in rows.items())
    ET.SubElement(root, "mapTip").text = tip
    return text(root)
