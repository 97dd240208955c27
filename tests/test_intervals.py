"""Intervals: chips of a unit are alike, and the intervals that claim 95 % are right about 95 times in 100."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from dlslicer_geo.scores.intervals import Blocks, intervals, joined, ratio, sign_flip

Floats = NDArray[np.float64]
Bounds = dict[str, list[float]]


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
    World(name="large units are the easy ones", cities=8, units=(4, 8), mean_size=10, spread=1.5, size_matters=0.8),
)


def draw(
    world: World, city: NDArray[np.int64], level: Floats, random: np.random.Generator
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Chance of a right answer of a run and of another that is a little worse, and chips, of units."""
    ease, apart, other = random.normal(size=(3, len(city)))
    size = world.size_matters * ease + np.sqrt(1 - world.size_matters**2) * other
    chips = 1 + random.poisson((world.mean_size - 1) * np.exp(0.6 * size - 0.18))
    one = level[city] + world.spread * ease
    return expit(one), expit(one - 0.3 + 0.5 * apart), chips


def balanced(totals: Floats) -> Floats:
    hit, chips = np.split(totals, 2, axis=-1)
    share = np.divide(hit, chips, out=np.zeros_like(hit), where=chips > 0)
    return np.asarray(share.sum(axis=-1, keepdims=True) / (chips > 0).sum(axis=-1, keepdims=True))


def truths(world: World, units: NDArray[np.int64], level: Floats, random: np.random.Generator) -> dict[str, float]:
    """What intervals should hold: shares of cities of endlessly many units."""
    many = np.repeat(np.arange(world.cities), 400_000 // world.cities)
    one, two, chips = draw(world, many, level, random)
    right, worse, size = (np.bincount(many, value) for value in (one * chips, two * chips, chips))
    accuracy, other = ((units * hits).sum() / (units * size).sum() for hits in (right, worse))
    return {"accuracy": accuracy, "balanced": (right / size).mean(), "difference": accuracy - other}


def by_units(city: NDArray[np.int64], cells: NDArray[np.int64], chips: NDArray[np.int64], seed: int) -> Bounds:
    """Intervals of one sample; ``cells`` (units, 4): right in both runs, in the first, in the second, in none."""
    hits, change = cells[:, 0] + cells[:, 1], cells[:, 1] - cells[:, 2]
    apart = np.zeros((2, len(city), city[-1] + 1))
    apart[:, np.arange(len(city)), city] = hits, chips
    found = {
        "accuracy": intervals(ratio, np.stack([hits, chips], 1).astype(float), city, seed=seed),
        "balanced": intervals(balanced, np.hstack(list(apart)), city, seed=seed),
        "difference": intervals(ratio, np.stack([change, chips], 1).astype(float), city, seed=seed, share=False),
    }
    return {name: bounds[0] for name, bounds in found.items() if bounds is not None}


def by_chips(
    city: NDArray[np.int64], cells: NDArray[np.int64], chips: NDArray[np.int64], random: np.random.Generator
) -> Bounds:
    """The same by the usual bootstrap, which draws chips."""
    number, whole = chips.sum(), np.bincount(city, chips)
    drawn = random.multinomial(number, cells.sum(axis=0) / number, 600) / number
    share = np.bincount(city, cells[:, 0] + cells[:, 1]) / whole
    parts = random.binomial(whole.astype(np.int64), share, (600, len(whole))) / whole
    draws = {
        "accuracy": drawn[:, 0] + drawn[:, 1],
        "balanced": parts.mean(axis=1),
        "difference": drawn[:, 1] - drawn[:, 2],
    }
    return {name: np.quantile(values, [0.025, 0.975]).tolist() for name, values in draws.items()}


def coverage(world: World, runs: int, seed: int = 0) -> dict[str, float]:
    """How often intervals hold the truth: drawn by units and, as ``… by chips``, by chips."""
    random = np.random.default_rng(seed)
    level = logit(np.clip(world.accuracy + random.normal(0, 0.1, world.cities), 0.2, 0.97))
    units = random.integers(world.units[0], world.units[1] + 1, world.cities)
    city = np.repeat(np.arange(world.cities), units)
    truth = truths(world, units, level, random)
    seen = dict.fromkeys((*truth, *(f"{name} by chips" for name in truth)), 0)
    for run in range(runs):
        one, two, chips = draw(world, city, level, random)
        chances = np.stack([one * two, one * (1 - two), (1 - one) * two, (1 - one) * (1 - two)], axis=1)
        cells = random.multinomial(chips, chances)
        for end, bounds in (
            ("", by_units(city, cells, chips, run)),
            (" by chips", by_chips(city, cells, chips, random)),
        ):
            for name, (low, high) in bounds.items():
                seen[name + end] += low <= truth[name] <= high
    return {name: count / runs for name, count in seen.items()}


def show(name: str, shares: dict[str, float]) -> None:
    print(f"{name:38s}", *(f"{what} {share:.3f}" for what, share in shares.items()), sep="  ")


def test_intervals_over_units_cover_the_truth_and_intervals_over_chips_do_not() -> None:
    runs = 200
    shares = coverage(EIGHT, runs)
    show(EIGHT.name, shares)
    # four standard errors of a share of 0.95 seen in 200 runs
    tolerance = 4 * np.sqrt(0.95 * 0.05 / runs)
    for name in ("accuracy", "balanced"):
        assert abs(shares[name] - 0.95) < tolerance
        assert shares[f"{name} by chips"] < 0.95 - 1.5 * tolerance
    assert abs(shares["difference"] - 0.95) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_the_coverage_of_95_percent_intervals_is_93_to_97_percent(world: World) -> None:
    shares = coverage(world, 1000)
    show(world.name, shares)
    assert all(0.93 <= shares[name] <= 0.97 for name in ("accuracy", "balanced", "difference"))
    assert shares["accuracy by chips"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("world", HARD, ids=lambda world: world.name)
def test_where_units_are_few_or_their_size_tells_their_ease_the_coverage_is_a_little_less(world: World) -> None:
    shares = coverage(world, 1000)
    show(world.name, shares)
    assert all(0.9 <= shares[name] <= 0.97 for name in ("accuracy", "balanced", "difference"))


def test_units_that_all_differ_alike_do_not_promise_that_all_others_do() -> None:
    gain = intervals(ratio, np.array([[8.0, 10], [8, 10]]), np.zeros(2, np.int64), seed=0, share=False)
    same = intervals(ratio, np.array([[0.0, 10]] * 50), np.zeros(50, np.int64), seed=0, share=False)
    assert gain is not None
    assert same is not None
    # unseen units may be a share of up to 1 - 0.025 ** (1 / units), and may differ by anything from -1 to 1
    assert gain[0] == pytest.approx([0.8 - 1.8 * (1 - np.sqrt(0.025)), 0.8 + 0.2 * (1 - np.sqrt(0.025))])
    assert same[0] == pytest.approx([0.025**0.02 - 1, 1 - 0.025**0.02])


def test_a_difference_ends_at_one() -> None:
    bounds = intervals(ratio, np.array([[1.0, 10], [9, 10]]), np.zeros(2, np.int64), seed=0, share=False)
    assert bounds == [[-1, 1]]


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
