"""Path of an image below its root in, the city, site, date and scene id it names out."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from dlslicer_geo.errors import ConfigError, SceneError

_DATE = re.compile(r"([0-9]{4})(?:[-:]?([0-9]{2})(?:[-:]?([0-9]{2}))?)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How names of files are read.

    Args:
        pattern: fits a whole path without its suffix; None reads no city.
        known: city code → name, None where every code is welcome.
    """

    pattern: re.Pattern[str] | None
    known: Mapping[str, str] | None

    @classmethod
    def read(cls, pattern: str | None, cities: str | os.PathLike[str] | None) -> Naming:
        """Compile a pattern and read the list of cities.

        Raises:
            ConfigError: if one of them cannot be used.
        """
        known = None if cities is None else _read_cities(Path(cities))
        return cls(pattern=None if pattern is None else _compile(pattern), known=known)

    def of(self, relative: Path) -> dict[str, str | None]:
        """What the path of an image says: ``city``, ``city_name``, ``site``, ``acquired``.

        Raises:
            SceneError: with the reason alone, if it does not fit.
        """
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
        return self.known[city]


def scene_id_of(relative: Path) -> str:
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


def _read_cities(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.cities {path} cannot be read ({error}): give a CSV file in UTF-8") from None
    if not rows or not {"code", "city"} <= set(rows[0]):
        raise ConfigError(f"data.cities {path} has no rows with the columns code and city: add them")
    known = {row["code"]: row["city"] for row in rows}
    if len(known) < len(rows):
        raise ConfigError(f"data.cities {path} has {len(rows)} rows but {len(known)} codes: name each code once")
    return known


def _named_date(text: str | None) -> str | None:
    if not text:
        return None
    found = iso_date(text)
    if found is None:
        raise SceneError(f"its name gives the date {text!r}, which is none")
    return found
