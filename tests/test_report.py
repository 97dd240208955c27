"""The report of scenes says what to look at, by rules that it states, and loads nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import box

from dlslicer_geo.scenes.review.alike import Overlap, Pair
from dlslicer_geo.scenes.review.findings import Finding, area_text, findings
from dlslicer_geo.scenes.review.report import CARDS, write_report
from dlslicer_geo.types import ChipGrid

GRID = ChipGrid(size=480, stride=240, metres=200.0)
NASTY = "<script>alert(1)</script>"


def table(number: int = 1, **columns: Any) -> gpd.GeoDataFrame:
    """Scenes ``s0000``, ``s0001`` ... of Almaty with nothing wrong about them; a column may be given anew."""
    names = [f"s{at:04d}" for at in range(number)]
    plain: dict[str, Any] = {
        "scene_id": names, "city": "ALA", "city_name": "Almaty", "site": [f"site{at % 3}" for at in range(number)],
        "acquired": "2020-06-01", "width": 4800, "height": 4800, "dtype": "uint8", "gsd_m": 200 / 480,
        "georef": "sidecar", "accuracy_m": 3.0, "valid_fraction": 1.0, "holes_fraction": 0.0, "blur": 1e-3,
        "saturated_fraction": 0.001, "prepared": None,
    }  # fmt: skip
    outlines = [box(76 + 0.1 * at, 43, 76.02 + 0.1 * at, 43.02) for at in range(number)]
    return gpd.GeoDataFrame({**plain, **columns}, geometry=outlines, crs="EPSG:4326", index=range(number))


def found_in(scenes: gpd.GeoDataFrame, grid: ChipGrid = GRID, **options: Any) -> dict[str, Finding]:
    given = {"duplicates": [], "overlaps": [], **options}
    return {finding.flag: finding for finding in findings(scenes, grid=grid, **given)}


def written(path: Path, scenes: gpd.GeoDataFrame, **options: Any) -> str:
    given: dict[str, Any] = {
        "thumbnails": {}, "duplicates": [], "overlaps": [], "rejected": [], "grid": GRID, "title": "Scenes",
    }  # fmt: skip
    assert write_report(path, scenes, **{**given, **options}) == path
    return path.read_text(encoding="utf-8")


def with_value(number: int, usual: Any, odd: Any, at: int = 0) -> list[Any]:
    return [odd if place == at else usual for place in range(number)]


def test_scenes_without_fault_give_no_finding(tmp_path: Path) -> None:
    assert found_in(table(30)) == {}
    assert "no rule of this page found anything" in written(tmp_path / "scenes.html", table(30))


@pytest.mark.parametrize(
    ("column", "usual", "odd", "flag", "text"),
    [
        ("valid_fraction", 0.9, 0.8994, "gaps", "89.9 % valid"),
        ("holes_fraction", 0.0, 0.0107, "holes", "1.1 % in holes"),
        ("blur", 1e-3, 1e-5, "blurred", "1 % of the usual sharpness"),
        ("saturated_fraction", 0.05, 0.31, "exposure", "31 % black or white"),
        ("gsd_m", 200 / 480, 1.0, "coarse", "enlarged 2.4 times"),
        ("height", 4800, 5000, "odd size", "4800 × 5000 px"),
        ("acquired", "2020", None, "no date", "no date"),
        ("georef", "geotiff", "approximate", "approximate", "within 0.003 km"),
        ("georef", "geotiff", "exif", "approximate", "within 0.003 km"),
    ],
)
def test_each_rule_finds_the_one_odd_scene(column: str, usual: Any, odd: Any, flag: str, text: str) -> None:
    found = found_in(table(12, **{column: with_value(12, usual, odd, at=7)}))
    assert list(found) == [flag]
    assert [(item.scenes, item.text) for item in found[flag].items] == [(("s0007",), text)]


def test_sharpness_is_compared_with_scenes_of_the_same_kind_only() -> None:
    """A coarse sensor is not blurred because it differs from a fine one, and a few scenes tell nothing."""
    gsd = [0.4] * 20 + [30.0] * 3
    scenes = table(23, gsd_m=gsd, blur=[1e-3] * 20 + [1e-6] * 3)
    assert "blurred" not in found_in(scenes)
    spread = table(40, blur=(10 ** np.linspace(-5, -2, 40)).tolist())
    assert "blurred" not in found_in(spread), "a data set as varied as this has no usual sharpness"


def test_chips_of_few_pixels_may_miss_their_promise() -> None:
    found = found_in(table(3, gsd_m=[1.0, 1.3, 1.25]), ChipGrid(size=20, stride=10, metres=20.0))
    assert [(item.scenes, item.text) for item in found["inexact"].items] == [(("s0001",), "2.5 % off")]
    assert found_in(table(1, gsd_m=[9.0]), ChipGrid(size=64, stride=64, metres=None)) == {}


def test_sizes_are_odd_only_where_one_is_usual() -> None:
    assert found_in(table(4, width=[1, 2, 3, 4])) == {}
    assert len(found_in(table(5, width=[9, 9, 9, 8, 7]))["odd size"].items) == 2


def test_overlaps_at_another_date_are_told_from_others() -> None:
    scenes = table(4, acquired=["2018", "2020", "2020", None])
    pairs = [("s0000", "s0001", 0.9), ("s0001", "s0002", 0.9), ("s0000", "s0002", 0.2), ("s0002", "s0003", 0.9)]
    overlaps = [Overlap(one=one, two=two, area_m2=1234.0, share=share) for one, two, share in pairs]
    found = found_in(scenes, overlaps=overlaps)
    assert [item.scenes for item in found["repeat"].items] == [("s0000", "s0001")]
    assert found["overlap"].items[0].text == "1,234 m², 90 % of the smaller one"
    assert {item.scenes for item in found["overlap"].items} == {pair[:2] for pair in pairs[1:]}
    assert found["overlap"].grave and not found["repeat"].grave


def test_areas_have_the_unit_that_suits_them() -> None:
    assert [area_text(area) for area in (950.4, 99_999, 4.2e6, 3.1e9)] == [
        "950 m²", "99,999 m²", "4.20 km²", "3,100 km²",
    ]  # fmt: skip


def test_names_reasons_and_titles_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    nasty = {
        name: with_value(3, "a", f'{NASTY}"&') for name in ("city_name", "site", "acquired", "georef", "prepared")
    }
    scenes = table(3, scene_id=[f"{NASTY}'", "b", "c"], **nasty)
    text = written(
        tmp_path / "scenes.html", scenes, title=NASTY, rejected=[{"path": f"/{NASTY}.jpg", "reason": NASTY}],
        duplicates=[Pair(one=f"{NASTY}'", two="b", kind="identical", correlation=1.0)],
    )  # fmt: skip
    assert "<script" not in text and text.count("&lt;script&gt;") >= 10


def test_the_page_loads_nothing_and_forbids_it(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 60, 3), dtype=np.uint8)
    text = written(tmp_path / "scenes.html", table(2), thumbnails={"s0001": picture})
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert [found[:16] for found in re.findall(r'src="([^"]*)', text)] == ["data:image/webp;"]
    assert set(re.findall(r'href="([^"#]*)', text)) <= {"data:,", ""} and "url(" not in text
    assert text.count("no picture") == 1


def test_the_same_scenes_give_the_same_bytes(tmp_path: Path) -> None:
    scenes = table(9, valid_fraction=with_value(9, 1.0, 0.2, at=4))
    one, two = (written(tmp_path / f"{name}.html", scenes) for name in "ab")
    assert one == two


def test_scenes_with_findings_come_first_and_every_item_links_to_its_card(tmp_path: Path) -> None:
    scenes = table(9, valid_fraction=with_value(9, 1.0, 0.2, at=4), acquired=with_value(9, "2020", None, at=7))
    text = written(tmp_path / "scenes.html", scenes)
    order = re.findall(r"<h4>(s\d+)</h4>", text)
    assert order == ["s0004", "s0007", *(f"s000{at}" for at in (0, 1, 2, 3, 5, 6, 8))]
    links = dict(re.findall(r'<a href="#(s\d+)">(s\d{4})</a>', text))
    cards = dict(re.findall(r'<figure id="(s\d+)">.*?<h4>(.*?)</h4>', text))
    assert links == {"s0": "s0004", "s1": "s0007"} and links.items() <= cards.items()


def test_approximate_scenes_are_marked_on_their_card_and_at_the_head(tmp_path: Path) -> None:
    """Also where most are: what is said of positions must not go missing because it is common."""
    kinds = ["approximate"] * 8 + ["geotiff"]
    text = written(tmp_path / "scenes.html", table(9, georef=kinds, accuracy_m=[8000.0] * 8 + [None]))
    assert "8 of 9 scenes lie only somewhere in their city" in text
    assert text.count('class=vague><i class="blank">') == 8 and text.count("approximate ± 8 km") == 8


def test_what_most_scenes_share_is_listed_but_marks_no_card(tmp_path: Path) -> None:
    text = written(tmp_path / "scenes.html", table(9, acquired=[None] * 9))
    assert "<b>9</b> No date" in text and "<em" not in text and "3 more" in text


def test_head_and_rejected_files_are_counted(tmp_path: Path) -> None:
    scenes = table(4, city=["ALA", "ALA", "ESB", None], acquired=["2018", "2020-05", None, "2019"])
    rejected = [{"path": f"/data/{at}.jpg", "reason": "it has no CRS: give one"} for at in range(700)]
    text = written(tmp_path / "scenes.html", scenes, rejected=rejected)
    head = re.findall(r"<dd>(.*?)</dd><dt>(.*?)</dt>", text)
    assert head[:3] == [("4", "scenes"), ("2", "cities"), ("4", "sites")]
    assert head[3][0].endswith("km²") and 14 < float(head[3][0].split()[0]) < 15
    assert head[4:] == [("0.417 m", "per pixel on the ground"), ("2018 – 2020-05", "taken")]
    assert "700 files" in text and text.count("it has no CRS") == 500 and "200 more, which the log names" in text


def test_a_page_of_very_many_scenes_stays_small_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    number = CARDS + 500
    noise = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), dtype=np.uint8)
    odd = with_value(number, 1.0, 0.3, at=number - 1)
    pairs = [Pair(one="s0000", two=f"s{at:04d}", kind="near", correlation=0.99) for at in range(1, 200)]
    text = written(
        tmp_path / "scenes.html", table(number, valid_fraction=odd), duplicates=pairs,
        thumbnails={f"s{at:04d}": noise[at % 8] for at in range(number)},
    )  # fmt: skip
    assert len(text) < 8 << 20
    assert text.count("<figure") == CARDS and f"<h4>s{number - 1}</h4>" in text
    assert "500 scenes without a card are left out here; the table has all 2,500" in text
    assert "and 139 more: see the table" in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_window_and_a_link_leads_to_its_card(width: int, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    long = "a_name_without_end" * 6
    scenes = table(
        40, scene_id=[*(f"s{at:04d}" for at in range(39)), long], acquired=with_value(40, "2020", None, 39)
    )
    written(tmp_path / "scenes.html", scenes, rejected=[{"path": "/x" * 90, "reason": "it has no CRS"}])
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": width, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto((tmp_path / "scenes.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("article a").first.click()
        assert page.locator("figure:target h4").inner_text() == long
        page.screenshot(path=tmp_path / "scenes.png")
        chromium.close()
    assert said == []
