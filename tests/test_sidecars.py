from __future__ import annotations

import json
import random
import sqlite3
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fuzz_sidecars
import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.places.companions import COMPANIONS, companions
from dlslicer_geo.scenes.places.georef import place
from dlslicer_geo.scenes.places.kml import member_name
from dlslicer_geo.scenes.places.sidecar import Sidecars
from dlslicer_geo.scenes.values import Found, Header, Placement
from dlslicer_geo.types import Reading

GEOD = pyproj.Geod(ellps="WGS84")
LON, LAT, GSD_M = 76.9286, 43.2567, 0.5
COLS, ROWS = 640, 481
SHAPE = ROWS, COLS


def about(cols: int = COLS, rows: int = ROWS) -> Header:
    return Header(driver="JPEG", width=cols, height=rows, bands=3, dtype="uint8", block=(1, cols))


def found(path: str | Path, relative: str | None = None) -> Found:
    return Found(path=str(path), relative=PurePosixPath(relative or PurePosixPath(path).name), source=str(path))


def images(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read here")
    return paths


def gather(folder: Path, given: str | None = None) -> Sidecars:
    return Sidecars.gather(sorted(path for path in folder.rglob("*") if path.is_file()), given)


def placed(folder: Path, name: str = "a.jpg", **reading: Any) -> Placement:
    image = folder / name
    placement = place(found(image), about(), gather(folder), Reading(**reading))
    assert placement is not None
    return placement


def degrees(placement: Placement, col: float, row: float) -> tuple[float, float]:
    x, y = placement.transform * (col, row)
    lon, lat = pyproj.Transformer.from_crs(placement.crs, "EPSG:4326", always_xy=True).transform(x, y)
    return float(lon), float(lat)


def off_m(
    placement: Placement, truth: tuple[float, float], pixel: tuple[float, float] = (COLS / 2, ROWS / 2)
) -> float:
    return float(GEOD.inv(*degrees(placement, *pixel), *truth)[2])


def corners(turn: float = 0.0, gsd_m: float = GSD_M) -> list[tuple[float, float]]:
    """Upper left, upper right, lower right and lower left of an image around (LON, LAT), by geodesics."""
    found = []
    for right, up in ((-1, 1), (1, 1), (1, -1), (-1, -1)):
        lon, lat, _ = GEOD.fwd(LON, LAT, turn, up * gsd_m * ROWS / 2)
        back = GEOD.inv(LON, LAT, lon, lat)[0] + (0 if up > 0 else 180)
        lon, lat, _ = GEOD.fwd(lon, lat, back + 90, right * gsd_m * COLS / 2)
        found.append((lon, lat))
    return found


def csv(path: Path, row: Mapping[str, object], mark: str = ",") -> Path:
    path.write_text(mark.join(row) + "\n" + mark.join(str(value) for value in row.values()) + "\n", encoding="utf-8")
    return path


WEST, SOUTH, EAST, NORTH = LON - 0.002, LAT - 0.001, LON + 0.002, LAT + 0.001
X, Y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32643", always_xy=True).transform(LON, LAT)
TURNED = {f"{name}_{axis}": value for name, point in zip(("ul", "ur", "lr", "ll"), corners(30), strict=True)
          for axis, value in zip(("lon", "lat"), point, strict=True)}  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"lon": LON, "lat": LAT, "gsd_m": GSD_M},
        {"Longitude": LON, "LATITUDE": LAT, "width_m": GSD_M * COLS},
        {"lon": LON, "lat": LAT, "gsd_m": GSD_M, "rotation_deg": 77},
        {"x": X, "y": Y, "crs": "EPSG:32643", "gsd_m": GSD_M},
        {"west": WEST, "south": SOUTH, "east": EAST, "north": NORTH},
        {"west": X - 160, "south": Y - 120.25, "east": X + 160, "north": Y + 120.25, "crs": "EPSG:32643"},
        TURNED,
    ],
    ids=["centre", "width", "rotated", "projected", "extent", "extent in a CRS", "corners"],
)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_every_way_to_give_a_position_in_a_csv_is_right_to_half_a_pixel(
    tmp_path: Path, row: dict[str, object], mark: str
) -> None:
    images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", {"file": "a.jpg", "accuracy_m": 3, **row}, mark)
    placement = placed(tmp_path)
    assert placement.georef == "sidecar" and placement.accuracy_m == 3
    assert off_m(placement, (LON, LAT)) < GSD_M / 2


