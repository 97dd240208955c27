"""Intervals: chips of a unit are alike, and the intervals that claim 95 % are right about 95 times in 100."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from dlslicer_geo.scores.intervals import Blocks, intervals, joined, ratio, sign_flip

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Cities whose units differ in difficulty (normal on the logit scale) and in size."""

    name: str
    cities: int
    units: tuple[int, int]
    mean_size: float
    spread: float = 1.0
    accuracy: float = 0.7
    size_matters: float = 0.0


EIGHT = World(name="8 cities, 4-8 units, ~300 chips", cities=8, units=(4, 8), mean_size=6)
WORLDS = (
    EIGHT,
    World(name="8 cities, 8-14 units, ~1000 chips", cities=8, units=(8, 14), mean_size=12),
    World(name="8 cities, 4-8 units, accuracy ~0.9", cities=8, units=(4, 8), mean_size=6, accuracy=0.93),
    World(name="8 cities, 2-3 units, ~400 chips", cities=8, units=(2, 3), mean_size=20),
    World(name="45 cities, 3-6 units, ~8000 chips", cities=45, units=(3, 6), mean_size=40, accuracy=0.8),
)
HARD = (
    World(name="2 cities, 5-8 units", cities=2, units=(5, 8), mean_size=20),
    World(name="large units are the easy ones", cities=8, units=(4, 8), mean_size=10, spread=1.5, size_matters=0.5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One draw of a world: city, chips and right answers of each unit."""

    city: NDArray[np.int64]
    chips: NDArray[np.int64]
    right: NDArray[np.int64]


def draw(world: World, city: NDArray[np.int64], level: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Chance of a right answer and chips of units."""
    ease, other = random.normal(size=(2, len(city)))
    size = world.size_matters * ease + np.sqrt(1 - world.size_matters**2) * other
    chips = 1 + random.poisson((world.mean_size - 1) * np.exp(0.6 * size - 0.18))
    return expit(level[city] + world.spread * ease), chips.astype(np.float64)


def balanced(totals: Floats) -> Floats:
    hit, chips = np.split(totals, 2, axis=-1)
    share = np.divide(hit, chips, out=np.zeros_like(hit), where=chips > 0)
    return np.asarray(share.sum(axis=-1, keepdims=True) / (chips > 0).sum(axis=-1, keepdims=True))


def coverage(world: World, runs: int, seed: int = 0) -> dict[str, float]:
    """How often intervals hold the truth: of accuracy and balanced accuracy, by units and by chips."""
    random = np.random.default_rng(seed)
    level = logit(np.clip(world.accuracy + random.normal(0, 0.1, world.cities), 0.2, 0.97))
    units = random.integers(world.units[0], world.units[1] + 1, world.cities)
    city = np.repeat(np.arange(world.cities), units)
    many = np.repeat(np.arange(world.cities), 4_000_000 // world.cities // 4)
    chance, chips = draw(world, many, level, random)
    right, size = np.bincount(many, chance * chips) / len(many), np.bincount(many, chips) / len(many)
    truth = {"accuracy": (units * right).sum() / (units * size).sum(), "balanced": (right / size).mean()}
    seen = dict.fromkeys(("accuracy", "balanced", "accuracy by chips", "balanced by chips"), 0)
    for run in range(runs):
        chance, chips = draw(world, city, level, random)
        hits = random.binomial(chips.astype(np.int64), chance).astype(np.float64)
        apart = np.zeros((2, len(city), world.cities))
        apart[:, np.arange(len(city)), city] = hits, chips
        by_unit = {
            "accuracy": intervals(ratio, np.stack([hits, chips], 1), city, seed=run),
            "balanced": intervals(balanced, np.hstack(list(apart)), city, seed=run),
        }
        totals = apart.sum(axis=1).astype(np.int64)
        drawn = random.binomial(totals[1], totals[0] / totals[1], (600, world.cities))
        all_chips = int(totals[1].sum())
        pooled = random.binomial(all_chips, totals[0].sum() / all_chips, 600) / all_chips
        by_chip = {"accuracy": pooled, "balanced": (drawn / totals[1]).mean(axis=1)}
        for name, value in truth.items():
            bounds = by_unit[name]
            assert bounds is not None
            seen[name] += bounds[0][0] <= value <= bounds[0][1]
            low, high = np.quantile(by_chip[name], [0.025, 0.975])
            seen[f"{name} by chips"] += low <= value <= high
    return {name: count / runs for name, count in seen.items()}


def show(name: str, shares: dict[str, float]) -> None:
    print(f"{name:38s}", *(f"{what} {share:.3f}" for what, share in shares.items()), sep="  ")


def test_intervals_over_units_cover_the_truth_and_intervals_over_chips_do_not() -> None:
    runs = 500
    shares = coverage(EIGHT, runs)
    show(EIGHT.name, shares)
    # four standard errors of a share of 0.95 seen in 500 runs
    tolerance = 4 * np.sqrt(0.95 * 0.05 / runs)
    assert abs(shares["accuracy"] - 0.95) < tolerance
    assert abs(shares["balanced"] - 0.95) < tolerance
    assert shares["accuracy by chips"] < 0.95 - 2 * tolerance
    assert shares["balanced by chips"] < 0.95 - 2 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_the_coverage_of_95_percent_intervals_is_93_to_97_percent(world: World) -> None:
    shares = coverage(world, 2000)
    show(world.name, shares)
    assert 0.93 <= shares["accuracy"] <= 0.97
    assert 0.93 <= shares["balanced"] <= 0.97
    assert shares["accuracy by chips"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("world", HARD, ids=lambda world: world.name)
def test_where_units_are_few_or_their_size_tells_their_ease_the_coverage_is_a_little_less(world: World) -> None:
    shares = coverage(world, 2000)
    show(world.name, shares)
    assert min(shares["accuracy"], shares["balanced"]) >= 0.91
    assert max(shares["accuracy"], shares["balanced"]) <= 0.97


def test_the_standard_error_is_that_of_the_textbook() -> None:
    # equal sizes: the mean of unit means, whose variance is s² / u within a city
    random = np.random.default_rng(0)
    hits, stratum = random.integers(2, 9, 40).astype(float), np.repeat([0, 1], 20)
    bounds = intervals(ratio, np.stack([hits, np.full(40, 10.0)], 1), stratum, seed=0, share=False)
    assert bounds is not None
    value = hits.sum() / 400
    variance = sum((hits[stratum == at] / 10).var(ddof=1) / 20 / 4 for at in (0, 1))
    assert np.mean(bounds[0]) == pytest.approx(value)
    assert (bounds[0][1] - bounds[0][0]) / 2 == pytest.approx(2.025 * np.sqrt(variance), rel=0.06)


def test_two_units_of_a_city_are_not_half_as_uncertain_as_they_are() -> None:
    sums = np.stack([[2.0, 8.0] * 8, np.full(16, 10.0)], 1)
    bounds = intervals(ratio, sums, np.repeat(np.arange(8), 2), seed=0, share=False)
    assert bounds is not None
    # s² / u of a city is 0.09; the plain bootstrap would have said half of it
    assert (bounds[0][1] - bounds[0][0]) / 2 > 1.96 * np.sqrt(0.09 / 8)


def test_a_share_stays_between_0_and_1_and_perfect_units_do_not_promise_a_perfect_city() -> None:
    near = intervals(ratio, np.array([[9.0, 10], [10, 10], [10, 10]]), np.zeros(3, np.int64), seed=0)
    perfect = intervals(ratio, np.full((5, 2), 10.0), np.zeros(5, np.int64), seed=0)
    none = intervals(ratio, np.array([[0.0, 10]] * 5), np.zeros(5, np.int64), seed=0)
    assert near is not None
    assert 0 < near[0][0] < 29 / 30 < near[0][1] < 1
    assert perfect is not None
    assert none is not None
    assert perfect[0] == pytest.approx([0.025 ** (1 / 5), 1])
    assert none[0] == pytest.approx([0, 1 - 0.025 ** (1 / 5)])


def test_one_unit_has_no_interval_and_units_that_took_no_part_do_not_count() -> None:
    stratum = np.zeros(3, np.int64)
    assert intervals(ratio, np.array([[5.0, 10]]), stratum[:1], seed=0) is None
    assert intervals(ratio, np.array([[5.0, 10], [0, 0], [0, 0]]), stratum, seed=0) is None
    two = np.array([[5.0, 10], [6, 10]])
    with_idle = intervals(ratio, np.vstack([two, [[0, 0]]]), stratum, seed=0)
    assert with_idle == intervals(ratio, two, stratum[:2], seed=0)


def test_cities_of_a_single_unit_are_drawn_as_one_group() -> None:
    random = np.random.default_rng(1)
    sums = np.stack([random.integers(1, 10, 6).astype(float), np.full(6, 10.0)], 1)
    apart = intervals(ratio, sums, np.arange(6), seed=0)
    assert apart == intervals(ratio, sums, np.zeros(6, np.int64), seed=0)
    # a lonely single joins the smallest of the others
    lonely = intervals(ratio, sums, np.array([0, 1, 1, 2, 2, 2]), seed=0)
    assert lonely == intervals(ratio, sums, np.array([0, 0, 0, 1, 1, 1]), seed=0)


def test_pairs_that_agree_in_either_element_belong_together() -> None:
    assert joined(np.array([7, 7, 3, 4, 9]), np.array(["a", "b", "b", "c", "d"])).tolist() == [0, 0, 0, 1, 2]
    blocks = Blocks.of(np.array([5, 5, 6, 8]), np.array([0, 1, 1, 2]), seed=0)
    assert (blocks.unit.tolist(), blocks.stratum.tolist()) == ([0, 0, 1, 2], [0, 0, 1])


def test_under_the_null_small_p_values_are_as_rare_as_they_say() -> None:
    random = np.random.default_rng(3)
    p = [sign_flip(np.rint(random.normal(0, 4, 30)), seed) for seed in range(300)]
    shares = [np.mean([value <= level for value in p if value is not None]) for level in (0.05, 0.2, 0.5)]
    # four standard errors of a share seen in 300 runs
    assert shares == [pytest.approx(at, abs=4 * np.sqrt(at * (1 - at) / 300)) for at in (0.05, 0.2, 0.5)]


def test_the_smallest_p_value_of_few_units_is_what_their_signs_allow() -> None:
    assert sign_flip(np.array([3.0, 4, 5, 2]), 0) == pytest.approx(2 / 2**4, abs=0.01)
    assert sign_flip(np.array([30.0]), 0) is None
    assert sign_flip(np.zeros(9), 0) == 1
