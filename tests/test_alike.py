"""The same image is found again under another name, another image of the same place is not."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Geod, Transformer
from shapely.geometry import box

from dlslicer_geo.scenes.review.alike import Pair, area_m2, duplicates, fingerprint, first_of, overlaps


def pixels_of(path: Path) -> Any:
    with rasterio.open(path) as source:
        return np.moveaxis(source.read([1, 2, 3]), 0, -1)


def thumbnail(pixels: Any) -> Any:
    image = Image.fromarray(pixels)
    image.thumbnail((96, 96))
    return np.asarray(image)


def again(pixels: Any, kind: str) -> Any:
    """The same image as somebody else would have saved it."""
    if kind in ("darker file", "all"):
        pixels = np.clip(pixels * 1.1, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    if kind in ("half", "all"):
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
    if kind in ("jpeg", "all"):
        held = io.BytesIO()
        image.save(held, "JPEG", quality=50)
        image = Image.open(held)
    return np.asarray(image)


def pair_up(thumbnails: dict[str, Any], sha256: list[str] | None = None) -> list[Pair]:
    hashes, pictures = zip(*map(fingerprint, thumbnails.values()), strict=True)
    return duplicates(list(thumbnails), sha256 or list(thumbnails), hashes, pictures)


@pytest.mark.parametrize("kind", ["jpeg", "half", "darker file", "all"])
def test_an_image_saved_in_another_way_is_found(kind: str, data_root: Path) -> None:
    paths = sorted((data_root / "naip_cities").glob("*_2020_1*.tif"))[:40]
    originals = {f"a_{path.stem}": pixels_of(path) for path in paths}
    others = {f"b{name[1:]}": again(pixels, kind) for name, pixels in originals.items()}
    found = pair_up({name: thumbnail(pixels) for name, pixels in {**others, **originals}.items()})
    assert [(pair.one, pair.two, pair.kind) for pair in found] == [
        (f"a{name[1:]}", name, "near") for name in sorted(others)
    ]
    assert all(0.985 <= pair.correlation <= 1 for pair in found)


def test_the_same_place_in_another_year_is_another_image(data_root: Path) -> None:
    """By their hashes alone, many of these would pass for the same image."""
    paths = sorted((data_root / "naip_cities").glob("chico_20*_?.tif"))
    prints = {path.stem: fingerprint(thumbnail(pixels_of(path))) for path in paths}
    alike = sum(
        (int(prints[name][0], 16) ^ int(prints[name.replace("2018", "2020")][0], 16)).bit_count() <= 10
        for name in prints
        if "2018" in name and name.replace("2018", "2020") in prints
    )
    assert alike >= 3
    assert duplicates(list(prints), list(prints), *zip(*prints.values(), strict=True)) == []


@pytest.mark.slow
def test_no_two_of_all_naip_scenes_are_taken_for_the_same(data_root: Path) -> None:
    found = pair_up({path.stem: thumbnail(pixels_of(path)) for path in (data_root / "naip_cities").glob("*.tif")})
    assert found == []


def test_the_same_bytes_are_identical_even_when_there_is_nothing_to_see() -> None:
    white, grey = np.full((96, 96, 3), 255, np.uint8), np.full((50, 96, 3), 90, np.uint8)
    black = np.zeros((96, 96, 3), np.uint8)
    found = pair_up(
        {"d": white, "b": white, "a": black, "c": grey, "e": white}, ["same", "same", "one", "two", "other"]
    )
    assert found == [Pair(one="b", two="d", kind="identical", correlation=1.0)]
    assert not fingerprint(white)[1].any()


def test_a_picture_of_faint_noise_matches_nothing() -> None:
    random = np.random.default_rng(0)
    base = random.integers(99, 101, (96, 96, 1), dtype=np.uint8).repeat(3, axis=2)
    assert pair_up({"a": base, "b": base.copy()}) == []


def test_fingerprints_have_the_promised_form() -> None:
    code, picture = fingerprint(np.random.default_rng(0).integers(0, 256, (40, 96, 3), dtype=np.uint8))
    assert len(code) == 16 and int(code, 16) >= 0
    assert picture.shape == (32, 32) and picture.dtype == np.float32
    assert abs(picture.mean()) < 1e-5 and picture.std() == pytest.approx(1, abs=1e-4)


def test_a_group_of_alike_images_is_named_after_its_first() -> None:
    random = np.random.default_rng(1)
    scene = np.asarray(Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((96, 96)))
    found = pair_up({"c": scene, "a": scene, "b": scene, "x": scene[::-1].copy()}, ["s", "s", "t", "u"])
    assert [(pair.one, pair.two, pair.kind) for pair in found] == [("a", "b", "near"), ("a", "c", "identical")]
    assert first_of(found) == {"b": "a", "c": "a"}
    chain = [
        Pair(one="b", two="c", kind="near", correlation=0.99),
        Pair(one="a", two="b", kind="near", correlation=1),
    ]
    assert first_of(chain) == {"b": "a", "c": "a"}


def by_force(names: list[str], hashes: list[str], pictures: Any) -> list[Pair]:
    """Every pair of scenes, one after the other."""
    found: dict[str, Pair] = {}
    for one, two in combinations(range(len(names)), 2):
        correlation = float(np.vdot(pictures[one], pictures[two])) / 1024
        if (int(hashes[one], 16) ^ int(hashes[two], 16)).bit_count() <= 10 and correlation >= 0.985:
            found.setdefault(names[two], Pair(one=names[one], two=names[two], kind="near", correlation=correlation))
    return [found[name] for name in names if name in found]


@pytest.mark.parametrize("plain", [False, True])
def test_the_search_finds_what_comparing_all_with_all_finds(plain: bool) -> None:
    """``plain`` pictures differ in their finest grain only, which the search through coarse means cannot tell."""
    random = np.random.default_rng(0)
    base = random.normal(size=(40, 32, 32))
    if plain:
        base -= base.reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4)).repeat(8, axis=1).repeat(8, axis=2)
    pictures = np.concatenate([base + random.normal(size=base.shape) * level for level in (0, 0.05, 0.12, 0.17, 0.3)])
    pictures -= pictures.mean(axis=(1, 2), keepdims=True)
    pictures = (pictures / pictures.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    codes = np.tile(random.integers(0, 1 << 63, 40, dtype=np.uint64), 5)
    codes ^= np.uint64(1) << random.integers(0, 64, 200, dtype=np.uint64)
    codes[::7] ^= np.uint64((1 << 10) - 1)
    names, hashes = [f"s{number:03d}" for number in range(200)], [f"{code:016x}" for code in codes]
    found, wanted = duplicates(names, names, hashes, pictures), by_force(names, hashes, pictures)
    assert found == wanted and 40 < len(found) < 160


def square(x: float, y: float, side: float, crs: str = "EPSG:32643") -> Any:
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    outline = shapely.segmentize(box(x, y, x + side, y + side), side / 8)
    return shapely.transform(outline, lambda xy: np.column_stack(to_degrees.transform(*xy.T)))


def scenes_of(outlines: dict[str, Any], **georef: str) -> gpd.GeoDataFrame:
    kinds = [georef.get(name, "geotiff") for name in outlines]
    return gpd.GeoDataFrame(
        {"scene_id": list(outlines), "georef": kinds}, geometry=list(outlines.values()), crs="EPSG:4326"
    )


def test_overlaps_are_measured_on_the_ground() -> None:
    """At 43° N a square degree counted as an equatorial one would be 37 % too large."""
    outlines = {"b": square(650_000, 4_790_000, 2000), "a": square(651_500, 4_790_000, 1000)}
    (found,) = overlaps(scenes_of(outlines))
    assert (found.one, found.two) == ("a", "b")
    scale = 0.9996 * (1 + ((150_000 + 1750) / 6_378_137) ** 2 / 2)  # of UTM 151 km from its meridian
    assert found.area_m2 == pytest.approx(500 * 1000 / scale**2, rel=1e-3)
    assert found.share == pytest.approx(0.5, abs=1e-3)


def test_scenes_that_touch_or_lie_approximately_do_not_overlap() -> None:
    near = {name: square(650_000 + x, 4_790_000, 1000) for name, x in {"a": 0, "b": 1000, "c": 999.9999}.items()}
    assert [(o.one, o.two) for o in overlaps(scenes_of(near))] == [("b", "c")]
    vague = {name: square(650_000, 4_790_000, 1000) for name in "abcd"}
    found = overlaps(scenes_of(vague, a="approximate", b="exif"))
    assert [(o.one, o.two) for o in found] == [("c", "d")] and found[0].share == pytest.approx(1)
    assert overlaps(scenes_of({"a": vague["a"]})) == []


def test_holes_are_no_shared_ground() -> None:
    ring = square(650_000, 4_790_000, 1000).difference(square(650_250, 4_790_250, 500))
    assert area_m2(ring) == pytest.approx(0.75 * area_m2(square(650_000, 4_790_000, 1000)), rel=1e-4)
    assert overlaps(scenes_of({"a": ring, "b": square(650_300, 4_790_300, 400)})) == []
    assert area_m2(shapely.GeometryCollection([ring, shapely.Point(0, 0)])) == pytest.approx(area_m2(ring))


def test_overlaps_of_the_naip_places_are_the_known_ones(data_root: Path) -> None:
    outlines = {}
    for path in sorted((data_root / "naip_cities").glob("palm_springs_2020_*.tif")):
        with rasterio.open(path) as source:
            to_degrees = Transformer.from_crs(source.crs, 4326, always_xy=True)
            west, south, east, north = source.bounds
        corners = np.array([(west, south), (east, south), (east, north), (west, north)])
        outlines[path.stem] = shapely.Polygon(np.column_stack(to_degrees.transform(*corners.T)))
    found = overlaps(scenes_of(outlines))
    assert found == sorted(found, key=lambda pair: (pair.one, pair.two)) and found
    ellipsoid = Geod(ellps="WGS84")
    for pair in found:
        shared = outlines[pair.one].intersection(outlines[pair.two])
        assert pair.area_m2 == pytest.approx(abs(ellipsoid.geometry_area_perimeter(shared)[0]), rel=1e-9)
        assert pair.area_m2 < 153.6**2 and 0 < pair.share < 1
