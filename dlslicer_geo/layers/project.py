"""The layers of a run in, a QGIS project that opens them grouped, styled and in order out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio  # type: ignore[import-untyped]
import rasterio

from dlslicer_geo import files, pixels
from dlslicer_geo.errors import LayerError, SceneError
from dlslicer_geo.layers import styles
from dlslicer_geo.layers.fills import outlines_qml
from dlslicer_geo.layers.geopackage import Style, first_table, read_styles, write_geopackage
from dlslicer_geo.layers.project_file import Shown, write_qgz
from dlslicer_geo.types import Layer

log = logging.getLogger(__name__)

ORDER = ("saliency", "chips", "city", "confidence", "image", "scenes")
"""Kinds of layers from the top of the map to its ground."""

GROUND = ("image", "scenes")
"""Those that lie below the masked images."""

OUTLINE = "#444444"
"""Colour of the outlines of scenes."""

SCENE_COLUMNS = ["scene_id", "city", "city_name", "site", "acquired", "georef", "gsd_m", "width", "height"]
"""What the layer of scenes says of each; not its path, which may hold an address with a password."""


def write_project(
    layers: Sequence[Layer],
    path: str | Path,
    *,
    title: str,
    masked: Sequence[Path] = (),
    polygons: Path | None = None,
) -> list[Path]:
    """Write ``project.qgz``, and ``gis/scenes.gpkg`` beside it when there is a layer of scenes.

    Groups from the top: polygons, saliency by city and depth, chips in every style of their GeoPackage, predicted
    city, confidence, masked images, imagery, scenes. Chips by predicted city, the deepest saliency and imagery are
    switched on. Paths are relative, so a run folder can be moved. QGIS 3.22 and later read it; none is needed to
    write it. Scenes go to a GeoPackage because many builds of QGIS read no GeoParquet. The same layers give the same
    bytes.

    Args:
        layers: what the project shows; saliency, city and confidence as this room has written them.
        path: ends in ``.qgz``.
        title: what QGIS calls the project.
        masked: images of :func:`~dlslicer_geo.layers.write_masked`, their styles beside them.
        polygons: the GeoPackage of :func:`~dlslicer_geo.layers.write_polygons`; None where there is none.

    Returns:
        the project, then what was written beside it.

    Raises:
        LayerError: if a layer cannot be read.
    """
    target = Path(path)
    made = _write_scenes(layers, target.parent / "gis" / "scenes.gpkg")
    ranked = sorted(layers, key=lambda layer: (ORDER.index(layer.kind), layer.group))
    above = [_shown(layer, made) for layer in ranked if layer.kind not in GROUND]
    below = [_shown(layer, made) for layer in ranked if layer.kind in GROUND]
    shown = list(chain(_polygons(polygons), *above, _masked(masked), *below))
    write_qgz(target, shown, title=title)
    log.info("wrote %s with %d layers", target, len(shown))
    return [target, *made]


def _write_scenes(layers: Sequence[Layer], path: Path) -> list[Path]:
    tables = [layer.path for layer in layers if layer.kind == "scenes"]
    if not tables:
        return []
    table = gpd.read_parquet(tables[0])
    kept = table[[name for name in SCENE_COLUMNS if name in table.columns] + ["geometry"]]
    metadata = {files.PROVENANCE_KEY: json.dumps(files.provenance_of(tables[0]), sort_keys=True)}
    outlines = Style(name="Scenes", qml=outlines_qml(OUTLINE), description="outlines of the scenes")
    write_geopackage(kept, path, layer="scenes", geometry="MultiPolygon", styles=[outlines], metadata=metadata)
    return [path]


def _shown(layer: Layer, scenes: Sequence[Path]) -> Iterator[Shown]:
    """What the project shows of a layer: one entry per style of a table or depth of saliency."""
    kinds: dict[str, Callable[[Layer], Iterator[Shown]]] = {
        "saliency": _saliency,
        "chips": _chips,
        "city": lambda layer: _cells(layer, "Predicted city"),
        "confidence": lambda layer: _cells(layer, "Confidence"),
        "image": _imagery,
        "scenes": lambda layer: _scenes(layer, scenes[0]),
    }
    with _reading(layer.path):
        yield from kinds[layer.kind](layer)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Says which file it was that could not be read."""
    try:
        yield
    except (OSError, SceneError, rasterio.errors.RasterioError, pyogrio.errors.DataSourceError) as error:
        said = pixels.words(error)
        raise LayerError(f"{path} cannot be shown in a project ({said}): write it again") from None


