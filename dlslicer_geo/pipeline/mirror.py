"""The address of a run folder on object storage in, a local folder with the same files out, and kept the same.

The stations work on local files. What the store has is fetched before they begin; while they work, a thread puts
there what they have finished. ``run.json`` follows the files it speaks of, so that the store never calls a station
done whose files it lacks, and a run that was killed goes on from there on any machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from dlslicer_geo.config import is_address
from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.files import read_json, write_json
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.scenes.sources import STORES, file_system, redact, scheme_of
from dlslicer_geo.types import Compute

logger = logging.getLogger(__name__)

NOTES = ".mirror.json"
"""What is the same here and there: name → size and time here, and what the store says of it."""

HERE_ONLY = ("store",)
"""Folders of a run that are made again sooner than fetched."""

LAST = "run.json"

PAUSE_S = 2.0
"""Shortest pause between two looks at the folder; a look that takes long is followed by a pause ten times as long."""

BATCH = 64
"""Files that are on their way at the same time."""

Stamp = list[int]


@contextmanager
def mirrored(out: str | Path, compute: Compute | None = None, *, only: Sequence[str] = ()) -> Iterator[Path]:
    """The local folder of a run, which is fetched from an address and put there.

    Where a launcher has started several processes, ``DLSLICER_CACHE`` must name a folder that all of them see; the
    first one fetches and puts.

    Args:
        out: a local folder, which is given back as it is, or an address of fsspec such as ``s3://bucket/run``.
        compute: where the processes of a launcher find each other; None for a single one.
        only: names of files to fetch; then nothing is put. Empty for all.

    Yields:
        the folder; what is in it when the block ends, however it does, is put too.

    Raises:
        ConfigError: if the address cannot be used, read or written.
    """
    if not is_address(str(out)):
        yield Path(out)
        return
    copy = Mirror(str(out))
    if compute is None:
        copy.fetch(only)
    else:
        ranks.started(compute)
        ranks.first(lambda: copy.fetch(only))
    if only or ranks.rank_and_world()[0]:
        yield copy.folder
        return
    with copy.kept():
        yield copy.folder


def folder_of(address: str) -> Path:
    """Where the files of an address lie on this machine: below ``DLSLICER_CACHE``, or the user's cache."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlslicer_geo"
    place = Path(os.environ.get("DLSLICER_CACHE") or own)
    return place.resolve() / hashlib.sha256(address.encode()).hexdigest()[:16] / address.rpartition("/")[2]


@cache
def root_of(folder: Path) -> Path | None:
    """The mirrored folder that a folder lies in, or is; None for one that has no address."""
    return next((place for place in (folder, *folder.parents) if (place / NOTES).exists()), None)


