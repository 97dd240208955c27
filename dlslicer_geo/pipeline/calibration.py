"""A trained classifier and its data in, the same with a temperature and thresholds in its checkpoint out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlslicer_geo.types import DETECTORS, Progress, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

KEPT = 0.95
"""Share of the val chips that the thresholds keep at least."""

MOST = 20_000
"""Val chips that are looked at; more would not change the figures."""


def calibrate(
    model: Any,
    data: Any,
    checkpoint: str | Path,
    *,
    detector: str = "knn",
    seed: int = 0,
    trainer: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Fit the temperature and the thresholds on val chips, and write them into the checkpoint.

    The temperature makes the negative log likelihood of val smallest (Guo et al. 2017). The threshold of every
    detector of unknown cities keeps 95 % of the val chips, which are all of cities that the model knows.

    Args:
        model: a classifier as trained.
        data: the ``ChipDataModule`` it was trained on.
        checkpoint: the file that ``fit`` wrote.
        detector: the one that decides: ``knn`` is best at places and sensors unlike any it was trained on,
            ``softmax`` and ``energy`` at cities photographed like those.
        seed: seeds the draws.
        trainer: keyword arguments of Lightning's ``Trainer`` that say where the network runs.
        progress: shows how far it is.

    Returns:
        what was found: ``temperature``, ``detector``, ``thresholds`` per detector, ``chips`` they were fitted on.
    """
    from dlslicer_geo import model as room
    from dlslicer_geo import scores

    model.forget()
    with room.placed(model, str((trainer or {}).get("accelerator", "auto"))):
        room.remember(model, data, seed=seed, progress=progress)
    drawn = _draw(data.chip_ids("val"), seed)
    batches = list(model.infer(data.loader(drawn), trainer=trainer))
    found = {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}
    known = found["label"] >= 0
    logits = np.log(found["probabilities"].astype(np.float64).clip(1e-45))
    temperature = scores.fit_temperature(logits[known], found["label"][known])
    thresholds = {name: float(np.quantile(found[name][known], KEPT, method="inverted_cdf")) for name in DETECTORS}
    room.seal(model, Path(checkpoint), temperature=temperature, thresholds=thresholds, detector=detector)
    logger.info(
        "temperature %.2f, unknown above %s %.3f, fitted on %d val chips",
        temperature, detector, thresholds[detector], known.sum(),
    )  # fmt: skip
    return {"temperature": temperature, "detector": detector, "thresholds": thresholds, "chips": int(known.sum())}


def _draw(chip_ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(chip_ids)[:MOST])
