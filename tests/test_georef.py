from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.control import GroundControlPoint

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.places.crs import crs_text
from dlslicer_geo.scenes.places.georef import metric_grid, place
from dlslicer_geo.scenes.places.plane import fit_corners, order_corners
from dlslicer_geo.scenes.places.sidecar import Sidecars
from dlslicer_geo.scenes.places.world import parse_world
from dlslicer_geo.scenes.rasters.image import header
from dlslicer_geo.scenes.values import Found, Header, Placement
from dlslicer_geo.types import Reading

GEOD = pyproj.Geod(ellps="WGS84")
WEST, NORTH, GSD_M = 650_000.0, 4_790_000.0, 0.5  # in EPSG:32643
SIZE = 61, 40  # columns and rows: neither even nor square


def found(path: Path) -> Found:
    return Found(path=str(path), relative=PurePosixPath(path.name), source=str(path))


def placed(path: Path, sidecars: Sidecars | None = None, **reading: Any) -> Placement:
    placement = place(found(path), header(str(path)), sidecars or Sidecars({}), Reading(**reading))
    assert placement is not None
    return placement


def jpg(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (120, 90, 60)).save(path)
    return path


def lonlat(x: float, y: float, crs: str = "EPSG:32643") -> tuple[float, float]:
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return float(lon), float(lat)


def at(transform: Affine, pixel: tuple[float, float]) -> tuple[float, float]:
    x, y = transform * pixel
    return float(x), float(y)


def off_m(placement: Placement, truth: tuple[float, float], size: tuple[int, int] = SIZE) -> float:
    """Metres between the centre of a placement and the truth."""
    lon, lat = lonlat(*at(placement.transform, (size[0] / 2, size[1] / 2)), placement.crs)
    return float(GEOD.inv(lon, lat, *truth)[2])


def pixel_off_m(placement: Placement, pixel: tuple[float, float], truth: tuple[float, float]) -> float:
    lon, lat = lonlat(*at(placement.transform, pixel), placement.crs)
    return float(GEOD.inv(lon, lat, *truth)[2])


CENTRE = lonlat(WEST + GSD_M * SIZE[0] / 2, NORTH - GSD_M * SIZE[1] / 2)


def world(path: Path, a: float = GSD_M, e: float = -GSD_M, west: float = WEST, north: float = NORTH) -> Path:
    path.write_text(f"{a}\n0.0\n0.0\n{e}\n{west + a / 2}\n{north + e / 2}\n")
    return path


