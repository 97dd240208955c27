"""The evidence in, the part of the page about how far saliency can be trusted and its figure out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dlslicer_geo.report import html, style, words
from dlslicer_geo.report.evidence import Evidence
from dlslicer_geo.report.results import Drawings

Row = Mapping[str, Any]

COLUMNS = {
    "conservation": ("sum lost", "Largest share of the relevance put in that got lost on the way down. Below 0.001 "
                     "the rules fit the network; gradient methods conserve nothing."),
    "head_shuffled": ("shuffled head", "Correlation with the map after the classifier's inputs were shuffled, so "
                      "that it reads the wrong features. Near 0 or negative: the map depends on the classifier. Near "
                      "1: it looks the same whatever the classifier says. ± is the spread over shuffles."),
    "head_shuffled_absolute": ("unsigned", "The same correlation with every chip's sign left out. Near 1 the map "
                               "is always one picture, and the classifier decides only whether it counts for or "
                               "against."),
    "class_contrast": ("runner-up", "Correlation with the map of the second most probable city. Near 0 or below: the "
                       "map answers for its city. −1 is the same picture with its sign turned."),
    "insertion": ("insertion", "Mean probability of the city while pixels are put into a blurred chip, the most "
                  "relevant first. High is good, but it ranks methods badly."),
    "deletion": ("deletion", "The same while they are taken out. Low is good, but it ranks methods badly."),
    "average_drop": ("drop", "Share of the probability that is lost where the chip is dimmed outside the map. Low is "
                     "said to be good, but random maps can win."),
    "average_increase": ("rise", "Share of the chips whose probability rises instead. High is said to be good, but "
                         "random maps can win."),
    "twin": ("twin", "Correlation with the map of a model of the same recipe and another seed. Near 1: the map does "
             "not hang on the luck of the training."),
}  # fmt: skip
"""Figures of a row: the head of their column and what it means."""

DOUBTFUL = {"conservation": 1e-3, "head_shuffled": 0.5, "head_shuffled_absolute": 0.9, "class_contrast": 0.5}
"""Values above which a figure speaks against a method."""

COLOURS = {
    "relevance-cam": "#d55e00", "relevance-cam-contrastive": "#e69f00", "relevance-cam-margin": "#0072b2",
    "relevance-cam-balanced": "#7f7f7f",
    "grad-cam": "#009e73", "hires-cam": "#56b4e9", "layer-cam": "#cc79a7",
}  # fmt: skip
"""Lines of the figure, in Okabe and Ito's colours (Color Universal Design, 2008)."""


def explanation(evidence: Evidence, drawings: Drawings) -> str:
    """What the check found of every method at every depth, and what its columns mean."""
    known = evidence.saliency_check
    if not known or not known.get("rows"):
        absent = html.absent("A check of the saliency", "none was run; explain --check makes one")
        return html.section("sanity", "Is the explanation right?", absent)
    shown = {key: value for key, value in COLUMNS.items() if _any(known["rows"], key)}
    return html.section(
        "sanity",
        "Is the explanation right?",
        html.paragraph(_asked(known)),
        *(html.paragraph(text) for text in _verdict(known)),
        _figures(known, shown),
        html.paragraph("Marked figures speak against a method; bold rows are the method that is taken when none is "
                       "named. No figure here says that a map is right; some can say that it is not."),
        html.facts(shown.values(), kind="terms"),
        html.picture(drawings.get("sanity.png"), "Left of every panel the trained model; to the right ever more "
                     "stages are set back to chance. A line that stays up is a map that shows the image, not what "
                     "the model has learnt."),
        _stages(known),
        html.bullets(str(note) for note in known.get("notes") or []),
    )  # fmt: skip


def forgetting(evidence: Evidence) -> Figure | None:
    """Correlation with the trained model's map as stages are forgotten, a panel per depth; None without a check."""
    rows = (evidence.saliency_check or {}).get("rows") or []
    layers = list(dict.fromkeys(row["layer"] for row in rows if row.get("stages")))
    if not layers:
        return None
    figure = style.canvas(min(0.45 + 1.56 * len(layers), style.WIDTH), 2.5)
    panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for axes, layer in zip(panels, layers, strict=True):
        for row in (row for row in rows if row["layer"] == layer and row.get("stages")):
            _line(axes, row, row["method"] == (evidence.saliency_check or {}).get("default"))
        axes.axhline(0, color=style.SOFT, linewidth=0.9)
        axes.set_ylim(-1.05, 1.05)
        style.plain(axes, grid="y")
        axes.tick_params(axis="x", labelsize=style.SMALL, rotation=45)
        style.title(axes, style.label(str(layer)))
    panels[0].set_ylabel("correlation with the trained model", fontsize=style.TEXT, color=style.SOFT)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(len(names), len(layers)),
        fontsize=style.SMALL,
        frameon=False,
    )
    return figure


