"""Units with their chips per city in, the split of each out, as near the fractions as whole units allow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.splits.ground import Floats, Integers

PROFILES = 256
"""Most different unit sizes of a city that are tried in pairs; of more, so many are taken at even steps."""

ROUNDS = 200
"""Most units of a city that are moved or exchanged after the first draw."""

DRAWS = 20_000
"""Most assignments of a city's units that are all tried: nine units to three splits."""

EMPTY = 1e3
"""Cost of a split that lacks chips in a city: more than any deviation from the fractions."""


def assign(
    unit: Integers, city: Integers, chips: Integers, fractions: tuple[float, ...], seed: int
) -> Integers:  # fmt: skip
    """Give every unit a split so that each city comes near the wanted fractions of the chips that a split can use.

    Units that span cities come first, then larger units before smaller, ties in an order drawn from the seed; each
    goes to the split that its cities are most short of. A split that is wanted and would otherwise stay empty in a
    city gets one of the last units. Then, city by city, single units are moved and pairs exchanged as long as that
    brings the city nearer (see :func:`cost`), and where there are few units, all assignments are tried.

    Args:
        unit: (m,) number of the unit, from 0, ascending.
        city: (m,) number of the city, from 0; one row per unit and city.
        chips: (m, s) chips that each split could use if it got the unit.
        fractions: s wanted shares, 0 for a split that is not wanted.
        seed: seeds the order of ties.

    Returns:
        (number of units,) split of each unit, an index into ``fractions``.
    """
    order = _largest_first(unit, city, chips.max(axis=1, initial=0), seed)
    found = _first_draw(unit, city, chips, np.array(fractions), order)
    rank = np.argsort(order)
    spanning = np.bincount(unit) > 1
    for rows in np.split(np.argsort(city, kind="stable"), np.cumsum(np.bincount(city))[:-1]):
        free = rows[~spanning[unit[rows]]]
        free = free[np.argsort(rank[unit[free]])]
        fixed = rows[spanning[unit[rows]]]
        have = np.zeros(chips.shape[1])
        np.add.at(have, found[unit[fixed]], chips[fixed, found[unit[fixed]]])
        goal = _Goal(chips[rows], np.array(fractions))
        better = _improve(chips[free], found[unit[free]], have, goal)
        found[unit[free]] = _best_of_few(chips[free], better, have, goal)
    return found


def cost(have: Floats, chips: Integers, fractions: tuple[float, ...]) -> float:
    """How far a city is from the wanted fractions; 0 is exact.

    The sum over the splits of the squared difference between the share that a split got, of the chips it could use,
    and its fraction; 1000 more for every wanted split without a chip.

    Args:
        have: (s,) chips that each split got.
        chips: (m, s) chips that each split could use, one row per unit.
        fractions: s wanted shares.
    """
    return float(_Goal(chips, np.array(fractions)).cost(have))


class _Goal:
    """What a city should come near: chips per split, and the scale that makes them shares."""

    def __init__(self, chips: Integers, fractions: Floats) -> None:
        total = chips.sum(axis=0).astype(np.float64)
        self.want = fractions * total
        self.scale = 1 / np.maximum(total, 1)
        self.wanted = np.flatnonzero(fractions > 0)

    def cost(self, have: NDArray[np.float64]) -> Floats:
        """Cost of (..., s) chips per split."""
        total: Floats = self.part(have[..., self.wanted], self.wanted).sum(axis=-1)
        return total

    def part(self, have: Floats, split: Integers | int) -> Floats:
        """What one split adds to the cost."""
        off: Floats = ((have - self.want[split]) * self.scale[split]) ** 2 + EMPTY * (have <= 0)
        return off


