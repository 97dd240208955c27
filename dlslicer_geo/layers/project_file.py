"""What a QGIS project shows in, a ``.qgz`` file (a zip of XML) out; QGIS itself is not needed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from defusedxml.ElementTree import fromstring
from pyproj import CRS, Transformer

from dlslicer_geo import files
from dlslicer_geo.layers.styles import text

Bounds = tuple[float, float, float, float]

VERSION = "3.22.0"
"""The oldest QGIS that reads the project as it is meant; a later one says nothing about its age."""

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""What a zip says of the time of writing: the same layers must give the same bytes."""

MARGIN = 0.03
"""Share of the extent that is left free at its edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A layer as QGIS lists it.

    Args:
        kind: as of :class:`~dlslicer_geo.types.Layer`.
        path: the file.
        name: what the list of layers says.
        group: names of the groups it lies in, from the outside; empty ones are left out.
        on: whether it is switched on.
        qml: its style.
        crs: as anything that pyproj understands.
        bounds: left, bottom, right, top in this CRS.
        note: what QGIS says of it when the pointer rests on it.
        table: its name in the file; empty for a raster.
    """

    kind: str
    path: Path
    name: str
    group: tuple[str, ...]
    on: bool
    qml: str
    crs: str
    bounds: Bounds
    note: str = ""
    table: str = ""


def write_qgz(path: Path, shown: Sequence[Shown], *, title: str) -> Path:
    """Write a project whose list of layers is ``shown``, the first on top; its folder may be moved."""
    name = zipfile.ZipInfo(f"{path.stem}.qgs", FIXED_DATE)
    name.compress_type = zipfile.ZIP_DEFLATED
    with files.atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(name, text(_project(path.parent, shown, title)))
    return path


def _project(folder: Path, shown: Sequence[Shown], title: str) -> ET.Element:
    crs = _common([one.crs for one in shown if not one.table])
    places = [_place(folder, one) for one in shown]
    ids = [f"dlslicer_{one.kind}_{number}" for number, one in enumerate(shown)]  # QGIS takes none below 11 characters
    root = ET.Element("qgis", version=VERSION, projectname=title)
    ET.SubElement(root, "homePath", path="")
    ET.SubElement(root, "title").text = title
    _add_crs(ET.SubElement(root, "projectCrs"), crs)
    root.append(_tree(shown, ids, places))
    layers = ET.Element("projectlayers")
    for one, key, place in zip(shown, ids, places, strict=True):
        layers.append(_layer(one, key, place))
    if shown:
        _add_view(root, crs, _extent(shown, crs))
    root.append(layers)
    properties = ET.SubElement(root, "properties")
    ET.SubElement(ET.SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    systems = ET.SubElement(properties, "SpatialRefSys")
    ET.SubElement(systems, "ProjectionsEnabled", type="int").text = "1"  # or projectCrs is not read
    return root


def _common(found: Sequence[str]) -> CRS:
    """The CRS that all rasters share, or Web Mercator."""
    only = set(found)
    return _crs(only.pop()) if len(only) == 1 else CRS.from_epsg(3857)


@cache
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)


def _place(folder: Path, one: Shown) -> str:
    """Where a layer lies, seen from the project; QGIS tells relative paths by their leading dot."""
    place = Path(os.path.relpath(one.path.resolve(), folder.resolve())).as_posix()
    place = place if place.startswith("../") else f"./{place}"
    return f"{place}|layername={one.table}" if one.table else place


def _tree(shown: Sequence[Shown], ids: Sequence[str], places: Sequence[str]) -> ET.Element:
    """The list of layers; groups within groups are folded."""
    root = ET.Element("layer-tree-group")
    groups: dict[tuple[str, ...], ET.Element] = {(): root}
    for one, key, place in zip(shown, ids, places, strict=True):
        names = tuple(name for name in one.group if name)
        for depth in range(1, len(names) + 1):
            if names[:depth] not in groups:
                about = {"name": names[depth - 1], "expanded": "1" if depth == 1 else "0", "checked": "Qt::Checked"}
                groups[names[:depth]] = ET.SubElement(groups[names[: depth - 1]], "layer-tree-group", about)
        about = {"id": key, "name": one.name, "source": place, "providerKey": _provider(one)}
        state = {"checked": "Qt::Checked" if one.on else "Qt::Unchecked", "expanded": "0"}
        ET.SubElement(groups[names], "layer-tree-layer", about | state)
    return root


def _provider(one: Shown) -> str:
    return "ogr" if one.table else "gdal"


def _layer(one: Shown, key: str, place: str) -> ET.Element:
    style = fromstring(one.qml)
    layer = ET.Element("maplayer", type="vector" if one.table else "raster")
    if one.table:
        layer.attrib |= {"geometry": "Polygon", "labelsEnabled": style.get("labelsEnabled", "0")}
    ET.SubElement(layer, "id").text = key
    ET.SubElement(layer, "datasource").text = place
    ET.SubElement(layer, "layername").text = one.name
    ET.SubElement(layer, "abstract").text = one.note
    ET.SubElement(layer, "provider", encoding="UTF-8").text = _provider(one)
    _add_crs(ET.SubElement(layer, "srs"), _crs(one.crs))
    _add_extent(layer, one.bounds)
    layer.extend(list(style))
    return layer


def _add_view(root: ET.Element, crs: CRS, extent: Bounds) -> None:
    """What the map shows when the project is opened, and the home of its full extent."""
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    ET.SubElement(canvas, "units").text = "degrees" if crs.is_geographic else "meters"
    _add_extent(canvas, extent)
    ET.SubElement(canvas, "rotation").text = "0"
    _add_crs(ET.SubElement(canvas, "destinationsrs"), crs)
    edges = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(repr, extent), strict=True))
    full = ET.SubElement(ET.SubElement(root, "ProjectViewSettings"), "DefaultViewExtent", edges)
    _add_crs(full, crs)


def _extent(shown: Sequence[Shown], crs: CRS) -> Bounds:
    """What all layers cover, with a margin."""
    corners = np.array([_transformed(one, crs) for one in shown])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    margin = MARGIN * (high - low).max()
    left, bottom, right, top = (float(edge) for edge in (*(low - margin), *(high + margin)))
    return left, bottom, right, top


def _transformed(one: Shown, crs: CRS) -> Bounds:
    return _between(one.crs, crs.to_wkt()).transform_bounds(*one.bounds)


@cache
def _between(source: str, target: str) -> Transformer:
    return Transformer.from_crs(_crs(source), _crs(target), always_xy=True)


def _add_extent(parent: ET.Element, bounds: Bounds) -> None:
    extent = ET.SubElement(parent, "extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True):
        ET.SubElement(extent, name).text = repr(float(value))


def _add_crs(parent: ET.Element, crs: CRS) -> None:
    system = ET.SubElement(parent, "spatialrefsys")
    ET.SubElement(system, "wkt").text = crs.to_wkt()
    authority = crs.to_authority()
    if authority:
        ET.SubElement(system, "authid").text = ":".join(authority)
    ET.SubElement(system, "geographicflag").text = "true" if crs.is_geographic else "false"
