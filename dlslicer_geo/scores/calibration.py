"""Probabilities or logits and truths in, how far confidence can be taken at its word out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores.answers import Answers
from dlslicer_geo.scores.intervals import DRAWS, Blocks, Floats, Integers, intervals
from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

BINS = 15
"""Bins of confidence, of about equally many chips each."""

COLDEST, HOTTEST = 0.05, 20.0
"""Range of temperatures that are searched."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """The number that logits are divided by so that confidence is calibrated.

    It minimises the negative log-likelihood of the labels (Guo et al. 2017, On Calibration of Modern Neural Networks,
    ICML), in float64, where its derivative is 0; the same input gives the same number.

    Args:
        logits: (n, c) before the softmax, of chips the model was not trained on; c at least 2.
        labels: (n,) column of the true city.

    Returns:
        a temperature between 0.05 and 20; above 1 the model was too sure of itself. Where more extreme is always
        better, as where all labels are right, the chips do not determine it: that is logged, and 1 is returned.

    Raises:
        TableError: if there are no chips, fewer than two cities, or logits or labels that cannot be used.
    """
    values, truth = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    _check(values, truth)
    values = values - values.max(axis=1, keepdims=True)
    own = values[np.arange(len(truth)), truth].mean()

    def slope(log_sharpness: float) -> float:
        """Derivative of the loss by 1 / temperature, which grows with it."""
        shares = softmax(values * np.exp(log_sharpness), axis=1)
        return float(np.einsum("ij,ij->", shares, values) / len(values) - own)

    dull, sharp = -np.log([HOTTEST, COLDEST])
    if slope(dull) >= 0 or slope(sharp) <= 0:
        logger.warning(
            "no temperature between %g and %g is the best: the %d chips do not determine it, 1 is kept",
            COLDEST, HOTTEST, len(truth),
        )  # fmt: skip
        return 1.0
    return float(np.exp(-brentq(slope, dull, sharp, xtol=1e-9)))


def detector_metrics(known_scores: NDArray[Any], unknown_scores: NDArray[Any]) -> dict[str, float | int]:
    """How well a detector tells chips of unknown cities from those of known ones.

    Args:
        known_scores: (n,) scores of chips of known cities, the higher the less known.
        unknown_scores: (m,) scores of chips of cities the model has not learnt.

    Returns:
        ``auroc`` (probability that an unknown chip scores above a known one, ties half), ``fpr95`` (share of the
        unknown chips that are accepted at the threshold that keeps at least 95 % of the known ones: a chip is unknown
        if it scores above it; Hendrycks and Gimpel 2017, ICLR), ``n_known``, ``n_unknown``.

    Raises:
        TableError: if either has no scores, or scores that are not finite.
    """
    known, unknown = np.asarray(known_scores, np.float64), np.asarray(unknown_scores, np.float64)
    scores = np.concatenate([known, unknown])
    if not len(known) or not len(unknown) or not np.isfinite(scores).all():
        raise TableError(
            f"there are {len(known)} scores of known and {len(unknown)} of unknown chips, "
            f"{int((~np.isfinite(scores)).sum())} of them not finite: give at least one finite score of each"
        )
    threshold = np.quantile(known, 0.95, method="inverted_cdf")
    return {
        "auroc": float(roc_auc_score(np.arange(len(scores)) >= len(known), scores)),
        "fpr95": float((unknown <= threshold).mean()),
        "n_known": len(known),
        "n_unknown": len(unknown),
    }


def calibration(found: Predictions, scored: Answers) -> dict[str, Any]:
    """Calibration with and without the temperature.

    Returns:
        ``temperature``, ``ece`` (expected calibration error of the most probable city in 15 bins of about equally
        many chips; of a finite sample it is biased upwards; Naeini et al. 2015, AAAI, and Nixon et al. 2019, CVPR
        workshops, for the bins) with ``ece_interval`` and ``ece_by_chance`` (what true confidences like
        these would show of so many chips, on average), ``nll`` (mean negative log-likelihood, natural logarithm),
        ``brier`` (mean over chips of the squared error summed over cities, 0 to 2; Brier 1950) and ``bins``, each
        but the interval also as ``…_uncalibrated``.
    """
    after, bounds = _measures(scored.probabilities, scored.truth, scored.blocks, with_interval=True)
    before = after
    if found.temperature != 1:
        raw = found.uncalibrated[scored.at]
        before, _ = _measures(raw, scored.truth, scored.blocks)
    return {
        "temperature": float(found.temperature),
        "ece_interval": bounds,
        "ece_by_chance": _by_chance(after["bins"], scored.blocks.seed),
        **after,
        **{f"{name}_uncalibrated": value for name, value in before.items()},
    }


def unknown(found: Predictions, scored: Answers) -> dict[str, Any] | None:
    """What the detector of unknown cities costs on chips whose cities are all known; None without a threshold."""
    if found.threshold is None:
        return None
    kept = ~found.unknown[scored.at]
    return {
        "detector": found.detector,
        "threshold": float(found.threshold),
        "known_kept": float(kept.mean()),
        "known_kept_interval": scored.blocks.share(kept),
        "accuracy_of_known": float(scored.hit[kept].mean()) if kept.any() else None,
        "accuracy_of_known_interval": scored.blocks.share(scored.hit & kept, kept),
    }


def _check(logits: Floats, labels: Integers) -> None:
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise TableError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape} give no temperature: "
            "give one row per chip, one column per city, and at least one chip and two cities"
        )
    wrong = ~np.isfinite(logits).all(axis=1) | (labels < 0) | (labels >= logits.shape[1])
    if wrong.any():
        raise TableError(
            f"{int(wrong.sum())} of {len(labels)} chips have logits that are not finite or a label that is no "
            "column: leave them out"
        )


def _measures(
    probabilities: NDArray[np.float32], truth: Integers, blocks: Blocks, *, with_interval: bool = False
) -> tuple[dict[str, Any], list[float] | None]:
    confidence = probabilities.max(axis=1).astype(np.float64)
    hit = probabilities.argmax(axis=1) == truth
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0].astype(np.float64)
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, BINS + 1)))
    number = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, max(len(edges) - 2, 0))
    bins = max(len(edges) - 1, 1)
    sums = np.hstack([blocks.table(number, bins, weight) for weight in (None, confidence, hit)])
    bounds = intervals(_ece, sums, blocks.stratum, seed=blocks.seed) if with_interval else None
    measures = {
        "ece": float(_ece(sums.sum(axis=0))[0]),
        # a float32 probability can be 0, its logarithm cannot
        "nll": float(0 - np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        "brier": float((1 - 2 * own + squares).mean()),
        "bins": _bins(edges, *np.split(sums.sum(axis=0), 3)),
    }
    return measures, None if bounds is None else bounds[0]


def _ece(totals: Floats) -> Floats:
    chips, confidence, hits = np.split(totals, 3, axis=-1)
    apart = np.abs(confidence - hits).sum(axis=-1, keepdims=True)
    return np.asarray(apart / chips.sum(axis=-1, keepdims=True))


def _by_chance(bins: list[dict[str, Any]], seed: int) -> float:
    """Expected calibration error of a model whose confidences are true, which is never 0 for a finite sample."""
    chips = np.array([entry["n"] for entry in bins])
    sure = np.array([min(entry["confidence"], 1.0) for entry in bins])
    hits = np.random.default_rng(seed).binomial(chips, sure, (DRAWS, len(bins)))
    return float((np.abs(hits / chips - sure) @ chips).mean() / chips.sum())


def _bins(edges: Floats, chips: Floats, confidence: Floats, hits: Floats) -> list[dict[str, Any]]:
    return [
        {
            "low": float(edges[at]),
            "high": float(edges[min(at + 1, len(edges) - 1)]),
            "n": int(chips[at]),
            "confidence": float(confidence[at] / chips[at]),
            "accuracy": float(hits[at] / chips[at]),
        }
        for at in np.flatnonzero(chips).tolist()
    ]
