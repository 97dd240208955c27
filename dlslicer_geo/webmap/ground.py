"""Names of basemaps in, what a browser needs to show them out; nothing is asked of any network here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import xyzservices.providers as xyz  # type: ignore[import-untyped]

from dlslicer_geo.errors import LayerError

BASEMAPS = {"osm": ("OpenStreetMap", xyz.OpenStreetMap.Mapnik), "satellite": ("Satellite", xyz.Esri.WorldImagery)}
"""Name in a configuration → what the panel calls it, and who serves it."""

DEEPEST = 19
"""Zoom of the most detailed tiles; beyond, these are enlarged."""


def offered(names: Sequence[str]) -> list[dict[str, Any]]:
    """What the page may switch on where there is a network: ``name title url deepest attribution link``.

    Raises:
        LayerError: if a name is none of :data:`BASEMAPS`.
    """
    if unknown := [name for name in names if name not in BASEMAPS]:
        raise LayerError(f"there is no basemap {unknown[0]!r}: name some of {', '.join(BASEMAPS)}")
    return [_basemap(name) for name in dict.fromkeys(names)]


def hosts(basemaps: Sequence[dict[str, Any]]) -> list[str]:
    """The servers that tiles come from, as a content security policy names them."""
    parts = [urlsplit(basemap["url"]) for basemap in basemaps]
    return list(dict.fromkeys(f"{part.scheme}://{part.netloc}" for part in parts))


def _basemap(name: str) -> dict[str, Any]:
    title, provider = BASEMAPS[name]
    link = re.search(r'href="(https:[^"]+)"', provider.html_attribution)
    return {
        "name": name,
        "title": title,
        "url": provider.build_url(),
        "deepest": min(DEEPEST, provider.get("max_zoom", DEEPEST)),
        "attribution": provider.attribution.replace("(C)", "©"),
        "link": link[1] if link else None,
    }
