"""Calibration: the temperature that was put in is found, and every measure agrees with a slow twin."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from test_scores import CITIES, noisy

from dlslicer_geo.errors import TableError
from dlslicer_geo.scores import detector_metrics, fit_temperature, score


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits that are ``temperature`` times too large for the labels drawn from them."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (count, 5))
    labels = (softmax(honest, axis=1).cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    return honest * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert found == fit_temperature(logits.copy(), labels.astype(np.int32))
    assert found == pytest.approx(fit_temperature(logits + 1000, labels), rel=1e-6)


def test_no_other_temperature_is_more_likely() -> None:
    logits, labels = drawn(300, 2.0)

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, axis=1)[np.arange(300), labels].mean())

    best = fit_temperature(logits, labels)
    grid = np.geomspace(0.05, 20, 2000)
    assert best == pytest.approx(grid[np.argmin([loss(at) for at in grid])], rel=0.005)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.eye(3), [0, 1, 2]),  # right, and the more so the sharper
        (500 * np.eye(3), [0, 1, 2]),  # right, and as likely at most temperatures
        (np.eye(3), [1, 2, 0]),  # wrong, and the less so the duller
        (np.zeros((3, 3)), [0, 1, 2]),  # nothing said
    ],
)
def test_chips_that_do_not_determine_a_temperature_keep_that_of_the_model_and_the_log_says_so(
    logits: NDArray[np.float64], labels: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(logits, np.array(labels)) == 1
    assert "the 3 chips do not determine it, 1 is kept" in caplog.text


def test_a_single_wrong_chip_of_many_determines_the_temperature(caplog: pytest.LogCaptureFixture) -> None:
    # of 100 chips of two cities, one is wrong: the best confidence is 0.99, whatever the margin
    logits = np.tile([0.0, 3.0], (100, 1))
    labels = np.array([0] + [1] * 99)
    assert fit_temperature(logits, labels) == pytest.approx(3 / np.log(99))
    assert not caplog.records


def test_logits_that_give_no_temperature_are_refused() -> None:
    with pytest.raises(TableError, match="at least one chip and two cities"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(TableError, match="at least one chip and two cities"):
        fit_temperature(np.zeros((4, 1)), np.zeros(4, int))
    with pytest.raises(TableError, match="2 of 3 chips"):
        fit_temperature(np.array([[0.0, 1], [np.nan, 0], [1, 2]]), np.array([0, 1, 2]))


def test_the_measures_agree_with_slow_twins() -> None:
    found, chips = noisy(1500)
    report = score(found, chips).metrics["calibration"]
    truth = np.array([CITIES.index(str(city)) for city in found.truth])
    own = found.probabilities[np.arange(1500), truth].astype(float)
    assert report["nll"] == pytest.approx(-np.log(own).mean())
    assert report["brier"] == pytest.approx(
        ((found.probabilities - np.eye(7)[truth]) ** 2).sum(axis=1).mean(), rel=1e-5
    )
    order = np.argsort(found.confidence)
    hit = found.probabilities.argmax(axis=1) == truth
    parts = np.array_split(order, 15)
    ece = sum(abs(found.confidence[at].mean() - hit[at].mean()) * len(at) for at in parts) / 1500
    assert report["ece"] == pytest.approx(ece, abs=0.004)
    assert sum(part["n"] for part in report["bins"]) == 1500
    assert {part["n"] for part in report["bins"]} <= {99, 100, 101}
    assert report["ece_interval"][0] < report["ece"] < report["ece_interval"][1]
    assert report["ece_uncalibrated"] == report["ece"]


def test_a_model_that_is_too_sure_of_itself_is_better_after_its_temperature_than_before() -> None:
    found, chips = noisy(3000)
    sharp = 2.5 * np.log(found.probabilities.astype(float))
    labels = np.array([CITIES.index(str(city)) for city in found.truth])
    temperature = fit_temperature(sharp, labels)
    calm = replace(
        found, probabilities=softmax(sharp / temperature, axis=1).astype(np.float32), temperature=temperature
    )
    report = score(calm, chips).metrics["calibration"]
    assert report["temperature"] == temperature
    assert report["ece"] < 0.04 < 0.1 < report["ece_uncalibrated"]
    assert report["nll"] < report["nll_uncalibrated"]
    assert report["brier"] < report["brier_uncalibrated"]
    assert report["bins"] != report["bins_uncalibrated"]


def test_one_confidence_for_all_chips_is_one_bin() -> None:
    found, chips = noisy(60)
    flat = replace(found, probabilities=np.full((60, 7), 1 / 7, np.float32))
    report = score(flat, chips).metrics["calibration"]
    assert [part["n"] for part in report["bins"]] == [60]


def test_a_detector_is_measured_by_every_pair_and_by_what_it_accepts() -> None:
    random = np.random.default_rng(0)
    known, unknown = random.normal(0, 1, 200).round(1), random.normal(1.5, 1, 150).round(1)
    report = detector_metrics(known, unknown)
    pairs = (unknown[:, None] > known).mean() + (unknown[:, None] == known).mean() / 2
    assert report["auroc"] == pytest.approx(pairs)
    keeps = min(at for at in known if (known <= at).mean() >= 0.95)
    assert report["fpr95"] == (unknown <= keeps).mean()
    assert (report["n_known"], report["n_unknown"]) == (200, 150)
    with pytest.raises(TableError, match="3 scores of known and 0 of unknown"):
        detector_metrics(known[:3], unknown[:0])


def test_what_a_detector_costs_is_what_it_rejects_of_known_cities() -> None:
    found, chips = noisy(400)
    assert score(found, chips).metrics["unknown"] is None
    detector = {"unknown_scores": {"softmax": 1 - found.confidence}, "detector": "softmax", "threshold": 0.5}
    report = score(replace(found, **detector), chips).metrics["unknown"]  # type: ignore[arg-type]
    kept = 1 - found.confidence <= np.float32(0.5)
    right = np.array(found.city) == np.array(found.truth)
    assert report["known_kept"] == pytest.approx(kept.mean())
    assert report["accuracy_of_known"] == pytest.approx(right[kept].mean())
    assert report["accuracy_of_known"] > right.mean()


@pytest.mark.parametrize("count", [300, 3000])
def test_the_error_by_chance_is_what_true_confidences_show_of_so_many_chips(count: int) -> None:
    found, chips = noisy(count)
    shares = softmax(np.random.default_rng(1).normal(0, 2, (count, len(found.cities))), axis=1).astype(np.float32)
    errors, stated = [], 0.0
    for seed in range(12):
        chance = np.random.default_rng(seed).random((count, 1))
        truth = np.minimum((shares.cumsum(axis=1) < chance).sum(axis=1), len(found.cities) - 1)
        honest = replace(found, probabilities=shares, truth=tuple(found.cities[at] for at in truth))
        measured = score(honest, chips, seed=seed).metrics["calibration"]
        errors.append(measured["ece"])
        stated = measured["ece_by_chance"]
    assert np.mean(errors) == pytest.approx(stated, rel=0.2)
