"""STAC documents lead to images: items, searches in pages, catalogues; and to one sentence when they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, Server, gdal_reads

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources import Listing, find, remote, stac

Raster = Callable[..., Path]
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)


def asset(href: str, kind: str | None = TIFF, *roles: str) -> dict[str, Any]:
    return {"href": href, "roles": list(roles)} | ({"type": kind} if kind else {})


def item(name: str = "i1", assets: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2020-05-04T23:00:00Z"} | properties,
        "links": [{"rel": "self", "href": f"https://elsewhere.example/{name}.json"}],
        "assets": {"image": asset("./a.tif")} if assets is None else assets,
        "collection": "naip",
    }


def search(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(items), **more}


def catalogue(*links: tuple[str, str], kind: str = "Catalog") -> dict[str, Any]:
    record: dict[str, Any] = {
        "type": kind, "stac_version": "1.0.0", "id": "c", "description": "c",
        "links": [{"rel": rel, "href": href} for rel, href in links],
    }  # fmt: skip
    if kind == "Collection":
        record |= {
            "license": "x",
            "extent": {"spatial": {"bbox": [[0, 0, 1, 1]]}, "temporal": {"interval": [[None, None]]}},
        }
    return record


def write(path: Path, record: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def paths(listing: Listing) -> list[str]:
    return [image.path for image in listing.images]


def names(listing: Listing) -> list[str]:
    return [str(image.relative) for image in listing.images]


# -- documents --


def test_a_local_item_leads_to_the_image_beside_it_not_to_its_own_address(raster: Raster, tmp_path: Path) -> None:
    path = raster("a.tif", size=(8, 8))
    listing = find([write(tmp_path / "item.json", item())])
    (image,) = listing.images
    assert (image.path, image.source, image.secret) == (str(path), str(path), False)
    assert str(image.relative) == "naip/i1.tif"
    assert image.facts == {"acquired": "2020-05-04"}


def test_an_item_on_a_server_leads_to_an_image_that_opens(raster: Raster, tmp_path: Path) -> None:
    raster("in/data/a.tif", size=(8, 8))
    record = item("x/1", {"visual": asset("../data/a.tif?sig=s3cret")}, **{"dlslicer:city": "ALA", "site": " N "})
    with Server(tmp_path / "in") as server:
        server.put("/old/item.json", Answer(status=302, headers={"Location": "/items/item.json"}))
        server.put("/items/item.json", record)
        (image,) = find([server.address + "/old/item.json"]).images
        assert image.path == f"/vsicurl/{server.address}/data/a.tif?sig=s3cret"
        assert gdal_reads(image.path)
    assert (image.source, image.secret) == (f"{server.address}/data/a.tif", True)
    assert (str(image.relative), image.facts["city"], image.facts["site"]) == ("naip/x-1.tif", "ALA", "N")


def test_a_period_gives_its_first_day(tmp_path: Path) -> None:
    span: dict[str, Any] = {
        "datetime": None,
        "start_datetime": "2019-01-02T00:00:00Z",
        "end_datetime": "2019-02-02T00:00:00Z",
    }
    (image,) = find([write(tmp_path / "item.json", item(**span))]).images
    assert image.facts["acquired"] == "2019-01-02"


def test_the_pages_of_a_live_search_are_followed_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        answers = []
        for number in range(3):
            links = [{"rel": "next", "href": f"/search?token={number + 1}", "method": "GET"}] * (number < 2)
            found = item(f"i{number}", {"image": asset(f"https://h/{number}.tif")})
            answers.append(search(found, links=links))
        server.put("/search", *answers)
        assert names(find([server.address + "/search?collections=naip"])) == [f"naip/i{n}.tif" for n in range(3)]
        assert [request.query.get("token") for request in server.requests] == [None, "1", "2"]
        server.put("/search", *answers)
        monkeypatch.setattr(stac, "PAGES", 1)
        with pytest.raises(SceneError, match="goes on after 1 pages: narrow the search"):
            find([server.address + "/search"])


def test_pages_that_repeat_themselves_end() -> None:
    with Server() as server:
        found = item(assets={"image": asset("https://h/a.tif")})
        server.put("/search", search(found, links=[{"rel": "next", "href": "/search?p=1"}]))
        assert paths(find([server.address + "/search"])) == ["/vsicurl/https://h/a.tif"]
        assert server.asked("/search") == 2


def test_a_catalogue_is_walked_once_though_it_leads_in_circles(raster: Raster, tmp_path: Path) -> None:
    raster("root/sub/a.tif", size=(8, 8))
    root = write(
        tmp_path / "root/catalog.json",
        catalogue(("root", "./catalog.json"), ("child", "./sub/collection.json"), ("child", "./sub/../catalog.json")),
    )
    links = (("child", "../catalog.json"), ("item", "./i1.json"), ("item", "i2.json"), ("parent", "../catalog.json"))
    write(tmp_path / "root/sub/collection.json", catalogue(*links, kind="Collection"))
    write(tmp_path / "root/sub/i1.json", item("i1"))
    write(tmp_path / "root/sub/i2.json", item("i2", {"data": asset("https://h/b.jpg", "image/jpeg")}))
    listing = find([root])
    assert names(listing) == ["naip/i1.tif", "naip/i2.jpg"]
    assert listing.images[0].path == str((tmp_path / "root/sub/a.tif").resolve())


def test_a_catalogue_on_a_server_is_walked_through_failures(tmp_path: Path) -> None:
    with Server() as server:
        server.put("/catalog.json", Answer(status=429, headers={"Retry-After": "0"}), catalogue(("item", "i/1.json")))
        server.put("/i/1.json", Answer(status=503), item())
        assert paths(find([server.address + "/catalog.json"])) == [f"/vsicurl/{server.address}/i/a.tif"]


# -- which asset --


@pytest.mark.parametrize(
    ("assets", "wanted", "found"),
    [
        ({"B04": asset("b.tif"), "tci": asset("t.tif", TIFF, "visual")}, None, "t.tif"),
        ({"thumbnail": asset("t.png", "image/png", "visual", "thumbnail"), "image": asset("i.tif")}, None, "i.tif"),
        ({"data": asset("d.tif"), "image": asset("i.tif"), "visual": asset("v.tif")}, None, "v.tif"),
        ({"rgb": asset("r.tif", None), "meta": asset("m.xml", "text/xml")}, None, "r.tif"),
        ({"ortho": asset("o", "image/jp2"), "preview": asset("p.png", "image/png", "overview")}, None, "o"),
        ({"a": asset("a.tif"), "b": asset("b.tif")}, "b", "b.tif"),
    ],
)
def test_the_asset_is_found_by_role_key_and_type(
    tmp_path: Path, assets: dict[str, Any], wanted: str | None, found: str
) -> None:
    (image,) = find([write(tmp_path / "i.json", item(assets=assets))], asset=wanted).images
    assert image.path == str(tmp_path / found)


def test_an_asset_that_cannot_be_told_is_asked_for_by_key(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", item(assets={"a": asset("a.tif"), "b": asset("b.tif")}))
    with pytest.raises(SceneError, match=r"i\.json, item 'i1': it has 2 raster assets, a, b: name .* data\.asset"):
        find([path])
    with pytest.raises(SceneError, match=r"it has no asset 'c', only a, b: mend data\.asset"):
        find([path], asset="c")


def test_an_item_without_an_image_is_named_and_the_others_are_found(tmp_path: Path) -> None:
    other = item("i2", {"meta": asset("m.xml", "text/xml")})
    listing = find([write(tmp_path / "s.geojson", search(item(), other))])
    assert names(listing) == ["naip/i1.tif"]
    path = f"{tmp_path}/s.geojson#i2"
    assert listing.strangers == [{"path": path, "reason": "it is a STAC item without a raster asset"}]


# -- what is no STAC --


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is no STAC document"),
        ({"type": "Topology"}, "is no STAC document"),
        ({"type": "FeatureCollection", "features": 3}, "its features are no list"),
        ({"type": "FeatureCollection", "features": []}, "leads to no item"),
        ({"type": "Feature", "properties": {}, "geometry": None}, "no assets.* data.sidecar"),
        (item(assets={"a": 3}), "is no STAC item"),
        (item(assets={"a": {"href": 3}}), "is no STAC item"),
        (item() | {"properties": 5}, "is no STAC item"),
        (item() | {"properties": {"datetime": "yesterday"}}, "is no STAC item"),
        (item() | {"id": 7}, "is no STAC item"),
        (catalogue(("item", 5)), "without an address"),  # type: ignore[arg-type]
        (catalogue(("items", "./items")), "give the address of a search"),
        (catalogue(("item", "gone.json")), r"gone\.json cannot be read"),
        (search(links=[{"rel": "next", "href": "x", "method": "POST"}]), "by POST: save the whole search"),
    ],
)
def test_documents_that_are_none_are_one_sentence(tmp_path: Path, record: Any, words: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    with pytest.raises(SceneError, match=words):
        find([path])


@pytest.mark.parametrize("href", ["file:///etc/passwd", "file://localhost/x.tif"])
def test_a_document_from_elsewhere_may_not_name_files_of_this_machine(href: str) -> None:
    with Server() as server:
        server.put("/i.json", item(assets={"image": asset(href)}))
        with pytest.raises(SceneError, match="on this machine"):
            find([server.address + "/i.json"])
        server.put("/c.json", catalogue(("item", href)))
        with pytest.raises(SceneError, match="on this machine"):
            find([server.address + "/c.json"])
        server.put("/p.json", item(assets={"image": asset("/etc/passwd.tif")}))
        assert paths(find([server.address + "/p.json"])) == [f"/vsicurl/{server.address}/etc/passwd.tif"]


def test_failures_of_a_server_are_one_sentence_without_its_credentials() -> None:
    with Server() as server:
        server.put("/500.json", Answer(status=500))
        server.put("/junk.json", b"\xff\xfe garbage")
        server.put("/html.json", b"<html>log in</html>")
        server.put("/deep.json", catalogue(("item", "500.json?token=s3cret")))
        said = {
            "/500.json": "answers 500",
            "/junk.json": "no text",
            "/html.json": "no JSON",
            "/deep.json": "answers 500",
        }
        for path, words in said.items():
            with pytest.raises(SceneError, match=words) as caught:
                find([f"http://me:s3cret@{server.host}{path}?token=s3cret"])
            assert "s3cret" not in str(caught.value)
        assert server.asked("/500.json") == 8


def test_a_huge_document_is_not_read_to_its_end() -> None:
    with Server() as server:
        server.put("/huge.json", b" " * (51 << 20) + json.dumps(item()).encode())
        with pytest.raises(SceneError, match=r"huge\.json is larger than 50 MiB"):
            find([server.address + "/huge.json"])
