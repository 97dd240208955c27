"""Rows of the scene table and raster layers in, their STAC items out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac
import rasterio
import shapely
from pandas import isna
from rasterio.errors import RasterioError
from rasterio.warp import transform_geom

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import stac_fields as fields
from dlslicer_geo.types import APPROXIMATE, APPROXIMATE_NOTE, UNKNOWN, Layer

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

DEGREES = 9
"""Decimals of a degree: a tenth of a millimetre."""

KINDS = {
    "city": "The city that the model sees in each cell, averaged over the chips that cover it.",
    "confidence": "Calibrated probability of the most probable city of each cell.",
    "saliency": "Relevance of the ground for a city, a band for each depth of the network; raw, not rescaled.",
}
"""What the rasters of a run show."""

MEDIA_TYPES = {
    ".tif": fields.GEOTIFF,
    ".tiff": fields.GEOTIFF,
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".jp2": "image/jp2",
    ".qml": "application/xml",
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".pmtiles": "application/vnd.pmtiles",
    ".qgz": "application/zip",
    ".html": "text/html",
    ".json": "application/json",
}

_STATISTICS = {"MINIMUM": "minimum", "MAXIMUM": "maximum", "MEAN": "mean", "STDDEV": "stddev"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all items of a collection share.

    Args:
        folder: where their documents lie.
        provenance: version and hash of the configuration.
    """

    folder: Path
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """First and last second of scenes.

    Args:
        scenes: of each, by scene id.
        groups: of those of a city or a site.
        all: of all together.
    """

    scenes: Mapping[str, fields.Span]
    groups: Mapping[str, fields.Span]
    all: fields.Span

    @classmethod
    def of(cls, table: GeoDataFrame) -> Spans:
        """The spans of a scene table."""
        each = [fields.span_of(_text(value)) for value in table["acquired"]]
        groups: dict[str, fields.Span] = {}
        for column in ("site", "city"):
            for name, (begin, end) in zip(table[column], each, strict=True):
                first, last = groups.get(name, (begin, end))
                groups[name] = min(first, begin), max(last, end)
        whole = (min(begin for begin, _ in each), max(end for _, end in each)) if each else fields.EVER
        return cls(scenes=dict(zip(table["scene_id"], each, strict=True)), groups=groups, all=whole)


def scene_item(scene: Mapping[Any, Any], place: Place) -> pystac.Item:
    """The item of one row of the scene table. No image is opened.

    A year, month or day is a period; ``datetime`` is null. A scene without a date has the period of all imagery there
    can be, and no ``dlslicer:acquired``.
    """
    begin, end = fields.span_of(_text(scene["acquired"]))
    outline = scene["geometry"]
    item = pystac.Item(
        id=scene["scene_id"] or "unnamed", **_where(outline), datetime=None, start_datetime=begin, end_datetime=end,
        properties=_scene_properties(scene) | fields.software(place.provenance),
        stac_extensions=[fields.PROJECTION, fields.RASTER, fields.FILE, fields.PROCESSING],
    )  # fmt: skip
    prepared = _text(scene["prepared"])
    bands = {"bands": _scene_bands(scene), "data_type": fields.data_type(scene["dtype"])}
    own = "" if prepared else scene["sha256"]
    _add(item, "image", asset(scene["path"], place, ["data", "visual"], bands, sha256=own))
    if prepared:
        item.properties["processing:lineage"] = "Written anew as a tiled raster."
        item.properties["dlslicer:prepared"] = prepared
        _add(item, "source", asset(scene["source"], place, ["source"], sha256=scene["sha256"]))
    return item


def output_item(layer: Layer, place: Place, spans: Spans) -> tuple[pystac.Item, str]:
    """The item of one raster of city, confidence or saliency.

    Args:
        layer: the raster.
        place: of the documents.
        spans: of the scenes it may be made of.

    Returns:
        the item, and the id of the one scene it was made of, empty for several.

    Raises:
        LayerError: if the raster cannot be read.
    """
    try:
        with rasterio.open(layer.path) as source:
            tags, bands, grid = source.tags(), _bands(source), _grid(source)
            outline = _outline(source)
    except RasterioError as error:
        said = str(error).splitlines()[0]
        raise LayerError(f"{layer.path} cannot be read ({said}): run the station that writes it again") from None
    scene = tags.get("SCENE", "")
    scene = scene if scene in spans.scenes else ""
    begin, end = spans.scenes[scene] if scene else spans.groups.get(layer.group, spans.all)
    item = pystac.Item(
        id=f"{layer.kind}-{layer.path.stem}", **_where(outline), datetime=None, start_datetime=begin,
        end_datetime=end, properties=_output_properties(layer, tags) | fields.software(place.provenance) | grid,
        stac_extensions=[fields.PROJECTION, fields.RASTER, fields.FILE, fields.PROCESSING],
    )  # fmt: skip
    extra: dict[str, Any] = {"bands": bands}
    if layer.kind == "city" and layer.cities:
        item.stac_extensions.append(fields.CLASSIFICATION)
        extra["classification:classes"] = fields.classes([*layer.cities, UNKNOWN])
    _add(item, "data", asset(layer.path, place, ["data"], extra, sha256=None))
    item.assets["data"].media_type = fields.COG
    style = layer.path.with_suffix(".qml")
    if style.is_file():
        _add(item, "style", asset(style, place, ["metadata", "style"], sha256=None))
    return item, scene


