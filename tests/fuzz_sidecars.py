"""Throws mutated files at every reader of positions: ``python tests/fuzz_sidecars.py --runs 100000 --seed 0``.

A reader may accept its input or raise one of the errors that a user can meet; anything else, and anything that takes
longer than a second, is a finding. Exits with 1 when there is one. ``--atheris`` lets atheris steer by
coverage.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from affine import Affine
from PIL import ExifTags, Image

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.places import crs, georef, hints, kml, plane, rows, sidecar, tables, world
from dlslicer_geo.scenes.places.georef import place
from dlslicer_geo.scenes.places.rows import Row
from dlslicer_geo.scenes.places.sidecar import Sidecars
from dlslicer_geo.scenes.values import Found, Header
from dlslicer_geo.types import Reading

LIMIT_S = 1.0
SHAPE = (480, 640)
IMAGE = Found(path="/nowhere/a.jpg", relative=PurePosixPath("a.jpg"), source="/nowhere/a.jpg")
HEADER = Header(driver="JPEG", width=640, height=480, bands=3, dtype="uint8", block=(1, 640))
TILE = Header(driver="PNG", width=256, height=256, bands=3, dtype="uint8", block=(1, 256))
READING = Reading(gsd_m=0.5)

Target = Callable[[bytes], None]


class Finding(NamedTuple):
    """An input that a reader should have refused in a sentence, and what it did instead."""

    target: str
    content: bytes
    what: str


class Late(BaseException):
    """Raised by the clock; no reader may catch it."""


def _table(suffix: str) -> Target:
    def run(content: bytes) -> None:
        found = tables.PARSERS[suffix](content, f"scenes{suffix}")
        refused = [error for row in found[:20] if (error := _row(row, suffix))]
        if refused:
            raise refused[0]

    return run


def _row(row: Row, suffix: str) -> SceneError | None:
    named = row.values.get("member") or row.values.get("file", "a.jpg")
    folder = f"/vsizip//nowhere/scenes{suffix}" if "member" in row.values else "/nowhere"
    found = Found(path=f"{folder}/{named}", relative=PurePosixPath(named), source=named)
    try:
        sidecars = Sidecars({Path(f"/nowhere/scenes{suffix}"): [row]})
        place(found, HEADER, sidecars, READING)
        sidecars.facts_of(found)
    except SceneError as error:
        return error
    return None


def _world(content: bytes) -> None:
    _look("EPSG:32643", world.parse_world(content))


def _prj(content: bytes) -> None:
    _look(world.parse_prj(content), plane.box_grid(500_000, 4_700_000, 501_000, 4_701_000, SHAPE))


def _aux(content: bytes) -> None:
    found = world.parse_aux(content)
    if found.transform is not None:
        _look(found.crs or "EPSG:32643", found.transform)
    header = replace(HEADER, gcps=found.gcps, gcps_crs=found.crs or "EPSG:32643")
    place(IMAGE, header, Sidecars({}), READING)


def _tile(content: bytes) -> None:
    name = content.decode("utf-8", errors="replace")
    if hints.tile_placement(Found(path=name, relative=PurePosixPath(name), source=name), TILE) is None:
        raise SceneError("no tile")


def _exif(content: bytes) -> None:
    camera = hints.read_exif(io.BytesIO(content), "image")
    if camera is None:
        raise SceneError("no position")
    if not (abs(camera.lat) <= 90 and abs(camera.lon) <= 180 and camera.accuracy_m >= 50):
        raise AssertionError(camera)
    hints.exif_placement(camera, SHAPE, 0.5)


def _look(crs: str, transform: Affine) -> None:
    plane.centre_of(crs, transform, SHAPE)
    plane.pixel_m(crs, transform, SHAPE)


TARGETS: dict[str, Target] = {
    "world": _world,
    "prj": _prj,
    "aux": _aux,
    "csv": _table(".csv"),
    "geojson": _table(".geojson"),
    "gpkg": _table(".gpkg"),
    "kml": _table(".kml"),
    "kmz": _table(".kmz"),
    "tile": _tile,
    "exif": _exif,
}
"""Name of a reader → what runs it on bytes; raises SceneError or ConfigError where it refuses them."""


@cache
def corpus(target: str) -> tuple[bytes, ...]:
    """Valid inputs of a reader, from which mutations start."""
    return tuple(_SEEDS[target]())


def mutate(target: str, chance: random.Random) -> bytes:
    """One mutated input."""
    base = chance.choice(corpus(target))
    if target == "kmz" and chance.random() < 0.5:
        return _zipped({"doc.kml": _mutated("kml", chance.choice(corpus("kml")), chance)})
    return _mutated(target, base, chance)


def accepts(target: str, content: bytes) -> bool:
    """Whether a reader takes all of an input."""
    try:
        TARGETS[target](content)
    except (SceneError, ConfigError):
        return False
    return True


def check(target: str, content: bytes) -> str | None:
    """What went wrong when a reader met an input, None where nothing did."""
    started = time.process_time()  # not what a busy machine does meanwhile
    previous = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, 20 * LIMIT_S)
    try:
        accepts(target, content)
    except Late:
        return f"hangs: {traceback.format_exc(limit=-3)}"
    except Exception:
        return traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    took = time.process_time() - started
    return f"takes {took:.1f} s" if took > LIMIT_S else None


def fuzz(runs: int, *, seed: int = 0, targets: tuple[str, ...] = tuple(TARGETS)) -> Iterator[Finding]:
    """Throw ``runs`` inputs at the readers in turn and yield what goes wrong."""
    chance = random.Random(seed)
    for number in range(runs):
        target = targets[number % len(targets)]
        content = mutate(target, chance)
        what = check(target, content)
        if what is not None:
            yield Finding(target, content, what)


def main() -> int:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--atheris", action="store_true", help="one target only; steer by coverage")
    given = parser.parse_args()
    targets = tuple(given.target or TARGETS)
    if given.atheris:
        return _steered(targets[0], given.runs, given.seed)
    started, seen = time.perf_counter(), set()
    for finding in fuzz(given.runs, seed=given.seed, targets=targets):
        last = finding.what.strip().splitlines()[-1]
        if (finding.target, last[:60]) not in seen:
            print(f"{finding.target}: {finding.content[:400]!r}\n{finding.what}")
        seen.add((finding.target, last[:60]))
    print(f"{given.runs} inputs, {len(targets)} readers, {time.perf_counter() - started:.0f} s, {len(seen)} findings")
    return 1 if seen else 0


def _steered(target: str, runs: int, seed: int) -> int:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    def one(content: bytes) -> None:
        what = check(target, content)
        if what is not None:
            raise RuntimeError(what)

    for module in (crs, georef, hints, kml, plane, rows, sidecar, tables, world):  # all there is takes minutes
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                atheris.instrument_func(value)
    folder = Path(tempfile.mkdtemp())  # atheris ends the process: nothing after it is run
    for number, content in enumerate(corpus(target)):
        (folder / str(number)).write_bytes(content)
    arguments = [sys.argv[0], str(folder), f"-runs={runs}", f"-seed={seed + 1}", f"-artifact_prefix={folder}/"]
    atheris.Setup(arguments, one)
    atheris.Fuzz()
    return 0


def _ring(*_: object) -> None:
    raise Late


_TOKENS: Mapping[str, str] = {  # words that the readers know, or stumble over; parted by blanks
    "world": "nan inf -0 1e400 1e-400 , 0x1 1_0 \u0661 \0",
    "prj": 'TOWGS84[1,2,3,4,5,6,7] GEOCCS[ COMPD_CS[ VERT_CS[ ]]] " +proj= +init=epsg:4326 EPSG:4978 +nadgrids=@x \0 '
    'UNIT["Degree",0] BOUNDCRS[ urn:ogc:def:crs: { PROJCS[',
    "aux": "<!DOCTYPE\tx[<!ENTITY\ta'b'>]> &a; <SRS> <GCPList> nan ]]> <!-- <x:y> \0",
    "csv": "\" ; , ' \0 nan inf 1e400 -91 181 1_0 lon ul_lon west crs EPSG:4978 EPSG:2193 rotation_deg width_m "
    "file name date 2018-13",
    "geojson": 'NaN Infinity 1e999 null [ ] { } " \\ud800 true [[[ {} "Polygon" "Point" "features" "crs" "\\u0000" '
    '-0 "GeometryCollection" ' + "9" * 400,
    "gpkg": "\0 GP CREATE\tVIEW POINT NaN scenes \x7f",
    "kml": "<rotation> <!ENTITY <!DOCTYPE\ta> <href>../../a</href> nan 1e400 gx: </GroundOverlay> <LatLonBox> , &lt; "
    "<gx:LatLonQuad> &#0; <north> 181 -91 <when> %00",
    "kmz": "PK\x01\x02 PK\x03\x04 PK\x05\x06 ../ \0\0\0\0 doc.kml /etc/",
    "tile": "/ - OAM- .. \0 99999999999 \u0661 .png 00 \\ 18",
    "exif": "Exif\0\0 II*\0 MM\0* \0\0\0\0 S\0",
}
_BYTES = (b"\xff", b"\xff\xff\xff\xff", b"\x80", b"\n", b"\r", b"\t", b"\xff\xd8", b"\xff\xe1", b"\x88\x25")
_NUMBERS = b"0 -0 -1 1e308 1e-308 nan inf 90.0000001 180 360 541 1e9 4e15".split()
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def _mutated(target: str, base: bytes, chance: random.Random) -> bytes:
    content = bytearray(base)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at = _somewhere(content, chance)
        kind = chance.randrange(7)
        if kind == 0 and content:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and content:
            content[at] = chance.randrange(256)
        elif kind == 2:
            del content[at : at + chance.choice((1, 2, 8, 64, 512))]
        elif kind == 3:
            content[at:at] = content[at : at + chance.choice((1, 4, 32, 256))] * chance.choice((1, 2, 40))
        elif kind == 4:
            content[at:at] = chance.choice([*(word.encode() for word in _TOKENS[target].split(" ")), *_BYTES])
        elif kind == 5:
            other = chance.choice(corpus(target))
            start = chance.randrange(len(other))
            content[at : at + chance.choice((0, 8, 64))] = other[start : start + chance.choice((4, 64, 1024))]
        else:
            numbers = list(_NUMBER.finditer(content[max(0, at - 200) : at + 200]))
            if numbers:
                number, start = chance.choice(numbers), max(0, at - 200)
                content[start + number.start() : start + number.end()] = chance.choice(_NUMBERS)
    return bytes(content)


def _somewhere(content: bytearray, chance: random.Random) -> int:
    """A position, seldom one among zeros: databases are full of them."""
    if not content:
        return 0
    for _ in range(20):
        at = chance.randrange(len(content))
        if content[at]:
            break
    return at


def _worlds() -> list[bytes]:
    return [b"0.5\n0.0\n0.0\n-0.5\n650000.25\n4790000.75\n", b"0,5\r\n0,1\r\n0,1\r\n-0,5\r\n650000\r\n4790000\r\n"]


def _prjs() -> list[bytes]:
    codes = (32643, 4326, 3857, 28413, 7405, 4979, 2193, 2277)
    texts = [pyproj.CRS.from_epsg(code).to_wkt(kind) for code in codes for kind in ("WKT2_2019", "WKT1_GDAL")
             if (code, kind) != (4979, "WKT1_GDAL")]  # fmt: skip
    texts += [pyproj.CRS.from_epsg(code).to_wkt("WKT1_ESRI") for code in codes[:4]]
    proj = "+proj=tmerc +lon_0=75 +x_0=13500000 +ellps=krass +towgs84=23.92,-141.27,-80.9,0,0.35,0.82,-0.12"
    texts += ["EPSG:32643", "urn:ogc:def:crs:OGC::CRS84", proj, pyproj.CRS.from_epsg(32643).to_json()]
    return [text.encode() for text in texts]


def _auxes() -> list[bytes]:
    wkt = pyproj.CRS.from_epsg(32643).to_wkt("WKT1_GDAL").replace('"', "&quot;")
    srs = f'<SRS dataAxisToSRSAxisMapping="1,2">{wkt}</SRS>'
    grid = "<GeoTransform> 6.5e+05, 0.5, 0.0, 4.79e+06, 0.0, -0.5</GeoTransform>"
    corners = ((0, 0), (640, 0), (640, 480), (0, 480), (320, 240))
    points = "".join(f'<GCP Id="{x}" Pixel="{x}" Line="{y}" X="{650000 + x}" Y="{4790000 - y}"/>' for x, y in corners)
    ring = f'<GCPList Projection="{wkt}" dataAxisToSRSAxisMapping="1,2">{points}</GCPList>'
    band = "<PAMRasterBand band='1'><Metadata><MDI key='STATISTICS_MEAN'>1</MDI></Metadata></PAMRasterBand>"
    return [f"<PAMDataset>{part}</PAMDataset>".encode() for part in (srs + grid, grid + band, ring, srs + band)]


_KEYS = ("file", "lon", "lat", "gsd_m", "rotation_deg", "accuracy_m", "city", "site", "date")
_VALUES = ("a.jpg", 76.9, 43.25, 0.5, 12.5, 3, "ALA", "7", "2018-07-15")


def _csvs() -> Iterator[bytes]:
    for mark in ",;\t":
        yield (mark.join(_KEYS) + "\n" + mark.join(str(value) for value in _VALUES) + "\n").encode("utf-8-sig")
    yield b"name,x,y,crs,width_m,height_m\nsub/a,650000,4790000,EPSG:32643,200,150\nb.jpg,1,2,EPSG:3857,3,4\n"
    yield b'File,west,south,east,north,crs\n"a.jpg",76.9,43.2,77,44,\nb,650000,4790000,650200,4790150,EPSG:32643\n'
    yield (
        b"path,ul_lon,ul_lat,ur_lon,ur_lat,lr_lon,lr_lat,ll_lon,ll_lat\r\n"
        b"a.jpg,76.9,43.21,76.91,43.212,76.912,43.202,76.902,43.2\r\n"
    )


def _geojsons() -> Iterator[bytes]:
    ring = [[76.9, 43.2], [76.91, 43.2], [76.91, 43.21], [76.9, 43.21], [76.9, 43.2]]
    turned = [[76.9, 43.2], [76.908, 43.203], [76.904, 43.209], [76.896, 43.206], [76.9, 43.2]]
    properties = dict(zip(_KEYS, _VALUES, strict=True)) | {"lon": None, "lat": None}
    shapes = [{"type": "Point", "coordinates": [76.9, 43.2]}, {"type": "Polygon", "coordinates": [ring]},
              {"type": "MultiPolygon", "coordinates": [[turned]]}, None]  # fmt: skip
    features = [{"type": "Feature", "properties": properties, "geometry": shape} for shape in shapes]
    yield json.dumps({"type": "FeatureCollection", "features": features}).encode()
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32643"}}
    yield json.dumps({"type": "FeatureCollection", "crs": named, "features": features[:1]}, indent=1).encode()
    yield json.dumps(features[1]).encode()
    yield json.dumps([dict(zip(_KEYS, _VALUES, strict=True))]).encode()


def _gpkgs() -> Iterator[bytes]:
    ring = shapely.Polygon([(76.9, 43.2), (76.908, 43.203), (76.904, 43.209), (76.896, 43.206)])
    for named, shapes in (
        ("EPSG:4326", [shapely.Point(76.9, 43.2), ring]),
        ("EPSG:32643", [shapely.Point(65e4, 479e4)]),
    ):
        frame = gpd.GeoDataFrame(
            {"file": ["a.jpg", "b.jpg"][: len(shapes)], "gsd_m": 0.5, "date": np.datetime64("2018-07-15", "ms")},
            geometry=shapes, crs=named,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "scenes.gpkg")
            frame.to_file(path, layer="scenes", driver="GPKG", SPATIAL_INDEX="NO")
            content = path.read_bytes()
        yield content


def _kmls() -> Iterator[bytes]:
    box = "<LatLonBox><north>43.21</north><south>43.2</south><east>76.91</east><west>76.9</west>{}</LatLonBox>"
    quad = (
        "<gx:LatLonQuad><coordinates>76.902,43.2,0 76.912,43.202,0 76.91,43.212,0 76.9,43.21,0</coordinates>"
        "</gx:LatLonQuad>"
    )
    for shape in (box.format(""), box.format("<rotation>-12.5</rotation>"), quad):
        overlay = (
            "<GroundOverlay><name>a place</name><TimeStamp><when>2018-07-15T10:00:00Z</when></TimeStamp>"
            f"<Icon><href>files/a%20b.jpg</href></Icon><altitude>0</altitude>{shape}</GroundOverlay>"
        )
        yield (
            '<?xml version="1.0" encoding="UTF-8"?><kml xmlns="http://www.opengis.net/kml/2.2" '
            f'xmlns:gx="http://www.google.com/kml/ext/2.2"><Document><Folder>{overlay * 2}</Folder></Document></kml>'
        ).encode()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def _kmzs() -> Iterator[bytes]:
    for document in corpus("kml"):
        yield _zipped({"doc.kml": document, "files/a b.jpg": b"no image"})


def _tiles() -> list[bytes]:
    return [b"/nowhere/18/187000/95000.png", b"OAM-187000-95000-18.tif", b"/nowhere/OAM-187000-95000-18-x_y.png"]


def _exifs() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    gps = {1: "N", 2: (43.0, 15.0, 12.5), 3: "E", 4: (76.0, 54.0, 30.25), 29: "2018:07:15", 31: 12.0}
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    for format_ in ("JPEG", "PNG", "WEBP"):
        whole = io.BytesIO()
        Image.new("RGB", (16, 12)).save(whole, format_, exif=exif)
        yield whole.getvalue()
    for tag, value in ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)):
        exif[tag] = value
    yield exif.tobytes().removeprefix(b"Exif\0\0")  # a TIFF


_SEEDS: Mapping[str, Callable[[], list[bytes] | Iterator[bytes]]] = {
    "world": _worlds, "prj": _prjs, "aux": _auxes, "csv": _csvs, "geojson": _geojsons, "gpkg": _gpkgs, "kml": _kmls,
    "kmz": _kmzs, "tile": _tiles, "exif": _exifs,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
