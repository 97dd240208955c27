"""Relevance per polygon in, a GeoParquet table and a GeoPackage that QGIS opens coloured out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np

from dlslicer_geo import files
from dlslicer_geo.layers import fills
from dlslicer_geo.layers.geopackage import Style, write_geopackage

LAYER = "polygons"
"""Name of the layer in the GeoPackage."""

LIMIT_PERCENTILE = 99
"""The colour scale ends at this percentile of the mean relevance, by size."""


def write_polygons(
    table: gpd.GeoDataFrame, folder: str | Path, *, provenance: Mapping[str, str] | None = None
) -> list[Path]:
    """Write ``folder/polygons.parquet`` and ``folder/gis/polygons.gpkg``.

    The GeoPackage has one layer ``polygons``, coloured around 0 by the mean relevance of the deepest layer; polygons
    that no scene covers are in it, and are not drawn. The same table gives the same bytes.

    Args:
        table: as :func:`~dlslicer_geo.layers.by_polygon` makes it.
        folder: the run folder.
        provenance: names and values for the metadata of both files under ``dlslicer_geo``.

    Returns:
        both paths.
    """
    origin = dict(provenance or {})
    parquet = files.write_table(table, Path(folder) / "polygons.parquet", origin)
    path = Path(folder) / "gis" / "polygons.gpkg"
    drawn = [str(name) for name in table.columns if str(name).startswith("mean_")][-1]
    metadata = {files.PROVENANCE_KEY: json.dumps(origin, sort_keys=True)}
    made = [_style(table, drawn)]
    write_geopackage(_plain(table), path, layer=LAYER, geometry="MultiPolygon", styles=made, metadata=metadata)
    return [parquet, path]


def _plain(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """What GeoPackage does not know as text: lists and the like as JSON, spans of time, numbers above its largest."""
    simple = (str, int, float, bool, type(None))
    plain = table.copy()
    for name in table.columns.drop("geometry"):
        kind = table[name].dtype
        if kind.kind == "O" and not all(isinstance(value, simple) for value in table[name]):
            plain[name] = [_json(value) for value in table[name]]
        elif kind.kind == "m" or kind.name.lower() == "uint64":
            plain[name] = table[name].astype(str)
    return plain


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, default=str)


def _style(table: gpd.GeoDataFrame, column: str) -> Style:
    """Coloured around 0 by one column."""
    values = np.abs(table[column].to_numpy(float))
    known = values[np.isfinite(values)]
    limit = float(np.percentile(known, LIMIT_PERCENTILE)) if known.size else 0.0
    return Style(
        name=LAYER,
        qml=fills.polygons_qml(column, limit or 1.0, largest=float(known.max(initial=0))),
        description=f"{column}: what speaks for the city (red) and against it (blue)",
    )
