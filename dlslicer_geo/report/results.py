"""The evidence and its drawings in, the part of the page about the scores out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlslicer_geo.report import html, words
from dlslicer_geo.report.evidence import Evidence
from dlslicer_geo.report.whiskers import BASELINES, ranked

LOWEST = 10
"""Sites that are named, those with the lowest accuracy."""

ENOUGH = 5
"""A site of fewer chips is not named: its accuracy is mostly luck."""

Drawings = Mapping[str, html.Drawing]


def overall(evidence: Evidence, drawings: Drawings) -> str:
    """Measures with intervals, votes, and the model beside baselines and probes."""
    metrics = evidence.metrics
    intervals = metrics.get("intervals") or {}
    rows = [
        [name, words.percent(metrics[key]), words.between(intervals.get(key))]
        for key, name in MEASURES.items()
        if metrics.get(key) is not None
    ]
    return html.section(
        "accuracy",
        "How often it is right",
        html.table("Measures over all scored chips", ["Measure", "value", "95 % interval"], rows),
        html.picture(drawings.get("comparison.png"), "A hollow dot has no interval."),
        _votes(metrics),
        _baselines(metrics),
        _probes(metrics),
    )


MEASURES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "top3_accuracy": "top-3 accuracy", "top5_accuracy": "top-5 accuracy",
}  # fmt: skip
"""Measures over all chips, in words."""


def per_city(evidence: Evidence, drawings: Drawings) -> str:
    """Accuracy, precision and F1 of every city, and the sites with the lowest accuracy."""
    metrics = evidence.metrics
    rows = [
        [
            evidence.city(code), words.count(entry.get("n")), words.count(entry.get("n_sites")),
            words.percent(entry["accuracy"]), words.between(entry.get("interval")),
            words.percent(entry.get("precision")), words.decimal(entry.get("f1")),
        ]
        for code, entry in ranked(metrics.get("per_city") or {})
    ]  # fmt: skip
    empty = [code for code, entry in (metrics.get("per_city") or {}).items() if entry.get("accuracy") is None]
    without = f"Cities without a scored chip: {', '.join(map(evidence.city, empty))}." if empty else ""
    head = ["City", "chips", "sites", "accuracy", "95 % interval", "precision", "F1"]
    return html.section(
        "cities",
        "City by city, site by site",
        html.picture(drawings.get("cities.png"), "Right: every dot is a site of the city in the same row."),
        html.table("Cities, the best first", head, rows)
        if rows
        else html.absent("A table of cities", "none has chips"),
        html.paragraph(without) if without else "",
        _lowest_sites(evidence),
    )


def confusion(evidence: Evidence, drawings: Drawings) -> str:
    """Both confusion matrices and the pairs that are confused most."""
    rows = [
        [
            evidence.city(pair["truth"]), evidence.city(pair["predicted"]), words.count(pair["count"]),
            words.percent(pair["share"]),
        ]
        for pair in evidence.metrics.get("most_confused") or []
    ]  # fmt: skip
    head = ["True city", "taken for", "chips", "of the true city's chips"]
    return html.section(
        "confusion",
        "Which cities it confuses",
        html.paragraph(
            "Cities that are confused with each other stand side by side. Confusion measures this model, not the "
            "cities: a model that has learnt its cities finds none of them alike."
        ),
        html.picture(drawings.get("confusion.png"), "Rows sum to 100 %: where the chips of a city go."),
        html.picture(
            drawings.get("confusion_predicted.png"),
            "Columns sum to 100 %: where the chips given to a city come from.",
        ),
        html.table("Pairs that are confused most", head, rows, text=(0, 1))
        if rows
        else html.paragraph("No chip was given to a wrong city."),
    )


def _votes(metrics: Mapping[str, Any]) -> str:
    votes = metrics.get("votes") or {}
    rows = [
        [f"all chips of a {kind} together", words.count(vote["n"]), words.percent(vote["accuracy"]),
         words.between(vote.get("interval"))]
        for kind in ("scene", "site")
        if (vote := votes.get(kind))
    ]  # fmt: skip
    if not rows:
        return html.absent("What chips of a scene or site say together", "the scores do not have it")
    return html.table(
        "Votes: the mean of log probabilities decides", ["Who votes", "votes", "accuracy", "95 % interval"], rows
    )


def _baselines(metrics: Mapping[str, Any]) -> str:
    baselines = metrics.get("baselines") or {}
    rows = [_baseline_row(BASELINES.get(name, name), entry) for name, entry in baselines.items() if entry]
    nothing = [BASELINES.get(name, name) for name, entry in baselines.items() if not entry]
    lacking = html.absent(f"The baseline {', '.join(nothing)}", "there was nothing to fit it on") if nothing else ""
    if not rows:
        return lacking or html.absent("What is cheap to have", "no baseline was scored")
    head = ["Baseline", "accuracy", "95 % interval", "balanced", "macro F1", "the model gains", "95 % interval", "p"]
    return html.table("Baselines on the same chips", head, rows) + lacking


def _baseline_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    gain = entry.get("gain") or {}
    return [
        name, words.percent(entry["accuracy"]), words.between(entry.get("interval")),
        words.percent(entry.get("balanced_accuracy")), words.percent(entry.get("macro_f1")),
        words.points(gain.get("accuracy")), words.between_points(gain.get("interval")),
        words.chance_of(gain.get("p")),
    ]  # fmt: skip


def _probes(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, entry in (metrics.get("probes") or {}).items():
        if entry:
            drop = entry.get("drop") or {}
            rows.append([
                name, words.percent(entry["accuracy"]), words.between(entry.get("interval")),
                words.points(drop.get("accuracy")), words.between_points(drop.get("interval")),
            ])  # fmt: skip
    if not rows:
        return html.absent("What the model says of grey, blurred or coarser chips", "no probe was run")
    head = ["Chips were changed to", "accuracy", "95 % interval", "drop", "95 % interval"]
    return html.table("Probes: what the model lives on", head, rows) + html.paragraph(
        "A model that hardly drops without colour does not live on colour; one that hardly drops under heavy blur "
        "sees little but colour and layout."
    )


def _lowest_sites(evidence: Evidence) -> str:
    sites = [s for s in evidence.metrics.get("per_site") or [] if s["n"] >= ENOUGH and s.get("accuracy") is not None]
    sites = sorted(sites, key=lambda site: (site["accuracy"], str(site["city"]), str(site["site"])))[:LOWEST]
    if not sites:
        return ""
    rows = [
        [evidence.city(s["city"]), str(s["site"]), words.count(s["n"]), words.percent(s["accuracy"])] for s in sites
    ]
    caption = f"The {len(rows)} lowest sites of at least {ENOUGH} chips"
    return html.table(caption, ["City", "site", "chips", "accuracy"], rows, text=(0, 1))
