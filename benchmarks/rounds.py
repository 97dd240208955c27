"""Ways to do the same work in, what each took round by round, ratios and slopes out."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Way = Callable[[], int]
"""Does some work and says how many things (chips, scenes) it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is measured.

    Args:
        rounds: rounds that count; one more goes before them.
        quick: toy sizes, to see that everything works.
        accelerator: Lightning's name for the device of networks.
        chips: chips that are predicted; 0 takes as many as fit the theme.
    """

    rounds: int = 5
    quick: bool = False
    accelerator: str = "cpu"
    chips: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing that was measured.

    Args:
        name: what.
        unit: of the values.
        values: one for each round.
    """

    name: str
    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One figure as a multiple of another of the same rounds.

    Args:
        of: the figure.
        to: what it is compared with.
        least: what issue 6 asks for at least; None asks for nothing.
        most: what it asks for at most.
    """

    of: Figure
    to: Figure
    least: float | None = None
    most: float | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """Round by round, so that what else the machine did meets both."""
        return tuple(a / b for a, b in zip(self.of.values, self.to.values, strict=True))

    @property
    def reached(self) -> bool | None:
        """Whether the median is what was asked for; None if nothing was."""
        if self.least is None and self.most is None:
            return None
        found = median(self.values)
        return found >= (self.least or -math.inf) and found <= (self.most or math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What the same work costs at growing sizes.

    Args:
        name: what.
        sizes: how much of it.
        values: cost at each size, in ``unit``.
        unit: of the values.
        most: largest slope that issue 6 allows; None allows any.
    """

    name: str
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    unit: str = "s"
    most: float | None = None

    @property
    def slope(self) -> float:
        """Of the logarithm of the cost over the logarithm of the size: 1 is linear."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.values), 1)[0])

    @property
    def reached(self) -> bool | None:
        """Whether the slope is what was asked for; None if nothing was."""
        return None if self.most is None else self.slope <= self.most


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """All that was measured about one question."""

    title: str
    figures: Sequence[Figure] = ()
    ratios: Sequence[Ratio] = ()
    growths: Sequence[Growth] = ()
    notes: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Figures are told apart by their names, also where they are read back.

        Raises:
            ValueError: if a ratio is of a figure that is not listed.
        """
        for ratio in self.ratios:
            for figure in (ratio.of, ratio.to):
                if figure not in self.figures:
                    raise ValueError(f"{self.title}: a ratio is of {figure.name!r}, whose values are no figure")


def in_turn(
    ways: Mapping[str, Way], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds for one thing (chip, scene), by way and round.

    All ways go in turn, so that what else the machine does meets all of them; the first round warms up.

    Args:
        ways: by name.
        rounds: rounds that count.
        clock: processor time of this process (other programs take no share of it), or ``time.perf_counter``.
    """
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, act in ways.items():
            start = clock()
            number = act()
            spent[name].append((clock() - start) / number)
    return {name: seconds[1:] for name, seconds in spent.items()}


def rates(spent: Mapping[str, Sequence[float]], unit: str) -> dict[str, Figure]:
    """Things per second from seconds per thing."""
    return {n: Figure(name=n, unit=unit, values=tuple(1 / s for s in seconds)) for n, seconds in spent.items()}


def growth(
    name: str, works: Mapping[int, Way], rounds: int, clock: Callable[[], float] = time.process_time
) -> Growth:
    """Median seconds of the whole work at each size, the sizes in turn."""
    spent = in_turn({str(size): _as_one(act) for size, act in works.items()}, rounds, clock)
    return Growth(name=name, sizes=tuple(works), values=tuple(median(seconds) for seconds in spent.values()))


def apart(script: str, *words: Any) -> dict[str, float]:
    """Run ``script --one WORDS`` of this folder in a process of its own: the figures it prints as JSON.

    Args:
        script: file name.
        words: what it is told.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), "--one", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mb() -> float:
    """Largest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system calls ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _as_one(act: Way) -> Way:
    """The same work, counted as one thing."""

    def whole() -> int:
        act()
        return 1

    return whole
