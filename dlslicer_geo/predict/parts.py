"""A split in, which chips are in which part, and what the parts depend on, out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.files import read_json, sha256_json, write_json
from dlslicer_geo.types import Progress, channels_of

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""File beside the parts that says which model and chips they belong to, and how they were made."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What is to be predicted, and how.

    Args:
        model: a ``CityClassifier``.
        data: the ``ChipDataModule`` of the chips.
        folder: of the parts.
        chip_ids: (n,) int64, sorted.
        parts: the same in whole scenes, part by part.
        key: changes with everything that parts depend on.
        embedding: whether pooled features are kept.
        batch_size: as asked for: 0 is to be found.
        precision: as asked for.
        compile: whether the network is compiled.
        dense: whether features are computed once for overlapping chips.
        provenance: goes into every part.
        progress: shows how far it is.
    """

    model: Any
    data: Any
    folder: Path
    chip_ids: NDArray[np.int64]
    parts: list[NDArray[np.int64]]
    key: str
    embedding: bool
    batch_size: int
    precision: str
    compile: bool
    dense: bool
    provenance: Mapping[str, str]
    progress: Progress

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number}.parquet"


def parts_of(scene_ids: NDArray[Any], chip_ids: NDArray[np.int64], at_least: int) -> list[NDArray[np.int64]]:
    """Whole scenes together until a part is full; chips of a scene are neighbours in the table."""
    starts = np.flatnonzero(np.r_[True, scene_ids[1:] != scene_ids[:-1]])
    cuts: list[int] = []
    for start in starts:
        if start - (cuts[-1] if cuts else 0) >= at_least:
            cuts.append(int(start))
    return np.split(chip_ids, cuts)


def key_of(model: Any, data: Any, chip_ids: NDArray[np.int64], options: list[Any]) -> str:
    """What the parts depend on: every weight, window, option, and how pixels are read; not where the work is done."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    columns = ["chip_id", "row", "col", "height", "width", "size"]
    digest.update(data.chips[columns].to_numpy(np.int64).tobytes())
    digest.update(chip_ids.tobytes() + data.labels(chip_ids).tobytes())
    columns = ["scene_id", "sha256", "dtype", "channels", "low", "high"]
    read = ((record, channels_of(record)) for record in data.scenes[columns].to_dict("records"))
    scenes = [[r["scene_id"], r["sha256"], str(r["dtype"]), c.bands, c.low, c.high] for r, c in read]
    rest = [options, list(model.cities), int(model.hparams["input_size"]), scenes]
    return hashlib.sha256(digest.digest() + sha256_json(rest).encode()).hexdigest()


def begun(job: Job) -> dict[str, Any]:
    """What stands in the manifest of this very job; of any other, parts and manifest are removed and it is empty."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / MANIFEST
    stored = read_json(path) if path.exists() else None
    own = head(job)
    known = (
        isinstance(stored, dict) and own.items() <= stored.items() and {"batch_size", "precision"} <= stored.keys()
    )
    if not known:
        path.unlink(missing_ok=True)  # first, so that parts of another key never stand beside this one's
        for part in sorted(job.folder.glob("part-*.parquet")):
            part.unlink()
    for half in job.folder.glob(".*.tmp*"):
        half.unlink()
    return dict(stored) if known and stored else {}


def head(job: Job) -> dict[str, Any]:
    """What a reader must know: which parts there are, and how to take the calibration back."""
    model = job.model
    return {
        "key": job.key,
        "parts": len(job.parts),
        "temperature": float(model.temperature),
        "detector": str(model.hparams["detector"]),
        "threshold": model.threshold,
    }


def keep(job: Job, manifest: Mapping[str, Any]) -> None:
    """Write the manifest."""
    write_json(job.folder / MANIFEST, dict(manifest))


def missing(job: Job) -> list[int]:
    """Numbers of the parts that are not on disk, or of which the end is not."""
    left = [number for number in range(len(job.parts)) if not _whole(job.path(number))]
    if len(left) < len(job.parts):
        logger.info("%d of %d prediction parts are there already", len(job.parts) - len(left), len(job.parts))
    return left


def _whole(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):  # no such file, or one that was cut off
        return False
    return True
