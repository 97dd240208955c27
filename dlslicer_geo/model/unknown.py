"""Logits and features of chips in, how little the model knows about them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dlslicer_geo.errors import ModelError
from dlslicer_geo.files import atomic
from dlslicer_geo.model import weights as weight_files
from dlslicer_geo.model.running import placed
from dlslicer_geo.types import DETECTORS, Progress, quiet

NEIGHBOUR = 5
"""The nearest training chip whose distance counts, from 1."""

PER_CITY = 200
"""Training chips of each city that a model remembers at most."""


def unknown_scores(logits: Tensor, features: Tensor, bank: Tensor) -> dict[str, Tensor]:
    """How little is known about chips, per detector.

    ``knn`` looks at the stage before the last. The last features of a trained network hold what tells its cities
    apart and little else, so that a place or a sensor it never saw can look familiar there.

    Args:
        logits: (B, cities) before any temperature.
        features: (B, D) mean features of the stage before the last.
        bank: (m, D) the same of training chips, each of length 1; (0, 0) for a model that remembers none.

    Returns:
        (B,) float32 each: ``softmax`` is 1 - the largest probability, ``energy`` is -log Σ exp(logit), ``knn`` the
        cosine distance (0 to 2) to the ``NEIGHBOUR``-th nearest chip of the bank, 0 without a bank.

    Raises:
        ModelError: if the bank holds other features than these.
    """
    logits = logits.float()
    found = {"softmax": 1 - logits.softmax(dim=1).amax(dim=1), "energy": -logits.logsumexp(dim=1)}
    if not len(bank):
        return found | {"knn": torch.zeros_like(found["energy"])}
    if bank.ndim != 2 or bank.shape[1] != features.shape[1]:
        raise ModelError(
            f"the model remembers training chips as {tuple(bank.shape)} numbers, and its network gives "
            f"{features.shape[1]} for a chip: it was trained with another version, train it again"
        )
    cosine = unit(features) @ bank.float().T
    return found | {"knn": 1 - cosine.topk(min(NEIGHBOUR, len(bank)), dim=1).values[:, -1]}


def unit(features: Tensor) -> Tensor:
    """Features (B, D) scaled to length 1, float32."""
    return functional.normalize(features.float(), dim=1)


def remember(model: Any, data: Any, *, seed: int = 0, accelerator: str = "auto", progress: Progress = quiet) -> None:
    """Fill the model's bank with features of training chips, the same number at most of every city.

    Args:
        model: a trained ``CityClassifier``.
        data: the ``ChipDataModule`` it was trained on.
        seed: seeds the draw.
        accelerator: Lightning's name for the kind of device that looks at them.
        progress: shows how far it is.
    """
    drawn = _draw(data, seed)
    batches = data.loader(drawn)
    label = f"remembering {len(drawn)} chips"
    model.eval()
    with torch.inference_mode(), placed(model, accelerator):
        found = [
            unit(model.look(batch["image"].to(model.device))[1]).cpu()
            for batch in progress(batches, total=len(batches), label=label)
        ]
    model.bank = torch.cat(found).clone().to(model.device)  # a clone, as tensors of inference cannot be trained on


def seal(model: Any, path: Path, *, temperature: float, thresholds: Mapping[str, float], detector: str) -> None:
    """Give a model its temperature and thresholds, and write them and its bank into its checkpoint.

    Args:
        model: the model that ``path`` holds.
        path: a checkpoint that ``fit`` wrote.
        temperature: what its logits are divided by.
        thresholds: per detector: above it a chip's city is unknown.
        detector: the one that decides.
    """
    model.temperature.fill_(temperature)
    model.thresholds.copy_(torch.tensor([thresholds[name] for name in DETECTORS]))
    model.hparams["detector"] = detector
    stored = weight_files.read(path)
    stored["hyper_parameters"] |= {"detector": detector}
    with atomic(path) as temporary:
        torch.save(stored | {"state_dict": model.state_dict()}, temporary)


def _draw(data: Any, seed: int) -> NDArray[np.int64]:
    """Sorted ids of at most ``PER_CITY`` training chips of each city."""
    random = np.random.default_rng(seed)
    ids = data.chip_ids("train")
    labels = data.labels(ids)
    drawn = [random.permutation(ids[labels == city])[:PER_CITY] for city in np.unique(labels[labels >= 0])]
    return np.sort(np.concatenate(drawn))
