"""A job and a model on its device in, how it is to be run out: how many chips at a time, and in which precision."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlslicer_geo.predict.parts import Job
from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

SMALLEST = 32
"""Chips per batch on a CPU, and where the search begins elsewhere."""

LARGEST = 1024
"""Where the search ends: no device is faster with more, and readers hold several batches in memory."""

ASKED = 256
"""Chips that are asked both ways."""

SAME_CITY = 0.99
"""Share of them that must get the same city in bfloat16."""

DIFFERENCE = 0.05
"""How far a probability may be from that in float32."""


def settle(job: Job) -> dict[str, Any]:
    """Find out what was not said.

    Returns:
        for the manifest: ``batch_size``; ``precision``, float32 or bf16; ``checked``, how both compare, where it was.
    """
    model = job.model
    found: dict[str, Any] = {"precision": "float32"}
    if job.precision == "bf16" or (job.precision == "auto" and model.computes_bf16):
        found = _precision(job)
    size = job.batch_size or SMALLEST
    if not job.batch_size and model.device.type != "cpu":
        with model.looking(bf16=found["precision"] == "bf16"):
            size = largest(lambda number: _try(job, number))
        logger.info("batches of %d chips", size)
    return {"batch_size": size} | found


def largest(attempt: Callable[[int], None]) -> int:
    """The largest batch, of 32, 64, 128, … 1024, that ``attempt`` has memory for; 32 if even that has none."""
    size = SMALLEST
    while size < LARGEST:
        try:
            attempt(2 * size)
        except torch.OutOfMemoryError:
            return size
        size *= 2
    return size


def ask(job: Job, size: int) -> dict[str, NDArray[Any]]:
    """What the model says of some chips of the job, drawn at random, each by itself.

    Args:
        job: what is predicted.
        size: chips per batch.

    Returns:
        ``chip_id`` (n,) and ``probabilities`` (n, cities), n at most 256.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(job.chip_ids)[:ASKED])
    batches = [drawn[at : at + size] for at in range(0, len(drawn), size)]
    device = job.model.device
    job.model.eval()
    with torch.inference_mode():
        said = [
            job.model.predict_step({name: values.to(device) for name, values in batch.items()}, 0)["probabilities"]
            for batch in job.data.loader(drawn, batches=batches)
        ]
    return {"chip_id": drawn, "probabilities": torch.cat(said).cpu().numpy()}


def compare(one: dict[str, NDArray[Any]], other: Predictions | dict[str, NDArray[Any]]) -> dict[str, Any]:
    """How alike two answers about the same chips are.

    Args:
        one: as :func:`ask` gives it.
        other: the same, or predictions of more chips, sorted.

    Returns:
        ``chips``, their number; ``same_city``, the share with the same most probable city; ``largest_difference`` and
        ``mean_difference`` between probabilities.
    """
    there = one["probabilities"]
    if isinstance(other, Predictions):
        here = other.probabilities[np.searchsorted(other.chip_id, one["chip_id"])]
    else:
        here = other["probabilities"]
    apart = np.abs(here.astype(np.float64) - there)
    return {
        "chips": len(there),
        "same_city": round(float((here.argmax(axis=1) == there.argmax(axis=1)).mean()), 6),
        "largest_difference": round(float(apart.max()), 6),
        "mean_difference": round(float(apart.mean()), 6),
    }


def _precision(job: Job) -> dict[str, Any]:
    """bfloat16, unless nobody insists and answers differ."""
    plain = ask(job, job.batch_size or SMALLEST)
    with job.model.looking(bf16=True):
        agreement = compare(plain, ask(job, job.batch_size or SMALLEST))
    good = agreement["same_city"] >= SAME_CITY and agreement["largest_difference"] <= DIFFERENCE
    if not good:
        taken = "bf16, as asked" if job.precision == "bf16" else "float32"
        logger.warning(
            "in bf16 %(same_city)s of %(chips)d chips have the same city as in float32, and probabilities differ by "
            f"%(largest_difference)s at most: predicting in {taken}",
            agreement,
        )
    return {"precision": "bf16" if good or job.precision == "bf16" else "float32", "checked": agreement}


def _try(job: Job, number: int) -> None:
    """One step with so many chips, while the next ones are on the device already."""
    size = int(job.data.chips["size"].max())
    now, _ahead = (torch.zeros(number, 3, size, size, dtype=torch.uint8, device=job.model.device) for _ in range(2))
    zeros = torch.zeros(number, dtype=torch.int64)
    with torch.inference_mode():
        job.model.predict_step({"image": now, "chip_id": zeros, "label": zeros}, 0)