def _first_draw(unit: Integers, city: Integers, chips: Integers, fractions: Floats, order: Integers) -> Integers:
    """Largest units first, each to the split that its cities are most short of."""
    wanted = fractions > 0
    count = int(city.max()) + 1
    total = np.stack([np.bincount(city, size, count) for size in chips.T], axis=1)
    scale = 1 / np.maximum(total, 1)
    missing = total * fractions
    some = chips.max(axis=1, initial=0) > 0
    empty = np.tile(wanted, (count, 1))
    left = np.bincount(city[some], minlength=count)
    parts = np.split(np.arange(len(unit)), np.flatnonzero(np.diff(unit)) + 1)
    found = np.zeros(len(parts), np.int64)
    for number in order:
        rows = parts[number]
        cities, size = city[rows], chips[rows]
        last = empty[cities] & (left[cities] <= empty[cities].sum(axis=1))[:, None] & (size > 0)
        open_to = last.any(axis=0) if last.any() else wanted
        gain = (size * (2 * missing[cities] - size) * scale[cities] ** 2).sum(axis=0)
        choice = int(np.where(open_to, gain, -np.inf).argmax())
        found[number] = choice
        missing[cities, choice] -= size[:, choice]
        left[cities] -= some[rows]
        empty[cities[size[:, choice] > 0], choice] = False
    return found


def _improve(chips: Integers, found: Integers, fixed: Floats, goal: _Goal) -> Integers:
    """Move one unit or exchange two, whichever brings the city nearest, until nothing does."""
    found = found.copy()
    if not len(found):
        return found
    profiles, profile = np.unique(chips, axis=0, return_inverse=True)
    profile = profile.reshape(-1)
    for _ in range(ROUNDS):
        have = fixed + np.array([chips[found == split, split].sum() for split in range(chips.shape[1])])
        best, steps = float(goal.cost(have)) - 1e-12, None
        for price, change in _changes(profiles, profile, found, have, goal):
            if price < best:
                best, steps = price, change
        if steps is None:
            break
        # both are looked up before either moves, so that no unit moves twice
        moved = [np.flatnonzero((profile == kind) & (found == old))[0] for kind, old, _ in steps]
        found[moved] = [new for _, _, new in steps]
    return found


def _best_of_few(chips: Integers, found: Integers, fixed: Floats, goal: _Goal) -> Integers:
    """Try all assignments of few units, and take another one only where it is nearer."""
    if not len(found) or len(goal.wanted) ** len(found) > DRAWS:
        return found
    every = goal.wanted[np.indices((len(goal.wanted),) * len(found)).reshape(len(found), -1).T]
    splits = range(chips.shape[1])
    have = fixed + np.stack([(every == split) @ chips[:, split] for split in splits], axis=1)
    mine = fixed + np.array([chips[found == split, split].sum() for split in splits])
    price = goal.cost(have)
    best = price.argmin()
    return np.asarray(every[best] if price[best] < goal.cost(mine) - 1e-12 else found)


Step = tuple[int, int, int]


def _changes(
    profiles: Integers, profile: Integers, found: Integers, have: Floats, goal: _Goal
) -> Iterator[tuple[float, list[Step]]]:
    """For each pair of splits the best move and the best exchange: its cost, and (profile, from, to) of each unit."""
    base = goal.cost(have)
    for a, b in combinations(goal.wanted.tolist(), 2):
        rest = base - goal.part(have[a], a) - goal.part(have[b], b)
        here, there = (_some(np.unique(profile[found == split])) for split in (a, b))
        # index 0 stands for no unit: an exchange with nothing is a move
        out_a, in_b = (np.concatenate([[0], profiles[here, split]]) for split in (a, b))
        out_b, in_a = (np.concatenate([[0], profiles[there, split]]) for split in (b, a))
        new_a = have[a] - out_a[:, None] + in_a
        new_b = have[b] + in_b[:, None] - out_b
        price = rest + goal.part(new_a, a) + goal.part(new_b, b)
        i, j = np.unravel_index(price.argmin(), price.shape)
        steps = [(int(here[i - 1]), a, b)] if i else []
        yield float(price[i, j]), steps + ([(int(there[j - 1]), b, a)] if j else [])


def _some(kinds: Integers) -> Integers:
    if len(kinds) <= PROFILES:
        return kinds
    return kinds[np.linspace(0, len(kinds) - 1, PROFILES).astype(np.int64)]


def _largest_first(unit: Integers, city: Integers, size: Integers, seed: int) -> Integers:
    count = int(unit.max()) + 1
    whole = np.bincount(unit, size, minlength=count)
    spans = np.bincount(unit, minlength=count) > 1
    home = np.zeros(count, np.int64)
    home[unit] = city
    tie = np.random.default_rng(seed).permutation(count)
    return np.lexsort((tie, -whole, np.where(spans, -1, home)))
