"""Saliency files and the user's polygons in, relevance per polygon and city out: a table, and a layer for QGIS.

Every cell counts with the exact share of it that a polygon covers (package exactextract), and every sum is one over
ground: a cell weighs what it covers in square metres on the ellipsoid, so that scenes of different resolution, and
dates of the same place, can be added.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio  # type: ignore[import-untyped]
import rasterio
import shapely
from affine import Affine
from exactextract import exact_extract
from exactextract.raster import RasterSource
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.windows import Window

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers.rasters import BLOCK
from dlslicer_geo.types import Layer

log = logging.getLogger(__name__)

KEYS = ["city", "rather_than", "method"]
"""What relevance is kept apart by."""

EDGE_M, EDGE_DEGREES = 1000, 0.01
"""Longer edges of polygons get points in between: a straight line of one CRS is none of another."""

ELLIPSOID = Geod(ellps="WGS84")

CELLS = 1_000_000
"""Cells that are read at once."""

GRID = 'ENGCRS["cells",EDATUM["raster"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["cell",1]]'
"""Polygons are laid on cells, not cells on a map: so rasters may be turned."""


def read_polygons(path: str | Path) -> gpd.GeoDataFrame:
    """Read the polygons of a vector file: the first layer, any CRS, any format that GDAL reads, or GeoParquet.

    Returns:
        the file's own columns and ``geometry``, in the file's CRS.

    Raises:
        LayerError: if the file cannot be read, has no polygon or no CRS, or a feature is no valid polygon.
    """
    try:
        parquet = Path(path).suffix.lower() in (".parquet", ".geoparquet")
        table = gpd.read_parquet(path) if parquet else gpd.read_file(path, layer=0)
    except (OSError, ValueError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise LayerError(
            f"{path} cannot be read as polygons ({' '.join(str(error).split())}): give a vector file"
        ) from None
    return _checked(table, str(path))


def by_polygon(saliency: Iterable[Layer | str | Path], polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Sum relevance up over polygons.

    Args:
        saliency: saliency files, or layers of them, as :func:`~dlslicer_geo.layers.write_saliency` writes them; those
            of scenes of approximate position are left out.
        polygons: (multi)polygons with a CRS, as :func:`read_polygons` gives them.

    Returns:
        one row per polygon and explained city (and ``rather_than`` and method, where the files differ in them),
        and one row without a city for a polygon that no file covers; in the order of polygon and city, EPSG:4326.

        - ``polygon_id``: int64, the place of the polygon in ``polygons``, from 0.
        - the polygons' own columns; one that has the name of another column here begins with ``own_``.
        - ``city``, ``rather_than``, ``method``: text, null where nothing was explained.
        - ``scenes``: int64, number of scenes with a cell in the polygon; dates of a place count each.
        - ``covered_m2``: float64, ground of the polygon that the scenes cover, each counted.
        - ``mean_<layer>``: float64, mean relevance over that ground, signed, in the unit of the maps.
        - ``positive_share_<layer>``: float64, 0 to 1, sum of positive relevance over the sum of its absolute value.
        - ``enrichment_<layer>``: float64, 0 and more: the share of all positive relevance of the city that lies in
          the polygon over the share of all explained ground that does; 1 where relevance is spread evenly.

        Numbers are null where there is no cell, and a share or an enrichment where it would be 0/0.

    Raises:
        LayerError: if there is no saliency file with a position or no polygon, a file is none, their depths differ,
            the polygons have no CRS or are not valid, or no polygon lies on any file.
    """
    polygons = _checked(polygons, "the polygons")
    paths = [Path(item.path if isinstance(item, Layer) else item) for item in saliency]
    if not paths:
        raise LayerError("there is no saliency file to sum up over polygons: explain some chips first")
    found = [one for path in paths if (one := _Sums.of(path, polygons)) is not None]
    if not found:
        raise LayerError(
            f"all {len(paths)} saliency files are of scenes that lie somewhere in their city only: "
            "polygons need scenes with a position"
        )
    layers = found[0].layers
    if odd := next((one for one in found if one.layers != layers), None):
        raise LayerError(
            f"{odd.path} has the depths {', '.join(odd.layers)} and {found[0].path} {', '.join(layers)}: "
            "explain all alike"
        )
    cells = pd.concat([one.table for one in found], ignore_index=True)
    if cells.empty:
        raise LayerError(
            f"none of {len(polygons)} polygons lies on any of {len(paths)} saliency files: check their places and CRS"
        )
    log.info("%d of %d polygons lie on saliency", cells["polygon_id"].nunique(), len(polygons))
    return _joined(_combined(cells, found, layers), polygons)


