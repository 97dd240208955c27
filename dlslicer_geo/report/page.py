"""A report, chips, predictions and the certificate in; ``report.html`` and its figures as PNG and SVG out."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo import files
from dlslicer_geo.report import (
    closing,
    confidence,
    disjoint,
    doubts,
    head,
    maps,
    matrix,
    results,
    sanity,
    sites,
    style,
    whiskers,
    words,
)
from dlslicer_geo.report.evidence import Evidence
from dlslicer_geo.report.html import Drawing
from dlslicer_geo.types import Predictions, Report

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what it carries, and no script at all."""

_FIGURES = (
    "comparison", "cities", "sites", "confusion", "confusion_predicted", "calibration", "unknown", "errors",
    "distance", "ablation", "sanity",
)  # fmt: skip

FIGURES = tuple(f"{name}.{kind}" for name in _FIGURES for kind in style.KINDS)
"""Files that may stand in the folder ``figures`` beside the page; those with nothing to show are left out."""

_PARTS = {
    "split": "Split", "accuracy": "Accuracy", "cities": "Cities", "confusion": "Confusion",
    "calibration": "Calibration", "unknown": "Unknown", "map": "Map", "against": "Against", "leaks": "Leaks",
    "sanity": "Explanation", "caveats": "Caveats", "method": "Method", "provenance": "Provenance", "terms": "Terms",
}  # fmt: skip


def write_report(
    path: str | Path,
    report: Report,
    *,
    chips: GeoDataFrame,
    found: Predictions,
    certificate: Mapping[str, Any],
    provenance: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    leave_city_out: Mapping[str, Any] | None = None,
    ablation: Mapping[str, Any] | None = None,
    saliency_check: Mapping[str, Any] | None = None,
    title: str = "Which city is this: a report",
) -> Path:
    """Write what is known about a model and its split as one page that loads nothing, and its figures beside it.

    Parts that the metrics do not have are left out with a sentence that says why. The same input gives the same
    bytes.

    Args:
        path: ends in ``.html``; figures go to ``figures`` beside it (``FIGURES``); those left from another run that
            have nothing to show now are removed.
        report: metrics and confusion of the scored chips.
        chips: chip table with ``chip_id``, ``city``, ``split`` and ``approximate``; outlines in EPSG:4326.
        found: the predictions that were scored.
        certificate: what the split room said of the split.
        provenance: names and values of where the numbers come from (version, hashes, seed, device).
        names: city names by code; may lack some.
        leave_city_out: ``detector``, ``auroc``, ``fpr95``, ``per_city`` (code → ``auroc`` and ``fpr95`` by detector,
            ``n``), ``mean`` (the same over cities).
        ablation: ``rows`` of ``name``, ``n_train``, ``n_test``, ``min_distance_m``, ``proven``, ``accuracy``,
            ``interval``, ``shared_pixels``, ``shared_ground_m2``; and ``note``.
        saliency_check: how far the maps of each saliency method can be trusted, as ``relevance.check`` says it.
        title: heading of the page.

    Raises:
        LayerError: if nothing was scored, or a predicted chip is not in the chip table.
    """
    evidence = Evidence(
        report=report, chips=chips, found=found, certificate=certificate, provenance=provenance or {},
        names=names or {}, leave_city_out=leave_city_out, ablation=ablation,
        saliency_check=saliency_check,
    )  # fmt: skip
    drawings = _draw(evidence, Path(path).parent / "figures")
    return files.write_text(path, compose(evidence, drawings, title))


