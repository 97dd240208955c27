"""Folders of georeferenced images in, the scene table out; scenes and chips in, colour statistics out.

``scan`` decides what is a scene and says of every other file why it is none. Names are read in ``names``, pixels in
``image``, colours in ``colour``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.colour import channel_statistics
from dlslicer_geo.scenes.names import Naming, scene_id_of
from dlslicer_geo.types import Progress, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

__all__ = ["COLUMNS", "NAIP_PATTERN", "SUFFIXES", "channel_statistics", "scan"]

logger = logging.getLogger(__name__)

NAIP_PATTERN = r"(?P<city>[a-z_]+)_(?P<date>\d{4})_(?P<site>\d+)"
"""Names of the NAIP scenes that ship with the project: ``long_beach_2018_12`` is place 12 of Long Beach in 2018."""

SUFFIXES = (".tif", ".tiff")
"""Suffixes of files that are meant to be scenes, in lower case."""

COLUMNS = {
    "scene_id": "str",  # unique, [A-Za-z0-9._-]: the path below the root
    "city": "str?",  # code
    "city_name": "str?",
    "site": "str",  # unique within its city only
    "path": "str",  # absolute
    "crs": "str",  # authority:code, or WKT2 where no authority knows it
    "transform": "any",  # a, b, c, d, e, f: pixel to CRS units
    "width": "int",
    "height": "int",
    "bands": "int",
    "dtype": "str",
    "nodata": "float?",  # null where none is declared, and where it is NaN
    "gsd_m": "float",  # ground metres per pixel at the centre; geometric mean of x and y where they differ over 1 %
    "acquired": "str?",  # ISO 8601 year, month or day
    "georef": "str",
    "accuracy_m": "float?",
    "sha256": "str",
    "valid_fraction": "float",  # exact share of valid pixels
    "saturated_fraction": "float",  # share of valid pixels that are black or white in all colour bands
    "contrast": "float",  # standard deviation of grey over valid pixels, share of the range of the dtype
    "geometry": "any",  # outline of the valid area, EPSG:4326
}
"""Columns of the scene table, in the kinds of ``files.read_table``."""

Root = str | os.PathLike[str]


class _File(NamedTuple):
    path: Path
    relative: Path


def scan(
    root: Root | Sequence[Root],
    *,
    pattern: str | None = NAIP_PATTERN,
    cities: Root | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    progress: Progress = quiet,
) -> GeoDataFrame:
    r"""Find every scene below a folder, read all its pixels once, and tabulate what is known about it.

    A file is a scene when it is a GeoTIFF whose pixels can all be read, with a CRS, square pixels and north up, and
    a name that fits ``pattern``. Other files are named in one warning each and listed in
    ``table.attrs["rejected"]`` as ``{"path": ..., "reason": ...}``.

    Args:
        root: a folder, searched with all its subfolders, one file, or a list of these.
        pattern: regular expression that the whole path below the root fits, in POSIX form without the suffix, with
            the group ``city`` and, if wanted, ``name``, ``site`` and ``date``. None: the city is unknown and the
            site is the name of the file.
        cities: CSV with the columns ``code`` and ``city``: names of cities, and the only codes there are.
        on_bad: a .tif that cannot be a scene: ``raise``, or ``skip`` it and list it.
        progress: shown while the files are read.

    Returns:
        One row per scene in the order of ``scene_id``, with the columns ``COLUMNS``; geometry in EPSG:4326.

    Raises:
        ConfigError: if the pattern, the list of cities or ``on_bad`` cannot be used.
        SceneError: if a file is bad and ``on_bad`` is ``raise``, if two files have one scene id, or if there is no
            scene.
    """
    import rasterio

    if on_bad not in ("raise", "skip"):
        raise ConfigError(f"data.on_bad is {on_bad!r}: give raise or skip")
    naming = Naming.read(pattern, cities)
    records: list[dict[str, Any]] = []
    strangers: list[dict[str, str]] = []
    bad: list[dict[str, str]] = []
    files = _files([root] if isinstance(root, str | os.PathLike) else root)
    with rasterio.Env():  # one environment for all files: entering it anew for each costs more than opening
        for file in progress(files, total=len(files), label="scan"):
            stranger = _stranger(file.relative)
            record, reason = (None, stranger) if stranger else _record(file, naming)
            if record is not None:
                records.append(record)
                continue
            logger.warning("%s is not a scene: %s", file.path, reason)
            (strangers if stranger else bad).append({"path": str(file.path), "reason": str(reason)})
    if bad and on_bad == "raise":
        raise SceneError(
            f"{bad[0]['path']} cannot be a scene: {bad[0]['reason']} ({len(bad)} of {len(files)} files are bad): "
            "mend or remove them, or leave them out with --data.on_bad skip"
        )
    if not records:
        raise SceneError(_nothing(root, len(files), [*bad, *strangers]))
    return _table(records, sorted([*bad, *strangers], key=lambda entry: entry["path"]))


def _files(roots: Iterable[Root]) -> list[_File]:
    """Every file once, in the order of the roots and of the paths below them."""
    found: dict[Path, _File] = {}
    for given in roots:
        root = Path(given)
        if root.is_file():
            files = [_File(root.parent.resolve() / root.name, Path(root.name))]
        elif root.is_dir():
            root = root.resolve()
            below = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
            files = [_File(root / relative, relative) for relative in below]
        else:
            raise SceneError(f"{root} does not exist: give a folder of GeoTIFF files, or one file")
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def _stranger(relative: Path) -> str | None:
    """Why a file was never meant to be a scene; None when it was."""
    if any(part.startswith(".") for part in relative.parts):
        return "it is hidden"
    if relative.suffix.lower() not in SUFFIXES:
        return f"its suffix is {relative.suffix or 'missing'}, not {' or '.join(SUFFIXES)}"
    return None


def _record(file: _File, naming: Naming) -> tuple[dict[str, Any] | None, str | None]:
    """A row of the table and None, or None and the reason why there is no row."""
    from dlslicer_geo.scenes.image import inspect

    try:
        names = naming.of(file.relative)
        image = inspect(file.path)
    except SceneError as error:
        return None, str(error)
    tagged = image.pop("tagged")
    names["acquired"] = names["acquired"] or tagged
    return {"scene_id": scene_id_of(file.relative), **names, "path": str(file.path), **image}, None


def _nothing(root: object, number: int, rejected: list[dict[str, str]]) -> str:
    if not number:
        return f"{root} holds no file: give a folder of GeoTIFF files"
    first = rejected[0]
    return (
        f"{root} holds no scene among {number} files, the first being {first['path']} ({first['reason']}): "
        "give a folder of GeoTIFF files whose names fit data.pattern"
    )


def _table(records: list[dict[str, Any]], rejected: list[dict[str, str]]) -> GeoDataFrame:
    import geopandas as gpd
    import pandas as pd

    records = sorted(records, key=lambda record: str(record["scene_id"]))
    for one, two in pairwise(records):
        if one["scene_id"] == two["scene_id"]:
            raise SceneError(
                f"{one['path']} and {two['path']} would both be scene {one['scene_id']}: rename one of them, "
                "or give their common parent folder as the root"
            )
    frame = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    frame = frame.astype({"nodata": "float64", "accuracy_m": "float64"})  # a column of None has no dtype by itself
    table = gpd.GeoDataFrame(frame, geometry="geometry", crs="EPSG:4326")
    table.attrs["rejected"] = rejected
    return table
