"""Layers in, everything a page shows as plain lists out, and from that a :class:`WebMap`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from dlslicer_geo import colours
from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Layer, Progress, quiet
from dlslicer_geo.webmap import overlays, shapes
from dlslicer_geo.webmap.page import WebMap

SECTIONS = {
    "chips": "Predicted city",
    "saliency": "What gave it away",
    "city": "Predicted city, averaged",
    "confidence": "Confidence, averaged",
    "scenes": "Scene outlines",
    "image": "Imagery",
}
"""Kinds of layer in the order of the panel."""

WIDEST = 40.0
"""Degrees: a map that spans more starts at its first place, where there is something to see."""


def webmap(layers: Sequence[Layer], *, title: str = "Which city is this?", progress: Progress = quiet) -> WebMap:
    """Put layers on one map that works without a network.

    Args:
        layers: what is shown; layers of one kind and group share a switch.
        title: heading of the page.
        progress: shows how far it is.

    Raises:
        LayerError: if there are no layers, or the file of one cannot be drawn.
    """
    if not layers:
        raise LayerError("there are no layers to put on a map: write predictions or saliency first")
    tables = {layer.path: shapes.read_chips(layer) for layer in layers if layer.kind == "chips"}
    cities = _cities(layers, list(tables.values()))
    codes = [city["code"] for city in cities]
    sections: dict[str, dict[str, list[Any]]] = {kind: {} for kind in SECTIONS}
    for layer in progress(layers, total=len(layers), label="map"):
        for group, items in _draw(layer, tables, codes):
            sections[layer.kind].setdefault(group, []).extend(items)
    places = _places(list(tables.values())) or _group_places(sections)
    content = {
        "title": title,
        "approximate": any(layer.approximate for layer in layers),
        "cities": cities,
        "unknown": _unknown(list(tables.values())),
        "places": places,
        "sections": [
            {"kind": kind, "title": SECTIONS[kind], "notes": _notes(layers, kind, tables), "groups": _listed(groups)}
            for kind, groups in sections.items()
            if groups
        ],
        "start": _start(places),
        "ramps": {"saliency": colours.DIVERGING, "confidence": colours.CONFIDENCE},
    }
    return WebMap(content)


def _draw(layer: Layer, tables: dict[Any, gpd.GeoDataFrame], codes: list[str]) -> Iterable[tuple[str, list[Any]]]:
    if layer.kind == "chips":
        table = tables[layer.path]
        groups = table.groupby("place", sort=True).indices
        return [(str(place), [shapes.chip_columns(table.iloc[at], codes)]) for place, at in groups.items()]
    if layer.kind == "scenes":
        return list(shapes.scene_rings(layer).items())
    return [(layer.group, [overlays.picture(layer)])]


def _cities(layers: Sequence[Layer], tables: list[gpd.GeoDataFrame]) -> list[dict[str, Any]]:
    """Every city that is named anywhere, in the order of the layers; those answered have a colour and a count."""
    codes = [code for layer in layers for code in layer.cities]
    if not tables:
        return [{"code": code, "colour": None, "chips": 0} for code in dict.fromkeys(codes)]
    named = pd.concat([table[["city", "truth"]] for table in tables])
    codes += sorted(set(named["city"]) | set(named["truth"].dropna()))
    answered = pd.concat([table.loc[~shapes.unknown_chips(table), ["city", "colour"]] for table in tables])
    colours = dict(zip(answered["city"], answered["colour"], strict=True))
    counts = answered["city"].value_counts()
    return [
        {"code": code, "colour": colours.get(code), "chips": int(counts.get(code, 0))}
        for code in dict.fromkeys(codes)
    ]


def _unknown(tables: list[gpd.GeoDataFrame]) -> dict[str, Any] | None:
    """Colour and number of the chips whose city the model does not know, None where there are none."""
    if not tables:
        return None
    colours = pd.concat([table.loc[shapes.unknown_chips(table), "colour"] for table in tables])
    return {"colour": str(colours.iloc[0]), "chips": len(colours)} if len(colours) else None


def _places(tables: list[gpd.GeoDataFrame]) -> list[dict[str, Any]]:
    """Where the chips are: name, bounds, numbers of chips, of chips unknown to the model, and of right answers.

    ``right`` counts among the chips with a ``known`` truth; an answer of ``unknown`` is never right.
    """
    places = []
    for name, table in pd.concat(tables).groupby("place", sort=True) if tables else []:
        west, south, east, north = table.geometry.total_bounds.round(shapes.DIGITS).tolist()
        known = table["truth"].notna()
        unknown = shapes.unknown_chips(table)
        right = int((table["truth"] == table["city"])[known & ~unknown].sum())
        place = {"name": str(name), "bounds": [[south, west], [north, east]], "chips": len(table)}
        places.append(place | {"unknown": int(unknown.sum()), "known": int(known.sum()), "right": right})
    return places


def _group_places(sections: dict[str, dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Without chips, the groups of the other layers are the places."""
    corners: dict[str, list[Any]] = {}
    for kind, groups in sections.items():
        for name, items in groups.items():
            found = [corner for ring in items for corner in (ring if kind == "scenes" else ring["bounds"])]
            corners.setdefault(name, []).extend(found)
    places = []
    for name, points in sorted(corners.items()):
        low, high = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
        places.append({"name": name, "bounds": [low, high], "chips": 0, "unknown": 0, "known": 0, "right": 0})
    return places


def _start(places: list[dict[str, Any]]) -> int:
    """Number of the place to start at, -1 for all of them together."""
    corners = np.array([place["bounds"] for place in places])
    span = corners[:, 1].max(axis=0) - corners[:, 0].min(axis=0)
    return 0 if span.max() > WIDEST else -1


def _notes(layers: Sequence[Layer], kind: str, tables: dict[Any, gpd.GeoDataFrame]) -> list[str]:
    mine = [layer for layer in layers if layer.kind == kind]
    notes = [layer.note for layer in mine]
    notes += [tables[layer.path].attrs.get("note", "") for layer in mine if layer.path in tables]
    return [note for note in dict.fromkeys(notes) if note]


def _listed(groups: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "items": items} for name, items in sorted(groups.items())]