def test_corners_land_on_their_corners(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", {"file": "a.jpg", **TURNED})
    placement = placed(tmp_path)
    for pixel, truth in zip(((0, 0), (COLS, 0), (COLS, ROWS), (0, ROWS)), corners(30), strict=True):
        assert off_m(placement, truth, pixel) < 0.01


def test_the_top_of_a_rotated_image_points_where_the_table_says(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", {"file": "a.jpg", "lon": LON, "lat": LAT, "gsd_m": GSD_M, "rotation_deg": 30})
    placement = placed(tmp_path)
    for pixel, truth in zip(((0, 0), (COLS, 0), (COLS, ROWS), (0, ROWS)), corners(30), strict=True):
        assert off_m(placement, truth, pixel) < 0.01


def test_an_axis_parallel_extent_is_kept_exactly(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", {"file": "a", "west": 70.0, "south": 40.0, "east": 70.64, "north": 40.481})
    placement = placed(tmp_path)
    assert placement.crs == "EPSG:4326"
    assert placement.transform.almost_equals(Affine(0.001, 0, 70, 0, -0.001, 40.481), 1e-12)


@pytest.mark.parametrize("suffix", [".geojson", ".json", ".gpkg"])
def test_points_and_outlines_of_vector_files_are_centres_and_footprints(tmp_path: Path, suffix: str) -> None:
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    level = shapely.box(WEST, SOUTH, EAST, NORTH)
    frame = gpd.GeoDataFrame(
        {"file": ["a.jpg", "b.jpg", "c.jpg"], "gsd_m": [GSD_M, None, None], "rotation_deg": [None, 30.0, None],
         "city": ["ALA", "ALA", "ALA"], "date": ["2018-07-15", "2018", "2018-07"]},
        geometry=[shapely.Point(LON, LAT), shapely.Polygon(np.roll(corners(30), 4, axis=0)), level], crs="EPSG:4326",
    )  # fmt: skip
    path = tmp_path / f"scenes{suffix}"
    frame.to_file(path, driver="GPKG" if suffix == ".gpkg" else "GeoJSON")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        assert off_m(placed(tmp_path, name), (LON, LAT)) < GSD_M / 2, name
    assert off_m(placed(tmp_path, "b.jpg"), corners(30)[0], (0, 0)) < 0.05
    assert placed(tmp_path, "c.jpg").crs == "EPSG:4326"
    assert placed(tmp_path, "a.jpg").facts == {"city": "ALA", "acquired": "2018-07-15"}


def test_a_geopackage_in_metres_keeps_its_crs(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    box = shapely.box(X - 160, Y - 120.25, X + 160, Y + 120.25)
    gpd.GeoDataFrame({"name": ["a"]}, geometry=[box], crs="EPSG:32643").to_file(tmp_path / "scenes.gpkg")
    placement = placed(tmp_path)
    assert placement.crs == "EPSG:32643"
    assert placement.transform.almost_equals(Affine(0.5, 0, X - 160, 0, -0.5, Y + 120.25), 1e-6)


def test_a_geopackage_that_is_open_in_qgis_can_be_read(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    path = tmp_path / "scenes.gpkg"
    gpd.GeoDataFrame({"file": ["a"], "gsd_m": 0.5}, geometry=[shapely.Point(LON, LAT)], crs=4326).to_file(path)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    database.close()
    assert off_m(placed(tmp_path), (LON, LAT)) < GSD_M / 2


def test_a_geopackage_with_views_is_refused_because_a_view_may_never_end(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    path = tmp_path / "scenes.gpkg"
    gpd.GeoDataFrame({"file": ["a"]}, geometry=[shapely.Point(LON, LAT)], crs=4326).to_file(path)
    database = sqlite3.connect(path)
    database.execute("CREATE VIEW v AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x FROM c")
    database.commit()
    database.close()
    with pytest.raises(SceneError, match=r"scenes\.gpkg: it has 1 database views"):
        gather(tmp_path)


KML = """<?xml version="1.0" encoding="UTF-8"?>
<kml {namespace} xmlns:gx="http://www.google.com/kml/ext/2.2"><Folder><GroundOverlay>
<name>Somewhere</name><TimeStamp><when>2018-07-15T10:00:00Z</when></TimeStamp>
<Icon><href>{href}</href></Icon><altitude>700</altitude>{place}</GroundOverlay></Folder></kml>"""
BOX = "<LatLonBox><north>{}</north><south>{}</south><east>{}</east><west>{}</west>{}</LatLonBox>"


@pytest.mark.parametrize(
    "namespace", ['xmlns="http://www.opengis.net/kml/2.2"', 'xmlns="http://earth.google.com/kml/2.1"', ""]
)
def test_a_ground_overlay_is_read_in_any_namespace(tmp_path: Path, namespace: str) -> None:
    images(tmp_path, "files/a b.jpg")
    text = KML.format(namespace=namespace, href="files/a%20b.jpg", place=BOX.format(NORTH, SOUTH, EAST, WEST, ""))
    (tmp_path / "scenes.kml").write_text(text)
    placement = placed(tmp_path, "files/a b.jpg")
    assert off_m(placement, (LON, LAT)) < 0.01
    assert placement.facts == {"acquired": "2018-07-15"}


def test_a_rotated_ground_overlay_turns_counter_clockwise_about_its_centre_on_the_ground(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    (west, _), (east, _) = (GEOD.fwd(LON, LAT, bearing, GSD_M * COLS / 2)[:2] for bearing in (270, 90))
    (_, north), (_, south) = (GEOD.fwd(LON, LAT, bearing, GSD_M * ROWS / 2)[:2] for bearing in (0, 180))
    box = BOX.format(north, south, east, west, "<rotation>-30</rotation>")
    (tmp_path / "a.kml").write_text(KML.format(namespace="", href="a.jpg", place=box))
    placement = placed(tmp_path)
    for pixel, truth in zip(((0, 0), (COLS, 0), (COLS, ROWS), (0, ROWS)), corners(30), strict=True):
        assert off_m(placement, truth, pixel) < 0.05


def test_a_quad_names_its_corners_from_the_lower_left_counter_clockwise(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    upper_left, upper_right, lower_right, lower_left = corners(100)
    text = " ".join(f"{lon},{lat},0" for lon, lat in (lower_left, lower_right, upper_right, upper_left))
    quad = f"<gx:LatLonQuad><coordinates>{text}</coordinates></gx:LatLonQuad>"
    (tmp_path / "a.kml").write_text(KML.format(namespace="", href="a.jpg", place=quad))
    assert off_m(placed(tmp_path), upper_left, (0, 0)) < 0.01
    assert off_m(placed(tmp_path), (LON, LAT)) < 0.01


def kmz(path: Path, kml: str, members: Mapping[str, bytes], name: str = "doc.kml") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**members, name: kml.encode()}.items():
            archive.writestr(member, content)
    return path


def test_an_image_inside_a_kmz_is_listed_and_finds_its_overlay(tmp_path: Path) -> None:
    kml = KML.format(namespace="", href="files/a.jpg", place=BOX.format(NORTH, SOUTH, EAST, WEST, ""))
    archive = kmz(tmp_path / "scenes.kmz", kml, {"files/a.jpg": b"x"})
    sidecars = gather(tmp_path)
    assert sidecars.overlays() == [(archive, "files/a.jpg")]
    image = found(f"/vsizip/{archive}/files/a.jpg", "scenes/files/a.jpg")
    placement = place(image, about(), sidecars, Reading())
    assert placement is not None and off_m(placement, (LON, LAT)) < 0.01
    assert place(found(f"/vsizip/{archive}/files/b.jpg"), about(), sidecars, Reading()) is None


@pytest.mark.parametrize("href", ["../a.jpg", "/etc/hostname", "files/../../a.jpg", "C:/a.jpg", "..\\a.jpg", ""])
def test_a_reference_out_of_an_archive_is_no_member(href: str) -> None:
    assert member_name("doc.kml", href) is None


def test_references_start_in_the_folder_of_the_kml() -> None:
    assert member_name("below/doc.kml", "../files/a.jpg") == "files/a.jpg"


def test_a_kmz_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    kmz(tmp_path / "scenes.kmz", "<kml>" + " " * 40_000_000 + "</kml>", {})
    with pytest.raises(SceneError, match=r"scenes\.kmz: its doc\.kml is packed [\d,]+ to 1, above 200"):
        gather(tmp_path)
    kmz(tmp_path / "scenes.kmz", "<kml/>", {f"{n}.txt": b"" for n in range(10_001)})
    with pytest.raises(SceneError, match=r"10,002 members, above 10,000"):
        gather(tmp_path)


def test_a_kmz_with_a_nameless_member_is_no_trouble(tmp_path: Path) -> None:
    kml = KML.format(namespace="", href="", place=BOX.format(NORTH, SOUTH, EAST, WEST, ""))
    images(tmp_path, "a.jpg")
    path = kmz(tmp_path / "a.kmz", kml, {"q": b"x"})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    assert content[at + 28 : at + 32] == struct.pack("<HH", 1, 0)  # lengths of the name and of the extra field
    content[at + 28 : at + 32] = struct.pack("<HH", 0, 1)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["", "doc.kml"]  # asked whether it is a folder, Python 3.11 fails
    assert off_m(placed(tmp_path), (LON, LAT)) < 0.01


CENTRE = {"file": "a.jpg", "lon": LON, "lat": LAT, "gsd_m": GSD_M}
EXTENT = {"file": "a.jpg", "west": WEST, "south": SOUTH, "east": EAST, "north": NORTH}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (CENTRE | {"lat": 90.1}, "lat is 90.1: it must be from -90 to 90"),
        (CENTRE | {"lon": "seven"}, "lon is 'seven': write a number"),
        (CENTRE | {"lon": "nan"}, "lon is 'nan'"),
        (CENTRE | {"lon": "7_6"}, "lon is '7_6'"),
        (CENTRE | {"gsd_m": 0}, "gsd_m is 0: it must be above 0"),
        (CENTRE | {"width_m": 3}, "gsd_m and width_m"),
        (CENTRE | {"accuracy_m": -1}, "accuracy_m is -1"),
        (CENTRE | {"date": "2018-13"}, "date is '2018-13'"),
        (CENTRE | {"west": 3}, r"a centre \(lon\) and an extent \(west\)"),
        (EXTENT | {"west": EAST, "east": WEST}, "west is 76.9306 and east is 76.9266"),
        (EXTENT | {"south": NORTH, "north": SOUTH}, "south is"),
        (EXTENT | {"rotation_deg": 5}, "rotation_deg is 5"),
        ({"file": "a.jpg", "lon": LON}, "lon but no lat"),
        ({"file": "a.jpg", "x": 1, "y": 2, "gsd_m": 1, "crs": "EPSG:4978"}, "Geocentric"),
        ({"file": "a.jpg", "west": 0, "south": 0, "east": 400, "north": 400, "crs": "EPSG:4326"}, "latitude 400"),
        (
            {"file": "a.jpg", **TURNED, "ul_lat": LAT + 0.003},
            "no parallelogram: they are .* m off, .*% of the diagonal",
        ),
    ],
)
def test_a_wrong_row_is_named_with_column_and_value(tmp_path: Path, row: dict[str, object], complaint: str) -> None:
    images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", row)
    with pytest.raises(SceneError, match=rf"^scenes\.csv, row 1: .*{complaint}"):
        placed(tmp_path)


def test_a_centre_takes_its_resolution_from_the_settings_or_says_what_is_missing(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", {"file": "a.jpg", "lon": LON, "lat": LAT})
    assert placed(tmp_path, gsd_m=2.0).transform.a == 2.0
    with pytest.raises(SceneError, match=r"add the column gsd_m, or set data\.gsd_m"):
        placed(tmp_path)


def test_a_table_may_tell_names_only(tmp_path: Path) -> None:
    (image,) = images(tmp_path, "a.jpg")
    csv(tmp_path / "scenes.csv", {"File": "a", "City": "ALA", "city_name": "Almaty", "SITE": 7, "date": "20180715"})
    sidecars = gather(tmp_path)
    assert place(found(image), about(), sidecars, Reading()) is None
    facts = {"city": "ALA", "city_name": "Almaty", "site": "7", "acquired": "2018-07-15"}
    assert sidecars.facts_of(found(image)) == facts
    assert sidecars.facts_of(found(tmp_path / "b.jpg")) == {}


@pytest.mark.parametrize("file", ["x/a.jpg", "x/a", "./x/a.jpg", "x\\a.jpg", "y/../x/a.jpg"])
def test_a_row_speaks_of_the_path_from_its_table(tmp_path: Path, file: str) -> None:
    one, two = images(tmp_path, "x/a.jpg", "y/a.jpg")
    csv(tmp_path / "scenes.csv", CENTRE | {"file": file})
    sidecars = gather(tmp_path)
    assert sidecars.row_of(found(one, "x/a.jpg")) is not None
    assert sidecars.row_of(found(two, "y/a.jpg")) is None


def test_a_mere_name_finds_the_only_image_of_that_name_and_refuses_two(tmp_path: Path) -> None:
    one, two = images(tmp_path, "x/a.jpg", "y/b.jpg")
    csv(tmp_path / "scenes.csv", CENTRE)
    assert gather(tmp_path).row_of(found(one, "x/a.jpg")) is not None
    assert gather(tmp_path).row_of(found(two, "y/b.jpg")) is None
    images(tmp_path, "y/a.jpg")
    with pytest.raises(SceneError, match=r"scenes\.csv, row 1 may mean .*x/a\.jpg or .*y/a\.jpg"):
        gather(tmp_path).row_of(found(one, "x/a.jpg"))


def test_each_folder_may_have_its_own_table_of_the_same_names(tmp_path: Path) -> None:
    for at, folder in enumerate(("x", "y", "z")):
        images(tmp_path, f"{folder}/1.jpg")
        if folder != "z":
            csv(tmp_path / folder / "scenes.csv", CENTRE | {"file": "1", "site": at})
    sidecars = gather(tmp_path)
    sites = [sidecars.facts_of(found(tmp_path / folder / "1.jpg", f"{folder}/1.jpg")) for folder in "xyz"]
    assert sites == [{"site": "0"}, {"site": "1"}, {}]


def test_a_name_without_suffix_is_refused_where_two_images_share_it(tmp_path: Path) -> None:
    one, _ = images(tmp_path, "a.jpg", "a.png")
    csv(tmp_path / "scenes.csv", CENTRE | {"file": "a"})
    with pytest.raises(SceneError, match=r"may mean .*a\.jpg or .*a\.png"):
        gather(tmp_path).row_of(found(one))


@pytest.mark.parametrize("file", [".", "..", "/", "x/", "\\"])
def test_a_row_that_names_a_folder_speaks_of_no_image(tmp_path: Path, file: str) -> None:
    (image,) = images(tmp_path, "x/a.jpg")
    csv(tmp_path / "scenes.csv", CENTRE | {"file": file})
    assert gather(tmp_path).row_of(found(image, "x/a.jpg")) is None
    assert gather(tmp_path).row_of(found(image, ".")) is None


def test_a_name_as_long_as_the_disk_takes_is_no_trouble(tmp_path: Path) -> None:
    (image,) = images(tmp_path, "a" * 251 + ".jpg")
    assert place(found(image), about(), gather(tmp_path), Reading()) is None


def test_two_rows_for_one_image_are_refused_by_name(tmp_path: Path) -> None:
    (image,) = images(tmp_path, "a.jpg")
    (tmp_path / "scenes.csv").write_text("file,lon,lat\na.jpg,1,2\nb.jpg,1,2\na,3,4\n")
    with pytest.raises(SceneError, match=r"scenes\.csv, row 1 and scenes\.csv, row 3 both speak of it"):
        gather(tmp_path).row_of(found(image))


def test_a_table_named_like_an_image_needs_no_column_for_the_file(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    csv(tmp_path / "a.csv", {"lon": LON, "lat": LAT, "gsd_m": GSD_M})
    assert off_m(placed(tmp_path), (LON, LAT)) < 0.01
    assert gather(tmp_path).files == (tmp_path / "a.csv",)


def test_a_table_named_like_an_image_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (image,) = images(tmp_path, "a.jpg")
    buildings = [shapely.box(LON, LAT, LON + 1e-4, LAT + 1e-4), shapely.box(LON, LAT, LON + 2e-4, LAT + 1e-4)]
    gpd.GeoDataFrame({"height": [3, 4]}, geometry=buildings, crs=4326).to_file(tmp_path / "a.geojson")
    sidecars = gather(tmp_path)
    assert sidecars.row_of(found(image)) is None
    assert sidecars.files == ()


def test_a_broken_table_named_like_an_image_speaks_up_for_that_image_only(tmp_path: Path) -> None:
    one, two = images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.geojson").write_text("{")
    sidecars = gather(tmp_path)
    assert sidecars.row_of(found(two)) is None
    with pytest.raises(SceneError, match=r"a\.geojson: it is no JSON"):
        sidecars.row_of(found(one))


def test_the_table_of_the_settings_is_the_only_one_and_speaks_of_images_anywhere(tmp_path: Path) -> None:
    (image,) = images(tmp_path, "data/x/a.jpg")
    csv(tmp_path / "data/scenes.csv", CENTRE | {"site": "wrong"})
    (tmp_path / "tables").mkdir()
    table = csv(tmp_path / "tables/t.csv", CENTRE | {"site": "right"})
    sidecars = gather(tmp_path / "data", str(table))
    assert sidecars.facts_of(found(image, "x/a.jpg")) == {"site": "right"}
    remote = Found(path="/vsicurl/https://h/x/a.jpg", relative=PurePosixPath("x/a.jpg"), source="https://h/x/a.jpg")
    assert sidecars.facts_of(remote) == {"site": "right"}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [("t.csv", None, "does not exist"), ("t.xlsx", b"", "none of .csv"), ("t.csv", b"", "it is empty"),
     ("t.csv", b"lon,lat\n1,2\n", "row 1 names no file"), ("t.csv", b"\xff\xfe", "not in UTF-8"),
     ("t.csv", b"file,lon\na,1,2\n", "row 1 has 3 cells"), ("t.csv", b'file\n"a', "no CSV"),
     ("t.geojson", b"[1]", "no GeoJSON"), ("t.geojson", b"[" * 100_000, "no JSON"), ("t.gpkg", b"x", "no GeoPackage"),
     ("t.kml", b"<kml/>", "no GroundOverlay"), ("t.kmz", b"PK", "no KMZ")],
)  # fmt: skip
def test_a_useless_table_of_the_settings_is_a_configuration_error(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^data\.sidecar .*{name}.*{complaint}"):
        Sidecars.gather([], str(tmp_path / name))


def test_an_outline_with_other_than_four_corners_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    for shape, complaint in (
        (shapely.Point(LON, LAT).buffer(0.01, quad_segs=2), "8 corners"),
        (shapely.LineString([(0, 0), (1, 1), (1, 0), (0, 1)]), "is a LineString"),
    ):
        gpd.GeoDataFrame({"file": ["a.jpg"]}, geometry=[shape], crs=4326).to_file(tmp_path / "scenes.geojson")
        with pytest.raises(SceneError, match=complaint):
            placed(tmp_path)


def test_files_that_belong_to_an_image_are_told_from_strangers() -> None:
    pictures = [Path("/d/a.jpg"), Path("/d/b.TIF")]
    belong = ["a.jgw", "a.JGW", "a.prj", "a.jpg.aux.xml", "a.aux.xml", "b.tfw", "b.TIF.ovr", "b.TIF.msk", "a.jpg.xml"]
    assert companions([Path("/d", name) for name in belong], pictures) == {f"/d/{name}" for name in belong}
    others = ["/d/c.jgw", "/d/a.txt", "/e/a.jgw", "/d/a.jpg", "/d/aux.xml"]
    assert companions(others, pictures) == set()
    assert all(ending == ending.lower() for ending in COMPANIONS)


NUMBERS = st.one_of(
    st.floats().map(repr), st.integers().map(str), st.sampled_from(["", "nan", "1e400", "1_0", "٣", "-0", " 7 "]),
    st.floats(-180, 180).map(repr),
)  # fmt: skip
COLUMNS = st.sampled_from(
    ["file", "name", "lon", "lat", "x", "y", "crs", "gsd_m", "width_m", "height_m", "west", "south", "east", "north",
     "rotation_deg", "accuracy_m", "date", "city", "LON", "ul_lon", "ul_lat", "ur_lon", "ur_lat", "lr_lon", "lr_lat",
     "ll_lon", "ll_lat"]
)  # fmt: skip
CELLS = st.one_of(NUMBERS, st.sampled_from(["a.jpg", "EPSG:32643", "EPSG:4978", "2018-07"]), st.text(max_size=20))
ROWS_ = st.dictionaries(COLUMNS, CELLS, max_size=12)
SHORT = settings(max_examples=200, deadline=1000, suppress_health_check=[HealthCheck.too_slow])


def refuses_or_reads(target: str, content: bytes) -> None:
    assert fuzz_sidecars.check(target, content) is None


@SHORT
@given(rows=st.lists(ROWS_, min_size=1, max_size=3), mark=st.sampled_from(",;\t"))
def test_any_csv_is_read_or_refused_in_a_sentence(rows: list[dict[str, str]], mark: str) -> None:
    for row in rows:
        lines = (mark.join(f'"{text}"' for text in cells) for cells in (row, row.values()))
        refuses_or_reads("csv", "\n".join(lines).encode("utf-8", "replace"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
POSITIONS = st.lists(st.lists(st.floats(-200, 200) | st.integers(), min_size=1, max_size=3), max_size=6)
GEOMETRY = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("Point"), "coordinates": st.lists(st.floats(-200, 200), max_size=3) | JSON}
    ),
    st.fixed_dictionaries({"type": st.just("Polygon"), "coordinates": st.lists(POSITIONS, max_size=2) | JSON}),
    st.fixed_dictionaries({"type": st.text(max_size=8), "coordinates": JSON}),
    JSON,
)


@SHORT
@given(properties=st.dictionaries(COLUMNS, CELLS | JSON, max_size=6) | JSON, geometry=GEOMETRY, crs=JSON)
def test_any_geojson_is_read_or_refused_in_a_sentence(properties: Any, geometry: Any, crs: Any) -> None:
    feature = {"type": "Feature", "properties": properties, "geometry": geometry}
    document = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    refuses_or_reads("geojson", json.dumps(document).encode())


@SHORT
@given(
    sides=st.dictionaries(st.sampled_from(["north", "south", "east", "west", "rotation"]), NUMBERS),
    href=st.text(max_size=20), when=st.text(max_size=12), quad=st.lists(st.lists(NUMBERS, max_size=3), max_size=5),
)  # fmt: skip
def test_any_ground_overlay_is_read_or_refused_in_a_sentence(
    sides: dict[str, str], href: str, when: str, quad: list[list[str]]
) -> None:
    box = "".join(f"<{side}>{text}</{side}>" for side, text in sides.items())
    points = " ".join(",".join(point) for point in quad)
    for place_ in (f"<LatLonBox>{box}</LatLonBox>", f"<LatLonQuad><coordinates>{points}</coordinates></LatLonQuad>"):
        text = (
            f"<GroundOverlay><Icon><href>{href}</href></Icon><TimeStamp><when>{when}</when></TimeStamp>{place_}"
            "</GroundOverlay>"
        )
        refuses_or_reads("kml", text.encode("utf-8", "replace"))


@SHORT
@given(words=st.lists(NUMBERS, min_size=5, max_size=7), end=st.sampled_from(["\n", "\r\n", " "]))
def test_any_world_file_is_read_or_refused_in_a_sentence(words: list[str], end: str) -> None:
    refuses_or_reads("world", end.join(words).encode())
    grid = ",".join(words)
    refuses_or_reads("aux", f"<PAMDataset><GeoTransform>{grid}</GeoTransform></PAMDataset>".encode())


@SHORT
@given(points=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=6))
def test_any_control_points_are_read_or_refused_in_a_sentence(points: list[tuple[str, str, str, str]]) -> None:
    listed = "".join(f'<GCP Pixel="{p}" Line="{line}" X="{x}" Y="{y}"/>' for p, line, x, y in points)
    text = f'<PAMDataset><GCPList Projection="EPSG:32643">{listed}</GCPList></PAMDataset>'
    refuses_or_reads("aux", text.encode())


@pytest.mark.parametrize("target", list(fuzz_sidecars.TARGETS))
def test_what_the_fuzzer_starts_from_is_valid(target: str) -> None:
    for content in fuzz_sidecars.corpus(target):
        assert fuzz_sidecars.check(target, content) is None
        assert fuzz_sidecars.accepts(target, content), content[:200]


@pytest.mark.parametrize("target", list(fuzz_sidecars.TARGETS))
def test_mutated_files_are_read_or_refused_in_a_sentence(target: str) -> None:
    findings = list(fuzz_sidecars.fuzz(200, seed=1, targets=(target,)))
    assert not findings, findings[0]


@pytest.mark.slow
def test_a_hundred_thousand_mutated_files_are_read_or_refused_within_a_second_each() -> None:
    findings = list(fuzz_sidecars.fuzz(100_000, seed=0))
    assert not findings, findings[0]


def test_the_fuzzer_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(content: bytes) -> None:
        if b"9" in content:
            raise KeyError("nine")

    monkeypatch.setitem(fuzz_sidecars.TARGETS, "world", fragile)
    assert any("nine" in finding.what for finding in fuzz_sidecars.fuzz(300, targets=("world",)))
    chance = random.Random(0)
    assert fuzz_sidecars.mutate("csv", chance) != fuzz_sidecars.mutate("csv", chance)


def test_images_on_disk_are_never_read_by_tables(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "scenes.png")
    assert gather(tmp_path).files == ()