def gcp_tif(path: Path, noise_m: float = 0.0, number: int = 5) -> Path:
    cols, rows = SIZE
    pixels = [(0, 0), (0, cols), (rows, cols), (rows, 0), (rows / 2, cols / 2)][:number]
    points = [
        GroundControlPoint(r, c, WEST + GSD_M * c + noise_m * (-1) ** i, NORTH - GSD_M * r)
        for i, (r, c) in enumerate(pixels)
    ]
    profile: dict[str, Any] = {"driver": "GTiff", "width": cols, "height": rows, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", gcps=points, crs="EPSG:32643", **profile) as target:
        target.write(np.ones((1, rows, cols), np.uint8))
    return path


def test_a_geotiff_lies_where_it_says(raster: Callable[..., Path]) -> None:
    path = raster("a.tif", crs="EPSG:32643", origin=(WEST, NORTH), gsd=GSD_M, size=SIZE[::-1])
    placement = placed(path)
    assert (placement.georef, placement.crs, placement.accuracy_m) == ("geotiff", "EPSG:32643", None)
    assert off_m(placement, CENTRE) < 0.01


def test_a_transform_without_crs_takes_the_one_of_the_settings_or_says_what_is_missing(
    raster: Callable[..., Path],
) -> None:
    path = raster("a.tif", crs=None, origin=(WEST, NORTH), gsd=GSD_M, size=SIZE[::-1])
    assert off_m(placed(path, crs="EPSG:32643"), CENTRE) < 0.01
    with pytest.raises(SceneError, match=r"a position but no CRS.*data\.crs"):
        placed(path)
    with pytest.raises(ConfigError, match=r"data\.crs.*'UTM'"):
        placed(path, crs="UTM")


def test_nothing_that_says_where_is_no_error(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    assert place(found(path), header(str(path)), Sidecars({}), Reading(crs="EPSG:32643", gsd_m=0.5)) is None


def test_control_points_are_fitted_and_their_residual_is_the_accuracy(tmp_path: Path) -> None:
    exact = placed(gcp_tif(tmp_path / "a.tif"))
    assert exact.georef == "gcp" and exact.accuracy_m == pytest.approx(0, abs=1e-3)
    assert off_m(exact, CENTRE) < 0.01
    noisy = placed(gcp_tif(tmp_path / "b.tif", noise_m=0.4))
    pixels = np.array([(0, 0, 1), (61, 0, 1), (61, 40, 1), (0, 40, 1), (30.5, 20, 1)])
    east = np.array([0.4, -0.4, 0.4, -0.4, 0.4])
    left = east - pixels @ np.linalg.lstsq(pixels, east, rcond=None)[0]
    assert noisy.accuracy_m == pytest.approx(math.sqrt(float(np.mean(left**2))), rel=0.001)


def test_three_control_points_cannot_contradict_so_their_accuracy_is_unknown(tmp_path: Path) -> None:
    placement = placed(gcp_tif(tmp_path / "a.tif", number=3))
    assert placement.accuracy_m is None
    assert off_m(placement, CENTRE) < 0.01


def test_control_points_far_off_an_affine_grid_are_refused_with_the_residual(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"5 control points are 3\.\d+ m off an affine grid.*gdalwarp -tps"):
        placed(gcp_tif(tmp_path / "a.tif", noise_m=4.0))


def test_control_points_on_a_line_are_refused() -> None:
    points = tuple((float(10 * n), float(20 * n), WEST + 10 * n, NORTH - 5 * n) for n in range(6))
    about = Header(
        driver="GTiff",
        width=61,
        height=40,
        bands=1,
        dtype="uint8",
        block=(40, 61),
        gcps=points,
        gcps_crs="EPSG:32643",
    )
    with pytest.raises(SceneError, match=r"6 control points lie on a line in the image \(spread across it 0\.0%"):
        place(found(Path("/nowhere/a.tif")), about, Sidecars({}), Reading())


def test_control_points_in_degrees_may_lie_on_both_sides_of_the_dateline() -> None:
    points = ((0.0, 0.0, 179.999, 1.0), (0.0, 100.0, -179.999, 1.0), (100.0, 0.0, 179.999, 0.998),
              (100.0, 100.0, -179.999, 0.998))  # fmt: skip
    about = Header(
        driver="GTiff", width=100, height=100, bands=1, dtype="uint8", block=(1, 1), gcps=points, gcps_crs="EPSG:4326"
    )
    placement = place(found(Path("/nowhere/a.tif")), about, Sidecars({}), Reading())
    assert placement is not None
    assert off_m(placement, (180.0, 0.999), (100, 100)) < 0.01


def test_rpcs_alone_are_refused_with_advice() -> None:
    about = Header(driver="GTiff", width=9, height=9, bands=1, dtype="uint8", block=(9, 9), rpcs=True)
    with pytest.raises(SceneError, match="RPCs but no grid: orthorectify it first, for instance with gdalwarp -rpc"):
        place(found(Path("/nowhere/a.tif")), about, Sidecars({}), Reading())


@pytest.mark.parametrize(
    ("image", "file"),
    [("a.jpg", "a.jgw"), ("a.jpg", "a.JGW"), ("a.jpg", "a.jpgw"), ("a.jpeg", "a.jgw"), ("a.png", "a.pgw"),
     ("a.png", "a.pngw"), ("a.webp", "a.wpw"), ("a.webp", "a.webpw"), ("a.jp2", "a.j2w"), ("a.jpg", "a.wld"),
     ("a.JPG", "a.JGW"), ("a.tif", "a.tfw"), ("a.tiff", "a.tfw"), ("a.tif", "a.tifw")],
)  # fmt: skip
def test_a_world_file_names_the_centre_of_the_first_pixel(tmp_path: Path, image: str, file: str) -> None:
    about = Header(driver="JPEG", width=SIZE[0], height=SIZE[1], bands=3, dtype="uint8", block=(1, 61))
    world(tmp_path / file)
    placement = place(found(tmp_path / image), about, Sidecars({}), Reading(crs="EPSG:32643"))
    assert placement is not None and placement.georef == "world-file"
    assert off_m(placement, CENTRE) < 0.01


def test_rotated_terms_of_a_world_file_are_kept() -> None:
    turned = Affine.translation(WEST, NORTH) * Affine.rotation(20) * Affine.scale(0.5, -0.5)
    x, y = turned * (0.5, 0.5)
    text = "\n".join(repr(number) for number in (turned.a, turned.d, turned.b, turned.e, x, y))
    assert parse_world(text.encode()).almost_equals(turned, 1e-6)


def test_a_world_file_may_have_decimal_commas() -> None:
    assert parse_world(b"0,5\n0\n0\n-0,5\n650000,25\n4789999,75") == Affine(0.5, 0, WEST, 0, -0.5, NORTH)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("0.5 0 0 -0.5 nan 1", "'nan'"), ("0.5 0 0 -0.5 1e300 1", r"1e\+300"), ("0 0 0 0 1 1", "without area"),
     ("0.5 0 0 -0.5 1", "5 words"), ("a b c d e f", "'a'"), ("1e7 0 0 -1 1 1", r"size 1e\+07"),
     ("0.5 0 0 -0.5 1_0 1", "'1_0'"), ("\0" * 9000, "six numbers")],
)  # fmt: skip
def test_a_useless_world_file_is_refused_with_the_number(tmp_path: Path, text: str, complaint: str) -> None:
    path = jpg(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text(text)
    with pytest.raises(SceneError, match=rf"a\.jgw: .*{complaint}"):
        placed(path, crs="EPSG:32643")


@pytest.mark.parametrize("kind", ["WKT1_GDAL", "WKT1_ESRI", "WKT2_2019"])
def test_the_crs_of_a_world_file_is_that_of_the_prj_in_any_dialect(tmp_path: Path, kind: Any) -> None:
    path = jpg(tmp_path / "a.jpg")
    world(tmp_path / "a.jgw")
    (tmp_path / "a.prj").write_text(pyproj.CRS.from_epsg(32643).to_wkt(kind))
    placement = placed(path, crs="EPSG:32618")  # the settings come last
    assert placement.crs == "EPSG:32643"
    assert off_m(placement, CENTRE) < 0.01


def test_the_crs_of_a_world_file_may_come_from_the_aux_xml(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    world(tmp_path / "a.jgw")
    wkt = pyproj.CRS.from_epsg(32643).to_wkt("WKT1_GDAL")
    (tmp_path / "a.jpg.aux.xml").write_text(f"<PAMDataset><SRS>{wkt}</SRS></PAMDataset>")
    assert off_m(placed(path, crs="EPSG:32618"), CENTRE) < 0.01


def test_what_gdal_writes_beside_a_png_is_read(tmp_path: Path) -> None:
    pixels = np.ones((3, *SIZE[::-1]), np.uint8)
    profile: dict[str, Any] = {"width": SIZE[0], "height": SIZE[1], "count": 3, "dtype": "uint8"}
    transform = Affine(GSD_M, 0, WEST, 0, -GSD_M, NORTH)
    with rasterio.open(tmp_path / "a.tif", "w", crs="EPSG:32643", transform=transform, **profile) as target:
        target.write(pixels)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.png", driver="PNG")
    assert (tmp_path / "a.png.aux.xml").exists()
    assert placed(tmp_path / "a.png").georef == "world-file"
    assert off_m(placed(tmp_path / "a.png"), CENTRE) < 0.01
    rasterio.shutil.copy(gcp_tif(tmp_path / "b.tif"), tmp_path / "b.png", driver="PNG")
    assert placed(tmp_path / "b.png").georef == "gcp"
    assert off_m(placed(tmp_path / "b.png"), CENTRE) < 0.01


def test_a_world_file_alone_says_that_the_crs_is_missing(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    world(tmp_path / "a.jgw")
    with pytest.raises(SceneError, match=r"world file a\.jgw but no CRS: add a \.prj beside it, or set data\.crs"):
        placed(path)


def test_metres_under_a_crs_in_degrees_are_refused(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    world(tmp_path / "a.jgw")
    with pytest.raises(SceneError, match=r"its world file puts its centre at 650015, 4\.78999e\+06.*EPSG:4326"):
        placed(path, crs="EPSG:4326")


@pytest.mark.parametrize("bomb", ["entities", "size", "type"])
def test_an_aux_xml_that_would_fill_the_memory_is_refused(tmp_path: Path, bomb: str) -> None:
    path = jpg(tmp_path / "a.jpg")
    laugh = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    text = {
        "entities": f'<!DOCTYPE x [<!ENTITY l0 "ha">{laugh}]><PAMDataset>&l9;</PAMDataset>',
        "size": f"<PAMDataset>{' ' * 1_000_001}</PAMDataset>",
        "type": '<!DOCTYPE x SYSTEM "file:///etc/hostname"><PAMDataset/>',
    }[bomb]
    (tmp_path / "a.jpg.aux.xml").write_text(text)
    with pytest.raises(SceneError, match=r"a\.jpg\.aux\.xml.*(entities or a document type|1,000,000 bytes)"):
        placed(path)


def test_the_file_itself_goes_before_a_world_file_and_the_distance_is_told(
    raster: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = raster("a.tif", crs="EPSG:32643", origin=(WEST, NORTH), gsd=GSD_M, size=SIZE[::-1])
    world(path.with_suffix(".tfw"), west=WEST + 30)
    placement = placed(path)
    assert placement.georef == "geotiff" and off_m(placement, CENTRE) < 0.01
    assert len(caplog.records) == 1
    assert str(path) in caplog.text and "(geotiff)" in caplog.text and "(world-file)" in caplog.text
    scale = pyproj.Proj("EPSG:32643").get_factors(*CENTRE).meridional_scale
    assert f"{30 / scale:.1f} m apart" in caplog.text


def test_sources_that_agree_within_their_accuracy_are_not_mentioned(
    raster: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = raster("a.tif", crs="EPSG:32643", origin=(WEST, NORTH), gsd=GSD_M, size=SIZE[::-1])
    world(path.with_suffix(".tfw"), west=WEST + 0.9)  # two pixels are 1 m
    placed(path)
    assert not caplog.records


def test_a_world_file_without_crs_is_no_error_beside_a_better_source(
    raster: Callable[..., Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    about = Header(
        driver="PNG", width=61, height=40, bands=3, dtype="uint8", block=(1, 61),
        transform=Affine(GSD_M, 0, WEST, 0, -GSD_M, NORTH), crs="EPSG:32643",
    )  # fmt: skip
    world(tmp_path / "a.pgw")
    placement = place(found(tmp_path / "a.png"), about, Sidecars({}), Reading())
    assert placement is not None and placement.georef == "geotiff" and not caplog.records


def test_a_better_source_that_lacks_something_gives_way_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jpg(tmp_path / "a.jpg")
    world(tmp_path / "a.jgw")
    (tmp_path / "scenes.csv").write_text(f"file,lon,lat,gsd_m\na.jpg,{CENTRE[0]},{CENTRE[1]},0.5\n")
    sidecars = Sidecars.gather([path, tmp_path / "a.jgw", tmp_path / "scenes.csv"], None)
    assert placed(path, sidecars).georef == "sidecar"
    assert "no CRS" in caplog.text and "its sidecar is taken" in caplog.text


def test_a_broken_source_below_a_good_one_is_a_warning_and_above_it_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jpg(tmp_path / "a.jpg")
    world(tmp_path / "a.jgw")
    (tmp_path / "scenes.csv").write_text("file,lon,lat,gsd_m\na.jpg,76.9,95,0.5\n")
    sidecars = Sidecars.gather([path, tmp_path / "scenes.csv"], None)
    assert placed(path, sidecars, crs="EPSG:32643").georef == "world-file"
    assert "its sidecar cannot be used: scenes.csv, row 1: lat is 95" in caplog.text
    (tmp_path / "a.jgw").write_text("nan")
    (tmp_path / "scenes.csv").write_text("file,lon,lat,gsd_m\na.jpg,76.9,43,0.5\n")
    with pytest.raises(SceneError, match=r"a\.jgw"):
        placed(path, Sidecars.gather([path, tmp_path / "scenes.csv"], None), crs="EPSG:32643")


def test_a_crs_is_reduced_to_its_horizontal_part_and_named_by_its_authority() -> None:
    assert crs_text("EPSG:7405") == "EPSG:27700"  # with heights
    assert crs_text("EPSG:4979") == "EPSG:4326"  # three-dimensional
    bound = "+proj=tmerc +lon_0=75 +k=1 +x_0=13500000 +ellps=krass +towgs84=23.92,-141.27,-80.9,0,0.35,0.82,-0.12"
    lon, lat = lonlat(13_660_000, 4_790_000, crs_text(bound))
    truth = lonlat(13_660_000, 4_790_000, "EPSG:28413")
    assert GEOD.inv(lon, lat, *truth)[2] < 1  # without its shift it would be 54 m


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("EPSG:4978", "Geocentric"), ("EPSG:5703", "Vertical"), ("IAU_2015:30100", "celestial body"),
     ("UTM", "cannot be read"),
     ('LOCAL_CS["x",UNIT["metre",1]]', "Engineering"), ("EPSG:999999", "crs not found"), ("", "cannot be read")],
)  # fmt: skip
def test_a_crs_without_positions_on_earth_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(SceneError, match=complaint):
        crs_text(text)


@settings(max_examples=100, deadline=1000)
@given(
    lon=st.floats(-180, 180), lat=st.floats(-89.9, 89.9), gsd_m=st.floats(0.05, 30), turn=st.floats(-360, 360),
    rows=st.integers(1, 5000), cols=st.integers(1, 5000),
)  # fmt: skip
def test_a_metric_grid_has_its_centre_its_scale_and_its_direction(
    lon: float, lat: float, gsd_m: float, turn: float, rows: int, cols: int
) -> None:
    crs, transform = metric_grid(lon, lat, gsd_m, (rows, cols), turn)
    up = Placement(crs=crs, transform=transform, georef="sidecar")
    assert pixel_off_m(up, (cols / 2, rows / 2), (lon, lat)) < 0.001
    # a step upwards in the image goes where it should, on the ellipsoid
    there = lonlat(*at(transform, (cols / 2, rows / 2 - 1)), crs)
    azimuth, _, length = GEOD.inv(round(lon, 9), round(lat, 9), *there)
    assert length == pytest.approx(gsd_m, rel=1e-4, abs=2e-4)
    assert abs((azimuth - turn + 180) % 360 - 180) < 0.1 + 0.01 / gsd_m
    # east is to the right of it: not mirrored
    assert transform.determinant < 0


@settings(max_examples=60, deadline=1000)
@given(
    lon=st.floats(-179, 179), lat=st.floats(-80, 80), turn=st.floats(-44, 44), start=st.integers(0, 3),
    backwards=st.booleans(), cols=st.integers(100, 5000), rows=st.integers(100, 5000),
)  # fmt: skip
def test_an_outline_is_turned_the_right_way_whatever_corner_it_starts_with(
    lon: float, lat: float, turn: float, start: int, backwards: bool, cols: int, rows: int
) -> None:
    crs, transform = metric_grid(lon, lat, 0.5, (rows, cols), turn)
    corners = [lonlat(*at(transform, pixel), crs) for pixel in ((0, 0), (cols, 0), (cols, rows), (0, rows))]
    ring = np.array([*corners[start:], *corners[:start]])[:: -1 if backwards else 1]
    ordered = order_corners("EPSG:4326", ring, None)
    placement = Placement(
        **dict(zip(("crs", "transform"), fit_corners("EPSG:4326", ordered, (rows, cols)), strict=True)),
        georef="sidecar",
    )
    for pixel, truth in zip(((0, 0), (cols, 0), (cols, rows), (0, rows)), corners, strict=True):
        assert pixel_off_m(placement, pixel, truth) < 0.06  # an outline 0.1 px off a box in degrees is that box


def test_the_door_of_the_room_stays_light() -> None:
    heavy = "{'rasterio', 'geopandas', 'PIL', 'pyogrio'}"
    code = f"import sys, dlslicer_geo.scenes; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
