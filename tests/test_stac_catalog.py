"""A static STAC catalogue: it validates offline, stays whole when moved, is quick, and keeps secrets."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import geopandas as gpd
import pystac
import pytest
from layer_tables import chip_table, naip_grids, predictions
from pystac.errors import STACValidationError
from pystac.validation import validate_dict
from stac_schemas import no_network, validator

import dlslicer_geo as dl
from dlslicer_geo.errors import LayerError
from dlslicer_geo.files import sha256_file
from dlslicer_geo.layers import TrainedModel, write_stac
from dlslicer_geo.layers.stac_fields import href_of, span_of
from dlslicer_geo.types import Layer

NAMES = ("chico_2018_4", "chico_2020_4")
HOSTILE = (
    "../../x",
    "a/b",
    "a-b",
    "A-B",
    "",
    "x" * 300,
    '<img src=x onerror="boom()">',
    "..",
    "con\n",
    "é",
    "a?b#c%20",
)
PROVENANCE = {"version": "0.1.0", "config_hash": "ab" * 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, gpd.GeoDataFrame, list[Layer]]:
    """A run folder with two real scenes and their predictions."""
    root = tmp_path_factory.mktemp("made")
    data = Path(__file__).parents[1] / "data"
    scenes = dl.scan([data / "naip_cities" / f"{name}.tif" for name in NAMES])
    grids = naip_grids(data, NAMES)
    chips = chip_table(grids, size=128, stride=64)
    layers = dl.write_predictions(predictions(chips), chips, root / "run" / "gis")
    (root / "run" / "model.ckpt").write_bytes(b"weights")
    (root / "run" / "split_certificate.json").write_text("{}")
    (root / "run" / "map.html").write_text("<p>map")
    return root / "run", scenes, layers


def model_at(run: Path, **changes: Any) -> TrainedModel:
    about: dict[str, Any] = {
        "path": run / "model.ckpt", "name": "resnet18.a1_in1k", "cities": ("chico", "claremont", "riverside"),
        "input_size": 64, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "parameters": 11_000_000,
        "hyperparameters": {"lr": 0.001, "optimizer": "adamw"}, "metrics": {"accuracy": 0.5, "split": "test"},
        "detector": "knn", "threshold": 0.3, "certificate": run / "split_certificate.json",
    }  # fmt: skip
    return TrainedModel(**(about | changes))


def written(run: Path, scenes: gpd.GeoDataFrame, layers: list[Layer], **more: Any) -> list[Path]:
    about: dict[str, Any] = {"title": "Where", "model": model_at(run), "provenance": PROVENANCE} | more
    return write_stac(run, scenes=scenes, layers=layers, **about)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def scene_documents(paths: list[Path]) -> list[dict[str, Any]]:
    return [read(path) for path in paths if path.parent.parent.name == "scenes"]


def test_every_document_validates_and_nothing_asks_for_the_network(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    paths = written(run, scenes, layers)
    check = validator()
    with no_network() as asked:
        used = {uri for path in paths for uri in validate_dict(read(path), validator=check)}
    assert not asked
    assert {uri.split("/")[3] for uri in used if "stac-extensions" in uri} == {
        "projection", "raster", "file", "processing", "classification", "mlm"
    }  # fmt: skip
    kinds = [read(path)["type"] for path in paths]
    assert kinds.count("Catalog") == 1 and kinds.count("Collection") == 2
    assert kinds.count("Feature") == 2 + 2 * 2 + 1, "scenes, city and confidence of two areas, the model"


@pytest.mark.parametrize(
    ("which", "where", "value"),
    [
        ("chico_2018_4", ("properties", "proj:shape"), ["256", "256"]),
        ("chico_2018_4", ("properties", "proj:code"), None),
        ("chico_2018_4", ("properties", "proj:epsg"), 26910),
        ("chico_2018_4", ("properties", "end_datetime"), "last year"),
        ("chico_2018_4", ("assets", "image", "file:checksum"), "not a hash"),
        ("chico_2018_4", ("assets", "image", "bands", 0, "raster:spatial_resolution"), "60 cm"),
        ("city-chico_2018_4", ("properties", "processing:expression"), {"expression": 1}),
        ("city-chico_2018_4", ("properties", "processing:software"), {}),
        ("city-chico_2018_4", ("assets", "data", "classification:classes", 0, "value"), "zero"),
        ("model", ("properties", "mlm:tasks"), ["guess"]),
        ("model", ("properties", "mlm:input", 0, "input", "shape"), [3, 64, 64]),
        ("model", ("assets", "model", "mlm:artifact_type"), None),
    ],
)
def test_a_planted_mistake_is_found(
    made: tuple[Any, ...], which: str, where: tuple[str | int, ...], value: Any
) -> None:
    run, scenes, layers = made
    (path,) = (path for path in written(run, scenes, layers) if path.stem == which)
    whole = read(path)
    validate_dict(whole, validator=validator())
    broken: Any = copy.deepcopy(whole)
    inside = broken
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = value
    with no_network() as asked, pytest.raises(STACValidationError):
        validate_dict(broken, validator=validator())
    assert not asked


@pytest.mark.parametrize("field", ["mlm:architecture", "mlm:output", "bands", "datetime"])
def test_a_missing_field_is_found(made: tuple[Any, ...], field: str) -> None:
    run, scenes, layers = made
    (path,) = (path for path in written(run, scenes, layers) if path.stem == "model")
    whole = read(path)
    del whole["properties"][field]
    with pytest.raises(STACValidationError):
        validate_dict(whole, validator=validator())


def test_a_catalogue_that_was_moved_with_its_folder_still_leads_to_every_file(
    made: tuple[Any, ...], tmp_path: Path
) -> None:
    run, scenes, layers = made
    images = tmp_path / "old" / "scenes & more #1"
    images.mkdir(parents=True)
    local = scenes.copy()
    for name in NAMES:
        (images / f"{name}.tif").write_bytes(Path(run.parents[0] / "x").name.encode() + name.encode())
    local["path"] = local["source"] = [str(images / f"{name}.tif") for name in NAMES]
    place = tmp_path / "old" / "run"
    place.mkdir()
    write_stac(place, title="T", scenes=local, layers=layers, model=None)
    moved = (tmp_path / "old").rename(tmp_path / "new") / "run"
    catalog = pystac.Catalog.from_file(str(moved / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    assert len(items) == 2 + 4
    for item in items[:2]:
        found = Path(unquote(item.assets["image"].get_absolute_href() or ""))
        assert found.is_file() and found.is_relative_to(moved.parent)
    assert str(tmp_path) not in "".join(path.read_text() for path in moved.rglob("*.json"))


def test_same_run_same_bytes_and_no_document_of_an_earlier_one_stays(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    first = {path: path.read_bytes() for path in written(run, scenes, layers)}
    (run / "stac" / "scenes" / "items" / "gone.json").write_text("{}")
    second = {path: path.read_bytes() for path in written(run, scenes, layers)}
    assert first == second
    assert {path for path in (run / "stac").rglob("*") if path.is_file()} | {run / "catalog.json"} == set(second)


def test_a_scene_item_states_the_grid_the_file_and_the_period(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    paths = written(run, scenes, layers)
    found = scene_documents(paths)[0]
    said, image = found["properties"], found["assets"]["image"]
    source = Path(scenes["path"][0])
    assert (said["proj:code"], said["proj:shape"]) == ("EPSG:26910", [256, 256])
    assert said["proj:transform"] == list(scenes["transform"][0])
    period = said["datetime"], said["start_datetime"], said["end_datetime"]
    assert period == (None, "2018-01-01T00:00:00Z", "2018-12-31T23:59:59Z")
    assert image["file:size"] == source.stat().st_size
    assert image["file:checksum"] == "1220" + hashlib.sha256(source.read_bytes()).hexdigest()
    assert [band["description"] for band in image["bands"]] == ["Shown as red.", "Shown as green.", "Shown as blue."]
    (items,) = {path.parent for path in paths if path.stem == NAMES[0]}
    assert (items / image["href"]).resolve() == source.resolve()


def test_what_is_not_known_is_not_stated(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    vague = scenes.copy()
    vague["acquired"], vague["georef"], vague["city"] = None, "approximate", None
    vague["prepared"], vague["sha256"] = "its grid is rotated", "0" * 64
    paths = written(run, vague, layers)
    for document in scene_documents(paths):
        said = document["properties"]
        assert "approximate" in said["dlslicer:position"] and "dlslicer:acquired" not in said
        assert (said["start_datetime"], said["end_datetime"]) == ("1858-01-01T00:00:00Z", "2099-12-31T23:59:59Z")
        assert "file:checksum" not in document["assets"]["image"], "the hash is that of the raw image"
        assert document["assets"]["source"]["file:checksum"] == "1220" + "0" * 64
        validate_dict(document, validator=validator())


def test_a_scene_without_valid_ground_has_no_place(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    empty = scenes.copy()
    empty["geometry"] = gpd.GeoSeries.from_wkt(["POLYGON EMPTY"] * 2, crs=4326)
    empty["nodata"] = float("nan")
    for path in written(run, empty, layers):
        validate_dict(read(path), validator=validator())
        assert "NaN" not in path.read_text()


def test_outputs_lead_to_their_style_and_to_the_model_and_have_statistics_and_classes(
    made: tuple[Any, ...], tmp_path: Path
) -> None:
    run, scenes, layers = made
    paths = {path.stem: path for path in written(run, scenes, layers)}
    city = read(paths["city-chico_2018_4"])
    assert [one["title"] for one in city["assets"]["data"]["classification:classes"]][:2] == ["chico", "claremont"]
    assert city["assets"]["style"]["roles"] == ["metadata", "style"]
    raster = (paths["city-chico_2018_4"].parent / city["assets"]["data"]["href"]).resolve()
    assert raster == (run / "gis/city/chico_2018_4.tif").resolve()
    assert city["assets"]["data"]["file:checksum"] == "1220" + sha256_file(raster)
    assert city["properties"]["end_datetime"].startswith("20")
    (model,) = (link["href"] for link in city["links"] if link["rel"] == "derived_from")
    assert (paths["city-chico_2018_4"].parent / model).resolve() == run.resolve() / "stac" / "model.json"
    sure = read(paths["confidence-chico_2018_4"])["assets"]["data"]["bands"][0]
    assert sure["nodata"] == "nan" and sure["data_type"] == "float32"
    collection = read(run / "stac" / "outputs" / "collection.json")["assets"]
    assert {"predictions", "map"} <= set(collection) and "report" not in collection
    assert "file:size" not in collection["map"], "the map may be drawn anew"


def test_a_model_item_says_what_goes_in_and_comes_out(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    (path,) = (path for path in written(run, scenes, layers) if path.stem == "model")
    said = read(path)["properties"]
    assert said["mlm:tasks"] == ["scene-classification"] and said["mlm:input"][0]["input"]["shape"] == [-1, 3, 64, 64]
    assert said["mlm:input"][0]["value_scaling"][0] == {"type": "z-score", "mean": 123.675, "stddev": 58.395}
    assert said["mlm:output"][0]["result"]["shape"] == [-1, 3]
    assert said["mlm:pretrained"] is False and said["mlm:pretrained_source"] is None
    assert read(path)["assets"]["split_certificate"]["file:checksum"][:4] == "1220"
    item = pystac.Item.from_file(str(path))
    assert item.ext.mlm.architecture == "resnet18.a1_in1k", "pystac's own reader understands it"


def test_hostile_ids_make_safe_and_different_file_names(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    many = gpd.GeoDataFrame(
        {name: [scenes[name][0]] * len(HOSTILE) for name in scenes.columns}, geometry="geometry", crs=4326
    )
    many["scene_id"] = many["city"] = many["site"] = many["city_name"] = HOSTILE
    before = {path for path in run.parent.rglob("*") if run / "stac" not in path.parents}
    paths = written(run, many, layers, title="<img src=x onerror=boom()>", model=model_at(run, cities=HOSTILE))
    documents = scene_documents(paths)
    assert {path for path in run.parent.rglob("*") if run / "stac" not in path.parents} == before
    assert sorted(document["id"] for document in documents) == sorted(name or "unnamed" for name in HOSTILE)
    assert len({path.name for path in paths if path.parent.parent.name == "scenes"}) == len(HOSTILE)
    for path in paths:
        validate_dict(read(path), validator=validator())
        assert path.resolve().is_relative_to(run.resolve()) and len(path.name) < 230
        assert "<" not in str(read(path).get("description", "")), "descriptions may be shown as Markdown"


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("https://user:pass@host.example/a b.tif?sig=s3cret#x", "https://host.example/a%20b.tif"),
        ("/vsicurl/https://user:pass@host.example:8443/a.tif?sig=s3cret", "https://host.example:8443/a.tif"),
        ("/vsis3/bucket/a.tif", "s3://bucket/a.tif"),
        ("/vsizip//data/s3cret.zip/a.tif", None),
        ("javascript://host.example/%0aalert(1)", None),
        ("https://[broken", None),
        ("/run/prepared/a#b?.tif", "../prepared/a%23b%3F.tif"),
    ],
)
def test_an_address_says_where_and_never_who(path: str, href: str | None) -> None:
    assert href_of(path, Path("/run/stac")) == href


def test_an_address_in_the_scene_table_is_written_without_its_key(made: tuple[Any, ...]) -> None:
    run, scenes, layers = made
    far = scenes.copy()
    far["path"] = [f"/vsicurl/https://me:pw@host.example/{name}.tif?X-Amz-Signature=s3cret" for name in NAMES]
    paths = written(run, far, layers)
    text = "".join(path.read_text() for path in paths)
    assert "s3cret" not in text and "pw@" not in text and "https://host.example/chico_2018_4.tif" in text
    assert all("file:checksum" not in document["assets"]["image"] for document in scene_documents(paths))


@pytest.mark.parametrize(
    ("acquired", "begin", "end"),
    [
        ("2020", "2020-01-01T00:00:00", "2020-12-31T23:59:59"),
        ("2020-02", "2020-02-01T00:00:00", "2020-02-29T23:59:59"),
        ("2019-12", "2019-12-01T00:00:00", "2019-12-31T23:59:59"),
        ("2020-05-04", "2020-05-04T00:00:00", "2020-05-04T23:59:59"),
        ("2020-02-30", "1858-01-01T00:00:00", "2099-12-31T23:59:59"),
        ("9999", "1858-01-01T00:00:00", "2099-12-31T23:59:59"),
        (None, "1858-01-01T00:00:00", "2099-12-31T23:59:59"),
    ],
)
def test_a_date_is_the_period_it_names(acquired: str | None, begin: str, end: str) -> None:
    first, last = span_of(acquired)
    assert (first.isoformat(), last.isoformat()) == (f"{begin}+00:00", f"{end}+00:00")


def test_an_unreadable_raster_and_two_scenes_of_one_id_are_one_sentence(
    made: tuple[Any, ...], tmp_path: Path, raster: Callable[..., Path]
) -> None:
    _, scenes, layers = made
    broken = tmp_path / "broken.tif"
    broken.write_bytes(raster("whole.tif").read_bytes()[:20])
    city = next(layer for layer in layers if layer.kind == "city")
    with pytest.raises(LayerError, match=r"broken\.tif cannot be read .* run the station that writes it again"):
        write_stac(tmp_path, title="T", scenes=scenes, layers=[replace(city, path=broken)])
    twice = scenes.copy()
    twice["scene_id"] = "one"
    with pytest.raises(LayerError, match="two scenes have the id 'one'"):
        write_stac(tmp_path, title="T", scenes=twice, layers=[])
