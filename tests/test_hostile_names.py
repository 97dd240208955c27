"""Cities, sites and files with names that want out: nothing leaves the run folder, and everything stays text."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import pytest
import towns
from pystac.validation import validate_dict
from stac_schemas import no_network, validator

from dlslicer_geo.cli import main

pytestmark = pytest.mark.slow

CITIES = {
    "almaty": "../../../x",
    "bishop": '<img src=x onerror="boom()">',
    "new_york": "</script><script>boom()</script> 'quote' $\\formula$ ]]> &amp; 100%",
}
SITES = ("../../../site", "..", "<svg onload=boom()>", "%s{0}\u202e\t")


class Page(HTMLParser):
    """Tags and attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[str] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attrs]
        self._inside = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)
            self._inside = False


def files_in(folder: Path) -> set[Path]:
    return {Path(place) / name for place, _, names in os.walk(folder) for name in names}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over hostile names, in a folder so deep that what gets out of it is still seen."""
    top = tmp_path_factory.mktemp("top")
    home = top / "a" / "b" / "c"
    experiment = towns.build(home, pixels=96)
    experiment.write_text(
        towns.EXPERIMENT.replace("embedding: false", "embedding: true") + "explain: {per_city: 1}\n"
    )
    rows = []
    for number, path in enumerate(sorted((home / "scenes").iterdir())):
        town, site = next(t for t in CITIES if path.name.startswith(t)), SITES[number % len(SITES)]
        name = path.rename(path.with_name(f"<b onclick=boom()>'\"{number};$(touch x).tif")).name
        rows.append({"file": name, "city": CITIES[town], "city_name": CITIES[town], "site": site, "date": "2020"})
    with (home / "scenes" / "scenes.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    before = files_in(top)
    assert main(["run", str(experiment), "--out", str(home / "run"), "--map.title", CITIES["bishop"]]) == 0
    outside = {path for path in files_in(top) - before if not path.is_relative_to(home / "run")}
    assert not outside
    return home / "run"


def test_the_names_are_kept_as_they_are(run: Path) -> None:
    table = gpd.read_parquet(run / "scenes.parquet")
    assert set(table["city"]) == set(CITIES.values())
    assert "../../../site" in set(table["site"])


def test_no_file_name_is_a_path_or_an_option(run: Path) -> None:
    for path in files_in(run):
        own = path.relative_to(run).parts
        assert not any(set(part) & set("<>\"'$;&\\\n\t") or part in ("..", "x", "site") for part in own), path


def test_every_json_and_xml_is_whole_and_the_catalogue_validates(run: Path) -> None:
    for path in (path for path in files_in(run) if path.suffix == ".json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in (path for path in files_in(run) if path.suffix in (".qml", ".svg")):
        ElementTree.parse(path)
    with zipfile.ZipFile(run / "project.qgz") as archive:
        for name in archive.namelist():
            assert not name.startswith(("/", "..")) and "/../" not in name
            if name.endswith(".qgs"):
                ElementTree.fromstring(archive.read(name))
    with no_network() as asked:
        for path in [run / "catalog.json", *(run / "stac").rglob("*.json")]:
            validate_dict(json.loads(path.read_text(encoding="utf-8")), validator=validator())
    assert not asked


def test_every_asset_of_the_catalogue_lies_in_the_run_or_is_an_image_of_it(run: Path) -> None:
    from urllib.parse import unquote

    for path in (run / "stac").rglob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        for asset in document.get("assets", {}).values():
            found = (path.parent / unquote(asset["href"])).resolve()
            assert found.is_file() and (found.is_relative_to(run) or found.parent == run.parent / "scenes")


def test_a_catalogue_that_is_up_to_date_is_left_alone(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in files_in(run)}
    words = ["catalog", str(run.parent / "tiny.yaml"), "--out", str(run), "--map.title", CITIES["bishop"]]
    with caplog.at_level("INFO"):
        assert main(words) == 0
    assert "catalog: up to date, nothing to do" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in files_in(run)}


def test_no_page_has_a_tag_or_an_attribute_from_a_name(run: Path) -> None:
    pages = [path for path in files_in(run) if path.suffix == ".html"]
    assert {"map.html", "report.html", "scenes.html", "gallery.html"} <= {path.name for path in pages}
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        assert not {"onerror", "onload", "onclick"} & set(page.attributes), path.name
        assert not [script for script in page.scripts if script.strip().startswith("boom")], path.name


def test_a_city_that_is_left_out_stays_in_the_folder_too(run: Path) -> None:
    home = run.parent
    before = files_in(home.parents[2])
    words = ["leave-city-out", str(home / "tiny.yaml"), "--out", str(home / "left"), "--fit.max_epochs", "1"]
    assert main(words) == 0
    outside = {path for path in files_in(home.parents[2]) - before if not path.is_relative_to(home / "left")}
    assert not outside
    assert len(list((home / "left" / "leave_city_out").iterdir())) == 3
