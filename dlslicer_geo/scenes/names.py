"""Path of an image below its root in, the city, site, date and scene id it names out."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePath

from dlslicer_geo.errors import ConfigError, SceneError

_DATE = re.compile(r"([0-9]{4})(?:[-:]?([0-9]{2})(?:[-:]?([0-9]{2}))?)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A row of the list of cities.

    Args:
        code: what stands in the tables.
        name: the city in words.
        centre: longitude and latitude in degrees, None where the list has none.
    """

    code: str
    name: str
    centre: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How names of files are read.

    Args:
        pattern: fits a whole path without its suffix; None reads no city.
        known: the cities there are by code, None where every code is welcome.
    """

    pattern: re.Pattern[str] | None
    known: Mapping[str, City] | None

    @classmethod
    def read(cls, pattern: str | None, cities: str | os.PathLike[str] | None) -> Naming:
        """Compile a pattern and read the list of cities.

        Raises:
            ConfigError: if one of them cannot be used.
        """
        known = None if cities is None else read_cities(Path(cities))
        return cls(pattern=None if pattern is None else _compile(pattern), known=known)

    def of(self, relative: PurePath, facts: Mapping[str, str]) -> dict[str, str | None]:
        """What is known of an image: ``city``, ``city_name``, ``site``, ``acquired``.

        Args:
            relative: its path below the root.
            facts: what catalogues and sidecars say; it goes before the name, which need not fit when a city is here.

        Raises:
            SceneError: with the reason alone, if the name does not fit or the city is none of the known ones.
        """
        if city := facts.get("city"):
            names = {"city": city, "city_name": self._name(city, facts.get("city_name")), "site": None}
            names |= {"acquired": None}
        else:
            names = self._of_name(relative)
        given = {name: facts[name] for name in ("site", "acquired") if facts.get(name)}
        return {**names, **given, "site": given.get("site") or names["site"] or relative.stem}

    def _of_name(self, relative: PurePath) -> dict[str, str | None]:
        if self.pattern is None:
            return {"city": None, "city_name": None, "site": relative.stem, "acquired": None}
        name = relative.with_suffix("").as_posix()
        match = self.pattern.fullmatch(name)
        if match is None:
            raise SceneError(f"its name {name!r} does not fit the pattern {self.pattern.pattern!r}")
        groups = match.groupdict()
        city = groups["city"]
        if not city:
            raise SceneError(f"its name {name!r} names no city")
        return {
            "city": city,
            "city_name": self._name(city, groups.get("name")),
            "site": groups.get("site") or relative.stem,
            "acquired": _named_date(groups.get("date")),
        }

    def _name(self, city: str, written: str | None) -> str:
        if self.known is None:
            return written or city.replace("_", " ").title()
        if city not in self.known:
            raise SceneError(f"its city {city!r} is none of the known ones: {', '.join(sorted(self.known))}")
        return self.known[city].name


def scene_id_of(relative: PurePath) -> str:
    """Scene id of a path below the root: no suffix, ``/`` as ``__``, other unsafe characters as ``-``."""
    return _UNSAFE.sub("-", relative.with_suffix("").as_posix().replace("/", "__"))


def iso_date(text: str) -> str | None:
    """ISO 8601 year, month or day of ``2018``, ``201807``, ``2018-07-15`` or ``2018:07:15``; None for no date."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    parts = [part for part in match.groups() if part is not None]
    try:
        date(*(int(part) for part in [*parts, "1", "1"][:3]))
    except ValueError:
        return None
    return "-".join(parts)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.pattern {pattern!r} is no regular expression: {error}") from None
    if "city" not in compiled.groupindex:
        raise ConfigError(f"data.pattern {pattern!r} has no group city: write (?P<city>...) around the city code")
    return compiled


def read_cities(path: Path) -> dict[str, City]:
    """The list of cities by code, in the order of the rows, or of ``class_index`` where there is such a column.

    Raises:
        ConfigError: if it cannot be read, lacks the columns ``code`` and ``city``, or has a wrong ``lon`` or ``lat``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"data.cities {path} cannot be read ({error}): give a CSV file in UTF-8") from None
    if not rows or not {"code", "city"} <= set(rows[0]):
        raise ConfigError(f"data.cities {path} has no rows with the columns code and city: add them")
    if "class_index" in rows[0]:
        rows.sort(key=lambda row: _whole(path, row["class_index"]))
    known = {row["code"]: City(code=row["code"], name=row["city"], centre=_centre(path, row)) for row in rows}
    if len(known) < len(rows):
        raise ConfigError(f"data.cities {path} has {len(rows)} rows but {len(known)} codes: name each code once")
    return known


def _whole(path: Path, text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(f"data.cities {path} has the class_index {text!r}: give whole numbers") from None


def _centre(path: Path, row: Mapping[str, str | None]) -> tuple[float, float] | None:
    if not row.get("lon") or not row.get("lat"):
        return None
    try:
        lon, lat = float(row["lon"] or ""), float(row["lat"] or "")
    except ValueError:
        lon = lat = float("nan")
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ConfigError(f"data.cities {path}: {row['code']} lies at {row['lon']}, {row['lat']}: give degrees")
    return lon, lat


def _named_date(text: str | None) -> str | None:
    if not text:
        return None
    found = iso_date(text)
    if found is None:
        raise SceneError(f"its name gives the date {text!r}, which is none")
    return found
