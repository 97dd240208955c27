"""Found image and placement in, the same pixels as a tiled raster with mask and overviews out, written once.

A prepared scene has the values of its raw image on a grid that chips are cut from: nothing is scaled or re-encoded
with loss. Declared masks, alpha, nodata and undeclared holes become one internal mask. Images that lie askew are
warped to a metric grid. How the file is made is in ``tiled``.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from dlslicer_geo import files
from dlslicer_geo.errors import SceneError, TableError
from dlslicer_geo.pixels import is_remote, opened
from dlslicer_geo.scenes.rasters import grid as grids
from dlslicer_geo.scenes.rasters import raw, tiled
from dlslicer_geo.scenes.rasters.image import PLAIN, SLOW, reading_errors
from dlslicer_geo.scenes.rasters.raw import digest_of
from dlslicer_geo.scenes.values import Found, Header, Placement
from dlslicer_geo.types import ChipGrid, Reading

__all__ = ["Estimate", "Prepared", "block_of", "check_room", "digest_of", "estimate", "prepare", "why"]

LAYOUT = 1
"""Version of the way scenes are written; a new one writes all of them anew."""

LARGEST_BLOCK = 1024
"""Largest edge of the blocks of a prepared scene, in pixels."""

BLOCK_PX = 4_000_000
"""Pixels of the largest block that is read by window."""

BYTES_PER_SECOND = 25e6
"""Bytes of pixels that one core prepares in a second; a 4800² JPG took 1.9 to 2.5 s, with its checks."""

WARPED = 3
"""How much longer a warped image takes; a turned 4800² JPG took 7.3 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A scene that was written.

    Args:
        path: the tiled raster.
        digest: SHA-256 of the raw image.
        placement: where the tiled raster lies, which is another grid when it was warped.
        kept: whether it was there already.
    """

    path: Path
    digest: str
    placement: Placement
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What preparing will take at most.

    Args:
        bytes: on disk, with the temporary files of the scenes that are written at the same time.
        seconds: of one core, at ``BYTES_PER_SECOND``; writing to a slow disk comes on top.
    """

    bytes: int
    seconds: float


def why(found: Found, header: Header, placement: Placement, reading: Reading) -> str | None:
    """Why an image must be prepared before it is read by window; None when it need not be.

    Raises:
        SceneError: with the reason alone, if it must be and ``reading.prepare`` is ``never``.
    """
    reason = _why(found, header, placement)
    if reason is not None and reading.prepare == "never":
        raise SceneError(f"{reason}, so it must be prepared: set data.prepare to auto")
    return reason or ("data.prepare is all" if reading.prepare == "all" else None)


def block_of(gsd_m: float, grid: ChipGrid) -> int:
    """Edge in pixels of the blocks of a prepared scene: a chip's window, so that any window touches at most four.

    A multiple of 16, at least 256 and at most 1024.

    Args:
        gsd_m: ground metres per pixel of the scene.
        grid: the chips that will be cut.
    """
    window = grid.size if grid.metres is None else grid.metres / gsd_m
    return min(LARGEST_BLOCK, max(256, math.ceil(round(window, 3) / 16) * 16))


def estimate(jobs: Sequence[tuple[Header, Placement]], workers: int = 1, grid: ChipGrid | None = None) -> Estimate:
    """Upper bound of the disk that preparing takes, and the time to expect.

    Counts whole blocks of pixels, overviews and a mask, and of the scenes written at the same time the temporary
    files: the decoded image, its native grid, and the warped one.

    Args:
        jobs: header and placement of the images to prepare.
        workers: images prepared at the same time.
        grid: the chips that will be cut; None counts with the largest blocks.

    Raises:
        SceneError: with the reason alone, if an image has to be warped and cannot be.
    """
    written, temporary, values = 0, [0], 0.0
    for header, placement in jobs:
        native = shape = (header.height, header.width)
        block = LARGEST_BLOCK if grid is None else block_of(_gsd_m(placement, native), grid)
        warped = grids.fits(placement, native) is not None
        if warped:
            _, _, shape = grids.target(placement, native)
        size = np.dtype(header.dtype).itemsize * max(3, header.bands)  # a palette becomes three when it is warped
        one = _tiled_bytes(shape, size, block, tiled.overviews(shape, block))
        written += one
        stages = 2 * _tiled_bytes(native, size + 1, block, 0) + warped * _tiled_bytes(shape, size, block, 0)
        temporary.append(one + stages)  # the result is written beside what it replaces
        values += shape[0] * shape[1] * header.bands * np.dtype(header.dtype).itemsize * (WARPED if warped else 1)
    largest = sum(sorted(temporary)[-max(1, workers) :])
    return Estimate(bytes=written + largest, seconds=values / BYTES_PER_SECOND)


