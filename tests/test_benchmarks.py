"""Every theme of the benchmarks runs at toy size and says what it must, so that no benchmark rots."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # they are scripts: `make bench` runs them there

ASKED = {
    "reading.random_order": {("≥", 30), ("≥", 50), ("≥", 2)},
    "reading.one_pass": {("≥", 10)},
    "preparing.preparing": set(),
    "predicting.predicting": {("≥", 0.93)},
    "explaining.explaining": {("≤", 3)},
    "explaining.overlapping": {("≤", 1)},
}
"""What issue 6 asks of each theme that needs no processes of its own."""


def toy(name: str, folder: Path) -> Any:
    file, work = name.split(".")
    return getattr(import_module(file), work)(folder, import_module("rounds").Options(rounds=1, quick=True))


def numbers(theme: Any) -> list[float]:
    ratios = [value for ratio in theme.ratios for value in ratio.values]
    return ratios + [value for growth in theme.growths for value in (*growth.values, growth.slope)]


@pytest.mark.parametrize("name", ASKED)
def test_a_theme_gives_finite_ratios_and_asks_what_the_issue_asks(name: str, tmp_path: Path) -> None:
    theme = toy(name, tmp_path)
    assert theme.figures
    assert theme.ratios
    assert all(map(math.isfinite, numbers(theme)))
    assert all(value > 0 for ratio in theme.ratios for value in ratio.values)
    bounds = {("≥", ratio.least) for ratio in theme.ratios} | {("≤", ratio.most) for ratio in theme.ratios}
    assert {bound for bound in bounds if bound[1] is not None} == ASKED[name]


@pytest.mark.slow
def test_help_is_there_long_before_torchgeo(tmp_path: Path) -> None:
    theme = toy("startup.startup", tmp_path)
    assert theme.ratios[0].most == 0.15
    assert theme.ratios[0].reached


@pytest.mark.slow
def test_peak_memory_is_that_of_whole_processes(tmp_path: Path) -> None:
    theme = toy("predicting.memory", tmp_path)
    assert all(150 < value < 4000 for figure in theme.figures for value in figure.values)
    assert theme.ratios[0].most == 1.1


def test_a_ratio_is_taken_round_by_round_and_its_median_is_judged() -> None:
    rounds = import_module("rounds")
    ours = rounds.Figure(name="ours", unit="chips/s", values=(10.0, 40.0, 90.0))
    theirs = rounds.Figure(name="theirs", unit="chips/s", values=(1.0, 2.0, 3.0))
    ratio = rounds.Ratio(of=ours, to=theirs, least=20)
    assert ratio.values == (10.0, 20.0, 30.0)
    assert ratio.reached
    assert not rounds.Ratio(of=ours, to=theirs, least=20.1).reached
    assert not rounds.Ratio(of=ours, to=theirs, most=19.9).reached
    assert rounds.Ratio(of=ours, to=theirs).reached is None


def test_a_ratio_of_other_values_than_its_figure_has_is_refused() -> None:
    rounds = import_module("rounds")
    several, one = (rounds.Figure(name="view", unit="s", values=values) for values in ((1.0, 2.0), (2.0,)))
    limit = rounds.Figure(name="limit", unit="s", values=(3.0,))
    with pytest.raises(ValueError, match="views: a ratio is of 'view', whose values are no figure"):
        rounds.Theme(title="views", figures=[several, limit], ratios=[rounds.Ratio(of=one, to=limit)])


def test_ways_go_in_turn_and_the_first_round_does_not_count() -> None:
    rounds = import_module("rounds")
    order: list[str] = []
    ticks = iter([0.0, 100.0, 100.0, 300.0, 300.0, 304.0, 304.0, 305.0])

    def act(name: str, number: int) -> int:
        order.append(name)
        return number

    ways = {"one": partial(act, "one", 2), "other": partial(act, "other", 1)}
    spent = rounds.in_turn(ways, 1, lambda: next(ticks))
    assert order == ["one", "other", "one", "other"]
    assert spent == {"one": [2.0], "other": [1.0]}


def test_the_slope_of_a_square_is_two() -> None:
    growth = import_module("rounds").Growth(name="square", sizes=(1, 4, 16), values=(3, 48, 768), most=1.15)
    assert growth.slope == pytest.approx(2)
    assert not growth.reached


def test_the_page_has_a_row_for_all_that_was_measured_and_names_what_was_missed(tmp_path: Path) -> None:
    rounds, reporting = import_module("rounds"), import_module("reporting")
    fast = rounds.Figure(name="fast", unit="chips/s", values=(1234.5, 2000.0, 900.0))
    slow = rounds.Figure(name="slow", unit="chips/s", values=(100.0, 100.0, 100.0))
    theme = rounds.Theme(
        title="Toys", figures=[fast, slow], ratios=[rounds.Ratio(of=fast, to=slow, least=30)],
        growths=[rounds.Growth(name="more", sizes=(1, 4), values=(1, 4), most=1.15)], notes=["Said."],
    )  # fmt: skip
    kept = json.loads(json.dumps(reporting.as_json(theme) | {"measured": "today, 3 rounds"}))
    page = reporting.page([kept], reporting.machine())
    assert "| fast | 1,234 | 900 – 2,000 | chips/s |" in page
    assert "| fast : slow | 12.3 | 9 – 20 | ≥ 30 | **no** |" in page
    assert "| more | 1 / 4 | 1 / 4 s | 1.00 | ≤ 1.15 | yes |" in page
    assert page.rstrip().endswith("Said.\n\nMeasured today, 3 rounds.")
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 6, 7}
    assert reporting.missed([kept]) == ["fast : slow is 12.3"]