def _checked(table: Any, name: str) -> gpd.GeoDataFrame:
    """Polygons as they can be used."""
    if not isinstance(table, gpd.GeoDataFrame) or not len(table):
        raise LayerError(f"{name}: there is no polygon in it: give polygons")
    if table.crs is None:
        raise LayerError(f"{name} has no CRS, so nobody knows where its {len(table)} polygons are: give it one")
    flat: gpd.GeoDataFrame = table.copy()
    flat.geometry = table.geometry.force_2d()
    _check_place(CRS(table.crs), name)
    kinds = shapely.get_type_id(table.geometry.to_numpy())
    strange = np.flatnonzero(~np.isin(kinds, (3, 6)) | table.geometry.is_empty.to_numpy())
    if len(strange):
        kind = table.geometry.iloc[strange[0]]
        said = "no geometry" if kind is None else "an empty one" if kind.is_empty else f"a {kind.geom_type}"
        raise LayerError(
            f"{name}: {len(strange)} of {len(table)} features are no polygons (number {strange[0]} is {said}): "
            "leave polygons and multipolygons only"
        )
    invalid = np.flatnonzero(~table.geometry.is_valid.to_numpy())
    if len(invalid):
        why = shapely.is_valid_reason(table.geometry.iloc[invalid[0]])
        raise LayerError(
            f"{name}: {len(invalid)} of {len(table)} polygons are not valid (number {invalid[0]}: {why}): repair "
            "them (QGIS: Fix geometries)"
        )
    return flat


def _check_place(crs: CRS, name: str) -> None:
    """Refuse a CRS of which nobody knows where on Earth it is."""
    try:
        Transformer.from_crs(crs, 4326)
    except ProjError:
        raise LayerError(f"{name} has the CRS {crs.name!r}, which has no place on Earth: give one that has") from None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sums:
    """Sums over one saliency file.

    Args:
        path: the file.
        layers: its depths.
        table: a row per polygon with a cell: ``polygon_id``, ``scene``, :data:`KEYS`, ``covered_m2``, and for each
            layer ``sum_``, ``positive_`` in relevance times square metres.
        whole: the same over all cells, one row.
    """

    path: Path
    layers: tuple[str, ...]
    table: pd.DataFrame
    whole: pd.DataFrame

    @classmethod
    def of(cls, path: Path, polygons: gpd.GeoDataFrame) -> _Sums | None:
        """The sums; None for a scene of approximate position, which lies on no polygon in particular."""
        try:
            source = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise LayerError(f"{path} cannot be read ({error}): explain its scene again") from None
        with source:
            tags = source.tags()
            if not {"SCENE", "CITY", "METHOD", "LAYERS"} <= set(tags):
                raise LayerError(f"{path} is no saliency file of this package: give what `explain` has written")
            if "POSITION" in tags:
                log.warning("%s is %s: it is left out", path, tags["POSITION"])
                return None
            layers = tuple(tags["LAYERS"].split())
            area = _cell_m2(source)
            table = _summed(source, layers, _in_cells(polygons, source), area)
            whole = _whole(source, layers, area)
        said = {"scene": tags["SCENE"], "city": tags["CITY"], "rather_than": tags.get("RATHER_THAN", "")}
        said["method"] = tags["METHOD"]
        return cls(path=path, layers=layers, table=table.assign(**said), whole=whole.assign(**said))