def check_room(folder: str | os.PathLike[str], estimate: Estimate) -> None:
    """Make sure that the disk has room for what will be written to a folder, which need not exist yet.

    Raises:
        SceneError: if it has less.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < estimate.bytes:
        raise SceneError(
            f"preparing the scenes may take {_gigabytes(estimate.bytes)} in {folder}, where {_gigabytes(free)} are "
            "free: make room, or prepare them elsewhere with another --out"
        )


def prepare(found: Found, placement: Placement, reading: Reading, target: Path, grid: ChipGrid) -> Prepared:
    """Write an image as a tiled raster, or keep the one that an earlier run wrote from the same bytes and settings.

    The raster and, beside it, a ``.json`` with its hash appear under their names only when they are whole. May run in
    several threads and processes at a time, for different targets.

    Args:
        found: the image.
        placement: where it lies.
        reading: bands, and whether holes are masked.
        target: ``<folder>/<scene_id>.tif``.
        grid: the chips that will be cut.

    Raises:
        SceneError: with the reason alone, if the image cannot be read or written.
    """
    known = _record(target)
    stamp = raw.stamp_of(found) if is_remote(found.path) else None
    if stamp is not None and (known.get("stamp"), known.get("source")) == (stamp, found.source):
        key = _key(known["raw_sha256"], known["raw_shape"], placement, reading, grid)
        if (kept := _kept(known, key, target, placement)) is not None:
            return kept  # unchanged on the server, so that nothing is downloaded
    with reading_errors(), _workspace(target) as folder, raw.fetched(found, folder) as (path, digest):
        with opened(path) as source:
            shape = source.shape
        parts = digest if is_remote(found.path) else raw.with_parts(digest, path)
        key = _key(parts, shape, placement, reading, grid)
        if (kept := _kept(known, key, target, placement)) is not None:
            return kept
        note = {"source": found.source, "raw_sha256": digest, "key": key}
        block = block_of(_gsd_m(placement, shape), grid)
        written, moved = tiled.write(path, placement, reading, tiled.Layout(folder=folder, block=block, note=note))
        with files.atomic(target) as temporary:
            written.replace(temporary)
        place = {"crs": moved.crs, "transform": list(moved.transform[:6])}
        record = {"key": key, "sha256": files.sha256_file(target), "raw_sha256": digest, "raw_shape": list(shape)}
        files.write_json(_record_of(target), record | {"source": found.source, "stamp": stamp} | place)
        return Prepared(path=target, digest=digest, placement=moved)


def _why(found: Found, header: Header, placement: Placement) -> str | None:
    shape, (rows, cols) = (header.height, header.width), header.block
    if found.secret:
        return "its address is signed and not kept"
    if header.driver in PLAIN:
        return f"{header.driver} cannot be read by window"
    if header.driver in SLOW:
        return "JPEG 2000 is slow to read by window"
    if rows * cols > BLOCK_PX:
        return f"its blocks measure {rows} by {cols} px"
    if placement.georef != "geotiff" or header.crs is None or header.transform is None:
        return f"its position is not in the file but from another source ({placement.georef})"
    if not np.allclose(header.transform[:6], placement.transform[:6], rtol=1e-9, atol=0):
        return "its position in the file is another one"
    if not is_remote(found.path) and Path(f"{found.path}.aux.xml").exists() and _moved(found.path, placement):
        return "the .aux.xml beside it moves it elsewhere for other programs"
    return grids.fits(placement, shape)


def _moved(path: str, placement: Placement) -> bool:
    with reading_errors(), opened(path) as source:
        return not np.allclose(source.transform[:6], placement.transform[:6], rtol=1e-9, atol=0)


def _key(digest: str, shape: Sequence[int], placement: Placement, reading: Reading, grid: ChipGrid) -> str:
    """What a prepared scene is made from, as a hash."""
    height, width = shape
    block = block_of(_gsd_m(placement, (height, width)), grid)
    place = (placement.crs, list(placement.transform[:6]), placement.georef, placement.accuracy_m)
    return files.sha256_json([LAYOUT, digest, place, reading.holes, reading.bands, block])


def _gsd_m(placement: Placement, shape: tuple[int, int]) -> float:
    """Ground metres per pixel that the prepared scene will have."""
    sides = grids.gsd_m(placement.crs, placement.transform, shape)
    return min(sides) if grids.fits(placement, shape) else grids.one_gsd(*sides)


def _record(target: Path) -> dict[str, Any]:
    """What an earlier run wrote down about a target; empty where there is nothing to rely on."""
    try:
        record = files.read_json(_record_of(target))
    except TableError:
        return {}
    needed = {"key", "sha256", "raw_sha256", "raw_shape", "crs", "transform"}
    return record if isinstance(record, dict) and needed <= set(record) else {}


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}.json")


def _kept(known: dict[str, Any], key: str, target: Path, placement: Placement) -> Prepared | None:
    if known.get("key") != key or not target.is_file() or files.sha256_file(target) != known["sha256"]:
        return None
    moved = replace(placement, crs=known["crs"], transform=Affine(*known["transform"]))
    return Prepared(path=target, digest=known["raw_sha256"], placement=moved, kept=True)


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A hidden folder beside a target, removed at the end; what a killed run left behind is removed first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{escape(target.stem)}.*.work"):
        if not _runs(left.suffixes[-2].lstrip(".")):
            shutil.rmtree(left, ignore_errors=True)
    folder = target.with_name(f".{target.stem}.{os.getpid()}.work")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: str) -> bool:
    """Whether there may be a process with this number."""
    if not pid.isdecimal() or os.name != "posix":  # elsewhere the signal 0 is a real one
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user, or not to be told on this system
        return True
    return True


def _tiled_bytes(shape: tuple[int, int], pixel: int, block: int, overviews: int) -> int:
    """Bytes of a tiled raster with its overviews, whose tiles may be of 128 px, a mask, and its directories."""
    total = 1 << 16
    for level in range(overviews + 1):
        rows, cols = (math.ceil(side / 2**level / block) * block + 128 for side in shape)
        total += rows * cols * pixel + rows * cols // 8
    return total


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