def _polygons(path: Path | None) -> Iterator[Shown]:
    """Polygons with their relevance, which would hide what lies below them."""
    if path is None:
        return
    with _reading(path):
        style = read_styles(path)[0]
        about: dict[str, Any] = {"name": "Relevance of polygons", "group": ("Polygons",), "note": style.description}
        yield _table("polygons", path, style.qml, on=False, **about)


def _masked(paths: Sequence[Path]) -> Iterator[Shown]:
    for path in paths:
        with _reading(path), rasterio.open(path) as source:
            tags = source.tags()
            qml = path.with_suffix(".qml").read_text(encoding="utf-8")
            title = f"{tags.get('SCENE', path.stem)}: what speaks for {tags.get('CITY', 'its city')}"
            layer = Layer(
                kind="image", path=path, title=title, note=tags.get("KEPT", ""), approximate="POSITION" in tags
            )
            yield _raster(layer, qml, name=_named(layer, title), group=("Masked images",), on=False)


def _chips(layer: Layer) -> Iterator[Shown]:
    for number, style in enumerate(read_styles(layer.path)):
        name, on = _named(layer, style.name), number == 0
        yield _table(layer.kind, layer.path, style.qml, name=name, group=("Chips",), on=on, note=style.description)


def _scenes(layer: Layer, path: Path) -> Iterator[Shown]:
    yield _table(
        layer.kind, path, outlines_qml(OUTLINE), name=layer.title, group=("Scenes",), on=False, note=layer.note
    )


def _table(kind: str, path: Path, qml: str, **about: Any) -> Shown:
    table = first_table(path)
    found = pyogrio.read_info(path, layer=table, force_total_bounds=True)
    return Shown(
        kind=kind, path=path, table=table, qml=qml, crs=found["crs"],
        bounds=tuple(found["total_bounds"]), **about,
    )  # fmt: skip


def _cells(layer: Layer, group: str) -> Iterator[Shown]:
    qml = layer.path.with_suffix(".qml").read_text(encoding="utf-8")
    yield _raster(layer, qml, name=_named(layer, layer.title), group=(group, layer.group), on=False)


def _imagery(layer: Layer) -> Iterator[Shown]:
    with pixels.opened(layer.path) as source:
        channels, placed = layer.channels or pixels.default_channels(source, None), source.crs is not None
    if not placed:  # its place stands in a sidecar that QGIS does not know
        log.warning("%s has no CRS of its own and is not in the project", layer.path)
        return
    qml = styles.colours_qml(channels)
    yield _raster(layer, qml, name=_named(layer, layer.path.stem), group=("Imagery", layer.group), on=True)


def _saliency(layer: Layer) -> Iterator[Shown]:
    with rasterio.open(layer.path) as source:
        tags, names = source.tags(), source.descriptions[:-1]  # the last band is the coverage
    for band in range(len(names), 0, -1):
        deepest = band == len(names)
        limit = (
            layer.limits[1] if deepest and layer.limits else _limit(tags.get(f"PERCENTILES_{names[band - 1]}", ""))
        )
        qml = styles.ramp_qml(styles.diverging(limit), band=band)
        group = ("Saliency", layer.group, names[band - 1])
        yield _raster(layer, qml, name=_named(layer, layer.title), group=group, on=deepest)


def _limit(percentiles: str) -> float:
    """The larger of the 1st and 99th percentile of a band, by size; 1 where there is no scale."""
    found = re.findall(r"p(?:1|99) ([^,\s]+)", percentiles)
    return max((abs(float(value)) for value in found), default=0.0) or 1.0


def _raster(layer: Layer, qml: str, **about: Any) -> Shown:
    with pixels.opened(layer.path) as source:
        crs, bounds = source.crs.to_wkt(), tuple(source.bounds)
    return Shown(kind=layer.kind, path=layer.path, qml=qml, crs=crs, bounds=bounds, note=layer.note, **about)


def _named(layer: Layer, name: str) -> str:
    vague = layer.approximate and "approximate" not in name
    return f"{name} (approximate position)" if vague else name
