"""Scene table and chip table in, a folder with the chips of every scene as they are read out.

A store changes how long an epoch takes and nothing else: what is read from it equals the reference read bit for bit.
Scenes that it lacks are read from their rasters, at full resolution and never from overviews, because a full disk
must not change what a model sees.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.data.chips import ChipDataset
from dlslicer_geo.data.layout import Layout, in_a_stack, smallest
from dlslicer_geo.data.shelf import ABSENT, Book, key_of, path_of
from dlslicer_geo.data.strips import OnePass
from dlslicer_geo.errors import SceneError
from dlslicer_geo.files import atomic
from dlslicer_geo.types import Progress, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

logger = logging.getLogger(__name__)

COLUMNS = ["chip_id", "scene_id", "city", "row", "col", "height", "width", "size"]

AT_ONCE = 64
"""Chips that are read at a time."""

CHIPS_PER_SECOND = 800
"""What one core reads, writes and compares of a prepared scene's 480 px windows."""

ROOM = 1 << 30
"""Bytes that stay free on the disk, beside a tenth of the store."""

LARGEST = 2
"""Largest store, as a multiple of the bytes of the raw images."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a store holds.

    Args:
        scenes: scenes whose chips are in it.
        bytes: what it takes on the disk.
        left: scenes that are read from their rasters.
    """

    scenes: int
    bytes: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scene: its row of the scene table, its chips, where they lie, and the most bytes they may take."""

    scene: Any
    chips: Any
    path: Path
    layout: Layout
    most: float


class _DiffersError(Exception):
    """A chip came back other than it was put in: what overlaps is not equal, so it cannot be shared."""


def write_store(
    scenes: GeoDataFrame,
    chips: GeoDataFrame,
    folder: str | Path,
    *,
    always: bool = False,
    executor: Executor | None = None,
    progress: Progress = quiet,
) -> Stored:
    """Keep chips as the model reads them; scenes that are there already are kept, so that a killed run goes on.

    Says first how much it will take. Where the disk has no room, or the store would be larger than twice the raw
    images, it says so and writes nothing: everything is then read from the rasters.

    Args:
        scenes: scene table.
        chips: the rows of the chip table that are read again and again.
        folder: of this store alone; files of other scenes in it are removed.
        always: write it however large it is beside the images, and refuse where the disk has no room.
        executor: does the scenes; None does them here.
        progress: shows how far it is.

    Raises:
        SceneError: if a raster cannot be read, or with ``always`` if the disk has no room.
    """
    root = Path(folder)
    jobs = [_job(*one, root, always=always) for one in _by_scene(scenes, chips)]
    _tidy(root, {job.path for job in jobs})
    missing = [job for job in jobs if not _is_there(job)]
    reason = _why_not(jobs, missing, root, always=always)
    if reason:
        logger.info("%s: chips are read from their rasters", reason)
        for job in missing:  # a file of other pixels
            job.path.unlink(missing_ok=True)
    elif missing:
        _write_all(missing, executor, progress, always=always)
    there = [job.path for job in jobs if job.path.exists()]
    return Stored(scenes=len(there), bytes=sum(p.stat().st_size for p in there), left=len(jobs) - len(there))


def write_scene(job: Job) -> str:
    """Write one scene.

    Returns:
        why it is not stored (its chips share nothing and would take too much whole, or the disk is full), or nothing.

    Raises:
        SceneError: if its raster cannot be read.
    """
    whole = in_a_stack(len(job.chips), job.layout.size)
    for layout in (job.layout, whole):
        if layout is whole and whole.bytes > job.most:
            break
        try:
            with atomic(job.path) as temporary:
                _write_as(layout, job, temporary)
            return ""
        except _DiffersError:
            continue
        except OSError as error:
            return f"{job.path} cannot be written ({error.strerror or error})"
    return f"overlapping chips of {job.path.stem} are not equal"


def _by_scene(scenes: GeoDataFrame, chips: GeoDataFrame) -> Iterator[tuple[Any, Any]]:
    """The row of the scene table, as a table, and the chips of each scene."""
    place = {scene_id: i for i, scene_id in enumerate(scenes["scene_id"])}
    plain = scenes.drop(columns="geometry", errors="ignore")
    for scene_id, own in chips[COLUMNS].groupby("scene_id", sort=True):
        at = place[scene_id]
        yield plain.iloc[at : at + 1], own


def _job(scene: Any, chips: Any, root: Path, *, always: bool) -> Job:
    record = scene.iloc[0]
    raw = Path(record["source"])
    most = LARGEST * raw.stat().st_size if raw.is_file() and not always else np.inf
    layout = smallest(chips[["row", "col", "height", "width"]].to_numpy(np.int64), int(chips["size"].iloc[0]))
    return Job(scene=scene, chips=chips, path=path_of(root, record["scene_id"]), layout=layout, most=most)


def _tidy(root: Path, wanted: set[Path]) -> None:
    """Remove what a killed run or another table left."""
    for path in root.iterdir() if root.is_dir() else ():
        if path.name.startswith(".") or (path.suffix == ".safetensors" and path not in wanted):
            path.unlink()


def _is_there(job: Job) -> bool:
    book = Book.open(job.path, key_of(job.scene.iloc[0]), job.layout.size)
    return book is not None and bool((book.places(_windows(job)) != ABSENT).all())


def _windows(job: Job) -> NDArray[np.int64]:
    return np.asarray(job.chips[["row", "col", "height", "width"]].to_numpy(np.int64))


def _why_not(jobs: list[Job], missing: list[Job], root: Path, *, always: bool) -> str:
    """Why nothing is written, said to whoever reads the log; empty where there is no reason."""
    total, needed = (sum(job.layout.bytes for job in some) for some in (jobs, missing))
    if missing:
        seconds = sum(len(job.chips) for job in missing) / CHIPS_PER_SECOND
        what = f"{sum(len(job.chips) for job in jobs)} chips of {len(jobs)} scenes"
        logger.info("a store of %s takes %s in %s, and %.0f s of one core", what, _gb(total), root, seconds)
    known = [job for job in jobs if job.most < np.inf]
    own, most = sum(job.layout.bytes for job in known), sum(job.most for job in known)
    if own > most:
        return f"a store of {_gb(own)} would be more than {LARGEST} times the {_gb(most / LARGEST)} of raw images"
    free = shutil.disk_usage(next(place for place in (root, *root.absolute().parents) if place.is_dir())).free
    if not missing or needed * 1.1 + ROOM < free:
        return ""
    reason = f"{root} has {_gb(free)} free and a store needs {_gb(needed * 1.1 + ROOM)}"
    if always:
        raise SceneError(f"{reason}: make room, or set fit.store to auto")
    return reason


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _write_all(jobs: list[Job], executor: Executor | None, progress: Progress, *, always: bool) -> None:
    written = executor.map(write_scene, jobs) if executor else map(write_scene, jobs)
    for job, reason in zip(jobs, progress(written, total=len(jobs), label="storing chips"), strict=True):
        if not reason:
            continue
        job.path.unlink(missing_ok=True)  # a file of other pixels
        if always:
            raise SceneError(f"{reason}: make room, or set fit.store to auto")
        logger.info("%s: its chips are read from the raster", reason)


def _write_as(layout: Layout, job: Job, path: Path) -> None:
    """Put every chip in its place, then compare what comes out with what went in."""
    book = Book.create(path, key_of(job.scene.iloc[0]), _windows(job), layout)
    seen = []
    for first, images in _read(job):
        for place, image in enumerate(images, first):
            book.put(place, image)
            seen.append(_digest(image))
    image = np.empty((layout.size, layout.size, 3), np.uint8)
    for place, digest in enumerate(seen):
        book.copy(place, image)
        if _digest(image) != digest:
            raise _DiffersError


def _digest(image: Pixels) -> bytes:
    return hashlib.sha256(image.data).digest()


def _read(job: Job) -> Iterator[tuple[int, Pixels]]:
    """The number of the first chip and the pixels (k, size, size, 3) of some at a time."""
    parts = np.split(np.arange(len(job.chips)), np.arange(AT_ONCE, len(job.chips), AT_ONCE))
    chips = OnePass(ChipDataset(job.scene, job.chips, ()), parts)
    for part in parts:
        yield int(part[0]), chips.batch(part)["image"].permute(0, 2, 3, 1).numpy()
