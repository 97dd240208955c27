"""What a model said of the chips of one part in, the table of the part out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pandas.arrays import ArrowExtensionArray

from dlslicer_geo.errors import TableError
from dlslicer_geo.types import DETECTORS, UNKNOWN

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

TOP = 5
"""Cities that are named for a chip, from the most probable on."""


def rows(model: Any, chips: GeoDataFrame, said: Mapping[str, NDArray[Any]], *, embedding: bool) -> GeoDataFrame:
    """The columns of a part.

    Args:
        model: the ``CityClassifier`` that said it.
        chips: chip table, row i is chip i.
        said: what its ``predict_step`` gives, joined: (n,) or (n, d) each.
        embedding: whether the pooled features are kept.

    Raises:
        TableError: if probabilities are no numbers.
    """
    good = np.isfinite(said["probabilities"]).all(axis=1)
    if not good.all():
        bad = said["chip_id"][~good]
        raise TableError(f"{len(bad)} chips got probabilities that are no numbers, first chip {bad[0]}: train again")
    own = chips[["chip_id", "scene_id", "geometry"]]
    table: GeoDataFrame = own.iloc[said["chip_id"]].reset_index(drop=True)
    truth = np.array([*model.cities, None], object)  # the last is that of label -1, an unknown city
    columns = {"truth": truth[said["label"]], **_summaries(said["probabilities"], model.cities)}
    columns |= _unknown(said, columns["city"], model)
    if embedding:
        columns["embedding"] = _lists(said["embedding"])
    return table.assign(**columns)


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
        "top5": _lists(names[order[:, :TOP]]),
    } | {f"prob_{code}": probabilities[:, i] for i, code in enumerate(cities)}


def _unknown(said: Mapping[str, NDArray[Any]], city: NDArray[np.object_], model: Any) -> dict[str, Any]:
    """The detectors' scores, that of the one that decides, and the answer."""
    scores = {f"score_{name}": said[name] for name in DETECTORS}
    score = scores[f"score_{model.hparams['detector'] or DETECTORS[0]}"]
    no = score > np.float32(model.threshold) if model.threshold is not None else np.zeros(len(score), bool)
    return {"answer": np.where(no, UNKNOWN, city), "unknown_score": score, **scores}


def _lists(values: NDArray[Any]) -> ArrowExtensionArray:
    """Rows (n, d) as one column of lists, without a Python object for each."""
    return ArrowExtensionArray(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]))
