"""A checkout without npm still makes a complete map, with fewer extras, and says which."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from map_pages import chromium

import dlslicer_geo

ROOT = Path(__file__).parents[1]

MAKE = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
import dlslicer_geo
from dlslicer_geo.webmap import webmap
from tile_worlds import layers
folder = Path(sys.argv[1])
assert str(Path(dlslicer_geo.__file__)).startswith(str(folder))
webmap(layers(folder), title="Without", budget_mb=0.1).save(folder / "map.html")
"""


@pytest.mark.browser
def test_a_map_made_without_assets_shows_an_overview_and_says_what_is_missing(tmp_path: Path) -> None:
    package = tmp_path / "lib" / "dlslicer_geo"
    shutil.copytree(Path(dlslicer_geo.__file__).parent, package, ignore=shutil.ignore_patterns("assets", "*.pyc"))
    command = [sys.executable, "-c", MAKE, str(tmp_path), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert (tmp_path / "map" / "chips.pmtiles").is_file(), "the tiles are there for a page made later"
    with chromium() as browser:
        page = browser.open(tmp_path / "map.html")
        said = page.locator(".dl-tiles").inner_text()
        assert "without pmtiles.js and protomaps-leaflet.js" in said and "overview" in said
        assert page.get_by_label("Files of the folder map").count() == 0, "nothing here could read them"
        page.mouse.click(*page.evaluate(
            "() => { const cell = JSON.parse(document.getElementById('dl-data').textContent).places[0];"
            "const at = map_here().latLngToContainerPoint(L.latLngBounds(cell.bounds).getCenter());"
            "return [at.x, at.y]; }"
        ))  # fmt: skip
        page.locator(".dl-popup").wait_for()
        assert "right of" in page.locator(".dl-popup").inner_text()
        page.get_by_label("Colour chips by").select_option("error")
        assert browser.errors == [] and browser.requests == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that ``make`` needs before it installs anything, and a PATH that has no npm."""
    webmap = tmp_path / "dlslicer_geo" / "webmap"
    webmap.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / "dlslicer_geo" / "webmap" / name, webmap)
    (tmp_path / "bin").mkdir()
    tools = ("sh", "make", "mktemp", "rm", "cp", "mkdir", "touch", "echo", "test", "find", "sort", "cat", "sed")
    for tool in tools:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    for name in ("bin/uv", ".venv/bin/python"):  # what they would install is not what is tried here
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(shutil.which("true") or "true")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    return tmp_path


def make(folder: Path, goal: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "bin" / "make"), goal]
    environment = {"PATH": str(folder / "bin")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_setting_up_goes_on_without_npm_and_says_so(checkout: Path) -> None:
    done = make(checkout, ".venv/.installed")
    assert done.returncode == 0 and (checkout / ".venv" / ".installed").is_file()
    assert "large maps show an overview only (make assets)" in done.stdout
    assert not (checkout / "dlslicer_geo" / "webmap" / "assets").exists(), (
        "half of the assets would be worse than none"
    )


def test_asking_for_the_assets_without_npm_is_an_error(checkout: Path) -> None:
    assert make(checkout, "assets").returncode != 0
