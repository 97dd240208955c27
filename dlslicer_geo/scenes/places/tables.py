"""The bytes of a sidecar table (CSV, GeoJSON, GeoPackage, KML, KMZ) in, its rows out."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyogrio  # type: ignore[import-untyped]
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FieldError, GeometryError  # type: ignore[import-untyped]
from shapely.errors import ShapelyError

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.places.companions import read_small
from dlslicer_geo.scenes.places.crs import crs_text
from dlslicer_geo.scenes.places.kml import parse_kml, parse_kmz
from dlslicer_geo.scenes.places.rows import GEOMETRY, Point, Row, make_row
from dlslicer_geo.scenes.places.world import FARTHEST

LARGEST = 100_000_000
"""Bytes of a table that is read."""

MOST_ROWS = 1_000_000


def read(path: Path) -> list[Row]:
    """The rows of a table, in its order.

    Raises:
        SceneError: naming the table, if it cannot be read.
    """
    try:
        content = read_small(path, LARGEST)
        return PARSERS[path.suffix.lower()](content, path.name)
    except SceneError as error:
        reason = str(error)
        raise SceneError(reason if reason.startswith(path.name) else f"{path.name}: {reason}") from None


def parse_csv(content: bytes, name: str) -> list[Row]:
    """Rows of a CSV file in UTF-8, its columns parted by comma, semicolon or tabulator.

    Raises:
        SceneError: with the reason, if it cannot be read.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SceneError(f"it is not in UTF-8 (byte {error.start}): save it as CSV UTF-8") from None
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise SceneError(f"it is no CSV (line {reader.line_num}: {error}): write it anew") from None
    if not lines:
        raise SceneError("it is empty: add a line with the names of the columns")
    columns = lines.pop(0)
    rows = []
    for number, line in enumerate(_few(lines), 1):
        if len(line) > len(columns):
            raise SceneError(f"row {number} has {len(line)} cells, but there are {len(columns)} columns: quote it")
        rows.append(make_row(f"{name}, row {number}", zip(columns, line, strict=False)))
    return rows


def parse_geojson(content: bytes, name: str) -> list[Row]:
    """Rows of GeoJSON, or of a list of flat JSON objects.

    Raises:
        SceneError: with the reason, if it cannot be read.
    """
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SceneError(f"it is no JSON in UTF-8 ({str(error)[:100]}): write it anew") from None
    crs = "EPSG:4326"
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        crs = _named_crs(document.get("crs")) or crs
        document = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        document = [document]
    if not isinstance(document, list) or not all(isinstance(feature, dict) for feature in document):
        raise SceneError("it is no GeoJSON: write a FeatureCollection")
    return [_feature(f"{name}, row {n}", feature, crs) for n, feature in enumerate(_few(document), 1)]


