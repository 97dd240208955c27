"""What a whole run leaves behind, read by the programs that GIS people have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio  # type: ignore[import-untyped]
import pytest
import shapely
import towns
from PIL import Image
from pystac.validation import validate_dict
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import box
from stac_schemas import no_network, validator
from test_qgis import qgis

from dlslicer_geo.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that is made for a GIS."""
    home = tmp_path_factory.mktemp("acceptance")
    experiment = towns.build(home, pixels=96)
    ground = gpd.GeoSeries([box(650_000, 4_699_900, 670_000, 4_700_200)], crs=32643).to_crs(4326)
    gpd.GeoDataFrame({"kind": ["park"]}, geometry=ground).to_file(home / "parks.gpkg")
    more = "explain: {per_city: 2, masked: true, polygons: parks.gpkg}\ncatalog: {flatgeobuf: true}\n"
    experiment.write_text(towns.EXPERIMENT.replace("embedding: false", "embedding: true") + more)
    assert main(["run", str(experiment), "--out", str(home / "run")]) == 0
    return home / "run"


def test_every_geotiff_is_a_strictly_valid_cog_with_a_style_beside_it(run: Path) -> None:
    paths = sorted((run / "gis").rglob("*.tif"))
    assert {path.parent.name for path in paths} == {"city", "confidence", "saliency", "masked"}
    assert all(path.with_suffix(".qml").is_file() for path in paths)
    stations = json.loads((run / "run.json").read_text(encoding="utf-8"))["stations"]
    listed = {run / name for station in stations.values() for name in station["outputs"]}
    assert {*paths, *(path.with_suffix(".qml") for path in paths)} <= listed, "so that a lost one is made again"
    assert [path for path in paths if cog_validate(path, strict=True) != (True, [], [])] == []
    rio = Path(sys.executable).with_name("rio")
    for path in {path.parent.name: path for path in paths}.values():  # the same again as people do it, one of a kind
        said = subprocess.run(
            [rio, "cogeo", "validate", "--strict", path], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "is a valid cloud optimized GeoTIFF" in said and "warnings" not in said.lower(), said


def test_every_document_of_the_catalogue_validates_and_every_file_it_names_is_there(run: Path) -> None:
    named = set()
    with no_network() as asked:
        for path in [run / "catalog.json", *(run / "stac").rglob("*.json")]:
            document = json.loads(path.read_text(encoding="utf-8"))
            validate_dict(document, validator=validator())
            named |= {(path.parent / asset["href"]).resolve() for asset in document.get("assets", {}).values()}
    assert not asked and all(path.is_file() for path in named)
    here = {str(path.relative_to(run)) for path in named if path.is_relative_to(run)}
    assert here >= {
        "map.html", "report.html", "project.qgz", "model.ckpt", "gis/predictions.gpkg", "gis/predictions.fgb",
        "gis/polygons.gpkg", *(str(path.relative_to(run)) for path in (run / "gis").rglob("*.tif")),
    }  # fmt: skip


def test_the_same_chips_are_read_by_pyogrio_duckdb_and_pyarrow(run: Path) -> None:
    parts = sorted((run / "predictions").glob("part-*.parquet"))
    chips = pyogrio.read_dataframe(run / "gis" / "predictions.gpkg", layer="predictions")
    flat = pyogrio.read_dataframe(run / "gis" / "predictions.fgb")
    query = "SELECT chip_id FROM read_parquet(?) ORDER BY chip_id"
    found = [number for (number,) in duckdb.execute(query, [[str(path) for path in parts]]).fetchall()]
    arrow = [number for path in parts for number in pq.read_table(path)["chip_id"].to_pylist()]
    assert len(found) > 10 and found == sorted(arrow) == sorted(flat["chip_id"]) == sorted(chips["chip_id"])
    for name in ("scenes", "chips", "polygons"):
        path = run / f"{name}.parquet"
        outlines = duckdb.execute("SELECT geometry FROM read_parquet(?)", [str(path)]).fetchall()
        table = gpd.read_parquet(path)
        assert shapely.equals(shapely.from_wkb([wkb for (wkb,) in outlines]), table.geometry.to_numpy()).all()
        assert b"geo" in pq.read_schema(path).metadata
    held = gpd.read_parquet(run / "chips.parquet").set_index("chip_id").loc[chips["chip_id"]]
    assert (chips["scene_id"].to_numpy() == held["scene_id"].to_numpy()).all()
    assert shapely.equals_exact(chips.geometry.to_numpy(), held.geometry.to_numpy(), 1e-9).all()


def test_a_map_or_report_that_is_made_anew_is_in_a_new_catalogue(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [str(run.parent / "tiny.yaml"), "--out", str(run)]
    with caplog.at_level("INFO"):
        assert main(["catalog", *words]) == 0
    assert "catalog: up to date" in caplog.text
    (run / "map.html").rename(run / "away.html")
    assert main(["catalog", *words]) == 0
    outputs = run / "stac" / "outputs" / "collection.json"
    assert "map" not in json.loads(outputs.read_text(encoding="utf-8"))["assets"]
    (run / "away.html").rename(run / "map.html")
    assert main(["catalog", *words]) == 0
    assert "map" in json.loads(outputs.read_text(encoding="utf-8"))["assets"]


@pytest.mark.qgis
def test_qgis_opens_every_layer_of_the_run_and_draws_it(run: Path, tmp_path: Path) -> None:
    opened = qgis("project", run / "project.qgz", tmp_path / "whole.png")
    assert opened["read"] and all(layer["valid"] for layer in opened["layers"])
    assert [group[0] for group in opened["tree"]] == [
        "Polygons", "Saliency", "Chips", "Predicted city", "Confidence", "Masked images", "Imagery", "Scenes",
    ]  # fmt: skip
    shown = {Path(layer["source"].split("|")[0]).resolve() for layer in opened["layers"]}
    assert shown >= set((run / "gis").rglob("*.tif")) | set((run / "gis").glob("*.gpkg"))
    scene = next(layer for layer in opened["layers"] if layer["visible"] and "why" in layer["name"])
    qgis("project", run / "project.qgz", tmp_path / "near.png", *place_of(run))
    drawn = np.asarray(Image.open(tmp_path / "near.png").convert("RGB"))
    assert scene["valid"] and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 500, "imagery with relevance on it"


def place_of(run: Path) -> tuple[float, float, float, float]:
    """Where in Web Mercator a chip of the first town lies."""
    chips = pyogrio.read_dataframe(run / "gis" / "predictions.gpkg", layer="predictions").to_crs(3857)
    left, bottom, right, top = chips.geometry.iloc[0].bounds
    return left - 50, bottom - 50, right + 50, top + 50
