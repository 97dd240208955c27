"""The name of a data set and a folder in, its files under their final names out: resumable and checked by hash.

A file is fetched into a folder of its own, compared with the size and hash that the hub states, and only then moved
to its final name. ``download.json`` remembers what was checked, so that the same command goes on where it stopped.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlslicer_geo import files
from dlslicer_geo.errors import ConfigError, SceneError, TableError
from dlslicer_geo.hub import GB, Hub, HubFile
from dlslicer_geo.scenes.sources.addresses import redact
from dlslicer_geo.scenes.sources.dl_slicer import FOLDER, code_of
from dlslicer_geo.scenes.sources.dl_slicer import cities as known_cities
from dlslicer_geo.types import Progress, quiet

logger = logging.getLogger(__name__)

REPOSITORIES = {"dl-slicer": "issai/DL-SLICER-dataset"}
"""Data sets of the hub: name → repository."""

STAGING = ".download"
RECORD = "download.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """What a download did.

    Args:
        files: files that were fetched.
        bytes: their size.
        skipped: files that were there already and are what the hub states.
        revision: commit of the repository.
    """

    files: int
    bytes: int
    skipped: int
    revision: str


def download(
    what: str = "dl-slicer",
    out: str | os.PathLike[str] = "data/dl-slicer",
    *,
    cities: Sequence[str] = (),
    endpoint: str | None = None,
    revision: str = "main",
    patience_s: float = 60.0,
    progress: Progress = quiet,
) -> Downloaded:
    """Fetch a data set, or some of its cities, from the hub.

    Args:
        what: ``dl-slicer``.
        out: folder under which ``raw/<City (CODE)>/<SITE>/<image>.jpg`` is written.
        cities: codes of the wanted cities; none fetches all.
        endpoint: address of the hub; None takes that of ``huggingface_hub``.
        revision: branch, tag or commit; a download is of the one commit it means at the start.
        patience_s: how long a busy or absent hub is waited for before giving up.
        progress: shown while files are fetched.

    Returns:
        What was done.

    Raises:
        ConfigError: if the data set or a city is unknown, or the address of the hub is none.
        SceneError: if the hub cannot be reached or lacks the data, the disk is too small, or a file is not what the
            hub states twice in a row. The same command goes on from there.
    """
    _check(what, cities, endpoint)
    hub, target = Hub(REPOSITORIES[what], endpoint, patience_s), Path(out).absolute()
    commit = hub.commit(revision)
    wanted = _chosen(hub.below(FOLDER, commit), hub.repository, cities)
    record = _Record(target / RECORD, hub.repository, commit)
    missing = [file for file in wanted if not record.holds(target, file)]
    size, there = sum(file.size for file in missing), len(wanted) - len(missing)
    logger.info(
        "%s at %s: %d files of %.2f GB to fetch, %d are there", hub.repository, commit[:12], len(missing), size / GB,
        there,
    )  # fmt: skip
    _check_room(target, size)
    staging = target / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left cannot be gone on with
    try:
        for file in progress(missing, total=len(missing), label="download"):
            _move(hub.fetch(file, commit, staging), target / file.path)
            record.add(target, file)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Downloaded(files=len(missing), bytes=size, skipped=there, revision=commit)


def _check(what: str, cities: Sequence[str], endpoint: str | None) -> None:
    if what not in REPOSITORIES:
        raise ConfigError(f"there is no data set {what!r} to download: give {' or '.join(REPOSITORIES)}")
    known = [city["code"] for city in known_cities()]
    unknown = [code for code in cities if code not in known]
    if unknown:
        raise ConfigError(f"city {unknown[0]!r} is none of the {len(known)} known ones: {', '.join(known)}")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"the address of the hub is {redact(endpoint)!r}: give one that starts with https://")


def _chosen(listed: Iterable[HubFile], repository: str, cities: Sequence[str]) -> list[HubFile]:
    """The files of the wanted cities in the order of their paths."""
    listed = list(listed)
    known = {city["code"] for city in known_cities()}
    codes = {file.path: _code(file.path) for file in listed}
    inside = [file for file in listed if codes[file.path] in known]
    others = [file for file in listed if codes[file.path] not in known]
    if not inside:
        first = f" ({', '.join(file.path for file in others[:3])})" if others else ""
        raise SceneError(
            f"{repository} holds no {FOLDER}/<City (CODE)>/<SITE>/<image>, only {len(others)} other files{first} of "
            f"{sum(file.size for file in others) / GB:.2f} GB: fetch these by hand, and unpack them into {FOLDER}/"
        )
    if others:
        logger.info("%s: %d files below %s/ are of no known city and stay there", repository, len(others), FOLDER)
    lacking = sorted(set(cities) - {str(codes[file.path]) for file in inside})
    if lacking:
        raise SceneError(f"{repository} holds no folder of the city {', '.join(lacking)}: leave it out")
    return [file for file in inside if not cities or codes[file.path] in cities]


def _code(path: str) -> str | None:
    """The city of ``raw/<City (CODE)>/<SITE>/<image>``; None for any other path, and for one that leads elsewhere."""
    parts = path.split("/")
    if len(parts) != 4 or parts[0] != FOLDER or "\\" in path or any(part in ("", ".", "..") for part in parts):
        return None
    return code_of(parts[1])


def _check_room(target: Path, size: int) -> None:
    free = shutil.disk_usage(next(folder for folder in (target, *target.parents) if folder.exists())).free
    if size > free:
        raise SceneError(
            f"{target} needs {size / GB:.2f} GB, but its disk has {free / GB:.2f} GB free: make room, take another "
            "folder, or fetch single cities with --city"
        )


def _move(staged: Path, final: Path) -> None:
    with staged.open("rb") as handle:
        os.fsync(handle.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(final)


class _Record:
    """What was checked: hash, size and time of each file, kept in ``download.json``."""

    def __init__(self, path: Path, repository: str, commit: str) -> None:
        self.path = path
        self.head = {"repository": repository, "revision": commit}
        self.files = _kept(path)

    def holds(self, target: Path, file: HubFile) -> bool:
        """Whether a file is there as the hub states; hashed only if it may have changed since it was checked."""
        path = target / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        if self.files.get(file.path) == _entry(path, file):
            return True
        if not file.is_at(path):
            return False
        self.add(target, file)
        return True

    def add(self, target: Path, file: HubFile) -> None:
        """Remember a file that was checked."""
        self.files[file.path] = _entry(target / file.path, file)
        files.write_json(self.path, {**self.head, "files": dict(sorted(self.files.items()))})


def _kept(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(files.read_json(path)["files"])
    except (TableError, KeyError, TypeError, ValueError):
        logger.warning("%s cannot be read: the files that are there are hashed again", path)
        return {}


def _entry(path: Path, file: HubFile) -> dict[str, Any]:
    about = path.stat()
    return {"digest": file.digest, "size": about.st_size, "mtime_ns": about.st_mtime_ns}
