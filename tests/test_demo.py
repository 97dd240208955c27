"""The demo as a user runs it, on all the imagery that ships: what its issue promised, checked on what it wrote."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.windows import Window
from rasterio.windows import bounds as window_bounds
from rio_cogeo.cogeo import cog_validate

from dlslicer_geo.files import read_json

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "dlslicer_geo.cli"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the demo, with its model applied to Banepa in ``banepa``."""
    run = tmp_path_factory.mktemp("demo") / "run"
    subprocess.run([*COMMAND, "run", "experiments/demo/config.yaml", "--out", str(run)], cwd=ROOT, check=True)
    banepa = ROOT / "data" / "banepa" / "banepa_oam_z19.tif"
    subprocess.run([*COMMAND, "apply", str(run), str(banepa), "--out", str(run / "banepa")], cwd=ROOT, check=True)
    return run


def test_it_is_far_better_than_colour_and_chance(demo: Path) -> None:
    metrics = read_json(demo / "metrics.json")
    colour = metrics["baselines"]["colour"]["accuracy"]
    print(f"accuracy {metrics['accuracy']:.3f}, colour {colour:.3f}")
    assert metrics["accuracy"] >= 0.62
    assert metrics["accuracy"] >= colour + 0.12


def test_no_ground_is_shared_and_every_year_of_a_place_is_in_one_split(demo: Path) -> None:
    certificate = read_json(demo / "split_certificate.json")
    assert (certificate["shared_pixels"], certificate["shared_ground_m2"], certificate["duplicate_images"]) == (
        0,
        0,
        0,
    )
    chips = gpd.read_parquet(demo / "chips.parquet")
    used = chips[chips["split"] != "unused"]
    assert used.groupby(["city", "site"])["split"].nunique().max() == 1


def test_the_certificate_is_true_by_the_tables_alone(demo: Path) -> None:
    done = subprocess.run([*COMMAND, "verify", str(demo)], check=True, capture_output=True, text=True)
    assert "the certificate is true" in done.stdout


def test_most_of_banepa_is_unknown_and_most_of_the_test_chips_are_not(demo: Path) -> None:
    known = read_json(demo / "metrics.json")["unknown"]["known_kept"]
    table = gpd.read_file(demo / "banepa" / "gis" / "predictions.gpkg", layer="predictions")
    strange = float((table["answer"] == "unknown").mean())
    print(f"known chips kept {known:.3f}, Banepa called unknown {strange:.3f}")
    assert known > 0.85
    assert strange > 0.4


def test_every_raster_is_a_valid_cog(demo: Path) -> None:
    rasters = sorted(demo.rglob("*.tif"))
    assert len(rasters) > 60
    for path in rasters:
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
        assert valid, (path, errors, warnings)


@pytest.mark.parametrize("folder", [".", "banepa"])
def test_the_geopackage_has_every_chip_where_its_window_is(demo: Path, folder: str) -> None:
    """Against rasterio's own windows, in both UTM zones and in EPSG:3857."""
    run = demo / folder
    table = gpd.read_file(run / "gis" / "predictions.gpkg", layer="predictions")
    scenes = gpd.read_parquet(run / "scenes.parquet").set_index("scene_id")
    expected = sum(len(gpd.read_parquet(path)) for path in (run / "predictions").glob("part-*.parquet"))
    assert len(table) == expected == table["chip_id"].nunique()
    assert set(scenes["crs"]) == ({"EPSG:26910", "EPSG:26911"} if folder == "." else {"EPSG:3857"})
    for row in table.to_dict("records"):
        with rasterio.open(run / scenes["path"][row["scene_id"]]) as source:
            window = Window(row["col"], row["row"], row["width"], row["height"])
            left, bottom, right, top = window_bounds(window, source.transform)
            to_native = Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)
            pixel = source.transform.a
        x, y = to_native.transform(*np.array(row["geometry"].exterior.coords)[:4].T)
        off = np.abs([min(x) - left, max(x) - right, min(y) - bottom, max(y) - top]).max() / pixel
        assert off < 0.5, row["chip_id"]


def test_the_same_run_twice_does_no_work(demo: Path) -> None:
    again = [*COMMAND, "run", "experiments/demo/config.yaml", "--out", str(demo)]
    done = subprocess.run(again, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "Nothing to do" in done.stdout
    assert done.stderr.count("up to date, nothing to do") == 12


def test_the_front_of_the_public_api_runs(tmp_path: Path) -> None:
    path = ROOT / "experiments" / "demo" / "run.py"
    spec: Any = importlib.util.spec_from_file_location("demo_front", path)
    front = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(front)
    report = front.main(str(ROOT / "data" / "naip_cities"), tmp_path, epochs=1)
    assert report.metrics["n"] == 253
    assert (tmp_path / "map.html").exists()