class Mirror:
    """A folder here and its like in a store.

    Args:
        address: of a run folder in a store.

    Raises:
        ConfigError: if there is no such store, or its library is not installed.
    """

    def __init__(self, address: str) -> None:
        self.shown = redact(address).rstrip("/")  # credentials are the environment's
        self.folder = folder_of(self.shown)
        if scheme_of(self.shown) not in STORES:
            raise ConfigError(f"{self.shown} holds no run folder: give a folder, or {', '.join(STORES)}://bucket/run")
        try:
            self.system, self.root = file_system(self.shown)
        except SceneError as error:
            raise ConfigError(str(error)) from None
        self.notes: dict[str, tuple[Stamp, str]] = {}
        self.seen: dict[str, Stamp] = {}

    def fetch(self, only: Sequence[str] = ()) -> None:
        """Bring what the store has and this folder lacks; what changed only here since the last time is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        notes = self.folder / NOTES
        if notes.exists():
            self.notes = {name: (stamp, mark) for name, (stamp, mark) in read_json(notes).items()}
        there = self._there(only)
        old = {name for name, (_, mark) in self.notes.items() if there.get(name, mark) == mark}
        wanted = [
            name for name in there if not (name in old and (self.folder / name).is_file()) and not _passing(name)
        ]
        if not only:
            self._drop([name for name in self.notes if name not in there])
        logger.info("%s: %d of %d files are fetched to %s", self.shown, len(wanted), len(there), self.folder)
        try:
            for some in _batches(wanted):
                self._get(some, there)
        finally:
            write_json(notes, self.notes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put what appears in the folder while the block is at work, and the rest when it ends."""
        probe = f"{self.root}/.writing"
        self._ask("written", "pipe_file", probe, b"")  # sooner now than after hours of work
        self._ask("written", "rm_file", probe)
        over = Event()
        thread = Thread(target=self._watch, args=(over,), name="mirror", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._end(over, thread)
            with suppress(ConfigError):  # what went wrong first is told
                self.put(whole=True)
            raise
        self._end(over, thread)
        self.put(whole=True)
        logger.info("%s has all of it", self.shown)

    def put(self, *, whole: bool = False) -> None:
        """Put what has changed here and is finished.

        Args:
            whole: also what has changed since the last look, which may be growing.
        """
        state = self.folder / LAST
        stamp = _stamp(state)
        before = state.read_bytes() if stamp else b""  # what it calls done is there when the rest is put
        here = {name: _stamp(path) for name, path in self._here() if name != LAST}
        changed = self.notes.get(LAST, ([], ""))[0] != stamp
        todo = [name for name, now in here.items() if name not in self.notes or self.notes[name][0] != now]
        ready = todo if whole or changed else [name for name in todo if self.seen.get(name) == here[name]]
        self.seen = here
        for some in _batches(ready):
            self._put(some, here)
        if before and (whole or changed):  # a folder that somebody has emptied is no reason to empty the store
            self._clear(here)
        if before and changed:
            self._ask("written", "pipe_file", f"{self.root}/{LAST}", before)
            self.notes[LAST] = (stamp, self._mark(LAST))
        if ready or changed:
            write_json(self.folder / NOTES, self.notes)

    def _end(self, over: Event, thread: Thread) -> None:
        over.set()
        thread.join()

    def _watch(self, over: Event) -> None:
        pause, complained = PAUSE_S, False
        while not over.wait(pause):
            begin = monotonic()
            try:
                self.put()
                complained = False
            except (ConfigError, OSError) as error:  # a file that is gone again; or a store, which may come back
                if not complained:
                    logger.warning("%s; it is tried again", str(error).split(": ")[0])
                complained = True
            pause = max(PAUSE_S, 10 * (monotonic() - begin))

    def _get(self, names: Sequence[str], there: dict[str, str]) -> None:
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        here = [str(self.folder / name) for name in names]
        self._ask("read", "get", [f"{self.root}/{name}" for name in names], here)
        self.notes |= {name: (_stamp(self.folder / name), there[name]) for name in names}

    def _put(self, names: Sequence[str], here: dict[str, Stamp]) -> None:
        names = [name for name in names if (self.folder / name).is_file()]  # a station may have removed one since
        if names:
            paths, there = [str(self.folder / name) for name in names], [f"{self.root}/{name}" for name in names]
            self._ask("written", "put", paths, there)
        self.notes |= {name: (here[name], self._mark(name)) for name in names}

    def _clear(self, here: dict[str, Stamp]) -> None:
        """Remove from the store what a station has removed here."""
        for name in [name for name in self.notes if name not in here and name != LAST]:
            self._ask("written", "rm_file", f"{self.root}/{name}")
            del self.notes[name]

    def _drop(self, names: Sequence[str]) -> None:
        """Remove here what somebody has removed from the store, unless it has changed."""
        for name in names:
            if _stamp(self.folder / name) == self.notes.pop(name)[0]:
                (self.folder / name).unlink()

    def _here(self) -> Iterator[tuple[str, Path]]:
        for folder, folders, names in os.walk(self.folder):
            place = Path(folder)
            inside = place.relative_to(self.folder)
            folders[:] = sorted(name for name in folders if not _passing((inside / name).as_posix()))
            for name in sorted(names):
                if not _passing((inside / name).as_posix()) and (place / name).is_file():
                    yield (inside / name).as_posix(), place / name

    def _there(self, only: Sequence[str]) -> dict[str, str]:
        """What the store says of its files by their names."""
        self.system.invalidate_cache()
        try:
            found: dict[str, Any] = self.system.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # the stores' libraries share no base class
            raise self._refused("read", error) from None
        root = self.root + "/"
        named = {path.removeprefix(root): _mark(info) for path, info in found.items() if path.startswith(root)}
        return {name: mark for name, mark in named.items() if not only or name in only}

    def _mark(self, name: str) -> str:
        return _mark(self._ask("read", "info", f"{self.root}/{name}"))

    def _ask(self, doing: str, what: str, *values: Any) -> Any:
        try:
            return getattr(self.system, what)(*values)
        except Exception as error:  # the stores' libraries share no base class
            raise self._refused(doing, error) from None

    def _refused(self, doing: str, error: Exception) -> ConfigError:
        said = redact(" ".join(str(error).split())[:200]) or type(error).__name__
        return ConfigError(
            f"{self.shown} cannot be {doing} ({said}): check the address and the credentials, and run again; what is "
            f"finished lies in {self.folder}"
        )


def _mark(info: dict[str, Any]) -> str:
    """What changes with a file's content: the store's checksum, else its time."""
    names = ("ETag", "etag", "md5Hash", "content_settings", "mtime", "LastModified", "created")
    said = next((info[name] for name in names if info.get(name) is not None), "")
    return f"{info['size']} {said}"


def _passing(name: str) -> bool:
    """Whether a file is unfinished, or of this machine only."""
    parts = name.split("/")
    return parts[0] in HERE_ONLY or any(part.startswith(".") or part.endswith(".work") for part in parts)


def _stamp(path: Path) -> Stamp:
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    yield from (names[start : start + BATCH] for start in range(0, len(names), BATCH))
