"""A table and its QGIS style in, an atomic GeoPackage with the style inside out; the same table, the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyogrio  # type: ignore[import-untyped]

from dlslicer_geo import files

FIXED_DATE = "2000-01-01T00:00:00Z"
"""What stands for the time of writing: the same table must give the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How QGIS draws a layer.

    Args:
        qml: the style.
        description: what QGIS says of it.
    """

    qml: str
    description: str


def write_geopackage(
    table: gpd.GeoDataFrame, path: Path, *, layer: str, geometry: str, style: Style, metadata: Mapping[str, str]
) -> Path:
    """Write a table as the one layer of a GeoPackage, its style in ``layer_styles``.

    Args:
        table: rows with a geometry.
        path: ends in ``.gpkg``.
        layer: name of the layer.
        geometry: ``Polygon`` or ``MultiPolygon``, to which polygons are then promoted.
        style: how QGIS draws it.
        metadata: names and values for the metadata of the file.
    """
    many = geometry.startswith("Multi")
    with files.atomic(path) as temporary, _fixed_date():
        temporary.unlink(missing_ok=True)
        pyogrio.write_dataframe(
            table, temporary, layer=layer, driver="GPKG", geometry_type=geometry, promote_to_multi=many,
            dataset_metadata=dict(metadata), use_arrow=True,
        )  # fmt: skip
        pyogrio.write_dataframe(_style_row(layer, style), temporary, layer="layer_styles", driver="GPKG")
    return path


@contextmanager
def _fixed_date() -> Iterator[None]:
    """GeoPackages hold the time of writing; GDAL takes it from this option of the process when it is set."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": FIXED_DATE})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _style_row(layer: str, style: Style) -> pd.DataFrame:
    """The one row of the table in which QGIS looks for the style of a layer."""
    row = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": layer,
        "f_geometry_column": "geom",
        "styleName": layer,
        "styleQML": style.qml,
        "styleSLD": "",
        "useAsDefault": True,
        "description": style.description,
        "owner": "",
        "ui": None,
        "update_time": FIXED_DATE,
    }
    return pd.DataFrame([row])
