"""The report says of every saliency method how far it can be trusted, and of the default in a sentence."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from run_worlds import checked, world

from dlslicer_geo.report import sanity, write_report
from dlslicer_geo.report.evidence import Evidence

METHODS = (
    "relevance-cam", "relevance-cam-contrastive", "relevance-cam-margin", "grad-cam", "hires-cam", "layer-cam",
)  # fmt: skip
MADE = world(2)


def evidence(check: dict[str, Any] | None) -> Evidence:
    return Evidence(
        report=MADE.report, chips=MADE.chips, found=MADE.found, certificate=MADE.certificate, saliency_check=check
    )


def page(check: dict[str, Any] | None) -> str:
    return sanity.explanation(evidence(check), {})


def rows(text: str) -> list[list[str]]:
    """Cells of the first table, with their classes before them where they have some."""
    first = text.split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    return [re.findall(r"<td(.*?</)td>", row) for row in first.split("<tr>")[1:]]


def test_a_run_without_a_check_says_how_to_get_one() -> None:
    text = page(None)
    assert "A check of the saliency is not shown" in text and "explain --check makes one" in text
    assert sanity.forgetting(evidence(None)) is None


def test_the_default_comes_first_and_figures_against_a_method_are_marked() -> None:
    found = rows(page(checked()))
    assert [(row[0].split(">")[1][:-2], row[1].split(">")[1][:-2]) for row in found] == [
        (method, layer) for method in ("relevance-cam-margin", "relevance-cam") for layer in ("layer3", "layer4")
    ]
    assert ["chosen" in row[0] for row in found] == [True, True, False, False]
    assert ["doubt" in row[3] for row in found] == [False, False, True, True]
    assert sum(cell.count("doubt") for row in found for cell in row) == 2
    assert found[0][3] == ">−0.12 ± 0.07</"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "relevance-cam-margin depend on the classifier: when its inputs are shuffled, they correlate −0.12"),
        ({"head_shuffled": 0.97}, "relevance-cam-margin hardly depend on the classifier"),
        ({"head_shuffled_absolute": 0.98}, "Without their sign they correlate 0.98"),
        ({"head_shuffled": None}, "bold rows are the method"),
    ],
)
def test_the_default_is_judged_in_a_sentence(changes: dict[str, Any], said: str) -> None:
    text = unescape(page(checked(**changes)))
    assert said in text
    assert ("hardly what the picture is" in text) == ("head_shuffled_absolute" in changes)
    flips = "head_shuffled_absolute" in changes
    assert ("depend by their sign alone on the classifier:" in text) == flips
    assert ("depend on the classifier:" in text) == (changes.get("head_shuffled", 0) is not None and not flips)


def test_a_column_without_any_figure_is_left_out_and_one_null_is_a_dash() -> None:
    text = page(checked(conservation=None))
    assert '<th scope="col">twin</th>' not in text and "same recipe and another seed" not in text
    assert rows(text)[0][2] == ">–</" and rows(text)[2][2] == ">1e-07</"
    assert "twin</th>" in page(checked(twin=0.9))


def test_every_null_of_the_contract_can_be_shown() -> None:
    check = checked()
    for row in check["rows"]:
        row.update({key: None for key in row if key not in ("method", "layer", "stages")})
        row["stages"] = dict.fromkeys(row["stages"])
    assert rows(page(check))[0][2:] == []
    assert sanity.forgetting(evidence(check)) is not None


def test_names_and_notes_cannot_break_out_of_the_page() -> None:
    nasty = "<script>alert(1)</script>"
    check = checked() | {"notes": [nasty], "default": nasty}
    for row in check["rows"]:
        row["method"] = row["layer"] = nasty
    assert "<script" not in page(check)
    assert sanity.forgetting(evidence(check | {"rows": [row | {"method": "$x$"} for row in check["rows"]]}))


def test_the_figure_has_a_panel_per_depth_and_a_line_per_method_from_one_on() -> None:
    figure = sanity.forgetting(evidence(checked()))
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer3", "layer4"]
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
        assert list(lines) == ["relevance-cam", "relevance-cam-margin"]
        assert list(lines["relevance-cam-margin"].get_ydata()) == [1.0, -0.12, 0.2]  # type: ignore[arg-type]
        assert lines["relevance-cam-margin"].get_linewidth() > lines["relevance-cam"].get_linewidth()


@pytest.mark.browser
def test_the_whole_table_is_as_wide_as_the_page_and_shows_every_row(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    check = checked()
    check["layers"] = [f"layer{k}" for k in range(1, 5)]
    check["rows"] = [
        check["rows"][0] | {"method": method, "layer": layer, "twin": 0.51, "head_shuffled": -0.66}
        for method in METHODS
        for layer in check["layers"]
    ]
    path = write_report(
        tmp_path / "report.html", MADE.report, chips=MADE.chips, found=MADE.found, certificate=MADE.certificate,
        saliency_check=check,
    )  # fmt: skip
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = chromium.new_context(offline=True, viewport={"width": 1280, "height": 800}).new_page()
        shown.goto(path.as_uri())
        table = shown.locator("#sanity .scroll").first
        assert table.evaluate("e => e.scrollWidth <= e.clientWidth")
        assert table.evaluate("e => e.scrollHeight <= e.clientHeight"), "every baseline is seen without scrolling"
        chromium.close()
