"""The folder of the DL-SLICER data set in, its images with city and site out; and the table of its 45 cities.

Bissarinova et al., Buildings 2024, 14(2), 551: ``raw/<City name> (<CODE>)/<SITE>/<image>.jpg``, no positions, a
ground resolution of 200 m in 480 pixels.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from pathlib import Path, PurePosixPath

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.sources.addresses import printable
from dlslicer_geo.scenes.sources.listing import Listing, joined
from dlslicer_geo.scenes.values import Found

logger = logging.getLogger(__name__)

GSD_M = 200 / 480
"""Ground metres per pixel of every image."""

SUFFIXES = (".jpg", ".jpeg", ".png")
FOLDER = "raw"
TABLE = "dl_slicer_45_cities.csv"
_CODE = re.compile(r"\(([A-Za-z0-9]+)\)\s*$")


def tree(root: str | os.PathLike[str]) -> tuple[list[Found], list[dict[str, str]]]:
    """The images of the data set, in the order of cities and sites.

    Cities that are missing are logged in one line. Folders and files that do not belong to the layout are strangers.

    Args:
        root: the folder ``raw``, or the one above it.

    Returns:
        Images with the facts ``city`` (code), ``city_name`` and ``site``, their ``relative`` path that below ``raw``;
        and the strangers as ``{"path": ..., "reason": ...}``.

    Raises:
        ConfigError: if the table of cities is not there.
        SceneError: if the folder does not exist, holds no city, or one city twice.
    """
    raw = _raw(Path(root))
    names = {city["code"]: city["city"] for city in cities()}
    parts: list[Listing] = []
    folders: dict[str, Path] = {}
    for entry in sorted(raw.iterdir()):
        code = code_of(entry.name)
        reason = _no_city(entry, code, names)
        if reason or code is None:
            parts.append(_strange(entry, str(reason)))
            continue
        if code in folders:
            raise SceneError(f"{entry} and {folders[code].name} are both city {code}: keep one of them")
        folders[code] = entry
        parts.append(_city(entry, raw, code, names[code]))
    if not folders:
        raise SceneError(
            f"{raw} holds no folder such as 'Almaty (ALA)': give the folder above {FOLDER}/ as data.root"
        )
    missing = [code for code in names if code not in folders]
    if missing:
        logger.info("%s lacks %d of %d cities: %s", raw, len(missing), len(names), ", ".join(missing))
    found = joined(parts)
    return found.images, found.strangers


def cities() -> list[dict[str, str]]:
    """The cities in the order of their class index, with the columns of the table: ``code``, ``city``, ``lon`` ...

    Raises:
        ConfigError: if the table is not there or cannot be read.
    """
    path = table()
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return sorted(csv.DictReader(handle), key=lambda row: int(row["class_index"]))
    except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as the table of cities ({error}): restore it") from None


def table() -> Path:
    """Where the table of cities lies: in the package, or in the repository it runs from.

    Raises:
        ConfigError: if it is in neither.
    """
    here = Path(__file__).parent
    for path in (here / TABLE, here.parents[2] / "data" / "cities" / TABLE):
        if path.is_file():
            return path
    raise ConfigError(f"{TABLE}, the table of the DL-SLICER cities, is not there: install dlslicer-geo anew")


def code_of(folder: str) -> str | None:
    """The city code in the last parentheses of the name of a folder; None when there is none."""
    match = _CODE.search(folder)
    return match[1] if match else None


def _raw(root: Path) -> Path:
    if not root.is_dir():
        raise SceneError(f"{root} does not exist: download the data set with `dlslicer-geo download dl-slicer`")
    below = root / FOLDER
    return (below if below.is_dir() else root).resolve()


def _no_city(entry: Path, code: str | None, names: dict[str, str]) -> str | None:
    """Why an entry of ``raw`` is no city; None when it is one."""
    if entry.name.startswith("."):
        return "it is hidden"
    if not entry.is_dir():
        return f"it lies beside the cities: images are in {FOLDER}/<City (CODE)>/<SITE>/"
    if code is None:
        return "its name has no city code in parentheses at its end"
    return None if code in names else f"its city code {code} is none of the {len(names)} of DL-SLICER"


def _city(folder: Path, raw: Path, code: str, name: str) -> Listing:
    """The images of one city."""
    listings = []
    for site in sorted(folder.iterdir()):
        if not site.is_dir():
            listings.append(_strange(site, "it lies in no site: images are in <City (CODE)>/<SITE>/"))
            continue
        for file in sorted(site.iterdir()):
            reason = _no_image(file)
            if reason:
                listings.append(_strange(file, reason))
                continue
            relative = PurePosixPath(file.relative_to(raw).as_posix())
            facts = {"city": code, "city_name": name, "site": site.name}
            found = Found(path=str(file), relative=relative, source=str(file), facts=facts)
            listings.append(Listing(images=[found]))
    return joined(listings)


def _no_image(file: Path) -> str | None:
    if file.name.startswith("."):
        return "it is hidden"
    if printable(file) != str(file):
        return "its name is not UTF-8: rename it"
    if not file.is_file():
        return "it is no file: images lie directly in their site"
    suffix = file.suffix
    return None if suffix.lower() in SUFFIXES else f"its suffix is {suffix or 'missing'}, not {' or '.join(SUFFIXES)}"


def _strange(path: Path, reason: str) -> Listing:
    return Listing(strangers=[{"path": printable(path), "reason": reason}])
