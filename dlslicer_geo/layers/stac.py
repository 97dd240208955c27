"""Scenes, layers and model of a run folder in, a static STAC catalogue of them out.

``catalog.json`` and the documents in ``stac`` name each other and every file by relative addresses, so that the
folder can be moved or put on a web server. ``stac_items`` says what a document holds, ``stac_model`` what it says of
a model.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac
import shapely
from pystac.stac_io import DefaultStacIO

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import stac_fields as fields
from dlslicer_geo.layers.rasters import unique_name
from dlslicer_geo.layers.stac_items import KINDS, Place, Spans, asset, output_item, scene_item
from dlslicer_geo.layers.stac_model import TrainedModel, model_item
from dlslicer_geo.types import Layer

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

TABLES = {
    "predictions": ("gis/predictions.gpkg", "data"),
    "flatgeobuf": ("gis/predictions.fgb", "data"),
    "polygons": ("gis/polygons.gpkg", "data"),
    "map": ("map.html", "overview"),
    "report": ("report.html", "metadata"),
    "gallery": ("gallery.html", "overview"),
    "project": ("project.qgz", "metadata"),
    "metrics": ("metrics.json", "metadata"),
}
"""Files of a run folder that belong to no one raster, and their roles."""

WORLD = [-180.0, -90.0, 180.0, 90.0]
"""Where things are of which nobody knows where they are."""

_SURE = (".gpkg", ".parquet")
"""Of other files neither size nor checksum is stated: they may be written anew after the catalogue."""


def write_stac(
    folder: str | Path,
    *,
    title: str,
    scenes: GeoDataFrame,
    layers: Sequence[Layer],
    model: TrainedModel | None = None,
    provenance: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a static catalogue of a run folder: scenes, outputs, and the model.

    No image of a scene is opened. A scene of which only a year, month or day is known has a period instead of a
    ``datetime``, one without any date the period 1858 to 2099, and a scene that lies somewhere in its city only says
    so in ``dlslicer:position``. Documents of an earlier catalogue in ``stac`` are removed.

    Args:
        folder: the run folder.
        title: what stands above the catalogue.
        scenes: scene table; local paths are absolute or begin in the working directory.
        layers: what was written; those of city, confidence and saliency become items.
        model: what was trained; None leaves it out.
        provenance: ``version`` and ``config_hash`` of what wrote the files.

    Returns:
        ``catalog.json`` and every document in ``stac``.

    Raises:
        LayerError: if two scenes have one id, or a raster cannot be read.
    """
    root = Path(folder).resolve()
    if scenes["scene_id"].duplicated().any():
        twice = scenes["scene_id"][scenes["scene_id"].duplicated()].iloc[0]
        raise LayerError(f"two scenes have the id {twice!r}: give each its own")
    base = Place(folder=root / "stac", provenance=provenance or {})
    spans = Spans.of(scenes)
    made = f"dlslicer-geo-{base.provenance.get('config_hash', '')[:12]}".rstrip("-")
    catalog = pystac.Catalog(id=made, description="Scenes, outputs and model of a run of dlslicer_geo.", title=title)
    images = _scenes(scenes, base, spans)
    learnt = None if model is None else model_item(model, base, _box(scenes), spans)
    parts = [images, _outputs(root, layers, base, spans)]
    _relate(parts, learnt)
    catalog.add_children(parts)
    if learnt is not None:
        catalog.add_item(learnt)
    return _save(catalog, root)


def _scenes(scenes: GeoDataFrame, base: Place, spans: Spans) -> pystac.Collection:
    place = replace(base, folder=base.folder / "scenes" / "items")
    items = [scene_item(record, place) for record in scenes.to_dict("records")]
    cities = sorted({city for city in scenes["city"] if isinstance(city, str)})
    return _collection("scenes", "Images that chips are cut from.", items, spans.all, {"dlslicer:city": cities})