class _Band(RasterSource):
    """One band, or its positive part, on the grid of its cells: x to the right, y up from the last row."""

    def __init__(self, source: Any, band: int, *, name: str, positive: bool) -> None:
        super().__init__()
        self.source, self.band, self.positive = source, band, positive
        self.set_name(name)

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, float, float, float]:
        return 0.0, 0.0, float(self.source.width), float(self.source.height)

    def nodata_value(self) -> None:
        return None

    def srs_wkt(self) -> None:
        return None

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> Any:
        cells = self.source.read(self.band, window=Window(x0, y0, nx, ny)).astype(np.float64)
        return np.ma.masked_invalid(np.maximum(cells, 0) if self.positive else cells)


def _summed(source: Any, layers: Sequence[str], polygons: gpd.GeoDataFrame, cell_m2: float) -> pd.DataFrame:
    """Sums over polygons in cells, without those that have no cell."""
    columns = [f"{kind}_{name}" for name in layers for kind in ("sum", "positive")]
    if not len(polygons):
        return pd.DataFrame(columns=["polygon_id", "covered_m2", *columns], dtype=float)
    bands = [
        _Band(source, band, name=f"{kind}_{name}", positive=kind == "positive")
        for band, name in enumerate(layers, start=1)
        for kind in ("sum", "positive")
    ]
    options = {"include_cols": ["polygon_id"], "output": "pandas", "strategy": "raster-sequential"}
    found = exact_extract(bands, polygons, ["sum", "count"], max_cells_in_memory=CELLS, **options)
    table = found[["polygon_id"]].assign(covered_m2=found[f"{columns[0]}_count"] * cell_m2)
    for name in columns:
        table[name] = found[f"{name}_sum"] * cell_m2
    return pd.DataFrame(table[table["covered_m2"] > 0])


def _whole(source: Any, layers: Sequence[str], cell_m2: float) -> pd.DataFrame:
    """One row: covered ground and positive relevance of all cells."""
    covered, positive = 0.0, np.zeros(len(layers))
    for top in range(0, source.height, BLOCK):
        window = Window(0, top, source.width, min(BLOCK, source.height - top))
        cells = source.read(list(range(1, len(layers) + 1)), window=window)
        covered += np.isfinite(cells[0]).sum() * cell_m2
        positive += np.nansum(np.maximum(cells, 0), axis=(1, 2), dtype=np.float64) * cell_m2
    columns = {f"positive_{name}": [value] for name, value in zip(layers, positive.tolist(), strict=True)}
    return pd.DataFrame({"covered_m2": [covered], **columns})


def _cell_m2(source: Any) -> float:
    """Mean ground of a cell on the ellipsoid."""
    frame = shapely.segmentize(shapely.box(0, 0, source.width, source.height), max(source.shape) / 16)
    to_degrees = Transformer.from_crs(CRS(source.crs.to_wkt()), 4326, always_xy=True)
    lon, lat = to_degrees.transform(*(source.transform * shapely.get_coordinates(frame).T))
    area = abs(ELLIPSOID.polygon_area_perimeter(lon, lat)[0])
    return float(area / (source.width * source.height))


def _in_cells(polygons: gpd.GeoDataFrame, source: Any) -> gpd.GeoDataFrame:
    """Polygons that may lie on a raster, in its cells: ``polygon_id`` and geometry, y up from the last row."""
    crs, own = CRS(source.crs.to_wkt()), CRS(polygons.crs)
    reach = _reach(source, crs, own)
    near = np.sort(polygons.sindex.query(reach, predicate="intersects"))
    clipped = _clipped(polygons.geometry.to_numpy()[near], reach)
    dense = shapely.segmentize(clipped, EDGE_DEGREES if own.is_geographic else EDGE_M)
    here = gpd.GeoSeries(dense, crs=own).to_crs(crs)
    to_cell = Affine.translation(0, source.height) * Affine.scale(1, -1) * ~source.transform
    a, b, c, d, e, f = to_cell[:6]
    shapes = here.affine_transform([a, b, d, e, c, f])
    return gpd.GeoDataFrame({"polygon_id": near.astype(np.int64)}, geometry=shapes.to_numpy(), crs=GRID)


