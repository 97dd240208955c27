"""Placed images in, the scene table out: prepares what must be, reads all pixels once, several scenes at a time."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes import COLUMNS
from dlslicer_geo.scenes.ledger import Image, Ledger, Rules
from dlslicer_geo.scenes.rasters import prepare
from dlslicer_geo.scenes.rasters.image import inspect
from dlslicer_geo.scenes.rasters.tally import scale
from dlslicer_geo.scenes.review import alike
from dlslicer_geo.scenes.values import Placement
from dlslicer_geo.types import Progress, Reading

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Scenes that one worker takes at a time: entering rasterio's environment anew for each costs more than opening."""

THUMBNAILS = 5000
"""Scenes whose thumbnails are kept for the report."""

SAMPLES = 1 << 24
"""Pixels, over all scenes, from which the scaling is found."""

CORES = os.cpu_count() or 1

SHARED = "give workers and this machine one shared file system, with the same paths"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """A scene with what is needed to compare it with others.

    Args:
        record: a row of the scene table, its channels not yet scaled.
        samples: float32 (3, n) pixels of its channels, None for uint8.
        thumbnail: uint8 (rows, cols, 3), None for scenes beyond ``THUMBNAILS``.
        picture: float32 (32, 32) grey, zero mean, unit variance.
    """

    record: dict[str, Any]
    samples: NDArray[np.float32] | None
    thumbnail: NDArray[np.uint8] | None
    picture: NDArray[np.float32]


def measure(
    images: Sequence[Image], rules: Rules, ledger: Ledger, progress: Progress, executor: Executor | None = None
) -> list[Measured]:
    """Prepare and read every image; those that fail go to the ledger.

    Args:
        images: placed images.
        rules: what they are read by.
        ledger: takes those that fail, in the order of their ids.
        progress: watches.
        executor: does the work, and sees the same paths; None takes a thread of this process for each core.

    Returns:
        scenes in the order of their ids.

    Raises:
        SceneError: before anything is written, if the disk has no room for what must be prepared.
    """
    ordered = sorted(images, key=lambda image: image.scene_id)
    _announce(ordered, rules)
    done: list[Measured] = []
    # after Ctrl-C what has not begun is cancelled, and only the scenes in hand are finished
    with nullcontext(executor) if executor else _threads() as pool, closing(_all(ordered, rules, pool)) as results:
        for image, result in zip(ordered, progress(results, total=len(ordered), label="scan"), strict=True):
            if isinstance(result, SceneError):
                ledger.reject(image.found.source, result)
            else:
                done.append(_lean(result, len(done), len(ordered)))
    return done


