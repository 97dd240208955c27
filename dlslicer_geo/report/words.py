"""Numbers and rules in, the words for them out: shares, intervals, distances, sentences about a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"
"""What stands where there is no value."""

SPACE = "\N{NO-BREAK SPACE}"
"""Keeps a number with its unit."""

_PLURALS = {
    "place": "places", "site": "sites", "block": "blocks", "scene": "scenes", "chip": "chips", "city": "cities",
}  # fmt: skip

GLOSSARY = (
    ("accuracy", "Share of chips whose city is named rightly."),
    ("balanced accuracy", "Accuracy of each city, averaged: every city counts the same, however many chips it has."),
    ("baseline", "Something cheap that anybody could do; a model is worth what it gains over it."),
    ("block, place, site", "What stays together in a split. A place is ground with all images of it, whatever their "
     "date; a site is what the data call one; a block is a square of ground."),
    ("calibration", "Whether a confidence means what it says: of chips named with 80 % confidence, 80 % should be "
     "right. Confidences are divided by a temperature that was fitted on other chips."),
    ("chance", "Accuracy of guessing blindly: 1 divided by the number of cities."),
    ("chip", "The square piece of an image that the model sees at once."),
    ("ECE", "Expected calibration error: by how much confidence and accuracy differ on average; 0 is best."),
    ("F1", "Harmonic mean of precision and recall; macro F1 is its mean over cities."),
    ("interval", "The true value lies in such an interval for about 95 of 100 data sets like this one."),
    ("leak", "Test chips that share pixels, ground or images with training chips: then the score is too good."),
    ("p", "How often chance alone would give a difference at least this large. Small values speak for a difference."),
    ("precision", "Share of the chips given to a city that are truly of it."),
    ("recall", "Share of a city's chips that are given to it; here the accuracy of that city."),
    ("train, val, test", "Chips to learn from, chips to make choices on, and chips used for nothing but the score."),
    ("top-3, top-5", "Share of chips whose city is among the three or five most probable ones."),
    ("unknown", "The answer for a chip that looks like none of the cities that the model has learnt."),
)  # fmt: skip
"""Terms of the page in plain words."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return NONE if value is None else f"{100 * value:.{digits}f}{SPACE}%"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return NONE if value is None else f"{100 * value:+z.1f} points".replace("-", "−")


def between(interval: Sequence[float] | None) -> str:
    """An interval of shares."""
    return NONE if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}{SPACE}%"


def between_points(interval: Sequence[float] | None) -> str:
    """An interval of a difference of two shares."""
    if interval is None:
        return NONE
    return f"{100 * interval[0]:+z.1f} to {100 * interval[1]:+z.1f}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with commas."""
    return NONE if value is None else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point."""
    return NONE if value is None else f"{value:z.{digits}f}".replace("-", "−")


def metres(value: float | None) -> str:
    """A distance in the unit that suits it."""
    if value is None:
        return NONE
    if value >= 10_000:
        return f"{value / 1000:,.3g}{SPACE}km"
    return f"{value:,.0f}{SPACE}m" if value >= 10 else f"{value:.3g}{SPACE}m"


def chance_of(p: float | None) -> str:
    """A p value."""
    return NONE if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def several(number: int, noun: str) -> str:
    """A number with its noun; a noun that is not known is a unit."""
    known = noun if noun in _PLURALS else "unit"
    return f"{number:,} {known if number == 1 else _PLURALS.get(known, 'units')}"


def rule_sentences(rule: Mapping[str, Any]) -> list[str]:
    """A rule of splitting in words: what stays together, how it was shared out, and what was left out.

    Args:
        rule: the keys of ``SplitRule``; may lack some.
    """
    said = [_together(rule)]
    if rule.get("folds"):
        said.append(
            f"These units were dealt into {rule['folds']} folds, city by city; fold {rule.get('fold', 0)} is test, "
            "the next one is val, and the others are train."
        )
    elif rule.get("kind") not in ("paper", "given") and rule.get("fractions"):
        train, val, test = (percent(float(share), 0) for share in rule["fractions"])
        said.append(f"Wanted in every city: {train} of the chips in train, {val} in val and {test} in test.")
    if rule.get("gap_m"):
        said.append(f"Chips nearer than {metres(float(rule['gap_m']))} to a chip of a later split were left out.")
    if rule.get("test_from"):
        said.append(
            f"Year shift: test chips were taken on {rule['test_from']} or later, train and val chips before, and at "
            "other places."
        )
    return said


def _together(rule: Mapping[str, Any]) -> str:
    kind = rule.get("kind")
    known = {
        "place": "All images whose ground overlaps stay in one split, whatever their date or name.",
        "site": "All images of a site stay in one split; sites that overlap count as one.",
        "block": f"Square blocks of {metres(float(rule.get('block_m') or 0))} stay in one split; chips that reach "
        "into a block of another split were left out.",
        "paper": "As published with DL-SLICER: the last site of a city is halved into val (left) and test (right), "
        "all its other sites are train. The halves touch: val and test chips may be 0 m apart.",
        "given": f"The splits were taken from the file {rule.get('given')}.",
        "random": "Every chip was drawn by itself and nothing stays together: test chips share ground with training "
        "chips.",
    }
    return known.get(str(kind), f"The rule {kind} is not one that this page knows.")
