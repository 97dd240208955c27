"""Layers too large for one page in, a page with an overview and tiles in the folder ``map`` beside it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Layer, Progress, quiet
from dlslicer_geo.webmap import content, ground, mosaic, overview, painters, places, shapes, tiles
from dlslicer_geo.webmap.page import WebMap

ASSETS = ("pmtiles.js", "protomaps-leaflet.js")
"""What reads tiles in a browser; ``make assets`` fetches them, a checkout without npm lacks them."""

MOST_SCENES = 8_000
"""Scenes that are listed in the page and outlined, in about two megabytes; of more, only the chips are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """Rasters that become one archive of tiles.

    Args:
        name: of the archive, without a suffix.
        kind: of the layers.
        title: what the panel says.
        pieces: the files.
        zooms: first and last zoom of the tiles.
        limit: end of the scale of a saliency.
    """

    name: str
    kind: str
    title: str
    pieces: list[mosaic.Piece]
    zooms: tuple[int, int]
    limit: float | None = None


def large(layers: Sequence[Layer], *, title: str, basemaps: Sequence[str] = (), progress: Progress = quiet) -> WebMap:
    """Put layers of any size on a map; the tiles are written when it is saved.

    Args:
        layers: what is shown.
        title: heading of the page.
        basemaps: what the reader may switch on where there is a network.
        progress: shows how far it is.

    Raises:
        LayerError: if the file of a layer cannot be drawn.
    """
    tables = [shapes.read_chips(layer) for layer in layers if layer.kind == "chips"]
    table = pd.concat(tables, ignore_index=True) if tables else None
    found = content.described(layers, title=title, tables=tables)
    codes = [city["code"] for city in found["cities"]]
    rasters = _rasters(layers)
    sections = _sections(layers, crowded=len(found["scenes"]) > MOST_SCENES)
    where = places.places(tables) or _raster_places(rasters)
    if len(found["scenes"]) > MOST_SCENES:
        found["scenes"] = {}
    page = found | {
        "basemaps": ground.offered(basemaps),
        "places": where,
        "start": places.start(where),
        "sections": sections,
        "tiles": _described(table, codes, rasters),
    }
    own = resources.files(__package__) / "overview.js"
    scripts = [*filter(None, map(_asset, ASSETS)), own.read_text(encoding="utf-8")]
    return WebMap(page, scripts=scripts, beside=lambda folder: _write(folder, table, codes, rasters, progress))


def _write(
    folder: Path, table: gpd.GeoDataFrame | None, codes: list[str], rasters: list[Raster], progress: Progress
) -> list[Path]:
    """Write all archives, and remove those of an earlier map."""
    written = []
    if table is not None:
        written.append(tiles.write_chips(table, codes, folder / "chips.pmtiles", progress))
    for raster in rasters:
        path = folder / f"{raster.name}.pmtiles"
        lossy = raster.kind == "image"
        written.append(mosaic.write_mosaic(raster.pieces, path, raster.zooms, lossy=lossy, progress=progress))
    for old in set(folder.glob("*.pmtiles")) - set(written):
        old.unlink()
    return written


def _described(table: gpd.GeoDataFrame | None, codes: list[str], rasters: list[Raster]) -> dict[str, Any]:
    """What the page knows of its tiles: their addresses, zooms and bounds, and the overview."""
    return {
        "chips": None if table is None else {"url": "map/chips.pmtiles", "zooms": tiles.ZOOMS},
        "overview": None if table is None else overview.cells(table, codes),
        "rasters": [
            {
                "name": raster.name,
                "kind": raster.kind,
                "title": raster.title,
                "url": f"map/{raster.name}.pmtiles",
                "zooms": raster.zooms,
                "bounds": mosaic.corners(raster.pieces),
                "limit": raster.limit,
            }
            for raster in rasters
        ],
        "missing": [name for name in ASSETS if not _asset(name)],
    }


def _rasters(layers: Sequence[Layer]) -> list[Raster]:
    """One archive for each depth of saliency, and one each for cities, confidence and imagery."""
    kinds = {kind: [layer for layer in layers if layer.kind == kind] for kind in content.SECTIONS}
    found = []
    for number, (depth, limit) in enumerate(painters.depths(kinds["saliency"]).items(), start=1):
        pieces = [mosaic.piece(layer.path, painters.saliency(depth, limit)) for layer in kinds["saliency"]]
        span = mosaic.zooms(pieces, finer=2, deepest=16, most=40_000)
        found.append(
            Raster(name=f"saliency-{number}", kind="saliency", title=depth, pieces=pieces, zooms=span, limit=limit)
        )
    for kind, paint in (("city", painters.city), ("confidence", painters.confidence)):
        pieces = [mosaic.piece(layer.path, paint) for layer in kinds[kind]]
        if pieces:
            span = mosaic.zooms(pieces, finer=8, deepest=15, most=20_000)
            found.append(Raster(name=kind, kind=kind, title=content.SECTIONS[kind], pieces=pieces, zooms=span))
    pieces = [mosaic.piece(layer.path, painters.image(layer)) for layer in kinds["image"]]
    if pieces:
        span = mosaic.zooms(pieces, finer=1, deepest=18, most=20_000)
        found.append(Raster(name="image", kind="image", title=content.SECTIONS["image"], pieces=pieces, zooms=span))
    return found


def _sections(layers: Sequence[Layer], *, crowded: bool) -> list[dict[str, Any]]:
    """The outlines of the scenes, unless there are too many; the other kinds only with what is said of them."""
    found = []
    for kind, title in content.SECTIONS.items():
        said, groups = content.notes(layers, kind), []
        mine = [layer for layer in layers if layer.kind == kind]
        if kind == "scenes" and crowded:
            said = [*said, f"More than {MOST_SCENES} scenes: their outlines and links are left out."]
        elif kind == "scenes":
            rings = [shapes.scene_rings(shapes.read_scenes(layer), layer.group) for layer in mine]
            groups = [{"name": name, "items": items} for one in rings for name, items in one.items()]
        if mine:
            found.append({"kind": kind, "title": title, "notes": said, "groups": groups})
    return found


def _raster_places(rasters: list[Raster]) -> list[dict[str, Any]]:
    """Without chips, everything is one place."""
    if not rasters:
        raise LayerError("a map of this size needs chips or rasters: give predictions or saliency")
    bounds = mosaic.corners([piece for raster in rasters for piece in raster.pieces])
    return [{"name": "", "bounds": bounds, "chips": 0, "unknown": 0, "known": 0, "right": 0}]


def _asset(name: str) -> str:
    """A script that ``make assets`` has fetched, empty where it has not."""
    path = resources.files(__package__) / "assets" / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""