def _line(axes: Any, row: Row, chosen: bool) -> None:
    stages = [(name, value) for name, value in row["stages"].items() if value is not None]
    axes.plot(
        ["trained", *(name for name, _ in stages)], [1.0, *(value for _, value in stages)], marker="o",
        markersize=4 if chosen else 2.5, linewidth=1.8 if chosen else 0.9, zorder=3 if chosen else 2,
        color=COLOURS.get(row["method"], style.SOFT), label=style.label(str(row["method"]), 28),
    )  # fmt: skip


def _asked(known: Row) -> str:
    return (
        f"{words.several(int(known['chips']), 'chip')} of this run were explained by "
        f"{len(_methods(known))} methods at {len(known['layers'])} depths, each for the city that the model names "
        "for it. All figures are means over chips; correlations are between two maps of one chip and have a sign."
    )


def _methods(known: Row) -> list[str]:
    return list(dict.fromkeys(str(row["method"]) for row in known["rows"]))


def _verdict(known: Row) -> Iterable[str]:
    """What the figures say of the method that is taken when none is named."""
    rows = [row for row in known["rows"] if row["method"] == known.get("default")]
    signed, plain = (_mean(rows, key) for key in ("head_shuffled", "head_shuffled_absolute"))
    if signed is None:
        return
    flips = plain is not None and plain > DOUBTFUL["head_shuffled_absolute"] >= signed
    hardly = signed > DOUBTFUL["head_shuffled"]
    depends = "hardly depend on" if hardly else "depend by their sign alone on" if flips else "depend on"
    yield (
        f"The maps of {known['default']} {depends} the classifier: when its inputs are shuffled, they correlate "
        f"{words.decimal(signed, 2)} with what they were, averaged over the depths."
    )
    if flips:
        yield (
            f"Without their sign they correlate {words.decimal(float(plain or 0), 2)}: the classifier decides "
            "whether the picture counts for the city or against it, and hardly what the picture is."
        )


def _figures(known: Row, shown: Mapping[str, tuple[str, str]]) -> str:
    rows = sorted(known["rows"], key=lambda row: row["method"] != known.get("default"))
    kinds: dict[tuple[int, int], str] = {}
    for number, row in enumerate(rows):
        kinds |= {(number, at): f"name{' chosen' * (row['method'] == known.get('default'))}" for at in range(2)}
        for at, (key, most) in enumerate((key, DOUBTFUL.get(key, float("inf"))) for key in shown):
            if (row.get(key) or 0) > most:
                kinds[number, at + 2] = "doubt"
    cells = [[str(row["method"]), str(row["layer"]), *(_text(row, key) for key in shown)] for row in rows]
    head = ["Method", "depth", *(name for name, _ in shown.values())]
    caption = f"{len(_methods(known))} methods at {len(known['layers'])} depths, {len(rows)} rows"
    return html.table(caption, head, cells, text=(0, 1), kinds=kinds)


def _stages(known: Row) -> str:
    """The figure's numbers."""
    stages = list(dict.fromkeys(stage for row in known["rows"] for stage in row.get("stages") or {}))
    rows = [
        [str(row["method"]), str(row["layer"]), *(words.decimal(row["stages"].get(stage), 2) for stage in stages)]
        for row in known["rows"]
        if row.get("stages")
    ]
    if not rows:
        return ""
    head = ["Method", "depth", *(f"{'' if at == 0 else '+ '}{stage}" for at, stage in enumerate(stages))]
    return html.table("Correlation with the trained model's map after these stages were forgotten", head, rows,
                      text=(0, 1))  # fmt: skip


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        return words.NONE
    if key == "conservation":
        return f"{value:.0e}"
    if key in ("average_drop", "average_increase"):
        return words.percent(value, 0)
    spread = row.get("head_shuffled_spread") if key == "head_shuffled" else None
    return words.decimal(value, 2) + ("" if spread is None else f" ± {words.decimal(spread, 2)}")


def _any(rows: Sequence[Row], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else None
