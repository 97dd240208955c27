from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import fuzz_sidecars
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.places.georef import place
from dlslicer_geo.scenes.places.hints import read_exif, tile_of
from dlslicer_geo.scenes.places.sidecar import Sidecars
from dlslicer_geo.scenes.values import Found, Header, Placement
from dlslicer_geo.types import Reading

GEOD = pyproj.Geod(ellps="WGS84")
LON, LAT = 76.9286, 43.2567


def about(cols: int = 256, rows: int = 256) -> Header:
    return Header(driver="PNG", width=cols, height=rows, bands=3, dtype="uint8", block=(1, cols))


def placed(path: str | Path, header: Header | None = None, **reading: Any) -> Placement | None:
    found = Found(path=str(path), relative=PurePosixPath(path), source=str(path))
    return place(found, header or about(), Sidecars({}), Reading(**reading))


def off_m(placement: Placement | None, truth: tuple[float, float], pixel: tuple[float, float]) -> float:
    assert placement is not None
    x, y = placement.transform * pixel
    lon, lat = pyproj.Transformer.from_crs(placement.crs, "EPSG:4326", always_xy=True).transform(x, y)
    return float(GEOD.inv(lon, lat, *truth)[2])


def corner(x: float, y: float, z: int) -> tuple[float, float]:
    """Longitude and latitude of a tile's upper left corner, by the formula of slippy maps."""
    n = 2.0**z
    return x / n * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / n))))


@pytest.mark.parametrize(
    "name", ["/data/18/187090/95911.png", "OAM-187090-95911-18.tif", "x/OAM-187090-95911-18-banepa_1.png"]
)
def test_a_tile_name_is_a_place_counted_southwards(name: str) -> None:
    placement = placed(name)
    assert placement is not None and placement.georef == "tile-name" and placement.crs == "EPSG:3857"
    gsd_m = 2 * math.pi * 6_378_137 / 256 / 2**18 * math.cos(math.radians(corner(0, 95911, 18)[1]))
    assert off_m(placement, corner(187090.5, 95911.5, 18), (128, 128)) < 0.01
    assert off_m(placement, corner(187090, 95911, 18), (0, 0)) < 0.01
    assert off_m(placement, corner(187091, 95912, 18), (256, 256)) < 0.01
    assert placement.accuracy_m == pytest.approx(gsd_m / 2, rel=0.01)


@pytest.mark.parametrize(
    "name",
    ["2018/12/3.png", "18/262144/0.png", "18/0/262144.png", "25/1/1.png", "OAM-1-2.png", "OAM-1-2-18x.png",
     "18/1/a.png", "18/-1/3.png", "1/18.png", "18/\u0661/3.png", "OAM-187090-95911-99.tif"],
)  # fmt: skip
def test_numbers_that_are_no_tile_are_no_place(name: str) -> None:
    assert tile_of(PurePosixPath(name)) is None
    assert placed(name) is None


def test_an_image_that_is_not_square_is_no_tile(caplog: pytest.LogCaptureFixture) -> None:
    assert placed("18/187090/95911.png", about(256, 255)) is None
    assert "256×255 pixels" in caplog.text


def photo(path: Path, gps: dict[int, Any] | None, **options: Any) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    if gps is not None:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    Image.new("RGB", (64, 48), (9, 99, 9)).save(path, exif=exif, **options)
    return path


def dms(degrees: float) -> tuple[Fraction, Fraction, Fraction]:
    whole, rest = divmod(abs(degrees), 1)
    minutes, seconds = divmod(rest * 60, 1)
    return Fraction(int(whole)), Fraction(int(minutes)), Fraction(round(seconds * 60e6), 1_000_000)


def gps(lon: float, lat: float, **more: Any) -> dict[int, Any]:
    refs = {1: "N" if lat >= 0 else "S", 2: dms(lat), 3: "E" if lon >= 0 else "W", 4: dms(lon)}
    return refs | {{"error": 31, "date": 29}[name]: value for name, value in more.items()}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(("lon", "lat"), [(LON, LAT), (-70.65, -33.45)])
def test_the_position_of_the_camera_is_the_centre_and_is_vague(
    tmp_path: Path, suffix: str, lon: float, lat: float
) -> None:
    placement = placed(photo(tmp_path / f"a{suffix}", gps(lon, lat, date="2018:07:15")), about(64, 48), gsd_m=0.5)
    assert placement is not None and placement.georef == "exif"
    assert off_m(placement, (lon, lat), (32, 24)) < 0.01
    assert placement.accuracy_m == 50
    assert placement.transform.a == 0.5
    assert placement.facts == {"acquired": "2018-07-15"}


def test_a_camera_that_knows_its_error_says_so(tmp_path: Path) -> None:
    placement = placed(photo(tmp_path / "a.jpg", gps(LON, LAT, error=120.0)), about(64, 48), gsd_m=0.5)
    assert placement is not None and placement.accuracy_m == 120


def test_a_camera_position_without_ground_resolution_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"a GPS position but no ground resolution: set data\.gsd_m"):
        placed(photo(tmp_path / "a.jpg", gps(LON, LAT)), about(64, 48))


