"""Figures for papers: PNG and SVG, letters that can be read in print, and what the maps and squares show."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from run_worlds import ABLATION, World, checked, world

from dlslicer_geo.errors import LayerError
from dlslicer_geo.report import confidence, draw_similarity, likeness, maps, matrix, sanity, sites, style, whiskers
from dlslicer_geo.report.evidence import Evidence

NASTY = ("<img src=x onerror=alert(1)>", "</script>\"quote'", r"$\frac{$")


@pytest.fixture(scope="module")
def eight() -> World:
    return world(8)


def evidence(made: World, **options: Any) -> Evidence:
    return Evidence(report=made.report, chips=made.chips, found=made.found, certificate=made.certificate, **options)


def drawn(made: World) -> Figure:
    figure = sites.accuracy(evidence(made))
    assert figure is not None
    return figure


def dots(figure: Figure) -> list[Any]:
    """The dots of every map that have any."""
    return [mark for axes in figure.axes for mark in axes.collections if np.size(mark.get_offsets())]


def distances(number: int, seed: int = 0) -> pd.DataFrame:
    """Distances of cities on a line, in an order of chance."""
    at = np.random.default_rng(seed).permutation(number) / max(number, 2)
    names = [f"c{round(place * max(number, 2))}" for place in at]
    return pd.DataFrame(np.abs(at[:, None] - at[None]), index=names, columns=names)


def figures(made: World) -> dict[str, Figure | None]:
    shown = evidence(made, ablation=ABLATION, saliency_check=checked())
    return {
        "comparison": whiskers.comparison(shown), "cities": whiskers.cities(shown), "sites": sites.accuracy(shown),
        "errors": maps.errors(shown), "confusion": matrix.confusion(made.report, "truth"),
        "distance": whiskers.distances(shown), "ablation": whiskers.leaks(ABLATION),
        "calibration": confidence.reliability(shown), "unknown": confidence.scores_of_unknown(shown),
        "sanity": sanity.forgetting(shown), "similarity": likeness.similarity(distances(len(made.report.cities))),
    }  # fmt: skip


@pytest.mark.parametrize("number", [3, 12, pytest.param(45, marks=pytest.mark.slow)])
def test_no_letter_is_smaller_than_6_points_where_a_figure_is_printed(number: int) -> None:
    """A figure wider than a page would be made smaller, and its letters with it."""
    for name, figure in figures(world(number, sites=3, per_site=9)).items():
        assert figure is not None, name
        width, height = figure.get_size_inches()
        shrunk = min(1.0, 170 / 25.4 / width)
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) * shrunk > 5.9, name
        assert height * shrunk <= 285 / 25.4, f"{name} is no longer than a page"


def test_a_figure_is_png_of_300_dpi_and_svg_without_fonts_dates_or_references(eight: World, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        path = style.save(drawn(eight), tmp_path / folder / "sites.png")
    with Image.open(path) as picture:
        assert picture.width == int(300 * 170 / 25.4) and round(picture.info["dpi"][0]) == 300
        assert "Software" not in picture.info
    text = path.with_suffix(".svg").read_text(encoding="utf-8")
    assert "<text" not in text and "font-family" not in text, "letters are outlines: they need no font"
    assert not re.search(r"<dc:date>|<dc:title>Matplotlib|20\d\d-\d\d-\d\d", text)
    assert not re.findall(r'(?:href|src)="(?!#|data:image/png)', text) and "<script" not in text
    for kind in style.KINDS:
        one, two = ((tmp_path / folder / f"sites.{kind}").read_bytes() for folder in ("a", "b"))
        assert one == two


def test_names_of_cities_are_text_in_every_figure(tmp_path: Path) -> None:
    made = world(3)
    names = dict(zip(made.report.cities, NASTY, strict=True))
    metrics = {**made.report.metrics, "per_city": {}, "order": list(NASTY)}
    found = dataclasses.replace(made.found, cities=NASTY, truth=tuple(names[str(city)] for city in made.found.truth))
    odd = made._replace(found=found, report=dataclasses.replace(made.report, metrics=metrics, cities=NASTY))
    square = pd.DataFrame(1 - np.eye(3), index=list(NASTY), columns=list(NASTY))
    for figure in (drawn(odd), matrix.confusion(odd.report, "truth"), likeness.similarity(square)):
        text = style.save(figure, tmp_path / "a.png").with_suffix(".svg").read_text(encoding="utf-8")
        assert "<img" not in text and "</script" not in text and "onerror=alert(1)>" not in text


def test_the_map_of_accuracy_shows_every_site_with_its_accuracy_and_its_chips(eight: World) -> None:
    figure = drawn(eight)
    sizes, shares = [], []
    for marks in dots(figure):
        sizes += marks.get_sizes().tolist()
        shares += np.asarray(marks.get_array()).tolist()
    per_site = eight.report.metrics["per_site"]
    assert sorted(shares) == pytest.approx(sorted(site["accuracy"] for site in per_site))
    assert set(np.round(sizes, 6)) == {sites.LARGE**2}, "all sites have 25 chips"
    said = [text.get_text() for axes in figure.axes for text in (axes.title, *axes.texts, axes.get_children()[0])
            if isinstance(text, Text)]  # fmt: skip
    assert "100 chips" in said


def test_a_dot_is_darker_the_more_of_its_chips_are_right(eight: World) -> None:
    for answers, colour in ((np.eye(8)[[0] * 800], None), (None, style.SHARES[-1])):
        truth = [eight.report.cities.index(str(city)) for city in eight.found.truth]
        share = np.eye(8)[truth] if answers is None else answers
        made = eight._replace(found=dataclasses.replace(eight.found, probabilities=share.astype(np.float32)))
        figure = drawn(made)
        figure.draw_without_rendering()
        faces = [{to_hex(face) for face in marks.get_facecolors()} for marks in dots(figure)]
        assert faces[0] == {style.SHARES[-1]} and faces[1] == {colour or style.SHARES[0]}


def test_chips_of_unknown_city_are_on_no_map_and_approximate_sites_are_squares(eight: World) -> None:
    truth = [None if city == "chico" else city for city in eight.found.truth]
    found = dataclasses.replace(eight.found, truth=tuple(truth))
    chips = eight.chips.assign(approximate=(eight.chips["city"] == "eureka").to_numpy())
    figure = drawn(eight._replace(found=found, chips=chips))
    assert len(dots(figure)) == 7
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "approximate position" in said
    corners = [len(marks.get_paths()[0].vertices) for marks in dots(figure)]
    assert sum(number == 5 for number in corners) == 1


def test_a_city_of_one_site_and_one_scene_is_drawn_by_blocks_of_its_ground() -> None:
    made = world(2, sites=3, per_site=400)
    figure = drawn(made._replace(chips=made.chips.assign(site="a", scene_id="s")))
    blocks = [len(marks.get_offsets()) for marks in dots(figure)]
    assert all(sites.BLOCKS**2 / 2 < number <= sites.BLOCKS**2 for number in blocks)
    said = [axes.get_title(loc="left").split(", ")[1] for axes in figure.axes]
    assert said == [f"{number} blocks" for number in blocks]


def test_alike_cities_stand_side_by_side_whatever_order_they_came_in() -> None:
    table = distances(20, seed=3)
    order = likeness.alike(table.to_numpy())
    places = [int(str(table.index[at])[1:]) for at in order]
    assert places in (list(range(20)), list(range(19, -1, -1)))


@pytest.mark.parametrize("number", [2, 12, 45])
def test_the_square_of_cities_has_a_number_in_every_cell_but_the_diagonal(number: int) -> None:
    figure = likeness.similarity(distances(number))
    written = [text.get_text() for text in figure.axes[0].texts]
    assert len(written) == number * (number - 1)
    assert max(map(len, written)) == (4 if number <= 12 else 2), "two digits are what fits into a small cell"


def test_one_city_is_like_nothing(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="1 cities: at least 2 are needed"):
        draw_similarity(distances(1), tmp_path / "s.png")
    assert draw_similarity(distances(2), tmp_path / "s.png").with_suffix(".svg").exists()