def asset(
    path: str | Path,
    place: Place,
    roles: list[str],
    extra: Mapping[str, Any] | None = None,
    *,
    sha256: str | None = "",
) -> pystac.Asset | None:
    """A file as a document has it; None where only GDAL could open it.

    Args:
        path: of the file, or its address.
        place: of the documents.
        roles: what it is for.
        extra: further fields.
        sha256: of its bytes; None finds it out, and ``""`` states no checksum.
    """
    href = fields.href_of(path, place.folder)
    if href is None:
        return None
    more = {**(extra or {}), **fields.file_fields(path, sha256)}
    return pystac.Asset(href=href, media_type=_media_type(str(path)), roles=roles, extra_fields=more)


def _media_type(path: str) -> str | None:
    return MEDIA_TYPES.get(Path(path.partition("?")[0]).suffix.lower())


def _scene_properties(scene: Mapping[Any, Any]) -> dict[str, Any]:
    shape = int(scene["height"]), int(scene["width"])
    vague = scene["georef"] in APPROXIMATE
    accuracy = scene["accuracy_m"]
    said = {
        "title": " ".join(filter(None, (_text(scene["city_name"]), _text(scene["site"]), _text(scene["acquired"])))),
        "gsd": float(scene["gsd_m"]),
        "dlslicer:city": _text(scene["city"]),
        "dlslicer:city_name": _text(scene["city_name"]),
        "dlslicer:site": _text(scene["site"]),
        "dlslicer:acquired": _text(scene["acquired"]),
        "dlslicer:georef": scene["georef"],
        "dlslicer:accuracy_m": None if isna(accuracy) else float(accuracy),
        "dlslicer:position": APPROXIMATE_NOTE if vague else None,
    }
    stated = {name: value for name, value in said.items() if value not in (None, "")}
    return stated | fields.projection(scene["crs"], list(scene["transform"]), shape)


def _scene_bands(scene: Mapping[Any, Any]) -> list[dict[str, Any]]:
    colours: dict[int, list[str]] = {}
    for colour, band in zip(("red", "green", "blue"), scene["channels"], strict=True):
        colours.setdefault(int(band), []).append(colour)
    value = None if isna(scene["nodata"]) else float(scene["nodata"])
    about = {
        "data_type": fields.data_type(scene["dtype"]), **fields.nodata(value),
        "statistics": {"valid_percent": round(100 * float(scene["valid_fraction"]), 4)},
        "raster:spatial_resolution": float(scene["gsd_m"]),
    }  # fmt: skip
    return [
        {"name": str(number), **_shown_as(colours.get(number, [])), **about}
        for number in range(1, int(scene["bands"]) + 1)
    ]


def _shown_as(colours: list[str]) -> dict[str, str]:
    return {"description": f"Shown as {', '.join(colours)}."} if colours else {}


def _output_properties(layer: Layer, tags: Mapping[str, str]) -> dict[str, Any]:
    names = ("METHOD", "CITY", "LAYERS", "SCENE", "RATHER_THAN", "NOTE_TARGET", "NOTE_WEIGHTS_SHA256")
    asked = {name.removeprefix("NOTE_").lower(): tags[name] for name in names if tags.get(name)}
    verb = "explain" if layer.kind == "saliency" else "predict"
    said = {"title": layer.title, "dlslicer:kind": layer.kind, "dlslicer:group": layer.group}
    said |= {"dlslicer:note": layer.note, "dlslicer:position": APPROXIMATE_NOTE if layer.approximate else ""}
    return {name: value for name, value in said.items() if value} | {
        "processing:level": "L4",
        "processing:lineage": KINDS[layer.kind],
        "processing:expression": {"format": "dlslicer-geo", "expression": {"station": verb, **asked}},
    }


def _bands(source: Any) -> list[dict[str, Any]]:
    """The bands of an open raster."""
    metres = abs(source.transform.a) if source.crs and source.crs.is_projected else None
    resolution = {} if metres is None else {"raster:spatial_resolution": metres * source.crs.linear_units_factor[1]}
    bands = []
    for band in source.indexes:
        tags, scale, offset = source.tags(band), source.scales[band - 1], source.offsets[band - 1]
        known = {ours: tags.get(f"STATISTICS_{name}", "nan") for name, ours in _STATISTICS.items()}
        statistics = {name: number for name, text in known.items() if (number := float(text)) == number}
        band_of = {"name": source.descriptions[band - 1] or str(band)}
        band_of |= {"data_type": fields.data_type(source.dtypes[band - 1])}
        band_of |= fields.nodata(source.nodatavals[band - 1]) | resolution
        band_of |= {"statistics": statistics} if statistics else {}
        band_of |= {} if (scale, offset) == (1, 0) else {"raster:scale": scale, "raster:offset": offset}
        bands.append(band_of | {"raster:sampling": "area"})
    return bands


def _grid(source: Any) -> dict[str, Any]:
    authority = source.crs.to_authority()
    crs = ":".join(authority) if authority else source.crs.to_wkt(version="WKT2_2019")
    return fields.projection(crs, tuple(source.transform), source.shape)


def _outline(source: Any) -> Any:
    corners = shapely.box(*source.bounds).segmentize(max(source.width, source.height) * abs(source.transform.a) / 4)
    return shapely.geometry.shape(transform_geom(source.crs, "EPSG:4326", shapely.geometry.mapping(corners)))


def _where(outline: Any) -> dict[str, Any]:
    """Geometry and its box; neither where nothing is valid."""
    if outline is None or outline.is_empty:
        return {"geometry": None, "bbox": None}
    level = shapely.transform(outline, lambda corners: corners.round(DEGREES))
    return {"geometry": shapely.geometry.mapping(level), "bbox": list(level.bounds)}


def _add(item: pystac.Item, key: str, asset: pystac.Asset | None) -> None:
    if asset is not None:
        item.add_asset(key, asset)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
