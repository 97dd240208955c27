"""Layers in, everything a page shows as plain lists out, and from that a :class:`WebMap`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import geopandas as gpd

from dlslicer_geo import colours
from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Layer, Progress, quiet
from dlslicer_geo.webmap import ground, overlays, places, shapes
from dlslicer_geo.webmap.page import WebMap

SECTIONS = {
    "chips": "Chips",
    "saliency": "What gave it away",
    "city": "Predicted city, averaged",
    "confidence": "Confidence, averaged",
    "scenes": "Scene outlines",
    "image": "Imagery",
}
"""Kinds of layer in the order of the panel."""

MOST_CHIPS = 20_000
"""Embedded chips that a browser draws within two seconds; more are tiles."""

OVERHEAD = 300_000
"""Bytes of a page without any layer: Leaflet, style and scripts."""

Sections = dict[str, dict[str, list[Any]]]


def webmap(
    layers: Sequence[Layer],
    *,
    title: str = "Which city is this?",
    budget_mb: float = 25.0,
    basemaps: Sequence[str] = (),
    progress: Progress = quiet,
) -> WebMap:
    """Put layers on one map that works without a network.

    Args:
        layers: what is shown; layers of one kind and group share a switch.
        title: heading of the page.
        budget_mb: size of the page in megabytes. Chips, saliency and imagery that would exceed it, and more than
            20,000 chips, become tiles beside the page.
        basemaps: what the reader may switch on where there is a network: ``osm``, ``satellite``.
        progress: shows how far it is.

    Raises:
        LayerError: if there are no layers, the file of one cannot be drawn, or a basemap is not known.
    """
    if not layers:
        raise LayerError("there are no layers to put on a map: write predictions or saliency first")
    offered = ground.offered(basemaps)
    chips = [layer for layer in layers if layer.kind == "chips"]
    few = sum(shapes.count_chips(layer) for layer in chips) <= MOST_CHIPS
    content = _embedded(layers, title, round(budget_mb * 1e6), progress) if few else None
    if content is None:
        from dlslicer_geo.webmap.large import large

        return large(layers, title=title, basemaps=basemaps, progress=progress)
    return WebMap(content | {"basemaps": offered})


def described(layers: Sequence[Layer], *, title: str, tables: list[gpd.GeoDataFrame]) -> dict[str, Any]:
    """What a page says of all layers together, whether they are embedded or tiles.

    Args:
        layers: what is shown.
        title: heading of the page.
        tables: the chips, as :func:`shapes.read_chips` returns them.
    """
    scenes: dict[str, Any] = {}
    for layer in layers:
        if layer.kind == "scenes":
            scenes |= shapes.scene_facts(shapes.read_scenes(layer), layer.path.parent)
    return {
        "title": title,
        "approximate": any(layer.approximate for layer in layers),
        "cities": places.cities(layers, tables),
        "unknown": places.unknown(tables),
        "counts": places.counts(tables),
        "scenes": scenes,
        "ramps": {"saliency": colours.DIVERGING, "confidence": colours.CONFIDENCE},
        "paints": {"right": colours.RIGHT, "wrong": colours.WRONG, "splits": colours.SPLITS},
        "basemaps": [],
        "tiles": None,
    }


def notes(layers: Sequence[Layer], kind: str) -> list[str]:
    """The caveats of all layers of a kind, each once."""
    return list(dict.fromkeys(layer.note for layer in layers if layer.kind == kind and layer.note))


def _embedded(layers: Sequence[Layer], title: str, budget: int, progress: Progress) -> dict[str, Any] | None:
    """The content of a page that holds everything; None as soon as it exceeds the budget in bytes."""
    tables = {layer.path: shapes.read_chips(layer) for layer in layers if layer.kind == "chips"}
    content = described(layers, title=title, tables=list(tables.values()))
    codes = [city["code"] for city in content["cities"]]
    owners = _owners(content["scenes"])
    sections: Sections = {kind: {} for kind in SECTIONS}
    size = OVERHEAD + _size(content["scenes"])
    for layer in progress(layers, total=len(layers), label="map"):
        for group, items in _draw(layer, tables, codes, owners):
            sections.setdefault(layer.kind, {}).setdefault(group, []).extend(items)
            size += _size(items)
        if size > budget:
            return None
    found = places.places(list(tables.values())) or places.group_places(sections)
    listed = [_section(layers, kind, groups) for kind, groups in sections.items() if groups]
    return content | {"places": found, "start": places.start(found), "sections": listed}


def _owners(scenes: dict[str, Any]) -> dict[str, str]:
    """Real path of a file → the scene it shows."""
    return {os.path.realpath(scene["path"]): name for name, scene in scenes.items() if scene["path"]}


def _draw(
    layer: Layer, tables: dict[Any, gpd.GeoDataFrame], codes: list[str], owners: dict[str, str]
) -> Iterable[tuple[str, list[Any]]]:
    if layer.kind == "chips":
        table = tables[layer.path]
        groups = table.groupby("place", sort=True).indices
        return [(str(place), [shapes.chip_columns(table.iloc[at], codes)]) for place, at in groups.items()]
    if layer.kind == "scenes":
        return list(shapes.scene_rings(shapes.read_scenes(layer), layer.group).items())
    drawn = overlays.picture(layer)
    if layer.kind == "image":
        drawn["scene"] = owners.get(os.path.realpath(layer.path), layer.path.stem)
    return [(layer.group, [drawn])]


def _size(items: Any) -> int:
    return len(json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode())


def _section(layers: Sequence[Layer], kind: str, groups: dict[str, list[Any]]) -> dict[str, Any]:
    listed = [{"name": name, "items": items} for name, items in sorted(groups.items())]
    return {"kind": kind, "title": SECTIONS.get(kind, kind), "notes": notes(layers, kind), "groups": listed}
