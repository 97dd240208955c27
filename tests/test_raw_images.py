"""What the header of a raw image says, where its bytes come from, and what is refused before it is opened."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import rasterio
from affine import Affine
from askew import CHIPS, UTM, found_at, jpg, photo, prepared, read
from PIL import Image
from servers import Answer, Server

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.rasters import image, prepare
from dlslicer_geo.scenes.values import Found
from dlslicer_geo.types import Reading

Raster = Callable[..., Path]


# -- where the bytes come from --


def test_an_image_in_an_archive_has_the_hash_and_pixels_of_the_file(tmp_path: Path) -> None:
    path = jpg(tmp_path / "a.jpg")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(path, "deep/a.jpg")
    plain = prepared(path, tmp_path)
    inside = found_at(f"/vsizip/{tmp_path}/x.zip/deep/a.jpg")
    assert prepare.digest_of(inside) == plain.digest == prepare.digest_of(found_at(path))
    done = prepare.prepare(inside, UTM, Reading(), tmp_path / "zipped.tif", CHIPS)
    assert (read(done.path)[0] == read(plain.path)[0]).all()
    with pytest.raises(SceneError, match="cannot be read"):
        prepare.digest_of(found_at(f"/vsizip/{tmp_path}/x.zip/deep/b.jpg"))


def test_a_remote_image_is_downloaded_once_and_its_secret_is_nowhere(tmp_path: Path) -> None:
    body = jpg(tmp_path / "a.jpg").read_bytes()
    with Server() as server:
        headers = {"ETag": '"v1"', "Content-Type": "image/jpeg"}
        server.put("/a.jpg", Answer(body=body, headers=headers))
        server.put("/busy.jpg", Answer(status=503), Answer(body=body, cut=5000), Answer(body=body))
        signed = f"/vsicurl/{server.address}/a.jpg?sig=topsecret"
        found = Found(path=signed, relative=PurePosixPath("a.jpg"), source=f"{server.address}/a.jpg", secret=True)
        target = tmp_path / "out/a.tif"
        done = prepare.prepare(found, UTM, Reading(), target, CHIPS)
        assert done.digest == hashlib.sha256(body).hexdigest()
        assert b"topsecret" not in target.read_bytes() + target.with_suffix(".json").read_bytes()
        gets = [request for request in server.requests if request.method == "GET"]
        assert len(gets) == 1
        assert prepare.prepare(found, UTM, Reading(), target, CHIPS).kept
        assert len([request for request in server.requests if request.method == "GET"]) == 1
        server.put("/a.jpg", Answer(body=jpg(tmp_path / "b.jpg", seed=5).read_bytes(), headers={"ETag": '"v2"'}))
        assert not prepare.prepare(found, UTM, Reading(), target, CHIPS).kept
        busy = found_at(f"/vsicurl/{server.address}/busy.jpg")
        assert prepare.prepare(busy, UTM, Reading(), tmp_path / "busy.tif", CHIPS).digest == done.digest
        with pytest.raises(SceneError, match="404") as refused:
            prepare.prepare(replace(found, path=signed.replace("a.jpg", "c.jpg")), UTM, Reading(), target, CHIPS)
        assert "topsecret" not in str(refused.value)


def test_a_remote_image_that_is_read_in_place_is_hashed_by_what_the_server_says(tmp_path: Path) -> None:
    with Server() as server:
        found = found_at(f"/vsicurl/{server.address}/a.tif")
        digests = []
        for tag in ("one", "one", "two"):
            server.put("/a.tif", Answer(body=b"x" * 100_000, headers={"ETag": f'"{tag}"'}))
            digests.append(prepare.digest_of(found))
        assert {request.method for request in server.requests} == {"HEAD"}
    assert digests[0] == digests[1] != digests[2]


# -- headers --


def test_a_position_beside_the_file_is_not_one_in_the_file(tmp_path: Path, raster: Raster) -> None:
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        raster("plain.tif", crs=None, transform=Affine.identity())
    jpg(tmp_path / "photo.jpg", 64)
    Image.fromarray(photo(64)).save(tmp_path / "photo.png")
    for name in ("plain.tfw", "photo.jgw", "photo.wld", "photo.pgw"):
        (tmp_path / name).write_text("0.5\n0\n0\n-0.5\n400000\n3000000\n")
    for name in ("plain.tif", "photo.jpg", "photo.png"):
        pam = "<PAMDataset><SRS>EPSG:32645</SRS><GeoTransform>1,1,0,1,0,-1</GeoTransform></PAMDataset>"
        (tmp_path / f"{name}.aux.xml").write_text(pam)
        with rasterio.open(tmp_path / name) as naive:
            assert naive.transform != Affine.identity()
        about = image.header(str(tmp_path / name))
        assert (about.crs, about.transform, about.gcps) == (None, None, ())
    inside = image.header(str(raster("inside.tif")))
    assert (inside.crs, inside.transform) == ("EPSG:26911", Affine(0.6, 0, 420_000, 0, -0.6, 3_750_000))


def test_control_points_are_told(tmp_path: Path, raster: Raster) -> None:
    path = tmp_path / "gcp.tif"
    points = [
        rasterio.control.GroundControlPoint(row=r, col=c, x=4e5 + c, y=3e6 - r) for r, c in ((0, 0), (0, 9), (9, 0))
    ]
    with rasterio.open(
        path, "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8", gcps=points, crs="EPSG:32645"
    ) as target:
        target.write(np.ones((1, 10, 10), np.uint8))
    about = image.header(str(path))
    assert about.transform is None
    assert about.gcps[1] == (0, 9, 400_009, 3_000_000)
    assert about.gcps_crs == "EPSG:32645"


def test_what_cannot_be_pixels_is_refused(tmp_path: Path, raster: Raster) -> None:
    with pytest.raises(SceneError, match="pixels are complex64"):
        image.header(str(raster("c.tif", pixels=np.ones((1, 8, 8), np.complex64))))
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(SceneError, match="it cannot be read"):
        image.header(str(tmp_path / "text.tif"))


def bomb(path: Path, side: int) -> Path:
    """A PNG of one grey all over."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, packed = zlib.compressobj(9), io.BytesIO()
    rows = bytes(1 + side // 8) * 100
    for _ in range(side // 100):
        packed.write(packer.compress(rows))
    packed.write(packer.flush())
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", packed.getvalue()) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def test_a_decompression_bomb_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png", 60_000)
    assert path.stat().st_size < 1.2e6
    script = (
        "import resource, sys, time; from dlslicer_geo.scenes.rasters.image import header\n"
        "from dlslicer_geo.errors import SceneError\n"
        "header(sys.argv[2]); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.monotonic()\n"
        "try: header(sys.argv[1])\n"
        "except SceneError as error: print(error)\n"
        "print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    good = tmp_path / "good.png"
    Image.fromarray(photo(100)).save(good)
    done = subprocess.run([sys.executable, "-c", script, str(path), str(good)], capture_output=True, text=True)
    said, numbers = done.stdout.splitlines()
    seconds, kilobytes = (float(number) for number in numbers.split())
    assert "60000 by 60000 pixels would take 3.4 GiB" in said
    assert seconds < 1
    assert kilobytes < 50_000


def test_a_tiff_of_one_enormous_block_is_refused_and_a_tiled_one_is_not(tmp_path: Path) -> None:
    options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32645", "transform": UTM.transform}
    options |= {"width": 40_000, "height": 40_000, "sparse_ok": True, "compress": "deflate"}
    for name, more in (
        ("one.tif", {"tiled": True, "blockxsize": 40_000, "blockysize": 40_000}),
        ("tiled.tif", {"tiled": True}),
    ):
        with rasterio.open(tmp_path / name, "w", **options, **more):
            pass
    with pytest.raises(SceneError, match=r"one of its blocks takes 1\.5 GiB \(40000 by 40000 px\)"):
        image.header(str(tmp_path / "one.tif"))
    assert image.header(str(tmp_path / "tiled.tif")).block == (256, 256)