def _draw(evidence: Evidence, folder: Path) -> dict[str, Drawing]:
    """Draw all figures that have something to show, and write them."""
    ablation = evidence.ablation if (evidence.ablation or {}).get("rows") else None
    figures = {
        "comparison.png": whiskers.comparison(evidence),
        "cities.png": whiskers.cities(evidence),
        "sites.png": sites.accuracy(evidence),
        "confusion.png": matrix.confusion(evidence.report, "truth"),
        "confusion_predicted.png": matrix.confusion(evidence.report, "predicted"),
        "calibration.png": confidence.reliability(evidence),
        "unknown.png": confidence.scores_of_unknown(evidence),
        "errors.png": maps.errors(evidence),
        "distance.png": whiskers.distances(evidence),
        "ablation.png": None if ablation is None else whiskers.leaks(ablation),
        "sanity.png": sanity.forgetting(evidence),
    }
    drawn = {name: style.save(figure, folder / name) for name, figure in figures.items() if figure is not None}
    for name in FIGURES:
        if f"{Path(name).stem}.png" not in drawn:
            (folder / name).unlink(missing_ok=True)
    return {name: _drawing(name, path.read_bytes(), evidence) for name, path in drawn.items()}


def _drawing(name: str, png: bytes, evidence: Evidence) -> Drawing:
    width, height = struct.unpack(">II", png[16:24])  # IHDR is the first chunk of every PNG
    scale = style.SHOWN / style.DPI
    return Drawing(
        name=name, png=png, width=round(width * scale), height=round(height * scale), alt=_alt(name, evidence)
    )


def _alt(name: str, evidence: Evidence) -> str:
    """What a figure shows, in words."""
    metrics = evidence.metrics
    rows = whiskers.ranked(metrics.get("per_city") or {})
    ends = [f"{evidence.city(code)} {words.percent(entry['accuracy'])}" for code, entry in (rows[:1] + rows[-1:])]
    calibration = metrics.get("calibration") or {}
    near = [
        f"{words.metres(entry['low_m'])} to {words.metres(entry['high_m'])} {words.percent(entry['accuracy'])}"
        for entry in (metrics.get("distance") or {}).get("bins") or []
    ]
    texts = {
        "comparison.png": f"Accuracy of the model, {words.percent(metrics['accuracy'])}, beside its baselines and "
        "probes, which the tables below list.",
        "cities.png": f"Accuracy per city, from {' down to '.join(ends)}, and of every site.",
        "sites.png": "A map per city: every site a dot, the darker the more of its chips are right.",
        "confusion.png": "Confusion matrix, every row divided by the chips of its true city; the table below lists "
        "the largest confusions.",
        "confusion_predicted.png": "Confusion matrix, every column divided by the chips given to its city.",
        "calibration.png": f"Accuracy against confidence; ECE {words.decimal(calibration.get('ece_uncalibrated'))} "
        f"before and {words.decimal(calibration.get('ece'))} after the temperature.",
        "unknown.png": "Histogram of the detector's scores with its threshold.",
        "errors.png": "A map per city: training chips grey, right answers blue, wrong ones orange.",
        "distance.png": f"Accuracy by distance to the nearest training chip: {'; '.join(near)}.",
        "ablation.png": "Accuracy against the smallest distance between train and test; the table below lists it.",
        "sanity.png": "Correlation of maps with those of the trained model as it forgets stage after stage, for "
        "every method and depth; the table below lists it.",
    }  # fmt: skip
    return texts[name]


def compose(evidence: Evidence, drawings: Mapping[str, Drawing], title: str) -> str:
    """The page with those of its figures that were drawn."""
    style_sheet = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in _PARTS.items())
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{style_sheet}</style></head><body>",
        head.top(evidence, title), f'<nav aria-label="Parts of this page">{links}</nav><main>',
        disjoint.split(evidence), results.overall(evidence, drawings), results.per_city(evidence, drawings),
        results.confusion(evidence, drawings), doubts.calibration(evidence, drawings),
        doubts.unknown(evidence, drawings), doubts.errors(evidence, drawings), doubts.against(evidence),
        doubts.ablation(evidence, drawings), sanity.explanation(evidence, drawings), closing.caveats(evidence),
        closing.method(evidence), closing.provenance(evidence), closing.glossary(), "</main></body></html>\n",
    ]  # fmt: skip
    return "\n".join(parts)
