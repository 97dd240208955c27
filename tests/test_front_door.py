"""Whatever imagery there is, it becomes correctly placed scenes: a real small file of every kind through ``scan``."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import morecantile
import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import ExifTags, Image
from pyproj import CRS, Geod, Transformer
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import Point, Polygon

from dlslicer_geo.chips import cut
from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid, Reading, Scene

LON, LAT, GSD = 76.95, 43.25, 0.5
HEIGHT, WIDTH = 120, 160
SPOT = (20, 130)  # a green square around this pixel, upper right: nothing turned or mirrored passes
GEOD = Geod(ellps="WGS84")


def picture() -> NDArray[np.uint8]:
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    pixels[..., 2] = np.linspace(40, 140, WIDTH, dtype=np.uint8)
    pixels[HEIGHT // 2 - 5 : HEIGHT // 2 + 5, WIDTH // 2 - 5 : WIDTH // 2 + 5] = (230, 20, 20)
    pixels[SPOT[0] - 5 : SPOT[0] + 6, SPOT[1] - 5 : SPOT[1] + 6] = (20, 230, 20)
    return pixels


def save(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    quality: dict[str, Any] = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(picture()).save(path, **quality | options)
    return path


def offset(east_m: float, north_m: float) -> tuple[float, float]:
    """Longitude and latitude of a point so far east and north of the centre."""
    lon, lat, _ = GEOD.fwd(LON, LAT, 0, north_m)
    lon, lat, _ = GEOD.fwd(lon, lat, 90, east_m)
    return lon, lat


def corners() -> list[tuple[float, float]]:
    """Upper left, upper right, lower right, lower left."""
    x, y = WIDTH * GSD / 2, HEIGHT * GSD / 2
    return [offset(-x, y), offset(x, y), offset(x, -y), offset(-x, -y)]


def extent() -> dict[str, float]:
    (west, north), _, (east, south), _ = corners()
    return {"west": west, "south": south, "east": east, "north": north}


def utm() -> Affine:
    x, y = Transformer.from_crs(4326, 32643, always_xy=True).transform(LON, LAT)
    return Affine(GSD, 0, x - WIDTH * GSD / 2, 0, -GSD, y + HEIGHT * GSD / 2)


def write_tiff(path: Path, transform: Affine | None, crs: Any, **options: Any) -> Path:
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8", "crs": crs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, transform=transform, **options) as target:
            target.write(picture().transpose(2, 0, 1))
    return path


def world(path: Path, suffix: str, affine: Affine | None = None) -> None:
    a, b, c, d, e, f = (affine or utm())[:6]
    numbers = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    path.with_suffix(suffix).write_text("\n".join(f"{number!r}" for number in numbers) + "\n")


# -- one file of every kind: writes it, says how it is placed and what must be told --


def geotiff(folder: Path) -> Reading:
    write_tiff(folder / "a.tif", utm(), "EPSG:32643")
    return Reading()


def cog(folder: Path) -> Reading:
    with rasterio.open(write_tiff(folder.parent / "plain.tif", utm(), "EPSG:32643")) as source:
        rasterio.shutil.copy(source, folder / "a.tif", driver="COG")
    return Reading()


def jp2(folder: Path) -> Reading:
    with rasterio.open(write_tiff(folder.parent / "plain.tif", utm(), "EPSG:32643")) as source:
        rasterio.shutil.copy(source, folder / "a.jp2", driver="JP2OpenJPEG", REVERSIBLE="YES", QUALITY="100")
    return Reading()


def vrt(folder: Path) -> Reading:
    with rasterio.open(write_tiff(folder.parent / "plain.tif", utm(), "EPSG:32643")) as source:
        rasterio.shutil.copy(source, folder / "a.vrt", driver="VRT")
    return Reading()


def south_up(folder: Path) -> Reading:
    flipped = utm() * Affine.translation(0, HEIGHT) * Affine.scale(1, -1)
    with rasterio.open(write_tiff(folder.parent / "plain.tif", utm(), "EPSG:32643")) as source:
        pixels, profile = source.read()[:, ::-1], source.profile | {"transform": flipped}
    with rasterio.open(folder / "a.tif", "w", **profile) as target:
        target.write(pixels)
    return Reading()


def degrees(folder: Path) -> Reading:
    (west, north), _, (east, south), _ = corners()
    grid = Affine((east - west) / WIDTH, 0, west, 0, (south - north) / HEIGHT, north)
    write_tiff(folder / "a.tif", grid, "EPSG:4326")
    return Reading()


def rotated(folder: Path) -> Reading:
    middle = Affine.translation(WIDTH / 2, HEIGHT / 2)
    turned = utm() * middle * Affine.rotation(-30) * ~middle
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x, y = (~utm() * turned) * (cols, rows)  # where each pixel of the turned image lies in the level one
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    level = picture()[y.clip(0, HEIGHT - 1).astype(int), x.clip(0, WIDTH - 1).astype(int)]
    pixels = np.where(inside[..., None], level, 90).astype(np.uint8).transpose(2, 0, 1)
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8", "crs": "EPSG:32643"}
    with rasterio.open(folder / "a.tif", "w", **profile, transform=turned) as target:
        target.write(pixels)
    return Reading()


def gcps(folder: Path) -> Reading:
    points = [
        GroundControlPoint(row, col, *(utm() * (col, row)), 0)
        for row, col in ((0, 0), (0, WIDTH), (HEIGHT, WIDTH), (HEIGHT, 0), (HEIGHT / 2, WIDTH / 3))
    ]
    write_tiff(folder / "a.tif", None, CRS.from_epsg(32643).to_wkt(), gcps=points)
    return Reading()


def world_file_and_prj(folder: Path) -> Reading:
    world(save(folder / "a.jpg"), ".jgw")
    (folder / "a.prj").write_text(CRS.from_epsg(32643).to_wkt("WKT1_ESRI"))
    return Reading()


def world_file_and_config(folder: Path) -> Reading:
    world(save(folder / "a.png"), ".wld")
    return Reading(crs="EPSG:32643")


def world_file_and_pam(folder: Path) -> Reading:
    world(save(folder / "a.webp", lossless=True), ".webpw")
    srs = CRS.from_epsg(32643).to_wkt("WKT1_GDAL").replace("<", "&lt;")
    (folder / "a.webp.aux.xml").write_text(f"<PAMDataset><SRS>{srs}</SRS></PAMDataset>")
    return Reading()


def csv_centre(folder: Path) -> Reading:
    save(folder / "a.jpg")
    (folder / "scenes.csv").write_text(f"file,lon,lat,gsd_m,accuracy_m\na.jpg,{LON},{LAT},{GSD},3\n")
    return Reading()


def csv_corners(folder: Path) -> Reading:
    save(folder / "a.jpg")
    names = ["ul", "ur", "lr", "ll"]
    head = ",".join(f"{name}_lon,{name}_lat" for name in names)
    line = ",".join(f"{lon!r},{lat!r}" for lon, lat in corners())
    (folder / "positions.csv").write_text(f"file,{head}\na.jpg,{line}\n")
    return Reading(sidecar=str(folder / "positions.csv"))


def geojson(folder: Path) -> Reading:
    save(folder / "a.png")
    ring = [*corners()[::-1], corners()[-1]]
    outline = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {"file": "a.png"}, "geometry": outline}
    (folder / "scenes.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return Reading()


def geopackage(folder: Path) -> Reading:
    save(folder / "a.jpg")
    table = gpd.GeoDataFrame({"file": ["a.jpg"], "gsd_m": [GSD]}, geometry=[Point(LON, LAT)], crs=4326).to_crs(32643)
    table.to_file(folder / "scenes.gpkg", driver="GPKG")
    return Reading()


def geopackage_footprint(folder: Path) -> Reading:
    save(folder / "a.jpg")
    table = gpd.GeoDataFrame({"file": ["a.jpg"]}, geometry=[Polygon(corners())], crs=4326)
    table.to_file(folder / "scenes.gpkg", driver="GPKG")
    return Reading()


def ground_overlay() -> str:
    box = "".join(f"<{name}>{value!r}</{name}>" for name, value in extent().items())
    return (
        '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><GroundOverlay><name>a</name>'
        f"<Icon><href>a.jpg</href></Icon><LatLonBox>{box}</LatLonBox></GroundOverlay></Document></kml>"
    )


def kml(folder: Path) -> Reading:
    save(folder / "a.jpg")
    (folder / "a.kml").write_text(ground_overlay())
    return Reading()


def kmz(folder: Path) -> Reading:
    image = save(folder.parent / "a.jpg")
    with zipfile.ZipFile(folder / "overlay.kmz", "w") as archive:
        archive.writestr("doc.kml", ground_overlay())
        archive.write(image, "a.jpg")
    return Reading()


PLACED: dict[str, tuple[Callable[[Path], Reading], str]] = {
    "GeoTIFF": (geotiff, "geotiff"),
    "COG": (cog, "geotiff"),
    "JPEG 2000": (jp2, "geotiff"),
    "VRT": (vrt, "geotiff"),
    "GeoTIFF with south up": (south_up, "geotiff"),
    "GeoTIFF in degrees": (degrees, "geotiff"),
    "turned GeoTIFF": (rotated, "geotiff"),
    "ground control points": (gcps, "gcp"),
    "JPEG, .jgw and .prj": (world_file_and_prj, "world-file"),
    "PNG, .wld and data.crs": (world_file_and_config, "world-file"),
    "WebP, .webpw and .aux.xml": (world_file_and_pam, "world-file"),
    "CSV of centres": (csv_centre, "sidecar"),
    "CSV of corners": (csv_corners, "sidecar"),
    "GeoJSON of footprints": (geojson, "sidecar"),
    "GeoPackage of points": (geopackage, "sidecar"),
    "GeoPackage of footprints": (geopackage_footprint, "sidecar"),
    "KML ground overlay": (kml, "sidecar"),
    "KMZ": (kmz, "sidecar"),
}


def one(folder: Path, reading: Reading, **options: Any) -> Scene:
    scenes = scan(folder, **{"pattern": None} | options, reading=reading, prepared=folder.parent / "prepared")
    assert len(scenes) == 1, scenes.attrs["rejected"]
    assert scenes.attrs["rejected"] == []
    return Scene.from_record(scenes.to_dict("records")[0])


def lon_lat(scene: Scene, row: float, col: float) -> tuple[float, float]:
    x, y = scene.grid.affine * (col, row)
    lon, lat = Transformer.from_crs(str(scene.grid.crs), 4326, always_xy=True).transform(x, y)
    return lon, lat


def spot_of(scene: Scene) -> tuple[float, float]:
    """Where the green square lies in the raster that is read."""
    with rasterio.open(scene.path) as source:
        assert source.transform == pytest.approx(scene.grid.affine)
        red, green, _ = source.read((1, 2, 3)).astype(int)
    rows, cols = np.nonzero((green > 170) & (red < 110))
    assert 80 <= len(rows) <= 160
    return lon_lat(scene, float(rows.mean()) + 0.5, float(cols.mean()) + 0.5)


NORTHERLY = ("degrees", "CSV", "GeoJSON", "GeoPackage", "KML", "KMZ")
"""Kinds whose up is true north; the others follow the UTM grid, which is turned by 1.3 degrees here."""


def truth(kind: str) -> tuple[float, float]:
    row, col = SPOT[0] + 0.5, SPOT[1] + 0.5
    if any(word in kind for word in NORTHERLY):
        return offset((col - WIDTH / 2) * GSD, (HEIGHT / 2 - row) * GSD)
    lon, lat = Transformer.from_crs(32643, 4326, always_xy=True).transform(*(utm() * (col, row)))
    return lon, lat


@pytest.mark.parametrize("kind", PLACED)
def test_a_scene_of_every_kind_lands_where_it_was_taken(tmp_path: Path, kind: str) -> None:
    make, georef = PLACED[kind]
    (folder := tmp_path / "in").mkdir()
    scene = one(folder, make(folder))
    assert (scene.georef, scene.approximate) == (georef, False)
    assert scene.gsd_m == pytest.approx(GSD, rel=2e-3)
    if scene.grid.shape == (HEIGHT, WIDTH):  # not warped: the middle of the image is that of the grid
        lon, lat = lon_lat(scene, HEIGHT / 2, WIDTH / 2)
        assert GEOD.inv(lon, lat, LON, LAT)[2] <= GSD / 2
    assert GEOD.inv(*spot_of(scene), *truth(kind))[2] <= GSD / 2


@pytest.mark.parametrize("kind", [kind for kind in PLACED if kind not in ("GeoTIFF", "COG", "VRT")])
def test_what_was_written_anew_is_a_valid_cog(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "in").mkdir()
    scene = one(folder, PLACED[kind][0](folder))
    if scene.path != scene.source:
        assert cog_validate(scene.path, strict=True) == (True, [], [])
        assert Path(scene.path).parent == tmp_path / "prepared"


def test_a_map_tile_lies_where_its_name_says(tmp_path: Path) -> None:
    tile = morecantile.tms.get("WebMercatorQuad").tile(LON, LAT, 19)
    image = Image.fromarray(picture()[:120, :120]).resize((256, 256))
    for path in (tmp_path / f"a/19/{tile.x}/{tile.y}.png", tmp_path / f"b/OAM-{tile.x}-{tile.y}-19.png"):
        path.parent.mkdir(parents=True)
        image.save(path)
        scene = one(path.parent if path.stem.startswith("OAM") else tmp_path / "a", Reading())
        west, south, east, north = morecantile.tms.get("WebMercatorQuad").bounds(tile)
        assert scene.georef == "tile-name"
        assert lon_lat(scene, 0, 0) == pytest.approx((west, north), abs=1e-9)
        assert lon_lat(scene, 256, 256) == pytest.approx((east, south), abs=1e-9)


def gps(lon: float, lat: float) -> Image.Exif:
    def dms(value: float) -> tuple[float, float, float]:
        minutes = value % 1 * 60
        return float(int(value)), float(int(minutes)), minutes % 1 * 60

    exif = Image.Exif()
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: dms(lat), 3: "E", 4: dms(lon), 29: "2021:07:15"}
    return exif


def test_exif_gives_a_centre_that_is_marked(tmp_path: Path) -> None:
    save(tmp_path / "in/a.jpg", exif=gps(LON, LAT))
    scene = one(tmp_path / "in", Reading(gsd_m=GSD))
    assert (scene.georef, scene.approximate, scene.acquired) == ("exif", True, "2021-07-15")
    assert scene.accuracy_m is not None and scene.accuracy_m >= 50
    lon, lat = lon_lat(scene, HEIGHT / 2, WIDTH / 2)
    assert GEOD.inv(lon, lat, LON, LAT)[2] <= GSD / 2
    with pytest.raises(SceneError, match=r"data\.gsd_m"):
        one(tmp_path / "in", Reading())


# -- images that have nothing but a city --


def plain(folder: Path, names: Mapping[str, tuple[int, int]]) -> None:
    for name, size in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(30, 220, (*size, 3), np.uint8)).save(folder / name)


CITIES = "code,city,lon,lat\nALA,Almaty,76.95,43.25\nNYC,New York,-74.0,40.7\n"
FOLDERS = r"(?P<city>[A-Z]{3})/(?P<site>[^/]+)/.*"


def rough(folder: Path, tmp_path: Path) -> gpd.GeoDataFrame:
    (tmp_path / "cities.csv").write_text(CITIES)
    options: dict[str, Any] = {"cities": tmp_path / "cities.csv", "prepared": tmp_path / "prepared"}
    return scan(folder, pattern=FOLDERS, reading=Reading(gsd_m=GSD), **options)


def test_images_with_nothing_but_a_city_are_laid_out_around_it_and_marked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"ALA/{site}/{i}.png" for site in ("NORTH", "SOUTH", "WEST") for i in range(3)] + ["NYC/A/0.png"]
    plain(tmp_path / "in", {name: (100 + 10 * i, 120) for i, name in enumerate(names)})
    with caplog.at_level(logging.WARNING, "dlslicer_geo"):
        scenes = rough(tmp_path / "in", tmp_path)
    assert "10 images have nothing but a city" in caplog.text
    assert set(scenes["georef"]) == {"approximate"}
    assert scenes["gsd_m"].to_numpy() == pytest.approx(GSD, rel=1e-4)
    assert scenes["accuracy_m"].isna().all()
    with rasterio.open(scenes["path"].iloc[0]) as source:
        assert source.tags()["POSITION"].startswith("approximate")
    outlines = scenes[scenes["city"] == "ALA"].to_crs(32643).geometry
    gaps = [one.distance(two) for i, one in enumerate(outlines) for two in outlines.iloc[i + 1 :]]
    assert min(gaps) > 1
    assert (
        outlines.union_all().centroid.distance(gpd.GeoSeries([Point(LON, LAT)], crs=4326).to_crs(32643).iloc[0]) < 300
    )
    assert list(scenes["overlap_m2"].unique()) == [0]
    again = rough(tmp_path / "in", tmp_path)
    assert again["transform"].tolist() == scenes["transform"].tolist()


def test_approximate_scenes_have_chips_that_say_so(tmp_path: Path) -> None:
    plain(tmp_path / "in", {"ALA/N/a.png": (100, 100), "ALA/S/b.png": (100, 100)})
    chips = cut(rough(tmp_path / "in", tmp_path), ChipGrid(size=50, stride=50, metres=25))
    assert chips["approximate"].tolist() == [True] * 8


def test_an_image_that_nothing_places_is_named_with_what_to_do(tmp_path: Path) -> None:
    plain(tmp_path / "in", {"ALA/N/a.png": (50, 50)})
    for options, words in (
        ({"pattern": None}, "its city is unknown"),
        ({"pattern": FOLDERS}, r"set data\.gsd_m"),
    ):
        with pytest.raises(SceneError, match=rf"a\.png cannot be a scene: nothing says where it lies.*{words}"):
            scan(tmp_path / "in", **options, prepared=tmp_path / "prepared")


# -- several sources, and the real data --


def test_two_sources_that_disagree_are_named_with_their_distance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder := tmp_path / "in").mkdir()
    world_file_and_prj(folder)
    lon, lat = offset(100, 0)
    (folder / "scenes.csv").write_text(f"file,lon,lat,gsd_m,accuracy_m\na.jpg,{lon},{lat},{GSD},3\n")
    with caplog.at_level(logging.WARNING, "dlslicer_geo"):
        scene = one(folder, Reading())
    assert scene.georef == "world-file"
    assert "world-file" in caplog.text and "sidecar" in caplog.text and "100" in caplog.text


def test_all_shipped_data_scan_in_one_call_and_measure_what_the_ground_does(data_root: Path, tmp_path: Path) -> None:
    roots = [data_root / name for name in ("colorado_springs", "banepa", "landsat")]
    roots += sorted((data_root / "naip_cities").glob("*_2020_1*.tif"))
    scenes = scan(roots, pattern=None, prepared=tmp_path)
    assert len(scenes) > 50
    assert scenes["prepared"].isna().all()
    for record in scenes.to_dict("records"):
        scene = Scene.from_record(record)
        row, col = scene.grid.shape[0] / 2, scene.grid.shape[1] / 2
        (west, east), (south, north) = (
            (lon_lat(scene, row, col - 0.5), lon_lat(scene, row, col + 0.5)),
            (lon_lat(scene, row + 0.5, col), lon_lat(scene, row - 0.5, col)),
        )
        across, down = GEOD.inv(*west, *east)[2], GEOD.inv(*south, *north)[2]
        assert scene.gsd_m == pytest.approx(across, rel=1e-3)
        assert across == pytest.approx(down, rel=1e-2)
    banepa = scenes[scenes["scene_id"] == "banepa_oam_z19"].iloc[0]
    assert 0.96 <= banepa["valid_fraction"] <= 0.99
    assert banepa["holes_fraction"] == pytest.approx(256_568 / (5632 * 4352), rel=0.05)
    landsat = scenes[scenes["dtype"] == "uint16"].iloc[0]
    assert len(landsat["low"]) == 3
    assert all(low < high for low, high in zip(landsat["low"], landsat["high"], strict=True))


def test_no_chip_of_banepa_lies_in_a_hole(data_root: Path) -> None:
    scenes = scan(data_root / "banepa", pattern=None)
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=20, min_valid=0.5))
    with rasterio.open(scenes["path"].iloc[0]) as source:
        pixels = source.read()
    white = (pixels >= 254).all(axis=0)
    sums = np.pad(white.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    row, col, edge = (chips[name].to_numpy() for name in ("row", "col", "height"))
    inside = sums[row + edge, col + edge] - sums[row, col + edge] - sums[row + edge, col] + sums[row, col]
    assert (inside / edge**2).max() <= 0.55
    assert len(chips) > 1000
    without = scan(data_root / "banepa", pattern=None, reading=Reading(holes=False))
    assert without["valid_fraction"].iloc[0] == 1
    assert len(cut(without, ChipGrid(size=64, stride=32, metres=20))) > len(chips)
