"""What is a scene, what is said of the other files, and where on the ground a scene lies."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from pyproj import Geod, Transformer

from dlslicer_geo import files
from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes import COLUMNS, scan
from dlslicer_geo.types import Scene

Raster = Callable[..., Path]


def one(path: Path, **options: Any) -> Scene:
    return Scene.from_record(scan(path, pattern=None, **options).to_dict("records")[0])


def test_all_shipped_naip_scenes_are_found_with_city_date_and_place(data_root: Path) -> None:
    scenes = scan(data_root / "naip_cities")
    assert len(scenes) == 1291
    assert scenes["scene_id"].is_monotonic_increasing
    assert scenes["scene_id"].is_unique
    assert scenes["city"].nunique() == 8
    assert set(scenes["acquired"]) == {"2016", "2018", "2020"}
    assert scenes["crs"].value_counts().to_dict() == {"EPSG:26911": 1115, "EPSG:26910": 176}
    assert scenes["gsd_m"].between(0.6, 0.6003).all()
    beach = scenes[scenes["scene_id"] == "long_beach_2018_12"].iloc[0]
    assert (beach["city"], beach["city_name"], beach["site"]) == ("long_beach", "Long Beach", "12")
    assert scenes.attrs["rejected"] == []


def test_the_shipped_data_are_those_of_the_checksums(data_root: Path) -> None:
    lines = (data_root / "checksums.sha256").read_text().splitlines(keepends=True)
    assert len(lines) == 1296
    folders: dict[str, list[str]] = {}
    for line in lines:
        digest, name = line.rstrip("\n").split("  ")
        assert files.sha256_file(data_root / name) == digest, name
        folders.setdefault(name.split("/")[0], []).append(line)
    readme = (data_root / "README.md").read_text(encoding="utf-8")
    for folder, members in folders.items():
        digest = hashlib.sha256("".join(sorted(members)).encode()).hexdigest()
        assert f"| `{folder}/` | `{digest}` |" in readme


def test_the_table_comes_back_from_disk_as_promised(raster: Raster, tmp_path: Path) -> None:
    raster("in/a.tif")
    scenes = scan(tmp_path / "in", pattern=None)
    again = files.read_table(files.write_table(scenes, tmp_path / "scenes.parquet"), COLUMNS)
    assert list(again.columns) == list(COLUMNS)
    assert again.crs == "EPSG:4326"
    scene = Scene.from_record(again.to_dict("records")[0])
    assert (scene.city, scene.city_name, scene.site, scene.acquired) == (None, None, "a", None)
    assert (scene.nodata, scene.accuracy_m, scene.georef) == (None, None, "geotiff")
    assert scene.sha256 == files.sha256_file(tmp_path / "in/a.tif")
    assert Path(scene.path) == (tmp_path / "in/a.tif").resolve()


def test_two_scans_give_the_same_table(raster: Raster, tmp_path: Path) -> None:
    for name in ("b/x.tif", "a/x.tif", "a.tif"):
        raster(name, size=(8, 8))
    first, second = (scan(tmp_path, pattern=None) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert list(first["scene_id"]) == ["a", "a__x", "b__x"]


# -- ground metres (trap 6) --


def test_banepa_is_a_quarter_metre_on_the_ground_not_the_0_2986_of_its_crs(data_root: Path) -> None:
    scene = one(data_root / "banepa")
    assert scene.grid.transform.a == pytest.approx(0.2986, abs=1e-4)
    assert scene.gsd_m == pytest.approx(0.2645, rel=2e-3)


def test_mercator_at_60_degrees_north_is_half_a_metre_per_unit(raster: Raster) -> None:
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(25.0, 60.0)
    assert one(raster("oslo.tif", crs="EPSG:3857", origin=(x, y), gsd=1.0)).gsd_m == pytest.approx(0.5, rel=5e-3)


def test_degrees_far_from_the_equator_are_warped_to_utm_at_the_finer_of_both_directions(
    raster: Raster, tmp_path: Path
) -> None:
    step = 1e-5
    path = raster("in/degrees.tif", crs="EPSG:4326", origin=(25.0, 60.0), gsd=step, size=(64, 64))
    lon, lat = 25 + 32 * step, 60 - 32 * step
    geod = Geod(ellps="WGS84")
    across = geod.inv(lon, lat, lon + step, lat)[2]
    down = geod.inv(lon, lat, lon, lat + step)[2]
    assert across / down == pytest.approx(0.5, rel=0.01)
    with pytest.raises(SceneError, match=r"0\.558 by 1\.114 m on the ground.*prepared="):
        one(path)
    scene = one(path, prepared=tmp_path / "prepared")
    assert str(scene.grid.crs) == "EPSG:32635"
    assert scene.gsd_m == pytest.approx(across, rel=1e-3)


def test_degrees_with_pixels_that_are_square_on_the_ground_are_welcome(raster: Raster) -> None:
    grid = Affine(2e-5, 0, 25.0, 0, -1e-5, 60.0)
    assert one(raster("square.tif", crs="EPSG:4326", transform=grid)).gsd_m == pytest.approx(1.115, rel=5e-3)


def test_feet_become_metres(raster: Raster) -> None:
    scene = one(raster("feet.tif", crs="EPSG:2229", origin=(6_480_000.0, 1_840_000.0), gsd=2.0))
    assert scene.gsd_m == pytest.approx(2 * 0.3048, rel=1e-3)


# -- what is bad, and how it is said (trap 5) --


def spoil(raster: Raster, tmp_path: Path, kind: str) -> Path:
    """One bad scene of each kind."""
    path = tmp_path / "bad.tif"
    if kind == "text":
        path.write_text("this is no image")
    elif kind == "empty":
        path.touch()
    elif kind == "no CRS":
        raster("bad.tif", crs=None)
    elif kind == "no georeference":
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
            raster("bad.tif", crs=None, transform=Affine.identity())
    elif kind == "rotated":
        raster("bad.tif", transform=Affine.translation(4e5, 4e6) * Affine.rotation(5) * Affine.scale(1, -1))
    elif kind == "mirrored":
        raster("bad.tif", transform=Affine(1, 0, 4e5, 0, 1, 4e6))
    elif kind == "oblong":
        raster("bad.tif", transform=Affine(0.6, 0, 4e5, 0, -0.62, 4e6))
    elif kind == "nothing valid":
        raster("bad.tif", pixels=np.zeros((3, 32, 32), np.uint8), nodata=0)
    elif kind == "complex":
        raster("bad.tif", pixels=np.ones((1, 8, 8), np.complex64))
    elif kind == "off the earth":
        raster("bad.tif", origin=(1e12, 1e12))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "cannot be read"),
        ("empty", "cannot be read"),
        ("no CRS", "no CRS"),
        ("no georeference", "nothing says where it lies"),
        ("rotated", "rotated"),
        ("mirrored", "south up"),
        ("oblong", "0.6002 by 0.6202 m on the ground"),
        ("nothing valid", "no valid pixel"),
        ("complex", "pixels are complex64"),
        ("off the earth", r"gives the coordinate 1e\+12"),
    ],
)
def test_a_bad_scene_is_named_with_its_reason(raster: Raster, tmp_path: Path, kind: str, words: str) -> None:
    path = spoil(raster, tmp_path, kind)
    with pytest.raises(SceneError, match=rf"bad\.tif cannot be a scene: .*{words}.*on_bad skip"):
        scan(path, pattern=None)
    raster("good.tif", size=(8, 8))
    scenes = scan(tmp_path, pattern=None, on_bad="skip")
    assert list(scenes["scene_id"]) == ["good"]
    assert [Path(entry["path"]).name for entry in scenes.attrs["rejected"]] == ["bad.tif"]
    assert re.search(words, scenes.attrs["rejected"][0]["reason"])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("compress", ["none", "deflate", "jpeg"])
def test_a_truncated_tiff_is_bad_though_it_opens(raster: Raster, tmp_path: Path, compress: str, share: float) -> None:
    options = {"photometric": "ycbcr"} if compress == "jpeg" else {}
    path = raster("cut.tif", size=(300, 300), compress=compress, interleave="pixel", **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with rasterio.open(path) as source:
        assert source.crs is not None
    with pytest.raises(SceneError, match=r"cut\.tif cannot be a scene: it cannot be read"):
        scan(path, pattern=None)


def test_other_files_are_named_once_each_and_never_raise(
    raster: Raster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raster("a.tif", size=(8, 8))
    raster(".a.12.tmp.tif", size=(8, 8))
    (tmp_path / "notes.txt").write_text("about the images")
    with caplog.at_level(logging.WARNING, "dlslicer_geo"):
        scenes = scan(tmp_path, pattern=None)
    assert list(scenes["scene_id"]) == ["a"]
    assert [record.getMessage().split("/")[-1] for record in caplog.records] == [
        ".a.12.tmp.tif is not a scene: it is hidden",
        "notes.txt is not a scene: its suffix is .txt, not .tif, .tiff, .jpg, .jpeg, .png, .webp, .jp2, .j2k or .vrt",
    ]
    assert len(scenes.attrs["rejected"]) == 2


def test_the_error_counts_the_bad_files(raster: Raster, tmp_path: Path) -> None:
    raster("b.tif", crs=None, size=(8, 8))
    raster("a.tif", crs=None, size=(8, 8))
    raster("c.tif", size=(8, 8))
    with pytest.raises(SceneError, match=r"a\.tif cannot be a scene.*2 of 3 files are bad"):
        scan(tmp_path, pattern=None)


def test_a_folder_without_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="holds no file"):
        scan(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(SceneError, match=r"no scene among 1 files.*a\.txt"):
        scan(tmp_path)
    with pytest.raises(SceneError, match="does not exist"):
        scan(tmp_path / "absent")


def test_only_skipped_files_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    with pytest.raises(SceneError, match="holds no scene"):
        scan(tmp_path, pattern=None, on_bad="skip")


# -- names --


DL_SLICER = r"(?P<name>[^/]+) \((?P<city>[A-Z]{3})\)/(?P<site>[^/]+)/(?P<date>[0-9-]+)_.*"


def test_a_pattern_reads_folders_and_every_form_of_date(raster: Raster, tmp_path: Path) -> None:
    for city, date in (("Almaty (ALA)", "2018"), ("Astana (NQZ)", "201807"), ("Bishkek (FRU)", "2018-07-15")):
        raster(f"{city}/NORTH/{date}_x 1.tif", size=(8, 8))
    scenes = scan(tmp_path, pattern=DL_SLICER)
    assert scenes["scene_id"].iloc[0] == "Almaty--ALA-__NORTH__2018_x-1"
    assert list(scenes["city"]) == ["ALA", "NQZ", "FRU"]
    assert list(scenes["city_name"]) == ["Almaty", "Astana", "Bishkek"]
    assert list(scenes["acquired"]) == ["2018", "2018-07", "2018-07-15"]
    assert set(scenes["site"]) == {"NORTH"}


def test_a_date_that_is_none_and_a_name_that_does_not_fit_are_bad(raster: Raster, tmp_path: Path) -> None:
    raster("Almaty (ALA)/NORTH/20181399_x.tif", size=(8, 8))
    raster("almaty.tif", size=(8, 8))
    raster("Almaty (ALA)/NORTH/20181231_x.tif", size=(8, 8))
    scenes = scan(tmp_path, pattern=DL_SLICER, on_bad="skip")
    assert len(scenes) == 1
    reasons = " | ".join(entry["reason"] for entry in scenes.attrs["rejected"])
    assert "20181399" in reasons
    assert "'almaty' does not fit the pattern" in reasons


def test_the_tiff_tag_gives_the_date_where_the_name_does_not(raster: Raster) -> None:
    path = raster("a.tif", size=(8, 8))
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="2019:05:04 12:00:00")
    assert one(path).acquired == "2019-05-04"
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="0000:00:00 00:00:00")
    assert one(path).acquired is None


def test_a_list_of_cities_names_them_and_limits_them(raster: Raster, tmp_path: Path) -> None:
    cities = tmp_path / "cities.csv"
    cities.write_text("\ufeffcode,city,country\nNA,Nampa,US\nSP,São Paulo,BR\n", encoding="utf-8")
    raster("in/NA_1.tif", size=(8, 8))
    pattern = r"(?P<city>[A-Z]+)_\d"
    assert scan(tmp_path / "in", pattern=pattern, cities=cities)["city_name"].to_list() == ["Nampa"]
    raster("in/XX_1.tif", size=(8, 8))
    with pytest.raises(SceneError, match=r"XX_1\.tif.*'XX' is none of the known ones: NA, SP"):
        scan(tmp_path / "in", pattern=pattern, cities=cities)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "(?P<city>["}, "no regular expression"),
        ({"pattern": r"(?P<town>\w+)"}, "has no group city"),
        ({"cities": "absent.csv"}, "cannot be read"),
        ({"on_bad": "ignore"}, "give raise or skip"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scan(tmp_path, **options)


@pytest.mark.parametrize("text", ["name,city\nALA,Almaty\n", "code,city\n", "code,city\nALA,Almaty\nALA,Alma-Ata\n"])
def test_a_list_of_cities_without_codes_or_with_double_ones_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cities.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"cities\.csv"):
        scan(tmp_path, cities=tmp_path / "cities.csv")


def test_two_files_with_one_scene_id_are_both_named(raster: Raster, tmp_path: Path) -> None:
    raster("a b.tif", size=(8, 8))
    raster("a-b.tif", size=(8, 8))
    with pytest.raises(SceneError, match=r"a b\.tif and .*a-b\.tif would both be scene a-b"):
        scan(tmp_path, pattern=None)


def test_one_file_given_twice_is_one_scene(raster: Raster, tmp_path: Path) -> None:
    path = raster("a.tif", size=(8, 8))
    assert len(scan([tmp_path, path], pattern=None)) == 1
