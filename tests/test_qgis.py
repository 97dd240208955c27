from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from layer_tables import chip_table, doubting, grid_at, predictions, saliency
from PIL import Image
from shapely.geometry import box

from dlslicer_geo.colours import CONFIDENCE, DIVERGING, PALETTE, RIGHT, UNKNOWN_COLOUR, WRONG
from dlslicer_geo.files import write_table
from dlslicer_geo.layers import write_predictions, write_project, write_saliency
from dlslicer_geo.types import Channels, Layer

READER = Path(__file__).with_name("qgis_reader.py")
SYSTEM = "/usr/bin/python3"
TITLE = '<img src=x onerror="alert(1)"> & "quote\' $formula$ ../../x'
HOSTILE = f"../../{TITLE}\n東京"

pytestmark = pytest.mark.qgis


@dataclass(frozen=True)
class World:
    """A run folder with everything a project shows: nine chips, of which the model does not know one."""

    run: Path
    layers: list[Layer]


def qgis(*words: object) -> Any:
    """What QGIS says, by the Python that it belongs to."""
    command = [SYSTEM, str(READER), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def picture(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


def hexed(colour: np.ndarray[Any, Any]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def made(run: Path, scene: str = "almaty") -> World:
    grid = grid_at("EPSG:32643", 653_000, 4_791_000, (480, 480), 1)
    chips = chip_table({scene: grid}, size=160, stride=160)
    known = np.arange(len(chips)) != 4
    found = doubting(predictions(chips), ~known)
    layers = write_predictions(found, chips, run / "gis")
    ramp = np.linspace(-1, 1, len(chips), dtype=np.float32)[:, None, None]
    maps = {
        "layer2": np.ones((len(chips), 8, 8), np.float32),
        "layer4": np.ones((len(chips), 4, 4), np.float32) * ramp,
    }
    layers += write_saliency(saliency(chips, {scene: grid}, maps, city="chico"), run / "gis")
    image = run / "images" / "almaty.tif"
    image.parent.mkdir(parents=True)
    about = {"driver": "GTiff", "count": 3, "dtype": "uint16", "crs": "EPSG:32643", "transform": grid.affine}
    with rasterio.open(image, "w", height=480, width=480, **about) as target:
        target.write(np.full((3, 480, 480), 1500, np.uint16))
    span = Channels(bands=(3, 2, 1), low=(1000.0,) * 3, high=(2000.0,) * 3)
    layers.append(Layer(kind="image", path=image, title="Imagery", group=scene, channels=span))
    scenes = gpd.GeoDataFrame(
        {"scene_id": [scene], "city": ["chico"], "path": ["https://me:secret@example.org/a.tif"]},
        geometry=[box(*chips.total_bounds)], crs=4326,
    )  # fmt: skip
    return World(
        run, [Layer(kind="scenes", path=write_table(scenes, run / "scenes.parquet"), title="Scenes"), *layers]
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    built = made(tmp_path_factory.mktemp("qgis") / "run")
    write_project(built.layers, built.run / "project.qgz", title=TITLE)
    return built


def test_qgis_opens_every_layer_in_groups_and_in_place(world: World) -> None:
    opened = qgis("project", world.run / "project.qgz")
    assert opened["read"] and opened["title"] == TITLE and opened["crs"] == "EPSG:32643"
    assert all(layer["valid"] for layer in opened["layers"]) and len(opened["layers"]) == 10
    assert [group[0] for group in opened["tree"]] == [
        "Saliency", "Chips", "Predicted city", "Confidence", "Imagery", "Scenes",
    ]  # fmt: skip
    name, expanded, [[city, city_expanded, depths]] = opened["tree"][0]
    assert (name, expanded, city, city_expanded) == ("Saliency", True, "chico", False)
    assert [depth[0] for depth in depths] == ["layer4", "layer2"]
    left, bottom, right, top = opened["extent"]
    assert 652_900 < left < 653_000 and 4_790_400 < bottom < 4_790_520
    assert 653_480 < right < 653_600 and 4_791_000 < top < 4_791_100
    assert [layer["name"] for layer in opened["layers"] if layer["visible"]] == [
        "almaty: why chico", "Predicted city", "almaty",
    ]  # fmt: skip


def test_qgis_reads_the_renderers_and_colours_that_were_meant(world: World) -> None:
    layers = {
        (layer["name"], layer.get("band")): layer for layer in qgis("project", world.run / "project.qgz")["layers"]
    }
    chips = layers["Predicted city", None]
    assert chips["renderer"] == "categorizedSymbol" and chips["rows"] == 9
    assert chips["legend"]["chico"] == [PALETTE[0], "solid", "solid"]
    assert chips["legend"]["unknown to the model"] == [UNKNOWN_COLOUR, "b_diagonal", "solid"]
    verdict = layers["Right or wrong", None]["legend"]
    assert (verdict["right"][0], verdict["wrong"][0]) == (RIGHT, WRONG) and len(verdict) == 4
    assert list(layers["Confidence", None]["legend"].values())[-1][0] == CONFIDENCE[-1]
    assert layers["almaty: city", None]["legend"]["unknown"] == UNKNOWN_COLOUR
    deep = layers["almaty: why chico", 2]["legend"]
    assert [colour[3:] for _, colour in deep] == [colour[1:] for colour in DIVERGING]
    assert deep[4] == ["0", f"#00{DIVERGING[4][1:]}"] and float(deep[0][0]) == -float(deep[-1][0])


def test_a_moved_run_folder_opens_as_before_and_looks_the_same(world: World, tmp_path: Path) -> None:
    copied = made(tmp_path / "first")
    write_project(copied.layers, copied.run / "project.qgz", title=TITLE)
    assert (copied.run / "project.qgz").read_bytes() == (world.run / "project.qgz").read_bytes()
    moved = Path(shutil.move(copied.run, tmp_path / "second"))
    opened = qgis("project", moved / "project.qgz", tmp_path / "moved.png")
    assert all(layer["valid"] for layer in opened["layers"])
    assert all(str(moved) in layer["source"] for layer in opened["layers"])
    qgis("project", world.run / "project.qgz", tmp_path / "here.png")
    assert np.array_equal(picture(tmp_path / "moved.png"), picture(tmp_path / "here.png"))


def test_the_map_shows_relevance_above_imagery_between_its_black_and_white(world: World, tmp_path: Path) -> None:
    shown = [layer for layer in world.layers if layer.kind in ("saliency", "image")]
    write_project(shown, world.run / "ground.qgz", title="")
    qgis("project", world.run / "ground.qgz", tmp_path / "a.png", 653_000, 4_790_520, 653_480, 4_791_000)
    drawn = picture(tmp_path / "a.png")[:, 100:700].astype(int)  # the square in the middle
    grey = drawn[300, 300]
    assert np.abs(grey - 127).max() <= 8, "half way from black to white, and relevance 0 is transparent"
    first, last = drawn[40, 40], drawn[560, 560]
    assert first[2] > first[0] + 40 and last[0] > last[2] + 40, "blue against, red for"
    assert hexed(last) == DIVERGING[-1]


def test_a_lone_saliency_raster_opens_coloured_by_its_deepest_band(world: World, tmp_path: Path) -> None:
    path = next(layer.path for layer in world.layers if layer.kind == "saliency")
    opened = qgis("raster", path, tmp_path / "lone.png")
    assert opened["renderer"] == "singlebandpseudocolor" and opened["band"] == 2
    assert opened["bands"] == ["Band 1: layer2", "Band 2: layer4", "Band 3: coverage"]
    drawn = picture(tmp_path / "lone.png")
    assert hexed(drawn[300, 400]) == "#ffffff" and hexed(drawn[560, 660]) == DIVERGING[-1]


def test_the_geopackage_offers_four_styles_of_which_the_first_is_the_default(world: World) -> None:
    found = qgis("styles", world.run / "gis" / "predictions.gpkg")
    assert sorted(found["names"]) == ["Confidence", "Predicted city", "Right or wrong", "Split"]
    assert all(style["loaded"] for style in found["styles"].values()) and all(found["about"])
    assert found["default"]["legend"] == found["styles"]["Predicted city"]["legend"]
    assert found["styles"]["Confidence"]["renderer"] == "graduatedSymbol"
    assert found["default"]["labels"] and "<br>scene: almaty<br>" in found["default"]["map_tip"]


def test_a_confidence_is_never_that_of_unknown_but_of_the_nearest_city(world: World) -> None:
    found = qgis("styles", world.run / "gis" / "predictions.gpkg")["default"]
    assert found["map_tip"].startswith("<b>riverside</b> 70 %<br>") and found["label"] == "riverside\n70 %"
    table = gpd.read_file(world.run / "gis" / "predictions.gpkg", layer="predictions")
    assert (table["answer"] != table["city"]).sum() == 1
    odd = table[table["answer"] != table["city"]].iloc[0]
    assert found["unsure_label"] == "unknown"
    assert found["unsure_map_tip"].startswith(f"<b>unknown</b> nearest: {odd['city']} ")


def test_hostile_names_are_text_in_qgis_and_never_a_path_outside_the_run(tmp_path: Path) -> None:
    hostile = made(tmp_path / "x" / "run", scene=HOSTILE)
    write_project(hostile.layers, hostile.run / "project.qgz", title=HOSTILE)
    opened = qgis("project", hostile.run / "project.qgz")
    assert opened["title"].split() == HOSTILE.split()
    assert all(layer["valid"] for layer in opened["layers"])
    assert any(layer["name"] == f"{HOSTILE}: why chico" for layer in opened["layers"])
    tip = next(layer["map_tip"] for layer in opened["layers"] if layer["name"] == "Predicted city")
    assert "&lt;img" in tip and "<img" not in tip
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["run"]
    assert b"secret" not in (hostile.run / "gis" / "scenes.gpkg").read_bytes()