def parse_gpkg(content: bytes, name: str) -> list[Row]:
    """Rows of the layer ``scenes`` of a GeoPackage, or of its only layer.

    Raises:
        SceneError: with the reason, if it cannot be read.
    """
    content = _check_database(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL's doubts about parts that nobody reads
            layers = [str(layer) for layer in pyogrio.list_layers(content)[:, 0] if layer != "layer_styles"]
            if len(layers) != 1 and "scenes" not in layers:
                raise SceneError(
                    f"it has the layers {', '.join(layers) or 'none'}: call the one that is meant scenes"
                )
            layer = "scenes" if "scenes" in layers else layers[0]
            meta, _, geometry, fields = pyogrio.raw.read(content, layer=layer, max_features=MOST_ROWS + 1)
            number = len(fields[0]) if geometry is None and fields else len(geometry if geometry is not None else [])
            shapes = [None] * number if geometry is None else shapely.from_wkb(geometry)
    except (
        DataSourceError, DataLayerError, FieldError, GeometryError, ShapelyError, OSError, ValueError, RuntimeError,
        OverflowError,
    ) as error:  # fmt: skip
        raise SceneError(f"it is no GeoPackage that can be read ({' '.join(str(error).split())[:200]})") from None
    crs = crs_text(meta["crs"]) if meta.get("crs") else "EPSG:4326"
    columns = [str(column) for column in meta["fields"]]
    rows = []
    for number, shape in enumerate(_few(shapes), 1):
        kind, points = _shape_points(shape)
        cells = [*_cells(columns, fields, number - 1), (GEOMETRY, kind)]
        rows.append(make_row(f"{name}, row {number}", cells, points, crs))
    return rows


def _feature(origin: str, feature: dict[str, Any], crs: str) -> Row:
    properties = feature.get("properties") if "type" in feature else feature
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise SceneError(f"{origin}: its properties are no object")
    kind, points = _geojson_points(origin, feature.get("geometry"))
    cells = [(str(key), _cell(value)) for key, value in properties.items()]
    return make_row(origin, [*cells, (GEOMETRY, kind)], points, crs)


def _cell(value: Any) -> str | None:
    """Text of a value; None for what a cell cannot hold."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | dict | list | bytes) or value != value:
        return None
    return str(value)


def _named_crs(member: Any) -> str | None:
    """The CRS that old GeoJSON may name."""
    properties = member.get("properties") if isinstance(member, dict) else None
    named = properties.get("name") if isinstance(properties, dict) else None
    return crs_text(named) if isinstance(named, str) else None


def _geojson_points(origin: str, geometry: Any) -> tuple[str | None, list[Point]]:
    """The kind of a geometry that gives no position, or its points."""
    if not isinstance(geometry, dict):
        return None, []
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "MultiPolygon" and isinstance(coordinates, list) and len(coordinates) == 1:
        kind, coordinates = "Polygon", coordinates[0]
    if kind not in ("Point", "Polygon"):
        return str(kind), []
    if kind == "Point":
        return None, [_geojson_point(origin, coordinates)]
    ring = coordinates[0] if isinstance(coordinates, list) and coordinates else None
    if not isinstance(ring, list):
        raise SceneError(f"{origin}: its polygon has no ring")
    return None, [_geojson_point(origin, point) for point in ring]


def _geojson_point(origin: str, point: Any) -> Point:
    if isinstance(point, list) and len(point) >= 2 and all(type(value) in (int, float) for value in point[:2]):
        x, y = point[:2]
        if abs(x) <= FARTHEST and abs(y) <= FARTHEST:
            return float(x), float(y)
    raise SceneError(f"{origin}: its geometry holds {str(point)[:40]!r}, which is no position")


def _shape_points(shape: Any) -> tuple[str | None, list[Point]]:
    """The kind of a geometry that gives no position, or its points."""
    if shape is None or shape.is_empty:
        return None, []
    if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1:
        shape = shape.geoms[0]
    if shape.geom_type not in ("Point", "Polygon"):
        return str(shape.geom_type), []
    outline = shape.coords if shape.geom_type == "Point" else shape.exterior.coords
    points = [(float(point[0]), float(point[1])) for point in outline]
    return None, [(x, y) for x, y in points if abs(x) <= FARTHEST and abs(y) <= FARTHEST]


def _check_database(content: bytes) -> bytes:
    """A database as GDAL may open it: no view, behind which any query could stand, and no log file beside it."""
    if not content.startswith(b"SQLite format 3\0"):
        raise SceneError("it is no GeoPackage: write it anew")
    content = content[:18] + b"\1\1" + content[20:]  # else a file that QGIS has open cannot be read from memory
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.deserialize(content)
            views = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'view'").fetchone()[0]
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise SceneError(f"it is no GeoPackage that can be read ({error}): write it anew") from None
    if views:
        raise SceneError(f"it has {views} database views: write the layer to a GeoPackage of its own")
    return content


def _few(rows: Any) -> Any:
    if len(rows) > MOST_ROWS:
        raise SceneError(f"it has more than {MOST_ROWS:,} rows: split it")
    return rows


def _cells(columns: list[str], fields: list[Any], at: int) -> list[tuple[str, str | None]]:
    return [(column, _cell(values[at])) for column, values in zip(columns, fields, strict=True)]


PARSERS: dict[str, Callable[[bytes, str], list[Row]]] = {
    ".csv": parse_csv,
    ".geojson": parse_geojson,
    ".json": parse_geojson,
    ".gpkg": parse_gpkg,
    ".kml": parse_kml,
    ".kmz": parse_kmz,
}
"""Readers of tables: bytes and the name of the file in, rows out."""