def _outputs(root: Path, layers: Sequence[Layer], base: Place, spans: Spans) -> pystac.Collection:
    """Items of the rasters; whatever else there is belongs to the collection."""
    place = replace(base, folder=base.folder / "outputs" / "items")
    items = []
    for layer in (layer for layer in layers if layer.kind in KINDS):
        item, scene = output_item(layer, place, spans)
        item.extra_fields["dlslicer:scene"] = scene
        items.append(item)
    kinds = [kind for kind in KINDS if any(layer.kind == kind for layer in layers)]
    about = "What the model says, and what gave it away."
    found = _collection("outputs", about, items, spans.all, {"dlslicer:kind": kinds})
    found.stac_extensions = [fields.FILE]
    here = replace(base, folder=base.folder / "outputs")
    named = {key: (root / name, role) for key, (name, role) in TABLES.items()}
    numbered = [*(root / "predictions").glob("part-*.parquet"), *(root / "map").glob("*.pmtiles")]
    named |= {path.stem: (path, "data") for path in sorted(numbered)}
    named |= {f"masked-{path.stem}": (path, "data") for path in sorted((root / "gis" / "masked").glob("*.tif"))}
    for key, (path, role) in named.items():
        if path.is_file() and (made := _file(path, here, role)):
            found.add_asset(key, made)
    return found


def _file(path: Path, place: Place, role: str) -> pystac.Asset | None:
    sure = path.suffix in _SURE
    made = asset(path, place, [role], sha256=None if sure else "")
    if made is not None and not sure:
        made.extra_fields.clear()
    return made


def _collection(
    name: str, description: str, items: list[pystac.Item], span: fields.Span, summaries: dict[str, list[str]]
) -> pystac.Collection:
    boxes = [item.bbox for item in items if item.bbox] or [WORLD]
    west, south, east, north = zip(*boxes, strict=True)
    whole = [min(west), min(south), max(east), max(north)]
    interval: list[list[datetime | None]] = [list(span)]
    extent = pystac.Extent(pystac.SpatialExtent([whole]), pystac.TemporalExtent(interval))
    given: dict[str, Any] = {key: values for key, values in summaries.items() if values}
    made = pystac.Collection(
        id=name, description=description, extent=extent, title=name.title(), license="other",
        summaries=pystac.Summaries(given),
    )  # fmt: skip
    made.add_items(items)
    return made


def _relate(parts: list[pystac.Collection], model: pystac.Item | None) -> None:
    """Outputs come from the model, and where it is one, from a scene."""
    images, outputs = parts
    by_id = {item.id: item for item in images.get_items()}
    for item in outputs.get_items():
        scene = by_id.get(item.extra_fields.pop("dlslicer:scene"))
        item.add_links([pystac.Link("derived_from", made) for made in (scene, model) if made is not None])
    if model is not None:
        model.add_link(pystac.Link("derived_from", images))


def _box(scenes: GeoDataFrame) -> Any:
    bounds = scenes.geometry.total_bounds
    return shapely.box(*bounds.round(6)) if len(scenes) and (bounds == bounds).all() else None


def _save(catalog: pystac.Catalog, root: Path) -> list[Path]:
    """Give every document its place and write all of them, whole or not at all each."""
    stac = root / "stac"
    shutil.rmtree(stac, ignore_errors=True)
    writer = _Writer()
    for part in catalog.get_children():
        for item in part.get_items():
            item.set_self_href(str(stac / part.id / "items" / f"{unique_name(item.id)}.json"))
        part.set_self_href(str(stac / part.id / "collection.json"))
    for item in catalog.get_items():
        item.set_self_href(str(stac / f"{item.id}.json"))
    catalog.set_self_href(str(root / "catalog.json"))
    catalog.save(pystac.CatalogType.SELF_CONTAINED, stac_io=writer)
    return sorted(writer.written, key=lambda path: (path.parent != root, path))


class _Writer(DefaultStacIO):
    """Writes as every file of a run is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Path] = []

    def save_json(self, dest: Any, json_dict: dict[str, Any], *args: Any, **options: Any) -> None:
        self.written.append(files.write_json(str(dest), json_dict))