@contextmanager
def _threads() -> Iterator[Executor]:
    pool = ThreadPoolExecutor(CORES)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _all(images: Sequence[Image], rules: Rules, pool: Executor) -> Generator[Measured | SceneError, None, None]:
    slow = any(image.why for image in images)  # then each takes seconds, and Ctrl-C must not wait for many
    size = 1 if slow else max(1, min(AT_ONCE, len(images) // CORES))
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    for batch in pool.map(partial(_batch, rules=rules), batches):
        yield from (_seen(one) for one in batch)


def _seen(result: Measured | SceneError) -> Measured | SceneError:
    """A result, unless its prepared raster lies where only the worker sees it."""
    if isinstance(result, SceneError) or result.record["prepared"] is None or Path(result.record["path"]).exists():
        return result
    return SceneError(f"a worker wrote {result.record['path']}, which is not seen from here: {SHARED}")


def _lean(scene: Measured, at: int, number: int) -> Measured:
    """A scene without what would fill the memory when there are very many."""
    samples = scene.samples
    if samples is not None:
        samples = samples[:, :: max(1, samples.shape[1] * number // SAMPLES)].copy()
    return replace(scene, samples=samples, thumbnail=scene.thumbnail if at < THUMBNAILS else None)


def tabulate(scenes: Sequence[Measured], reading: Reading) -> gpd.GeoDataFrame:
    """The scene table, with one scaling for all scenes of a pixel type and number of bands."""
    groups: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    for scene in scenes:
        groups[scene.record["dtype"], scene.record["bands"]].append(scene)
    for (dtype, bands), members in groups.items():
        samples = [scene.samples for scene in members if scene.samples is not None]
        if not samples:
            continue
        stretches = reading.stretches()
        low, high = zip(*stretches, strict=True) if stretches else scale(samples)
        logger.info("%d scenes of %d %s bands are stretched from %s to %s", len(members), bands, dtype, low, high)
        for scene in members:
            scene.record.update(low=[float(value) for value in low], high=[float(value) for value in high])
    frame = pd.DataFrame.from_records([scene.record for scene in scenes], columns=list(COLUMNS))
    frame = frame.astype({"nodata": "float64", "accuracy_m": "float64"})  # a column of None has no dtype by itself
    return gpd.GeoDataFrame(frame, geometry="geometry", crs="EPSG:4326")


def _announce(images: Sequence[Image], rules: Rules) -> None:
    """Say what preparing will cost, and refuse what the disk cannot hold."""
    if rules.prepared is None:
        return
    folder, wanted = rules.prepared, [image for image in images if image.why is not None]
    needed = [image for image in wanted if not (folder / f"{image.scene_id}.json").exists()]
    if len(needed) < len(wanted):
        logger.info("%d scenes were written anew before; they are compared and kept", len(wanted) - len(needed))
    if not needed:
        return
    jobs = [(image.header, image.placement) for image in needed if image.placement is not None]
    estimate = prepare.estimate(jobs, min(CORES, len(needed)), rules.grid)
    prepare.check_room(rules.prepared, estimate)
    reasons = "; ".join(f"{n} because {why}" for why, n in Counter(str(image.why) for image in needed).most_common(3))
    logger.info(
        "%d of %d scenes are written anew in %s (%s): at most %.1f GB, about %.0f s of one core",
        len(needed), len(images), rules.prepared, reasons, estimate.bytes / 1e9, estimate.seconds,
    )  # fmt: skip


def _batch(images: Sequence[Image], *, rules: Rules) -> list[Measured | SceneError]:
    with rasterio.Env():
        return list(_results(images, rules))


def _results(images: Sequence[Image], rules: Rules) -> Iterator[Measured | SceneError]:
    for image in images:
        try:
            yield _measured(image, rules)
        except SceneError as error:
            yield error


def _measured(image: Image, rules: Rules) -> Measured:
    if image.placement is None:
        raise SceneError("nothing says where it lies")
    if not image.found.path.startswith("/vsi") and not Path(image.found.path).exists():
        raise SceneError(f"it is not there on {platform.node()}: {SHARED}")
    path, placement, digest = _readable(image, image.placement, rules)
    try:
        about = inspect(path, placement, rules.reading)
    except SceneError:
        if image.why is not None:  # a raster that is no scene is of no use
            for left in (Path(path), Path(path).with_suffix(".json")):
                left.unlink(missing_ok=True)
        raise
    tagged, samples, thumbnail = (about.pop(name) for name in ("tagged", "samples", "thumbnail"))
    names = {**image.names, "acquired": image.names["acquired"] or tagged}
    phash, picture = alike.fingerprint(thumbnail)
    record = {
        "scene_id": image.scene_id, **names, "path": path, "source": image.found.source, **about,
        "georef": image.placement.georef, "accuracy_m": image.placement.accuracy_m, "sha256": digest,
        "prepared": image.why, "phash": phash, "duplicate_of": None, "overlap_m2": 0.0,
    }  # fmt: skip
    return Measured(record=record, samples=samples, thumbnail=thumbnail, picture=picture)


def _readable(image: Image, placement: Placement, rules: Rules) -> tuple[str, Placement, str]:
    """What is read, where it lies, and the hash of the raw image."""
    if image.why is None or rules.prepared is None:
        return image.found.path, placement, prepare.digest_of(image.found)
    target = Path(rules.prepared) / f"{image.scene_id}.tif"
    made = prepare.prepare(image.found, placement, rules.reading, target, rules.grid)
    return str(made.path), made.placement, made.digest
