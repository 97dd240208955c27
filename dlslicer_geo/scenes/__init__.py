"""Raw images of any kind in, the scene table out; scenes and chips in, colour statistics out.

``scan`` decides what is a scene and where it lies, and says of every other file why it is none. ``sources`` knows
where images come from, ``places`` where they lie, ``names`` what they are called, ``rasters`` what their pixels say,
``review`` what somebody should look at; ``surveyor`` goes through them in this order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.scenes.rasters.colour import channel_statistics
from dlslicer_geo.types import ChipGrid, Progress, Reading, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from dlslicer_geo.scenes.surveyor import Survey

__all__ = ["COLUMNS", "NAIP_PATTERN", "channel_statistics", "city_order", "scan", "survey"]

NAIP_PATTERN = r"(?P<city>[a-z_]+)_(?P<date>\d{4})_(?P<site>\d+)"
"""Names of the NAIP scenes that ship with the project: ``long_beach_2018_12`` is place 12 of Long Beach in 2018."""

COLUMNS = {
    "scene_id": "str",  # unique, [A-Za-z0-9._-]: the path below the root
    "city": "str?",  # code
    "city_name": "str?",
    "site": "str",  # unique within its city only
    "path": "str",  # what is read: absolute, or a GDAL path
    "source": "str",  # the raw image, without any credential
    "prepared": "str?",  # why the raw image was written anew; null where it is read itself
    "crs": "str",  # authority:code, or WKT2 where no authority knows it
    "transform": "any",  # a, b, c, d, e, f: pixel to CRS units
    "width": "int",
    "height": "int",
    "bands": "int",
    "dtype": "str",
    "nodata": "float?",  # null where none is declared, and where it is NaN
    "channels": "any",  # three band numbers from 1: red, green, blue
    "low": "any?",  # three values that become 0, null for uint8 that is taken as it is
    "high": "any?",  # three values that become 255
    "gsd_m": "float",  # ground metres per pixel at the centre; geometric mean of x and y where they differ over 1 %
    "acquired": "str?",  # ISO 8601 year, month or day
    "georef": "str",  # geotiff, gcp, world-file, sidecar, tile-name, exif, approximate
    "accuracy_m": "float?",  # null when unknown
    "sha256": "str",  # of the raw image; of a remote one that is not prepared: of its address, size and ETag
    "valid_fraction": "float",  # exact share of valid pixels
    "holes_fraction": "float",  # share of pixels in black or white holes that no mask declares
    "saturated_fraction": "float",  # share of valid pixels that are black or white in all colour bands
    "contrast": "float",  # standard deviation of grey over valid pixels, share of the range of the dtype
    "blur": "float",  # variance of the Laplacian of grey over valid pixels: low is blurred
    "phash": "str",  # perceptual hash, 64 bits in hexadecimal
    "duplicate_of": "str?",  # first scene that shows the same image
    "overlap_m2": "float",  # ground shared with other scenes; approximate ones share none
    "geometry": "any",  # outline of the valid area, EPSG:4326
}
"""Columns of the scene table, in the kinds of ``files.read_table``."""

Root = str | os.PathLike[str]


def scan(
    root: Root | Sequence[Root],
    *,
    pattern: str | None = NAIP_PATTERN,
    cities: Root | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    reading: Reading | None = None,
    prepared: Root | None = None,
    grid: ChipGrid | None = None,
    progress: Progress = quiet,
    executor: Executor | None = None,
) -> GeoDataFrame:
    r"""Find every scene, place it on the ground, read all its pixels once, and tabulate what is known about it.

    A position comes from the file itself, else from a world file, a sidecar table, the name of a map tile, or EXIF,
    in this order (``georef``). An image of which only the city is known is laid out around the city's centre and
    marked ``approximate``. Images that cannot be read by window, or whose grid is not level and square on the ground,
    are written anew once, as tiled rasters in ``prepared``. Files that are no scenes are named in one warning each
    and listed in ``table.attrs["rejected"]`` as ``{"path": ..., "reason": ...}``.

    Args:
        root: a folder, searched with all its subfolders, an image, a list file, an archive, an address (``https://``,
            ``s3://``, ``/vsi...``), a STAC document, or a list of these.
        pattern: regular expression that the whole path below the root fits, in POSIX form without the suffix, with
            the group ``city`` and, if wanted, ``name``, ``site`` and ``date``. None: the city is unknown and the
            site is the name of the file. What a sidecar or catalogue says goes before the name.
        cities: CSV with the columns ``code`` and ``city``, and ``lon`` and ``lat`` where images have nothing but a
            city: names of cities, and the only codes there are.
        on_bad: an image that cannot be a scene: ``raise``, or ``skip`` it and list it.
        reading: how images become scenes.
        prepared: folder for prepared rasters; None refuses images that need it.
        grid: chips that will be cut: a window of them touches at most four tiles of a prepared raster.
        progress: shown while the pixels are read.
        executor: prepares and reads scenes: processes, or a cluster that sees the same paths
            (``distributed.Client(...).get_executor()``); None takes a thread of this process for each core.

    Returns:
        One row per scene in the order of ``scene_id``, with the columns ``COLUMNS``; geometry in EPSG:4326.

    Raises:
        ConfigError: if the pattern, the list of cities, the sidecar or ``on_bad`` cannot be used.
        SceneError: if an image is bad and ``on_bad`` is ``raise``, if two files have one scene id, if there is no
            scene, or if the disk has no room for what must be prepared.
    """
    found = survey(
        root, pattern=pattern, cities=cities, on_bad=on_bad, reading=reading, prepared=prepared, grid=grid,
        progress=progress, executor=executor,
    )  # fmt: skip
    found.table.attrs["rejected"] = found.rejected
    return found.table


def survey(
    root: Root | Sequence[Root],
    *,
    pattern: str | None = NAIP_PATTERN,
    cities: Root | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    reading: Reading | None = None,
    prepared: Root | None = None,
    grid: ChipGrid | None = None,
    progress: Progress = quiet,
    executor: Executor | None = None,
) -> Survey:
    """What :func:`scan` finds, with thumbnails, duplicates and overlaps beside the table."""
    from dlslicer_geo.scenes import surveyor
    from dlslicer_geo.scenes.ledger import Rules

    if on_bad not in ("raise", "skip"):
        raise ConfigError(f"data.on_bad is {on_bad!r}: give raise or skip")
    rules = Rules(
        reading=reading or Reading(), pattern=pattern, cities=cities, on_bad=on_bad,
        prepared=None if prepared is None else Path(prepared).resolve(), grid=grid or ChipGrid(),
    )  # fmt: skip
    roots = [root] if isinstance(root, str | os.PathLike) else root
    return surveyor.survey(roots, rules, progress=progress, executor=executor)


def city_order(cities: Root | None, source: str = "images") -> list[str] | None:
    """City codes in the order of the list of cities, which is that of a model's outputs; None without a list.

    Args:
        cities: list of cities.
        source: of the images; ``dl-slicer`` has its own list.
    """
    from dlslicer_geo.scenes.names import read_cities
    from dlslicer_geo.scenes.sources.dl_slicer import table

    if cities is None and source != "dl-slicer":
        return None
    return list(read_cities(Path(cities or table())))