def test_a_camera_far_from_the_world_file_is_told_even_without_ground_resolution(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = photo(tmp_path / "a.jpg", gps(LON, LAT, date="2018:07:15"))
    x, y = pyproj.Transformer.from_crs(4326, 32643, always_xy=True).transform(LON, LAT)
    for away_m, told in ((40, False), (400, True)):
        caplog.clear()
        (tmp_path / "a.jgw").write_text(f"0.5\n0\n0\n-0.5\n{x + away_m - 16}\n{y + 12}\n")
        placement = placed(path, about(64, 48), crs="EPSG:32643")
        assert placement is not None and placement.georef == "world-file"
        assert placement.facts == {"acquired": "2018-07-15"}
        assert ("its EXIF position (exif) are 39" in caplog.text or "(exif) are 40" in caplog.text) is told


@pytest.mark.parametrize(
    "garbage",
    [
        {1: "N", 2: (Fraction(95), 0, 0), 3: "E", 4: dms(LON)},
        {1: "X", 2: dms(LAT), 3: "E", 4: dms(LON)},
        {2: dms(LAT), 4: dms(LON)},
        {1: "N", 2: dms(LAT)},
        {1: "N", 2: (43.0, 75.0, 0.0), 3: "E", 4: dms(LON)},
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
    ],
)
def test_a_camera_position_that_makes_no_sense_is_none_with_a_word(
    tmp_path: Path, garbage: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dlslicer_geo")
    path = photo(tmp_path / "a.jpg", garbage)
    assert placed(path, about(64, 48), gsd_m=0.5) is None
    assert f"{path}: its EXIF position makes no sense" in caplog.text


def test_fractions_over_zero_and_strings_are_no_position() -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps(LON, LAT))
    whole = io.BytesIO()
    Image.new("RGB", (8, 8)).save(whole, "JPEG", exif=exif)
    content = whole.getvalue()
    assert read_exif(io.BytesIO(content), "a") is not None
    over_zero = content.replace(struct.pack(">II", 43, 1), struct.pack(">II", 43, 0))
    assert over_zero != content
    assert read_exif(io.BytesIO(over_zero), "a") is None


def test_an_image_without_gps_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dlslicer_geo")
    assert placed(photo(tmp_path / "a.jpg", None), about(64, 48), gsd_m=0.5) is None
    assert not caplog.records


def test_no_pixel_is_decoded_in_search_of_a_camera() -> None:
    """A PNG of 20,000 × 20,000 pixels whose pixels are missing: a reader of pixels fails, one of bombs warns."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    start = b"\x89PNG\r\n\x1a\n"
    for side in (5_000, 12_000, 20_000, 60_000):
        size = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        image = start + size + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
        assert read_exif(io.BytesIO(image), "a.png") is None


@settings(max_examples=200, deadline=1000)
@given(
    lon=st.floats(-180, 180), lat=st.floats(-90, 90), z=st.integers(10, 24), name=st.sampled_from(["{z}/{x}/{y}.png",
    "OAM-{x}-{y}-{z}.tif", "a/OAM-{x}-{y}-{z}-b.jpg"]),
)  # fmt: skip
def test_a_point_lies_in_the_tile_that_is_named_after_it(lon: float, lat: float, z: int, name: str) -> None:
    n = 1 << z
    x = min(n - 1, int((lon + 180) / 360 * n))
    merc = math.asinh(math.tan(math.radians(min(85.05, max(-85.05, lat)))))
    y = min(n - 1, int((1 - merc / math.pi) / 2 * n))
    placement = placed(name.format(x=x, y=y, z=z))
    pixel_m = 40_075_017 / 256 / n
    assert off_m(placement, corner(x + 0.5, y + 0.5, z), (128, 128)) < max(pixel_m / 2, 1e-6)


@settings(max_examples=200, deadline=1000)
@given(
    values=st.dictionaries(
        st.sampled_from([1, 2, 3, 4, 29, 31]),
        st.one_of(
            st.text(st.characters(max_codepoint=127), max_size=8), st.floats(0, 1e6),
            st.tuples(*[st.floats(0, 200)] * 3), st.lists(st.floats(0, 90), min_size=1, max_size=4).map(tuple),
        ),
    )
)  # fmt: skip
def test_any_gps_values_are_a_position_or_none(values: dict[int, Any]) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(values)
    whole = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's doubts while it writes
        try:
            Image.new("RGB", (8, 8)).save(whole, "JPEG", exif=exif)
        except (TypeError, ValueError, AttributeError, struct.error):  # it cannot write such
            return
    assert fuzz_sidecars.check("exif", whole.getvalue()) is None


@settings(max_examples=200, deadline=1000)
@given(name=st.text(max_size=40) | st.from_regex(r"[0-9]{1,12}/[0-9]{1,12}/[0-9]{1,12}\.png"))
def test_any_name_is_a_tile_or_none(name: str) -> None:
    assert fuzz_sidecars.check("tile", name.encode("utf-8", "replace")) is None
