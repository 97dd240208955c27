"""The evidence in, the top of the page out: what the model can do in one sentence, how sure that is, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from dlslicer_geo.report import html, words
from dlslicer_geo.report.evidence import Evidence

BASELINES = {
    "most_frequent": "always guessing the most frequent city gives",
    "colour": "colour alone",
    "frozen": "a backbone that was not trained for this",
}
"""Baselines that the first sentence names."""


def top(evidence: Evidence, title: str) -> str:
    """Heading, warnings, the sentence that says it all, and key figures."""
    return (
        f"<header><h1>{escape(title)}</h1>{warnings(evidence)}<p class=lead>{escape(lead(evidence))}</p>"
        f"{html.facts(_key_figures(evidence), kind='keys')}</header>"
    )


def lead(evidence: Evidence) -> str:
    """The result in one sentence with its interval and what is cheap to have."""
    metrics = evidence.metrics
    interval = words.between(metrics.get("accuracy_interval"))
    sure = f"95 % interval {interval}" if interval != words.NONE else "an interval cannot be had"
    cities = words.several(metrics.get("n_cities") or len(evidence.report.cities), "city")
    known = metrics.get("baselines") or {}
    cheap = [
        f"{text} {words.percent(known[name]['accuracy'])}" for name, text in BASELINES.items() if known.get(name)
    ]
    if metrics.get("chance") is not None:
        cheap.append(f"chance {words.percent(metrics['chance'])}")
    return (
        f"On {words.several(metrics['n'], 'chip')} of {_units(metrics)} {_seen(evidence)}, it names the right one of "
        f"{cities} in {words.percent(metrics['accuracy'])} ({sure}){'; ' if cheap else ''}{', '.join(cheap)}."
    )


def warnings(evidence: Evidence) -> str:
    """Boxes about a split that leaks or is not proven, and about positions that are not known."""
    boxes = []
    if evidence.proven is False:
        boxes.append(html.banner("This split leaks:", f"{_leaks(evidence.certificate)} {TOO_GOOD}", kind="leak"))
    elif evidence.proven is None:
        text = "its certificate does not say so. Run dlslicer-geo verify on the run folder to know."
        boxes.append(html.banner("Nobody has proven that this split is disjoint:", text, kind="leak"))
    vague = int(evidence.certificate.get("approximate_chips") or 0)
    if vague:
        text = (
            f"{words.several(vague, 'chip')} lie only somewhere in their city. No ground or distance is claimed for "
            "them: that splits are disjoint was checked on pixels and images alone."
        )
        boxes.append(html.banner("Positions are approximate:", text, kind="vague"))
    return "".join(boxes)


TOO_GOOD = "The scores below are better than they would be at places that the model never saw."


def _leaks(certificate: Mapping[str, Any]) -> str:
    kinds = {"shared_pixels": "pixels", "shared_ground_m2": "m² of ground", "duplicate_images": "images"}
    shared = [f"{certificate[key]:,.0f} {what}" for key, what in kinds.items() if certificate.get(key)]
    return f"pairs of chips in two splits share {', '.join(shared)}." if shared else "its splits share something."


def _units(metrics: Mapping[str, Any]) -> str:
    number, sites = metrics.get("n_units"), metrics.get("n_sites")
    if not number:
        return "a number of places"
    unit = str((metrics.get("interval") or {}).get("unit") or "unit")
    if unit == "site" and sites and sites != number:
        return f"{words.several(sites, 'site')}, which make up {words.several(number, 'unit')},"
    return words.several(number, unit)


def _seen(evidence: Evidence) -> str:
    """How far the scored chips were kept from the model."""
    split = evidence.metrics.get("split", "test")
    if split == "train":
        return "that the model was trained on"
    if split == "all":
        return "of all splits, those that the model was trained on included"
    if not evidence.proven:
        return "that are not proven to be new to the model"
    return "that the model never saw" if split == "test" else "that the model was not trained on but chosen by"


def _key_figures(evidence: Evidence) -> list[tuple[str, str]]:
    metrics = evidence.metrics
    calibration = metrics.get("calibration") or {}
    intervals = metrics.get("intervals") or {}
    figures = [
        ("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy"), ("macro F1", "macro_f1"),
        ("top-5", "top5_accuracy"),
    ]  # fmt: skip
    pairs = [
        (f"{name}, {words.between(intervals[key])}" if intervals.get(key) else name, words.percent(metrics[key]))
        for name, key in figures
        if metrics.get(key) is not None
    ]
    if calibration.get("ece") is not None:
        pairs.append(("calibration error (ECE)", words.decimal(calibration["ece"])))
    pairs.append((f"chips of the split {metrics.get('split', 'test')}", words.count(metrics["n"])))
    state = {True: "yes", False: "no: it leaks", None: "not stated"}[evidence.proven]
    return [*pairs, ("splits proven disjoint", state)]
