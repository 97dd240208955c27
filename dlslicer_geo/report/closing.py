"""The evidence in, the end of the page out: caveats, method, provenance, and terms in plain words."""

from __future__ import annotations

from dlslicer_geo.report import html, words
from dlslicer_geo.report.evidence import Evidence

SHOWN = ("version", "device", "seed", "config_hash", "input_hash")
"""Provenance that comes first; the configuration itself stands in run.json."""

HIDDEN = ("config",)


def caveats(evidence: Evidence) -> str:
    """What these numbers do not say."""
    said = [str(text) for text in evidence.metrics.get("caveats") or []]
    if evidence.proven is not True:
        said.insert(0, "The split is not proven disjoint: do not quote these scores.")
    own = "These chips say nothing about other sensors, seasons, resolutions or cities than theirs."
    return html.section("caveats", "Caveats", html.bullets([*said, own]))


def method(evidence: Evidence) -> str:
    """How intervals were made and which chips were scored."""
    metrics = evidence.metrics
    interval = metrics.get("interval") or {}
    drawn = metrics.get("drawn")
    unit = interval.get("unit", "unit")
    parts = [
        html.paragraph(
            f"Intervals are {words.percent(interval.get('level', 0.95), 0)} intervals over whole units ({unit}), not "
            f"over chips, because chips that overlap or lie side by side are alike. {interval.get('method') or ''}"
        ),
        html.facts(
            [("chips scored", words.count(metrics["n"])), ("units", words.count(metrics.get("n_units"))),
             ("sites", words.count(metrics.get("n_sites"))), ("draws", words.count(interval.get("draws"))),
             ("seed", str(interval.get("seed", words.NONE)))]
        ),
    ]  # fmt: skip
    if drawn:
        parts.append(
            html.paragraph(
                f"Scored were {words.count(drawn.get('per_city'))} chips of each city, drawn with seed "
                f"{drawn.get('seed')} from {words.several(drawn.get('n_before') or 0, 'chip')}."
            )
        )
    return html.section("method", "Method", *parts)


def provenance(evidence: Evidence) -> str:
    """Versions, hashes and seeds."""
    known = {
        str(name): str(value) for name, value in evidence.provenance.items() if name not in HIDDEN and value != ""
    }
    names = [*(name for name in SHOWN if name in known), *(name for name in sorted(known) if name not in SHOWN)]
    pairs = [(name.replace("_", " "), known[name]) for name in names]
    body = html.facts(pairs) if pairs else html.absent("Provenance", "none was given")
    return html.section("provenance", "Where the numbers come from", body)


def glossary() -> str:
    """Terms of the page in plain words."""
    return html.section("terms", "Terms", html.facts(words.GLOSSARY, kind="terms"))
