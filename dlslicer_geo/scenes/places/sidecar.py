"""The files below the roots in, the row of a sidecar table for each image out.

Tables are those named ``scenes`` (``.csv``, ``.geojson``, ``.json``, ``.gpkg``, ``.kml``, ``.kmz``) and those named
like an image beside them, overlays (``.kml``, ``.kmz``) of any name, or the one that the settings name. A table named
like an image counts when its only row names no file, or when its rows name files; else it is something else. A row
speaks of the image at the path it gives, from the folder of its table; where nothing is there, of the one whose path
below the root ends like it.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.places.rows import Row, facts
from dlslicer_geo.scenes.places.tables import PARSERS, read
from dlslicer_geo.scenes.sources.listing import SUFFIXES
from dlslicer_geo.scenes.values import Found

logger = logging.getLogger(__name__)

TABLES = tuple(PARSERS)
"""Suffixes of tables, in lower case."""

NAMED = "scenes"
"""Stem of a table that speaks of the images below its folder."""

OVERLAYS = (".kml", ".kmz")
"""Suffixes of tables that are read under any name."""

_ARCHIVE = "/vsizip/"


class _Entry(NamedTuple):
    table: Path
    row: Row


class _Own(NamedTuple):
    """What a table named like an image says of it, or why it says nothing."""

    table: Path
    row: Row | SceneError


class Sidecars:
    """Rows of all tables, found by the image they speak of.

    Attributes:
        files: the tables that were read.
    """

    files: tuple[Path, ...]

    def __init__(
        self, tables: Mapping[Path, list[Row] | SceneError], files: Iterable[Path] = (), *, anywhere: bool = False
    ) -> None:
        """Take rows, or the reason why there are none, by table.

        Args:
            tables: paths are absolute.
            files: all local files below the roots.
            anywhere: whether rows speak of images that are not below the folder of their table, too.
        """
        self.files = tuple(tables)
        self._anywhere = anywhere
        self._by_name: dict[str, list[_Entry]] = defaultdict(list)
        self._by_member: dict[str, list[_Entry]] = defaultdict(list)
        self._own: dict[tuple[Path, str], list[_Own]] = defaultdict(list)
        self._images: dict[str, list[Path]] = defaultdict(list)  # by name, and by name without suffix
        for path in files:
            if path.suffix.lower() in SUFFIXES:
                for name in {path.name, path.stem}:
                    self._images[name].append(path)
        for table, rows in tables.items():
            self._add(table, rows)

    @classmethod
    def gather(cls, files: Iterable[Path], given: str | None) -> Sidecars:
        """Read the tables.

        Args:
            files: all local files below the roots, images and others.
            given: the table that the settings name; then no other one is read.

        Raises:
            ConfigError: if the given table cannot be used.
            SceneError: naming it, if a table called ``scenes`` cannot be used.
        """
        files = [Path(file) for file in files]
        if given is not None:
            return cls({Path(given).resolve(): _read_given(Path(given))}, files, anywhere=True)
        images = {(path.parent, path.stem) for path in files if path.suffix.lower() in SUFFIXES}
        tables: dict[Path, list[Row] | SceneError] = {}
        for path in sorted({file for file in files if file.suffix.lower() in TABLES}):
            if path.stem.lower() == NAMED:
                tables[path] = _read_named(path)
            elif (path.parent, path.stem) in images and path.suffix.lower() != ".json":
                own = _read_own(path)
                if own is not None:
                    tables[path] = own
            elif path.suffix.lower() in OVERLAYS and isinstance(own := _read_own(path), list) and own:
                tables[path] = own  # an overlay names its image, whatever it is called itself
        return cls(tables, files)

    def row_of(self, found: Found) -> Row | None:
        """The row that speaks of an image, None where there is none.

        Raises:
            SceneError: with the reason alone, if several rows do, if a row may mean several images, or if the table
                named like the image cannot be read.
        """
        entries: Sequence[_Entry | _Own] = self._exact(found) or self._loose(found)
        local = Path(found.path)
        if not entries and (local.parent, local.stem) in self._own:
            entries = self._own[local.parent, local.stem]
            _check_single(entries[0].table.name, self._like(local))
        if len(entries) > 1:
            raise SceneError(f"{_origin(entries[0])} and {_origin(entries[1])} both speak of it: remove one of them")
        if not entries:
            return None
        if isinstance(entries[0].row, SceneError):
            raise SceneError(str(entries[0].row))
        return entries[0].row

    def facts_of(self, found: Found) -> Mapping[str, str]:
        """What the row of an image says beside its position: ``city``, ``city_name``, ``site``, ``acquired``.

        Raises:
            SceneError: as ``row_of``, and if the date is none.
        """
        row = self.row_of(found)
        return {} if row is None else facts(row)

    def overlays(self) -> list[tuple[Path, str]]:
        """Images inside KMZ archives: archive and member; GDAL opens ``/vsizip/<archive>/<member>``."""
        return [(entries[0].table, str(entries[0].row.values["member"])) for entries in self._by_member.values()]

    def _add(self, table: Path, rows: list[Row] | SceneError) -> None:
        if isinstance(rows, SceneError):
            self._own[table.parent, table.stem].append(_Own(table, rows))
            return
        for row in rows:
            member, file = row.values.get("member"), row.values.get("file")
            if member is not None:
                self._by_member[f"{table.as_posix()}/{member}"].append(_Entry(table, row))
            elif file is not None:
                self._by_name[_written(row).name].append(_Entry(table, row))
            else:
                self._own[table.parent, table.stem].append(_Own(table, row))

    def _exact(self, found: Found) -> list[_Entry]:
        """Rows that give the very path, in an archive or from the folder of their table."""
        if found.path.startswith(_ARCHIVE):
            return self._by_member.get("/" + found.path.removeprefix(_ARCHIVE).lstrip("/"), [])
        if found.remote:
            return []
        local = Path(found.path)
        entries = []
        for entry in self._named(local.name, local.stem):
            meant = _meant(entry)
            if meant == local.with_suffix("") != local:
                _check_single(entry.row.origin, self._like(local))
            if meant in (local, local.with_suffix("")):
                entries.append(entry)
        return entries

    def _loose(self, found: Found) -> list[_Entry]:
        """Rows that give the end of the path, or just the name, and mean no other image."""
        relative, entries = found.relative, []
        for entry in self._named(relative.name, relative.stem):
            parts = _written(entry.row).parts
            below = self._anywhere or found.path.startswith("/vsi") or found.remote or self._below(entry, found.path)
            if (*relative.parent.parts, parts[-1])[-len(parts) :] != parts or not below:
                continue
            named = self._images[parts[-1]]
            meant = _meant(entry)
            if any(meant in (path, path.with_suffix("")) for path in named):
                continue
            like = [path for path in named if (*path.parent.parts, parts[-1])[-len(parts) :] == parts]
            _check_single(entry.row.origin, [path for path in like if self._anywhere or self._below(entry, path)])
            entries.append(entry)
        return entries

    def _named(self, *names: str) -> list[_Entry]:
        return [entry for name in dict.fromkeys(names) if name for entry in self._by_name.get(name, [])]

    def _like(self, image: Path) -> list[Path]:
        """Images that differ in their suffix only."""
        return [path for path in self._images[image.stem] if path.with_suffix("") == image.with_suffix("")]

    def _below(self, entry: _Entry, path: str | Path) -> bool:
        return Path(path).is_relative_to(entry.table.parent)


def _check_single(origin: str, images: list[Path]) -> None:
    if len(images) > 1:
        one, two = sorted(images)[:2]
        raise SceneError(f"{origin} may mean {one} or {two}: give the path with its suffix in the column file")


def _written(row: Row) -> PurePosixPath:
    return PurePosixPath(row.values["file"].replace("\\", "/"))


def _meant(entry: _Entry) -> Path:
    """The path that a row gives, from the folder of its table."""
    return Path(os.path.normpath(entry.table.parent / _written(entry.row)))


def _origin(entry: _Entry | _Own) -> str:
    return entry.row.origin if isinstance(entry.row, Row) else entry.table.name


def _read_named(path: Path) -> list[Row]:
    try:
        rows = read(path)
        _check_named(rows)
    except SceneError as error:
        raise SceneError(f"{path.parent.as_posix()}/{error}") from None
    return rows


def _read_given(path: Path) -> list[Row]:
    if path.suffix.lower() not in TABLES:
        raise ConfigError(f"data.sidecar {path} is none of {', '.join(TABLES)}: give such a table")
    if not path.is_file():
        raise ConfigError(f"data.sidecar {path} does not exist: give a table of positions")
    try:
        rows = read(path)
        _check_named(rows)
    except SceneError as error:
        raise ConfigError(f"data.sidecar {path} cannot be used: {error}") from None
    return rows


def _check_named(rows: list[Row]) -> None:
    for row in rows:
        if "file" not in row.values:
            raise SceneError(f"{row.origin} names no file: fill the column file")


def _read_own(path: Path) -> list[Row] | SceneError | None:
    """The rows of a table named like an image, the reason why it has none, or None where it is something else."""
    try:
        rows = read(path)
    except SceneError as error:
        return error
    nameless = [row for row in rows if "file" not in row.values]
    if not rows or (nameless and len(rows) > 1):
        logger.info("%s has %d rows without a file: it is not taken for a table of positions", path, len(nameless))
        return None
    return rows
