"""Tiles of large maps hold what they should, where it is, and the same bytes each time."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from map_pages import content_of
from PIL import Image
from pmtiles import reader
from pyproj import Transformer
from shapely.geometry import box
from tile_worlds import ACROSS, CITIES, EVIL, HALF, NORTH, WEST, ZONE, chip_layer, layers

from dlslicer_geo.webmap import mvt, overview, tiles, webmap
from dlslicer_geo.webmap.large import large
from dlslicer_geo.webmap.shapes import read_chips


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    webmap(layers(folder), title=EVIL, budget_mb=0.1).save(folder / "map.html")
    return folder


pmtiles: Any = reader  # without types


def tiles_of(path: Path) -> dict[tuple[int, ...], bytes]:
    with path.open("rb") as handle:
        return dict(pmtiles.all_tiles(pmtiles.MmapSource(handle)))


def test_a_map_over_its_budget_is_a_small_page_with_tiles_beside_it(tmp_path: Path) -> None:
    written = webmap(layers(tmp_path), budget_mb=0.1).save(tmp_path / "map.html")
    names = ["map.html", "chips.pmtiles", "saliency-1.pmtiles", "saliency-2.pmtiles", "image.pmtiles"]
    assert [path.name for path in written] == names and all(path.is_file() for path in written)
    assert {path.parent for path in written[1:]} == {tmp_path / "map"}
    content = content_of(tmp_path / "map.html")
    assert content["tiles"]["rasters"][1]["title"] == "../layer4"
    assert [raster["limit"] for raster in content["tiles"]["rasters"]] == [20, 2, None]
    assert all(not section["groups"] for section in content["sections"] if section["kind"] != "scenes")
    assert sum(place["chips"] for place in content["places"]) == ACROSS**2
    (tmp_path / "map" / "saliency-9.pmtiles").write_bytes(b"of an earlier map")
    large(layers(tmp_path), title="").save(tmp_path / "map.html")
    assert not (tmp_path / "map" / "saliency-9.pmtiles").exists()


def test_the_same_layers_give_the_same_tiles_whatever_the_hash_seed(tmp_path: Path) -> None:
    layers(tmp_path)
    code = """
