from __future__ import annotations

import copy
import dataclasses
import io
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_worlds import ABLATION, EIGHT, World, checked, left_out, world

from dlslicer_geo.errors import LayerError
from dlslicer_geo.report import FIGURES, confidence, draw_ablation, draw_confusion, maps, matrix, style, write_report
from dlslicer_geo.report.evidence import Evidence
from dlslicer_geo.report.page import compose
from dlslicer_geo.types import Predictions, Report

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def eight() -> World:
    return world(8)


@pytest.fixture(scope="module")
def three() -> World:
    return world(3)


@pytest.fixture(scope="module")
def whole(three: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page that has every part but a comparison; tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    written(folder, three, ablation=ABLATION, leave_city_out=left_out(three.report.cities), saliency_check=checked())
    return folder


def with_metrics(made: World, **changes: Any) -> World:
    return made._replace(report=dataclasses.replace(made.report, metrics={**made.report.metrics, **changes}))


def written(folder: Path, made: World, **options: Any) -> str:
    path = write_report(
        folder / "report.html",
        made.report,
        chips=made.chips,
        found=made.found,
        certificate=made.certificate,
        **options,
    )
    return path.read_text(encoding="utf-8")


def evidence(made: World, **options: Any) -> Evidence:
    return Evidence(
        report=made.report, chips=made.chips, found=made.found, certificate=made.certificate, **options
    )  # fmt: skip


def said(made: World, **options: Any) -> str:
    """What a reader sees of a page whose pictures are not drawn, which takes longest."""
    return plain(compose(evidence(made, **options), {}, "A title"))


def drawn_map(made: World, path: Path) -> Any:
    """Pixels of the map."""
    figure = maps.errors(evidence(made))
    assert figure is not None
    path.write_bytes(style.png(figure))
    return pixels(path)


def plain(text: str) -> str:
    """What a reader sees of a page, without its pictures."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", text)))


def pixels(path: Path) -> Any:
    with Image.open(path) as drawn:
        return np.asarray(drawn.convert("RGB")).astype(int)


def near(drawn: Any, colour: tuple[int, int, int]) -> int:
    """Pixels of about a colour."""
    return int((np.abs(drawn - colour).max(axis=-1) < 12).sum())


BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def test_the_first_sentence_has_the_number_its_interval_and_what_is_cheap(eight: World) -> None:
    cheap = {name: {"accuracy": share} for name, share in (("most_frequent", 0.125), ("colour", 0.325))}
    text = said(with_metrics(eight, accuracy=0.8345, accuracy_interval=[0.801, 0.862], baselines=cheap))
    assert (
        "On 800 chips of 32 sites that the model never saw, it names the right one of 8 cities in 83.5 % (95 % "
        "interval 80.1–86.2 %); always guessing the most frequent city gives 12.5 %, colour alone 32.5 %, "
        "chance 12.5 %."
    ) in text
    assert "This split leaks" not in text and "Positions are approximate" not in text


def test_sites_that_were_joined_are_not_counted_as_sites(eight: World) -> None:
    assert "On 800 chips of 32 sites, which make up 7 units, that the model" in said(with_metrics(eight, n_units=7))


def test_a_leaking_split_is_said_loudly_and_no_chip_is_called_unseen(three: World) -> None:
    leaking = {**three.certificate, "proven": False, "shared_pixels": 81234, "shared_ground_m2": 1.5e6}
    text = said(three._replace(certificate=leaking))
    assert "This split leaks: pairs of chips in two splits share 81,234 pixels, 1,500,000 m² of ground." in text
    assert "that the model never saw, it" not in text and "not proven to be new to the model" in text
    assert "do not quote these scores" in text and "share no pixel" not in text
    silent = {key: value for key, value in three.certificate.items() if key != "proven"}
    text = said(three._replace(certificate=silent))
    assert "Nobody has proven that this split is disjoint" in text and "that the model never saw, it" not in text


@pytest.mark.parametrize(("split", "words"), [("train", "was trained on, it"), ("all", "trained on included, it")])
def test_chips_that_were_trained_on_are_never_called_unseen(split: str, words: str, three: World) -> None:
    text = said(with_metrics(three, split=split))
    assert words in text and "never saw, it" not in text


def test_approximate_positions_are_said_and_get_no_map(three: World) -> None:
    certificate = {
        **three.certificate, "approximate_chips": 2400, "shared_ground_m2": None, "approximate_note": "no ground",
        "min_distance_m": {"overall": None, "per_city": {}},
    }  # fmt: skip
    made = three._replace(certificate=certificate, chips=three.chips.assign(approximate=True))
    text = said(made)
    assert "Positions are approximate: 2,400 chips lie only somewhere in their city" in text
    assert "shared ground not known" in text
    assert "A map is not shown" in text and maps.errors(evidence(made)) is None


def test_the_certificate_and_the_rule_are_spelt_out(eight: World) -> None:
    text = said(eight)
    assert "All images of a site stay in one split" in text and "Chips nearer than 500 m" in text
    assert "nearer than 500 m to val or test 41" in text
    assert "shared pixels 0" in text and "shared ground 0 m²" in text and "3d2ae6c2" * 8 in text
    assert "chico 200 0 100 0 512 m" in text and "all cities 1,600 0 800 0" in text
    assert "dlslicer-geo verify RUN" in text


def test_parts_that_are_absent_are_left_out_with_a_sentence_and_old_figures_go(
    three: World, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    full = (whole / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(FIGURES)
    assert full.count("<img") == len(FIGURES) / 2, "the page shows the PNG of each"
    (tmp_path / "figures" / "gallery.png").write_bytes(b"of another station")
    bare = {"split", "n", "accuracy"}
    report = Report(
        metrics={key: value for key, value in three.report.metrics.items() if key in bare},
        confusion=three.report.confusion, cities=three.report.cities,
    )  # fmt: skip
    text = plain(written(tmp_path, three._replace(report=report, certificate={})))
    for part in (
        "Calibration", "An answer of unknown", "A comparison", "What a leak would have been worth", "Provenance",
        "How well chips of a city that was never learnt", "What is cheap to have", "What chips of a scene or site",
        "A check of the saliency",
    ):  # fmt: skip
        assert re.search(rf"{part}[^.]* (is|are) not shown: ", text), part
    kept = {path.name for path in (tmp_path / "figures").iterdir()}
    gone = {f"{name}.{kind}" for name in ("ablation", "calibration") for kind in ("png", "svg")}
    assert not gone & kept and {"gallery.png", "confusion.png", "confusion.svg"} <= kept


def test_every_null_of_the_contract_can_be_shown(three: World, tmp_path: Path) -> None:
    metrics = copy.deepcopy(three.report.metrics)
    nothing = {"n": 0, "n_sites": 0, "accuracy": None, "interval": None, "precision": None, "f1": None}
    metrics["per_city"]["chico"] = nothing
    metrics["baselines"] = {"most_frequent": None, "colour": None}
    metrics["probes"], metrics["votes"]["scene"] = {}, None
    metrics |= {"accuracy_interval": None, "intervals": {}, "unknown": None, "distance": None, "top5_accuracy": None}
    text = plain(written(tmp_path, three._replace(report=dataclasses.replace(three.report, metrics=metrics))))
    assert "an interval cannot be had" in text and "Cities without a scored chip: chico" in text
    assert "None" not in text and "nan" not in re.split(r"\W+", text)


def test_the_comparison_with_another_run_has_difference_interval_and_p(three: World) -> None:
    against = {
        "name": NASTY, "n": 800, "accuracy": 0.66, "other_accuracy": 0.7, "difference": -0.04,
        "interval": [-0.07, -0.012], "p": 0.013, "mcnemar": {"only_this": 20, "only_other": 52, "p": 0.0002},
    }  # fmt: skip
    raw = compose(evidence(with_metrics(three, against=against)), {}, "A title")
    text = plain(raw)
    assert "−4.0 points" in text and "−7.0 to −1.2" in text and "p = 0.013" in text and "p < 0.001" in text
    assert "<script" not in raw


def test_nothing_that_came_from_data_can_break_out_of_the_page_or_of_a_figure(tmp_path: Path) -> None:
    """Dollar signs are formulas to matplotlib, and letters that its font lacks are warnings."""
    made = world(3)
    codes = (f'{NASTY}"&', r"$\frac{$", "北京\n")
    rename = dict(zip(made.report.cities, codes, strict=True))
    metrics = copy.deepcopy(made.report.metrics)
    metrics["per_city"] = {rename[code]: entry for code, entry in metrics["per_city"].items()}
    for entry in metrics["per_site"]:
        entry.update(city=rename[entry["city"]], site=NASTY)
    for entry in metrics["most_confused"]:
        entry.update(truth=rename[entry["truth"]], predicted=rename[entry["predicted"]])
    metrics |= {"order": list(codes), "caveats": [NASTY], "probes": {NASTY: metrics["probes"]["grey"]}}
    metrics["interval"] = {**metrics["interval"], "unit": NASTY, "method": NASTY}
    found = dataclasses.replace(made.found, cities=codes, truth=tuple(rename[c] for c in made.found.truth if c))
    certificate = {
        **made.certificate, "rule": {"kind": "given", "given": NASTY}, "dropped": {NASTY: 1},
        "chips": {NASTY: {"train": 1}}, "approximate_note": NASTY,
    }  # fmt: skip
    ablation = {"rows": [{**ABLATION["rows"][0], "name": NASTY}], "note": NASTY}
    text = write_report(
        tmp_path / "report.html", Report(metrics=metrics, confusion=made.report.confusion, cities=codes),
        chips=made.chips, found=found, certificate=certificate, provenance={NASTY: NASTY}, names={codes[0]: NASTY},
        leave_city_out=left_out(codes), ablation=ablation, title=NASTY,
    ).read_text(encoding="utf-8")  # fmt: skip
    assert "<script" not in text and text.count("&lt;script&gt;") >= 20


def test_the_page_carries_everything_and_forbids_itself_to_load_more(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert {found[:22] for found in re.findall(r'src="([^"]*)', text)} == {"data:image/png;base64,"}
    assert all(link.startswith(("#", "data:,")) for link in re.findall(r'href="([^"]*)', text)) and "url(" not in text
    assert all(len(alt) > 20 for alt in re.findall(r'alt="([^"]*)', text)) and text.count(' alt="') == text.count(
        "<img"
    )


def test_the_same_evidence_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    again = world(3)
    written(
        tmp_path, again, ablation=ABLATION, leave_city_out=left_out(again.report.cities), saliency_check=checked()
    )
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.*"))}
        for folder in (whole, tmp_path)
    )
    assert one == two and len(one) == 1 + len(FIGURES)


@pytest.mark.slow
def test_a_page_of_45_cities_stays_below_5_megabytes(tmp_path: Path) -> None:
    made = world(45, sites=3, per_site=9)
    text = written(tmp_path, made, leave_city_out=left_out(made.report.cities), ablation=ABLATION)
    assert len(text) < 5_000_000
    assert all(code in text for code in made.report.cities)


def test_reports_that_do_not_fit_are_refused(eight: World, tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="100 of 800 predicted chips are not in the chip table"):
        written(tmp_path, eight._replace(chips=eight.chips[eight.chips["city"] != "chico"]))
    with pytest.raises(LayerError, match="no accuracy: score the predictions again"):
        written(tmp_path, with_metrics(eight, accuracy=None))
    with pytest.raises(LayerError, match="normalise is 'all': take truth or predicted"):
        draw_confusion(eight.report, tmp_path / "c.png", normalise="all")  # type: ignore[arg-type]
    with pytest.raises(LayerError, match="no city"):
        draw_confusion(Report(metrics={}, confusion=np.zeros((0, 0), np.int64), cities=()), tmp_path / "c.png")
    with pytest.raises(LayerError, match="no rows"):
        draw_ablation({"rows": []}, tmp_path / "a.png")


@pytest.mark.parametrize("number", [8, 45])
def test_the_confusion_figure_grows_with_the_classes(number: int) -> None:
    counts = np.random.default_rng(0).poisson(1, (number, number)) + np.diag(np.full(number, 60))
    codes = tuple(f"city {i}" for i in range(number))
    figure = matrix.confusion(Report(metrics={}, confusion=counts.astype(np.int64), cities=codes), "truth")
    with Image.open(io.BytesIO(style.png(figure))) as drawn:
        assert drawn.width > (1000 if number == 8 else 1900)
        assert "Software" not in drawn.info


def test_the_two_normalisations_differ_and_the_order_of_the_metrics_is_used() -> None:
    counts = np.array([[10, 90, 0], [0, 10, 0], [0, 0, 50]])
    bare = Report(metrics={}, confusion=counts, cities=("a", "b", "c"))
    ordered = dataclasses.replace(bare, metrics={"order": ["c", "b", "a"]})
    odd = dataclasses.replace(bare, metrics={"order": ["c", "b"]})
    one = style.png(matrix.confusion(bare, "truth"))
    assert style.png(matrix.confusion(bare, "predicted")) != one
    assert style.png(matrix.confusion(ordered, "truth")) != one
    assert style.png(matrix.confusion(odd, "truth")) == one, "an order of other cities is not used"


def test_the_map_is_blue_where_it_is_right_and_orange_where_it_is_wrong(eight: World, tmp_path: Path) -> None:
    mixed = drawn_map(eight, tmp_path / "mixed.png")
    sure = dataclasses.replace(
        eight.found, probabilities=np.eye(8, dtype=np.float32)[[EIGHT.index(str(city)) for city in eight.found.truth]]
    )
    right = drawn_map(eight._replace(found=sure), tmp_path / "right.png")
    assert near(mixed, ORANGE) > 10 * near(right, ORANGE) and near(right, BLUE) > 1.2 * near(mixed, BLUE)


def test_chips_on_one_dot_are_drawn_as_often_wrong_as_they_are(tmp_path: Path) -> None:
    """Drawn one over the other, a tenth of wrong chips would hide all right ones, or none of them be seen."""
    made = world(1, sites=600, per_site=9, rivals=False)
    test = made.chips["split"] == "test"
    cities = ("chico", "other")
    random = np.random.default_rng(3)
    wrong = random.random(int(test.sum())) < 0.3
    found = Predictions(
        cities=cities, chip_id=made.found.chip_id, scene_id=made.found.scene_id, truth=made.found.truth,
        probabilities=np.eye(2, dtype=np.float32)[wrong.astype(int)],
    )  # fmt: skip
    drawn = drawn_map(made._replace(found=found), tmp_path / "errors.png")
    assert near(drawn, ORANGE) / (near(drawn, ORANGE) + near(drawn, BLUE)) == pytest.approx(0.3, abs=0.06)


def test_only_drawn_chips_are_on_the_map_where_chips_were_drawn(eight: World, tmp_path: Path) -> None:
    before = drawn_map(eight, tmp_path / "before.png")
    drawn = {"per_city": 1, "seed": 0, "n_before": 800, "chip_ids": eight.found.chip_id[::100].tolist()}
    made = with_metrics(eight, drawn=drawn)
    assert "Scored were 1 chips of each city, drawn with seed 0 from 800 chips." in said(made)
    after = drawn_map(made, tmp_path / "after.png")
    assert near(after, BLUE) + near(after, ORANGE) < 0.5 * (near(before, BLUE) + near(before, ORANGE))


def test_a_model_without_a_temperature_has_one_diagram_and_no_before(eight: World) -> None:
    calibration = {**eight.report.metrics["calibration"], "temperature": 1.0}
    made = with_metrics(eight, calibration=calibration)
    one, two = confidence.reliability(evidence(made)), confidence.reliability(evidence(eight))
    assert one is not None and two is not None
    assert (len(one.axes), len(two.axes)) == (2, 4)
    text = said(made)
    assert "Confidence is as the network was trained" in text and "went from" not in text and "before" not in text
    assert "softmax was divided by 1.60, the temperature" in said(eight)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.94, 1.5])
def test_bars_beyond_the_threshold_are_orange_and_hold_the_chips_called_unknown(share: float, eight: World) -> None:
    scores = eight.found.unknown_scores["energy"].astype(float)
    threshold = float(np.float32(scores.min() - 0.01 + share * np.ptp(scores)))
    found = dataclasses.replace(eight.found, threshold=threshold)
    made = with_metrics(eight, unknown={**eight.report.metrics["unknown"], "threshold": threshold})
    figure = confidence.scores_of_unknown(evidence(made._replace(found=found)))
    assert figure is not None
    heights = {True: 0.0, False: 0.0}
    bars: list[Any] = list(figure.axes[0].patches)
    for bar in bars:
        heights[tuple(round(255 * part) for part in bar.get_facecolor()[:3]) == ORANGE] += bar.get_height()
    assert heights == {True: found.unknown.sum(), False: 800 - found.unknown.sum()}


def test_cities_left_out_in_turn_are_listed_with_what_was_called_unknown(three: World) -> None:
    known = left_out(three.report.cities)
    known["per_city"]["chico"] |= {"refused": 0.123, "n": 4321}
    text = said(three, leave_city_out=known)
    assert re.search(r"chico 4,321 0\.\d{3} .* 12\.3 % claremont 300", text)
    assert f"tells them from known ones with AUROC {known['auroc']:.3f}" in text


def test_a_negative_threshold_has_a_minus_and_nothing_is_minus_zero(three: World) -> None:
    metrics = copy.deepcopy(three.report.metrics)
    metrics["calibration"]["nll"], metrics["unknown"]["threshold"] = -0.0, -2.43
    metrics["probes"]["grey"]["drop"] = {"accuracy": -0.0001, "interval": [-0.0002, 0.01]}
    text = said(with_metrics(three, **metrics))
    assert "unknown above −2.430." in text and "+0.0 points" in text and "−0.0" not in text and "-0.0" not in text


def test_leaking_splits_are_marked_in_the_figure_of_leaks(tmp_path: Path) -> None:
    honest = {"rows": [{**row, "proven": True} for row in ABLATION["rows"]]}
    assert near(pixels(draw_ablation(ABLATION, tmp_path / "a.png")), ORANGE) > 50
    assert near(pixels(draw_ablation(honest, tmp_path / "b.png")), ORANGE) == 0


@pytest.mark.slow
def test_half_a_million_chips_are_drawn_in_under_a_minute_of_one_core(tmp_path: Path) -> None:
    """Of one core's own time: what else the machine does is not counted."""
    from time import process_time

    made = world(45, sites=35, per_site=361, rivals=False)
    start = process_time()
    written(tmp_path, made)
    seconds = process_time() - start
    print(f"{len(made.chips):,} chips, {len(made.found):,} scored: {seconds:.1f} s")
    assert len(made.chips) > 560_000 and seconds < 60


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_window_and_shows_every_figure(width: int, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    made = world(45, sites=6)
    written(
        tmp_path,
        made,
        leave_city_out=left_out(made.report.cities),
        ablation=ABLATION,
        title="a" * 90,
        saliency_check=checked(),
    )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_context(offline=True, java_script_enabled=True).new_page()
        page.set_viewport_size({"width": width, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.evaluate("[...document.images].map(i => i.naturalWidth > 300 && i.getBoundingClientRect().width)")
        assert len(wide) == len(FIGURES) / 2 and min(wide) >= 350, "text in a figure stays large enough to be read"
        page.locator("nav a", has_text="Confusion").click()
        assert page.locator("#confusion:target").count() == 1
        chromium.close()
    assert said == []