def _clipped(shapes: NDArray[np.object_], reach: shapely.Polygon) -> NDArray[np.object_]:
    """Polygons without what lies far from a raster, where its projection may end."""
    left, bottom, right, top = reach.bounds
    wide = reach.buffer(max(right - left, top - bottom) / 4, join_style="mitre")
    beyond = ~shapely.within(shapes, wide)
    shapes = shapes.copy()
    shapes[beyond] = shapely.buffer(shapely.intersection(shapes[beyond], wide), 0)  # drops lines that only touch
    return shapes


def _reach(source: Any, crs: CRS, wanted: CRS) -> shapely.Polygon:
    """A box in another CRS that holds a raster."""
    frame = shapely.get_coordinates(shapely.box(0, 0, source.width, source.height))
    x, y = source.transform * frame.T
    bounds = (x.min(), y.min(), x.max(), y.max())
    left, bottom, right, top = Transformer.from_crs(crs, wanted, always_xy=True).transform_bounds(*bounds)
    if left > right:  # across the 180th meridian
        left, right = -180, 180
    return (
        shapely.box(left, bottom, right, top) if np.isfinite([left, right, bottom, top]).all() else shapely.Polygon()
    )


def _combined(cells: pd.DataFrame, found: Sequence[_Sums], layers: Sequence[str]) -> pd.DataFrame:
    """Figures of every polygon and city from the sums over all files."""
    numbers = ["covered_m2", *(f"{kind}_{name}" for name in layers for kind in ("sum", "positive"))]
    groups = cells.groupby(["polygon_id", *KEYS], sort=True)
    total = groups[numbers].sum().join(groups["scene"].nunique().rename("scenes")).reset_index()
    whole = (
        pd.concat([one.whole for one in found])
        .groupby(KEYS)[["covered_m2", *(f"positive_{name}" for name in layers)]]
        .sum()
    )
    whole = whole.loc[pd.MultiIndex.from_frame(total[KEYS])].reset_index(drop=True)
    table = total[["polygon_id", *KEYS, "scenes", "covered_m2"]].copy()
    for name in layers:
        both, positive = total[f"sum_{name}"], total[f"positive_{name}"]
        share = positive / whole[f"positive_{name}"].replace(0, np.nan)
        table[f"mean_{name}"] = both / total["covered_m2"]
        table[f"positive_share_{name}"] = positive / (2 * positive - both).replace(0, np.nan)
        table[f"enrichment_{name}"] = share / (total["covered_m2"] / whole["covered_m2"])
    return table


def _joined(table: pd.DataFrame, polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Figures beside the polygons' own columns and shapes."""
    kinds = polygons.dtypes.astype(str) == "geometry"
    own = pd.DataFrame(polygons.loc[:, ~kinds]).reset_index(drop=True)
    own.columns = pd.Index(_free_names(map(str, own.columns), table.columns))
    shapes = polygons.geometry.to_crs(4326).reset_index(drop=True)
    left = own.assign(polygon_id=np.arange(len(own), dtype=np.int64), geometry=shapes)
    joined = left.merge(table, on="polygon_id", how="left", sort=True)
    joined["scenes"] = joined["scenes"].fillna(0).astype(np.int64)
    order = ["polygon_id", *own.columns, *table.columns.drop("polygon_id"), "geometry"]
    return gpd.GeoDataFrame(joined[order], geometry="geometry", crs=4326)


def _free_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names that no column has yet, nor GeoPackage needs, whatever their case: SQLite does not tell it."""
    used = {name.lower() for name in taken} | {"geometry", "geom", "fid"}
    free = []
    for name in names:
        while name.lower() in used:
            name = f"own_{name}"
        used.add(name.lower())
        free.append(name)
    return free
