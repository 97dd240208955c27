"""A model and chips in, prediction parts on disk and one ``Predictions`` out; resumes where it stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.errors import TableError
from dlslicer_geo.files import read_json, sha256_json, write_json, write_table
from dlslicer_geo.types import DETECTORS, UNKNOWN, Predictions, Progress, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pyarrow import Table

logger = logging.getLogger(__name__)

CALIBRATION = ("temperature", "detector", "threshold")
"""What the manifest says beside the number of parts."""

OWN = ("chip_id", "scene_id", "truth")
"""Columns that say which chip it is."""

MANIFEST = "manifest.json"
"""File beside the parts that says which model and chips they belong to."""


def predict(
    model: Any,
    data: Any,
    *,
    split: str = "test",
    out: str | Path = "runs/predictions",
    embedding: bool = False,
    chips_per_part: int = 2048,
    provenance: Mapping[str, str] | None = None,
    progress: Progress = quiet,
) -> Predictions:
    """Say for every chip of a split how probable each city is.

    One part holds whole scenes. A part that is on disk and belongs to the same model and chips is kept, so that a
    killed run goes on; batches never cross parts, so that it ends with the same bytes as an undisturbed one.

    Args:
        model: a ``CityClassifier``.
        data: a ``ChipDataModule`` whose cities are the model's.
        split: ``train``, ``val``, ``test`` or ``all``.
        out: folder of the parts, ``part-<n>.parquet`` (GeoParquet; columns chip_id, scene_id, truth,
            city, answer (the city, or ``unknown``), confidence (calibrated), margin, entropy, unknown_score (of the
            model's detector), score_<detector>, top5, prob_<code>, embedding).
        embedding: also keep the pooled features (float32).
        chips_per_part: chips a part holds at least, except the last.
        provenance: goes into every part's metadata.
        progress: shows how far it is.

    Raises:
        SplitError: if the split has no chip.
    """
    folder = Path(out)
    chip_ids = data.chip_ids(split)
    parts = _parts(data.chips["scene_id"].to_numpy()[chip_ids], chip_ids, chips_per_part)
    key = _key(model, data, [split, embedding, chips_per_part, data.batch_size])
    _start(folder, {"key": key, "parts": len(parts), **_calibration(model)})
    for number, part in enumerate(progress(parts, total=len(parts), label=f"predicting {len(chip_ids)} chips")):
        path = folder / f"part-{number}.parquet"
        if not path.exists():
            table = _predict_part(model, data, part, embedding=embedding)
            write_table(table, path, dict(provenance or {}) | {"predictions_key": key})
    return read_predictions(folder, embedding=embedding)


def read_predictions(folder: str | Path, *, embedding: bool = False) -> Predictions:
    """Read all parts of a prediction folder.

    Args:
        folder: where :func:`predict` wrote.
        embedding: also read the embeddings (None when they were not kept).

    Raises:
        TableError: if there is no part, or one is missing or damaged.
    """
    root = Path(folder)
    manifest = _manifest(root)
    table = _read_parts(root, manifest["parts"], embedding=embedding)
    names = table.column_names
    cities = [n.removeprefix("prob_") for n in names if n.startswith("prob_")]
    probabilities = np.stack([table[f"prob_{c}"].to_numpy() for c in cities], axis=1)
    numbers = probabilities.dtype.kind == "f" and np.isfinite(probabilities).all()
    if not numbers or len(np.unique(table["chip_id"])) < len(table):
        raise TableError(f"{root} has probabilities that are no numbers, or a chip twice: run predict again")
    return Predictions(
        cities=tuple(cities),
        chip_id=table["chip_id"].to_numpy(),
        scene_id=tuple(table["scene_id"].to_pylist()),
        truth=tuple(table["truth"].to_pylist()),
        probabilities=probabilities,
        embedding=_stack(table["embedding"]) if "embedding" in names else None,
        folder=root,
        temperature=manifest["temperature"],
        unknown_scores={n.removeprefix("score_"): table[n].to_numpy() for n in names if n.startswith("score_")},
        detector=manifest["detector"],
        threshold=manifest["threshold"],
    )


def _manifest(root: Path) -> dict[str, Any]:
    """What stands beside the parts, as :func:`predict` writes it."""
    path = root / MANIFEST
    found = read_json(path)
    if not isinstance(found, dict) or not {"parts", *CALIBRATION} <= found.keys():
        raise TableError(f"{path} is no list of parts of this version: run predict again")
    parts, detector, threshold = found["parts"], found["detector"], found["threshold"]
    good = isinstance(parts, int) and parts > 0 and detector in ("", *DETECTORS)
    good &= threshold is None or (isinstance(threshold, float) and detector != "")
    temperature = found["temperature"]
    if not good or not isinstance(temperature, float) or not temperature > 0:
        said = ", ".join(f"{name} {found[name]!r}" for name in ("parts", *CALIBRATION))
        raise TableError(f"{path} says {said[:200]}, which predict does not write: run predict again")
    return found


def _read_parts(root: Path, number: int, *, embedding: bool) -> Table:
    """The columns of all parts that make a ``Predictions``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lacking = [name for n in range(number) if not (root / (name := f"part-{n}.parquet")).exists()]
    if lacking:
        raise TableError(f"{root} lacks {len(lacking)} of {number} parts, such as {lacking[0]}: run predict again")
    try:
        names = pq.read_schema(root / "part-0.parquet").names
        wanted = [n for n in names if n.startswith(("prob_", "score_"))]
        needed = {*OWN, *(f"score_{name}" for name in DETECTORS)} - set(names)
        if needed or len(wanted) == len(DETECTORS):
            said = ", ".join(sorted(needed)) or "prob_<city>"
            raise TableError(f"{root} lacks the columns {said}: run predict again")
        columns = [*OWN, *wanted, *(["embedding"] if embedding and "embedding" in names else [])]
        return pa.concat_tables([pq.read_table(root / f"part-{n}.parquet", columns=columns) for n in range(number)])
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:160]
        raise TableError(f"{root} has a part that is damaged ({said}): run predict again") from None


def _parts(scene_ids: NDArray[Any], chip_ids: NDArray[np.int64], at_least: int) -> list[NDArray[np.int64]]:
    """Whole scenes together until a part is full; chips of a scene are neighbours in the table."""
    starts = np.flatnonzero(np.r_[True, scene_ids[1:] != scene_ids[:-1]])
    cuts: list[int] = []
    for start in starts:
        if start - (cuts[-1] if cuts else 0) >= at_least:
            cuts.append(int(start))
    return np.split(chip_ids, cuts)


def _key(model: Any, data: Any, options: list[Any]) -> str:
    """What the parts depend on: every weight, every window, every option."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    columns = ["chip_id", "row", "col", "height", "width", "size"]
    digest.update(data.chips[columns].to_numpy(np.int64).tobytes())
    scenes = data.scenes[["scene_id", "sha256"]].to_numpy().tolist()
    rest = [options, list(model.cities), int(model.hparams["input_size"]), scenes, data.chips["split"].tolist()]
    return hashlib.sha256(digest.digest() + sha256_json(rest).encode()).hexdigest()


def _calibration(model: Any) -> dict[str, Any]:
    """What a reader must know to take the calibration back, and to say what is unknown."""
    detector = str(model.hparams["detector"])
    return {"temperature": float(model.temperature), "detector": detector, "threshold": model.threshold}


def _start(folder: Path, manifest: dict[str, Any]) -> None:
    """Keep parts of the same key; remove those of another."""
    folder.mkdir(parents=True, exist_ok=True)
    known = (folder / MANIFEST).exists() and read_json(folder / MANIFEST) == manifest
    for path in sorted(folder.glob("part-*.parquet")):
        if not known:
            path.unlink()
    for path in folder.glob(".*.tmp*"):
        path.unlink()
    done = len(list(folder.glob("part-*.parquet")))
    if done:
        logger.info("%d of %d prediction parts are there already", done, manifest["parts"])
    write_json(folder / MANIFEST, manifest)


def _predict_part(model: Any, data: Any, chip_ids: NDArray[np.int64], *, embedding: bool) -> GeoDataFrame:
    import torch

    batches = list(model.infer(data.loader(chip_ids)))
    joined = {name: torch.cat([b[name] for b in batches]).numpy() for name in batches[0]}
    if not np.isfinite(joined["probabilities"]).all():
        bad = joined["chip_id"][~np.isfinite(joined["probabilities"]).all(axis=1)]
        raise TableError(f"{len(bad)} chips got probabilities that are no numbers, first chip {bad[0]}: train again")
    chips = data.chips.iloc[joined["chip_id"]]
    table: GeoDataFrame = chips[["chip_id", "scene_id", "geometry"]].reset_index(drop=True)
    table["truth"] = [model.cities[i] if i >= 0 else None for i in joined["label"]]
    for name, values in _summaries(joined["probabilities"], model.cities).items():
        table[name] = values
    for name, values in _unknown(joined, table["city"].to_numpy(object), model).items():
        table[name] = values
    if embedding:
        table["embedding"] = list(joined["embedding"])
    return table


def _summaries(probabilities: NDArray[np.float32], cities: Sequence[str]) -> dict[str, Any]:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    second = ranked[:, 1] if len(cities) > 1 else np.zeros(len(ranked), np.float32)
    names = np.array(cities, object)
    logs = np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1))
    entropy = -(probabilities * logs).sum(axis=1) / max(np.log(len(cities)), 1e-12)
    return {
        "city": names[order[:, 0]],
        "confidence": ranked[:, 0],
        "margin": ranked[:, 0] - second,
        "entropy": entropy.astype(np.float32),
        "top5": [list(row) for row in names[order[:, :5]]],
    } | {f"prob_{code}": probabilities[:, i] for i, code in enumerate(cities)}


def _unknown(joined: Mapping[str, NDArray[Any]], city: NDArray[np.object_], model: Any) -> dict[str, Any]:
    """The detectors' scores, that of the one that decides, and the answer."""
    scores = {f"score_{name}": joined[name] for name in DETECTORS}
    score = scores[f"score_{model.hparams['detector'] or DETECTORS[0]}"]
    no = score > np.float32(model.threshold) if model.threshold is not None else np.zeros(len(score), bool)
    return {"answer": np.where(no, UNKNOWN, city), "unknown_score": score, **scores}


def _stack(column: Any) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat, np.float32).reshape(len(column), -1)