import sys; sys.path.insert(0, "tests")
from pathlib import Path
from dlslicer_geo.webmap.large import large
from tile_worlds import CITIES, Layer, saliency_layer
f = Path(sys.argv[1])
chips = Layer(kind="chips", path=f / "predictions.gpkg", title="", cities=tuple(CITIES))
large([chips, saliency_layer(f)], title="a").save(f / sys.argv[2] / "map.html")
"""
    for name in ("a", "b"):
        command = [sys.executable, "-c", code, str(tmp_path), name]
        subprocess.run(
            command, check=True, env={"PYTHONHASHSEED": str(ord(name)), "PATH": ""}, cwd=Path(__file__).parents[1]
        )
    one, other = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.*") if p.is_file()} for name in ("a", "b")
    )
    assert len(one) == 4 and one == other


def test_tiles_of_chips_are_read_by_gdal_where_the_chips_are(run_folder: Path) -> None:
    """Every corner within the 0.15 m that half a unit of a tile is; GDAL reads what another program wrote."""
    truth = gpd.read_file(run_folder / "predictions.gpkg", layer="predictions").set_index("chip_id").to_crs(ZONE)
    path = run_folder / "map" / "chips.pmtiles"
    read = gpd.read_file(path, engine="pyogrio", CLIP="NO").set_crs(3857, allow_override=True).to_crs(ZONE)
    assert set(read["chip_id"]) == set(truth.index)
    whole = (
        read.assign(area=read.area).sort_values("area").drop_duplicates("chip_id", keep="last").set_index("chip_id")
    )
    off = [whole.geometry[i].hausdorff_distance(truth.geometry[i]) for i in truth.index]
    assert max(off) < 0.3
    chip = whole.loc[1000 + ACROSS + 9]
    assert (chip["city"], chip["truth"], chip["unknown"], chip["split"]) == (3, 1, 0, "test")
    assert (chip["scene"], chip["confidence"], chip["inner"], chip["top0"]) == (EVIL, 5900, 5000, 3 * 16384 + 5900)


def test_a_tile_holds_numbers_of_any_size_and_names_of_any_letters(tmp_path: Path) -> None:
    """Read by GDAL: varints of one to five bytes, corners outside the tile, rings that ran the wrong way."""
    quads = np.array([[[-70_000, 0], [0, 0], [0, 90], [-70_000, 90]], [[0, 0], [0, 9], [9, 9], [9, 0]]])
    columns = {"n": np.array([2**34 + 1, 0]), "name": np.array(["", "Çankırı \u2028 \U0001f30d" * 60], object)}
    (tmp_path / "0.pbf").write_bytes(gzip.decompress(mvt.encode("chips", quads, columns)))
    read = gpd.read_file(tmp_path / "0.pbf", X=0, Y=0, Z=0, CLIP="NO")
    assert read["n"].tolist() == [2**34 + 1, 0]
    assert read["name"].fillna("").tolist() == columns["name"].tolist()


def test_every_chip_is_in_each_tile_that_it_touches_and_in_no_other(run_folder: Path, tmp_path: Path) -> None:
    truth = gpd.read_file(run_folder / "predictions.gpkg", layer="predictions").to_crs(3857)
    found = tiles_of(run_folder / "map" / "chips.pmtiles")
    assert {zoom for zoom, *_ in found} == set(tiles.ZOOMS)
    for (zoom, x, y), data in found.items():
        side = 2 * HALF / 2**zoom
        tile = box(x * side - HALF, HALF - (y + 1) * side, (x + 1) * side - HALF, HALF - y * side)
        (tmp_path / "0.pbf").write_bytes(gzip.decompress(data))
        read = gpd.read_file(tmp_path / "0.pbf", X=x, Y=y, Z=zoom, CLIP="NO")
        assert set(read["chip_id"]) == set(truth.loc[truth.envelope.intersects(tile), "chip_id"])


def test_the_overview_counts_every_chip_once(tmp_path: Path) -> None:
    table = read_chips(chip_layer(tmp_path))
    cells = overview.cells(table, CITIES)
    assert sum(cells["chips"]) == len(table) and sum(cells["unknown"]) == ACROSS
    assert sum(cells["known"]) == ACROSS * (ACROSS - 1) and sum(cells["right"]) == 7 * (ACROSS - 2)
    mean = np.average(cells["confidence"], weights=cells["chips"])
    assert mean == pytest.approx(table["confidence"].mean(), abs=1e-3)
    assert set(cells["city"]) == {0, 2} and set(cells["split"]) == {"train", "test"}


def test_the_overview_of_any_number_of_chips_has_few_cells(tmp_path: Path) -> None:
    table = read_chips(chip_layer(tmp_path)).iloc[:1]
    many = table.loc[table.index.repeat(40_000)].reset_index(drop=True)
    at = np.random.default_rng(0).uniform((-170, -60), (170, 60), (len(many), 2))
    many = many.set_geometry(gpd.GeoSeries(shapely.box(*at.T, *(at.T + 0.002)), crs=4326))
    cells = overview.cells(many, CITIES)
    assert 1000 < len(cells["x"]) <= overview.MOST_CELLS and sum(cells["chips"]) == 40_000


def test_saliency_tiles_are_blue_red_and_clear_where_they_should_be(run_folder: Path) -> None:
    found = tiles_of(run_folder / "map" / "saliency-2.pmtiles")
    to_web = Transformer.from_crs(ZONE, 3857, always_xy=True)
    deepest = max(zoom for zoom, *_ in found)
    shades = {}
    for name, (x, y) in {"against": (WEST + 300, NORTH - 600), "for": (WEST + 900, NORTH - 600)}.items():
        world = (np.array(to_web.transform(x, y)) / HALF + 1) / 2 * [1, -1] + [0, 1]
        tile, at = np.divmod(world * 2**deepest, 1)
        with Image.open(io.BytesIO(found[(deepest, *map(int, tile))])) as image:
            shades[name] = np.asarray(image.convert("RGBA"))[int(at[1] * 256), int(at[0] * 256)].astype(int)
    (r, _, b, a), (r2, _, b2, a2) = shades["against"], shades["for"]
    assert b > r + 60 and r2 > b2 + 60 and a == a2 == 255
    for data in found.values():
        with Image.open(io.BytesIO(data)) as image:
            assert np.asarray(image.convert("RGBA"))[..., 3].any(), "an empty tile"
    assert {zoom for zoom, *_ in found} == set(range(deepest - 6, deepest + 1))
