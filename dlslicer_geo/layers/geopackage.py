"""A table and its QGIS styles in, an atomic GeoPackage with the styles inside, or a FlatGeobuf, out.

The same table gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        name: under which QGIS lists it.
        qml: the style.
        description: what QGIS says of it.
    """

    name: str
    qml: str
    description: str


def write_geopackage(
    table: gpd.GeoDataFrame,
    path: Path,
    *,
    layer: str,
    geometry: str,
    styles: Sequence[Style],
    metadata: Mapping[str, str],
) -> Path:
    """Write a table as the one layer of a GeoPackage, its styles in ``layer_styles``.

    Args:
        table: rows with a geometry.
        path: ends in ``.gpkg``.
        layer: name of the layer.
        geometry: ``Polygon`` or ``MultiPolygon``, to which polygons are then promoted.
        styles: how QGIS can draw it; it opens with the first.
        metadata: names and values for the metadata of the file.
    """
    many = geometry.startswith("Multi")
    with files.atomic(path) as temporary, _fixed_date():
        temporary.unlink(missing_ok=True)
        pyogrio.write_dataframe(
            table, temporary, layer=layer, driver="GPKG", geometry_type=geometry, promote_to_multi=many,
            dataset_metadata=dict(metadata), dataset_options={"VERSION": "1.2"}, use_arrow=True,
        )  # fmt: skip
        rows = _style_rows(layer, styles)
        pyogrio.write_dataframe(rows, temporary, layer="layer_styles", driver="GPKG", layer_options={"FID": "id"})
    return path


def read_styles(path: Path) -> list[Style]:
    """The styles that a GeoPackage of :func:`write_geopackage` holds, the one that QGIS opens first."""
    rows = pyogrio.read_dataframe(path, layer="layer_styles", read_geometry=False)
    columns = (rows[name] for name in ("styleName", "styleQML", "description"))
    return [Style(name=name, qml=qml, description=about) for name, qml, about in zip(*columns, strict=True)]


def first_table(path: Path) -> str:
    """Name of the layer that a GeoPackage was written for."""
    return str(pyogrio.list_layers(path)[0][0])


def write_flatgeobuf(gpkg: str | Path, path: str | Path) -> Path:
    """Write the first layer of a GeoPackage as FlatGeobuf with a spatial index, which web servers hand out by range.

    The style that QGIS opens is written beside it, with the suffix ``.qml``.

    Args:
        gpkg: as :func:`~dlslicer_geo.layers.write_predictions` writes it.
        path: ends in ``.fgb``.
    """
    source, target = Path(gpkg), Path(path)
    about, table = pyogrio.read_arrow(source, layer=first_table(source))
    options = {"geometry_name": about["geometry_name"] or "wkb_geometry", "geometry_type": about["geometry_type"]}
    files.write_text(target.with_suffix(".qml"), read_styles(source)[0].qml)
    with files.atomic(target) as temporary:
        pyogrio.write_arrow(
            table, temporary, driver="FlatGeobuf", layer=target.stem, crs=about["crs"],
            layer_options={"SPATIAL_INDEX": "YES"}, **options,
        )  # fmt: skip
    return target


@contextmanager
def _fixed_date() -> Iterator[None]:
    """GeoPackages hold the time of writing; GDAL takes it from this option of the process when it is set."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": FIXED_DATE})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _style_rows(layer: str, styles: Sequence[Style]) -> pd.DataFrame:
    """The table in which QGIS looks for the styles of a layer."""
    rows = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": layer,
        "f_geometry_column": "geom",
        "styleName": [style.name for style in styles],
        "styleQML": [style.qml for style in styles],
        "styleSLD": "",
        "useAsDefault": [index == 0 for index in range(len(styles))],
        "description": [style.description for style in styles],
        "owner": "",
        "ui": None,
        "update_time": FIXED_DATE,
    }
    return pd.DataFrame(rows)
