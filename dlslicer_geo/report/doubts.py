"""The evidence and its drawings in, the part of the page about how far to trust an answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlslicer_geo.report import html, words
from dlslicer_geo.report.evidence import Evidence
from dlslicer_geo.report.results import Drawings


def calibration(evidence: Evidence, drawings: Drawings) -> str:
    """Whether confidences mean what they say, before and after the temperature."""
    known = evidence.metrics.get("calibration")
    if not known:
        return html.section(
            "calibration", "Whether its confidence is honest", html.absent("Calibration", "the scores do not have it")
        )
    rows = [
        [name, words.decimal(known.get(f"{key}_uncalibrated")), words.decimal(known.get(key))]
        for name, key in (
            ("calibration error (ECE)", "ece"), ("negative log likelihood", "nll"), ("Brier score", "brier"),
        )
    ]  # fmt: skip
    head = ["Measure", "before", "after"]
    if known.get("temperature") == 1:
        head, rows = ["Measure", "value"], [[name, after] for name, _, after in rows]
    return html.section(
        "calibration",
        "Whether its confidence is honest",
        html.paragraph(_temperature(known)),
        html.picture(
            drawings.get("calibration.png"),
            "On the dashed line confidence equals accuracy; below it the model is too sure of itself.",
        ),
        html.table("Measures of calibration, lower is better", head, rows),
    )


def unknown(evidence: Evidence, drawings: Drawings) -> str:
    """Whether the model says so when it does not know a city."""
    known = evidence.metrics.get("unknown")
    parts = (
        [_threshold(known, drawings)] if known else [html.absent("An answer of unknown", "the model has no detector")]
    )
    parts.append(_left_out(evidence))
    return html.section("unknown", "Whether it knows what it does not know", *parts)


def errors(evidence: Evidence, drawings: Drawings) -> str:
    """Maps of right and wrong answers, and accuracy by distance to the nearest training chip."""
    distance = evidence.metrics.get("distance")
    note = str((distance or {}).get("note") or "")
    return html.section(
        "map",
        "Where it is right and where it is wrong",
        html.picture(
            drawings.get("errors.png"),
            "Dots are larger than chips. Where several chips fall on one dot, one of them is shown, drawn at random.",
        )
        or html.absent("A map", "no scored chip has a known position"),
        html.picture(
            drawings.get("sites.png"),
            "Every dot is a site, or a scene or block where a city has few; its area is the number of scored chips.",
        ),
        html.picture(drawings.get("distance.png"))
        or html.absent("Accuracy by distance to training chips", "the distances are not known"),
        html.paragraph(note, kind="note") if note else "",
    )


def against(evidence: Evidence) -> str:
    """The paired comparison with another run."""
    other = evidence.metrics.get("against")
    if not other:
        absent = html.absent("A comparison", "this run was scored by itself; score --against OTHER compares two")
        return html.section("against", "Compared with another run", absent)
    mcnemar = other.get("mcnemar") or {}
    rows = [
        ["this run", words.percent(other["accuracy"]), ""],
        [str(other["name"]), words.percent(other["other_accuracy"]), ""],
        ["difference", words.points(other["difference"]), words.between_points(other.get("interval"))],
    ]
    only = (
        f" {words.several(mcnemar['only_this'], 'chip')} are right here only and "
        f"{words.count(mcnemar['only_other'])} there only (McNemar "
        f"{words.chance_of(mcnemar.get('p'))}, which wrongly treats chips as independent)."
        if mcnemar
        else ""
    )
    return html.section(
        "against",
        "Compared with another run",
        html.table(f"On the same {words.several(other['n'], 'chip')}", ["Run", "accuracy", "95 % interval"], rows),
        html.paragraph(
            f"Drawn over whole units, chance alone gives such a difference with {words.chance_of(other.get('p'))}."
            f"{only}"
        ),
    )


def ablation(evidence: Evidence, drawings: Drawings) -> str:
    """What the same recipe scores under splits that leak more and less."""
    known = evidence.ablation
    if not known or not known.get("rows"):
        absent = html.absent("What a leak would have been worth", "the same recipe was not run under other splits")
        return html.section("leaks", "What a leak would have been worth", absent)
    head = [
        "Split", "disjoint", "nearest", "train", "test", "shared pixels", "shared ground", "accuracy",
        "95 % interval",
    ]  # fmt: skip
    note = str(known.get("note") or "")
    return html.section(
        "leaks",
        "What a leak would have been worth",
        html.paragraph("The same recipe was trained and tested under several splits; only the split differs."),
        html.picture(drawings.get("ablation.png"), "Crosses are splits that leak."),
        html.table("Splits", head, [_ablation_row(row) for row in known["rows"]], text=(0, 1)),
        html.paragraph(note, kind="note") if note else "",
    )


def _ablation_row(row: Mapping[str, Any]) -> list[str]:
    ground = row.get("shared_ground_m2")
    return [
        str(row["name"]), "proven" if row.get("proven") else "NO, it leaks", words.metres(row.get("min_distance_m")),
        words.count(row.get("n_train")), words.count(row.get("n_test")), words.count(row.get("shared_pixels")),
        "not known" if ground is None else f"{ground:,.0f} m²", words.percent(row["accuracy"]),
        words.between(row.get("interval")),
    ]  # fmt: skip


def _temperature(known: Mapping[str, Any]) -> str:
    interval, error = known.get("ece_interval"), words.decimal(known.get("ece"))
    sure = f" (95 % interval {words.decimal(interval[0])}–{words.decimal(interval[1])})" if interval else ""
    chance = known.get("ece_by_chance")
    if chance is not None:
        sure += f"; confidences that are true would show {words.decimal(chance)} of so many chips by chance"
    if known.get("temperature") == 1:
        return (
            "Confidence is as the network was trained: no temperature was fitted, or the val chips do not determine "
            f"one. The calibration error is {error}{sure}."
        )
    return (
        f"What the network says before the softmax was divided by {words.decimal(known.get('temperature'), 2)}, the "
        f"temperature. The calibration error went from {words.decimal(known.get('ece_uncalibrated'))} to {error}"
        f"{sure}. All outputs carry the calibrated confidence."
    )


def _threshold(known: Mapping[str, Any], drawings: Drawings) -> str:
    text = (
        f"The detector {known.get('detector')} calls a chip unknown above {words.decimal(known.get('threshold'))}. "
        "Of these chips, all of cities that the model has learnt, "
        f"{words.percent(known.get('known_kept'))} are kept; of the kept ones "
        f"{words.percent(known.get('accuracy_of_known'))} are named rightly."
    )
    return html.paragraph(text) + html.picture(
        drawings.get("unknown.png"), "Scores of the scored chips; the line is the threshold."
    )


def _left_out(evidence: Evidence) -> str:
    """The table of the protocol that leaves one city out at a time."""
    known = evidence.leave_city_out
    if not known:
        return html.absent("How well chips of a city that was never learnt are told", "no city was left out in turn")
    per_city = known.get("per_city") or {}
    detectors = list(dict.fromkeys(name for entry in per_city.values() for name in entry.get("auroc") or {}))
    rows = [
        [
            evidence.city(code),
            words.count(entry.get("n")),
            *_pairs(entry, detectors),
            words.percent(entry.get("refused")),
        ]
        for code, entry in per_city.items()
    ]
    if known.get("mean"):
        refused = known["mean"].get("refused")
        rows.append(["mean", "", *_pairs(known["mean"], detectors), words.percent(refused)])
    head = [
        "City left out",
        "chips",
        *(f"{name} {what}" for name in detectors for what in ("AUROC", "FPR@95")),
        "called unknown",
    ]
    text = (
        "Each city was left out of training in turn and its chips were asked for. The detector "
        f"{known.get('detector')} tells them from known ones with AUROC "
        f"{words.decimal(known.get('auroc'))} (0.5 is guessing, 1 perfect); at "
        f"the threshold that keeps 95 % of known chips it lets {words.percent(known.get('fpr95'))} of them pass."
    )
    return (
        html.heading("Cities that were left out")
        + html.paragraph(text)
        + html.table("Leave one city out", head, rows)
        + (html.paragraph(str(known["note"]), kind="note") if known.get("note") else "")
    )


def _pairs(entry: Mapping[str, Any], detectors: list[str]) -> list[str]:
    auroc, fpr95 = entry.get("auroc") or {}, entry.get("fpr95") or {}
    return [text for name in detectors for text in (words.decimal(auroc.get(name)), words.percent(fpr95.get(name)))]
