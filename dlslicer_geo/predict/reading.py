"""A folder of prediction parts in, one ``Predictions`` out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.errors import TableError
from dlslicer_geo.files import read_json
from dlslicer_geo.predict.parts import MANIFEST
from dlslicer_geo.types import DETECTORS, Predictions

if TYPE_CHECKING:
    from pyarrow import Table

CALIBRATION = ("temperature", "detector", "threshold")
"""What the manifest must say beside the number of parts."""

OWN = ("chip_id", "scene_id", "truth")
"""Columns that say which chip it is."""


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
        scene_id=table["scene_id"].to_numpy(),
        truth=table["truth"].to_numpy(),
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
        raise TableError(
            f"{root} has a part that is damaged ({said}): delete the folder and run predict again"
        ) from None


def _stack(column: Any) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat, np.float32).reshape(len(column), -1)
