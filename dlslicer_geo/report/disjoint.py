"""The certificate in, the part of the page about the split out: what was split how, what was lost, what is proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlslicer_geo.report import html, words
from dlslicer_geo.report.evidence import Evidence

SPLITS = ("train", "val", "test", "unused")


def split(evidence: Evidence) -> str:
    """Rule in words, chips per city and split, dropped chips, and the certificate."""
    certificate = evidence.certificate
    rule = certificate.get("rule")
    said = words.rule_sentences(rule) if isinstance(rule, Mapping) else ["The certificate does not name its rule."]
    return html.section(
        "split",
        "What was split, and how",
        html.paragraph(" ".join(said)),
        _units(certificate),
        _chips(evidence),
        _dropped(certificate),
        html.heading("Certificate"),
        html.paragraph(_verdict(evidence)),
        html.facts(_figures(certificate)),
        *(html.paragraph(str(certificate[name]), kind="note") for name in NOTES if certificate.get(name)),
        html.paragraph(
            "Do not trust this page: dlslicer-geo verify RUN, with the folder of this run for RUN, works all of this "
            "out again from the two tables alone and compares it with the certificate."
        ),
    )


NOTES = ("approximate_note", "duplicate_images_note")
"""Sentences of the certificate that are shown where they are there."""


def _units(certificate: Mapping[str, Any]) -> str:
    units = certificate.get("units")
    if not isinstance(units, Mapping):
        return ""
    parts = ", ".join(f"{words.count(number)} in {name}" for name, number in units.items())
    joined = int(certificate.get("joined_units") or 0)
    met = (
        f" {words.count(joined)} of them were joined with others whose ground or images they share." if joined else ""
    )
    return html.paragraph(f"Units that stay together: {parts}.{met} Seed {certificate.get('seed', words.NONE)}.")


def _chips(evidence: Evidence) -> str:
    chips = evidence.certificate.get("chips")
    if not isinstance(chips, Mapping) or not chips:
        return html.absent("The number of chips per city and split", "the certificate does not have it")
    near = (evidence.certificate.get("min_distance_m") or {}).get("per_city") or {}
    rows = [
        [evidence.city(city), *(words.count(number.get(name, 0)) for name in SPLITS), words.metres(near.get(city))]
        for city, number in chips.items()
    ]
    total = [words.count(sum(number.get(name, 0) for number in chips.values())) for name in SPLITS]
    head = ["City", *SPLITS, "nearest other split"]
    return html.table("Chips per city and split", head, [*rows, ["all cities", *total, ""]])


def _dropped(certificate: Mapping[str, Any]) -> str:
    dropped = certificate.get("dropped") or {}
    rows = [[str(reason), words.count(number)] for reason, number in dropped.items() if number]
    if not rows:
        return html.paragraph("No chip was left out by the rule.")
    return html.table("Chips that the rule left out", ["Reason", "chips"], rows)


def _verdict(evidence: Evidence) -> str:
    if evidence.proven:
        return (
            "Train, val and test share no pixel, no ground and no image, at any date. This was worked out from the "
            "chips themselves, not from the rule that made them."
        )
    if evidence.proven is None:
        return "The certificate does not say whether the splits are disjoint."
    return "The splits are NOT disjoint: a chip of one shares pixels, ground or images with a chip of another."


def _figures(certificate: Mapping[str, Any]) -> list[tuple[str, str]]:
    near = certificate.get("nearest_images") or {}
    pairs = [
        ("shared pixels", words.count(certificate.get("shared_pixels"))),
        ("shared ground", _area(certificate.get("shared_ground_m2"))),
        ("duplicate images across splits", words.count(certificate.get("duplicate_images"))),
        ("smallest distance between two splits", words.metres(_overall(certificate))),
        ("hash of the chip table", str(certificate.get("chips_hash") or words.NONE)),
        ("hash of the scene table", str(certificate.get("scenes_hash") or words.NONE)),
    ]
    if near.get("bits") is not None:
        pairs.insert(3, ("most similar images of two splits differ in", f"{near['bits']} of 64 bits"))
    return pairs


def _overall(certificate: Mapping[str, Any]) -> float | None:
    near = certificate.get("min_distance_m") or {}
    value = near.get("overall") if isinstance(near, Mapping) else near
    return None if value is None else float(value)


def _area(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f} m²" if value >= 1 or value == 0 else f"{value:.2g} m²"
