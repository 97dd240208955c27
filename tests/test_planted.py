"""Leaks are planted in random worlds; the proof finds all of them and nothing else, and a slow check agrees."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Transformer

from dlslicer_geo.splits.proof import measure, violations

Key = tuple[str, Any, Any]

SPLITS = ("train", "val", "test")

PLACES: tuple[tuple[float, float, tuple[int, ...]], ...] = (
    (78.0, 43.25, (32643, 32644, 3857, 4326)),  # where two UTM zones meet
    (180.0, -16.8, (32760, 32701)),  # the antimeridian
    (30.0, 0.0, (32635, 32736, 3857, 4326)),  # the equator
    (18.0, 69.6, (32633, 32634, 3857)),  # far north: a Mercator metre is a third of one
    (-33.0, 68.1, (32624, 32625, 3857)),  # where the library cuts its map open
)


class World:
    """Scenes around one place, their chips and what was planted; every slot is 4 km from the next."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.lon, self.lat, self.crs = PLACES[seed % len(PLACES)]
        self.chips: list[dict[str, Any]] = []
        self.scenes: list[dict[str, Any]] = []
        self.truth: dict[Key, float] = {}
        self.slots = self.random.permutation(144)

    def build(self, each: int = 14) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
        """Plant leaks of every kind, and as many things that look like one."""
        for _ in range(each):
            self.shift_a_window()
            self.lay_over()
        for _ in range(each // 2):
            self.nearly_lay_over()
            self.repeat_an_image()
        chips = gpd.GeoDataFrame(pd.DataFrame(self.chips), geometry="geometry", crs="EPSG:4326")
        order = self.random.permutation(len(chips))
        return chips.iloc[order].reset_index(drop=True), pd.DataFrame(self.scenes)

    def shift_a_window(self) -> None:
        """Four chips that touch; the first is moved over the others."""
        size = int(self.random.integers(20, 300))
        down, right = (int(step) for step in self.random.integers(0, size, 2))
        scene, splits = self.scene(), self.random.choice([*SPLITS, "unused"], 4).tolist()
        at = [(down, right), (0, size), (size, 0), (size, size)]
        ids = [self.chip(scene, split, where, size) for split, where in zip(splits, at, strict=True)]
        shared = [right * (size - down), down * (size - right), down * right]
        for other, split, amount in zip(ids[1:], splits[1:], shared, strict=True):
            if amount and "unused" not in (splits[0], split) and splits[0] != split:
                self.truth[key("pixels", ids[0], other)] = amount

    def lay_over(self) -> None:
        """A scene over another one: of any city and CRS; sometimes both are in one split, or one has no place."""
        size, (one, two) = int(self.random.integers(50, 300)), self.random.choice([*SPLITS, "unused"], 2).tolist()
        vague = bool(self.random.random() < 0.15)
        first = self.scene()
        shift = self.random.integers(0, int(0.7 * size), 2)
        second = self.scene(over=first, shift=shift, georef="approximate" if vague else "geotiff")
        ids = [self.chip(scene, split, (0, 0), size) for scene, split in ((first, one), (second, two))]
        if "unused" not in (one, two) and one != two and not vague:
            # a metre of these two is one at the middle of the world only
            exact = first["crs"] == second["crs"] and first["crs"] not in (3857, 4326)
            self.truth[key("ground", *ids)] = float(np.prod(size - shift)) if exact else np.nan

    def nearly_lay_over(self) -> None:
        """Two scenes along one edge: they share a strip of a millimetre, of a hair, or they touch."""
        size, first = int(self.random.integers(50, 300)), self.scene(crs=self.crs[0])
        strip = self.random.choice([0.001, 1e-5, 0.0])
        second = self.scene(over=first, shift=np.array([size - strip, 0.0]), crs=self.crs[0])
        one, two = self.random.permutation(SPLITS)[:2].tolist()
        ids = [self.chip(scene, split, (0, 0), size) for scene, split in ((first, one), (second, two))]
        if strip * size > 0.01:
            self.truth[key("ground", *ids)] = strip * size

    def repeat_an_image(self) -> None:
        """One image under several names: equal files, or near-duplicates in a row; each name somewhere else."""
        group = [self.scene(georef=self.random.choice(["geotiff", "approximate"])) for _ in range(3)]
        for before, scene in pairwise(group):
            way = self.random.choice(["file", "near"])
            scene |= {"sha256": before["sha256"]} if way == "file" else {"duplicate_of": before["scene_id"]}
        alike = self.scene()  # looks the same to the hash, and is another image
        alike["phash"] = group[0]["phash"]
        splits = self.random.choice([*SPLITS, "unused"], 4).tolist()
        for scene, split in zip((*group, alike), splits, strict=True):
            self.chip(scene, split, (0, 0), 64)
        for one, two in combinations(range(3), 2):
            if "unused" not in (splits[one], splits[two]) and splits[one] != splits[two]:
                self.truth[key("image", group[one]["scene_id"], group[two]["scene_id"])] = 1

    def scene(
        self,
        *,
        over: dict[str, Any] | None = None,
        shift: Any = (0, 0),
        georef: str = "geotiff",
        crs: int | None = None,
    ) -> dict[str, Any]:
        """A scene in a slot of its own, or moved from another scene by so many metres east and south."""
        crs = crs or int(self.random.choice(self.crs))
        if over is None:
            slot, self.slots = int(self.slots[0]), self.slots[1:]
            x, y = from_to(4326, self.crs[0], self.lon, self.lat)
            lon, lat = from_to(self.crs[0], 4326, x + 4000 * (slot // 12 - 6), y + 4000 * (slot % 12 - 6))
            x, y = from_to(4326, crs, lon, lat)
        else:
            x, y = from_to(over["crs"], crs, *over["corner"]) if crs != over["crs"] else over["corner"]
        step = self.metre(crs)
        made = {
            "scene_id": f"s{self.random.integers(1 << 40):010x}", "crs": crs, "georef": georef, "step": step,
            "corner": (x + step[0] * shift[0], y - step[1] * shift[1]), "duplicate_of": None,
            "city": ("A", "B", "C", None)[self.random.integers(4)], "site": "S", "sha256": f"{self.random.random()}",
            "phash": f"{self.random.integers(1 << 63):016x}",
        }  # fmt: skip
        self.scenes.append(made)
        return made

    def metre(self, crs: int) -> tuple[float, float]:
        """Units of a CRS in a metre."""
        east = 1 / np.cos(np.deg2rad(self.lat))
        return {3857: (east, east), 4326: (east / 111_320, 1 / 110_574)}.get(crs, (1.0, 1.0))

    def chip(self, scene: dict[str, Any], split: str, at: tuple[int, int], size: int) -> int:
        """A chip of a scene of one metre per pixel."""
        (x, y), (east, south) = scene["corner"], scene["step"]
        col, row = at[1] + size * np.array([0, 1, 1, 0]), at[0] + size * np.array([1, 1, 0, 0])
        lon, lat = from_to(scene["crs"], 4326, x + east * col, y - south * row)
        number = len(self.chips)
        self.chips.append(
            {name: scene[name] for name in ("scene_id", "city", "site")}
            | {"chip_id": number, "row": at[0], "col": at[1], "height": size, "width": size, "split": split}
            | {
                "approximate": scene["georef"] == "approximate",
                "geometry": shapely.Polygon(zip(lon, lat, strict=True)),
            }
        )
        return number


def brute_force(chips: gpd.GeoDataFrame, scenes: pd.DataFrame, middle: tuple[float, float]) -> set[Key]:
    """Every pair of chips and of scenes, in an equal-area projection of its own; shares no code with the library."""
    to_flat = Transformer.from_crs(4326, f"+proj=laea +lon_0={middle[0]} +lat_0={middle[1]} +units=m", always_xy=True)
    flat = shapely.transform(
        chips.geometry.to_numpy(), lambda xy: np.column_stack(to_flat.transform(xy[:, 0], xy[:, 1]))
    )
    one, two = np.triu_indices(len(chips), 1)
    value = {name: chips[name].to_numpy() for name in chips.columns if name != "geometry"}
    used, split = value["split"] != "unused", value["split"]
    differ = used[one] & used[two] & (split[one] != split[two])
    one, two = one[differ], two[differ]
    here = value["scene_id"][one] == value["scene_id"][two]
    low = {name: np.maximum(value[name][one], value[name][two]) for name in ("row", "col")}
    end = {
        name: np.minimum(value[name][one] + value["height"][one], value[name][two] + value["height"][two])
        for name in low
    }
    pixels = here & (end["row"] > low["row"]) & (end["col"] > low["col"])
    placed = ~here & ~value["approximate"][one] & ~value["approximate"][two]
    ground = placed & (shapely.area(shapely.intersection(flat[one], flat[two])) > 0.01)
    ids = np.sort(np.column_stack([value["chip_id"][one], value["chip_id"][two]]), axis=1)
    found: set[Key] = {("pixels", int(a), int(b)) for a, b in ids[pixels]}
    found |= {("ground", int(a), int(b)) for a, b in ids[ground]}
    return found | same_images(scenes, chips[used].groupby("scene_id")["split"].first().to_dict())


def same_images(scenes: pd.DataFrame, split: dict[Any, Any]) -> set[Key]:
    """Scenes grow into groups until nothing changes; every scene here has one chip or one split."""
    names = scenes["scene_id"].tolist()
    groups = [{name, digest} for name, digest in zip(names, scenes["sha256"], strict=True)]
    groups = [
        group | ({first} if isinstance(first, str) else set())
        for group, first in zip(groups, scenes["duplicate_of"], strict=True)
    ]
    grown = True
    while grown:
        grown = False
        for one, two in combinations(range(len(groups)), 2):
            if groups[one] & groups[two] and groups[one] != groups[two]:
                groups[one] = groups[two] = groups[one] | groups[two]
                grown = True
    return {
        key("image", names[a], names[b])
        for a, b in combinations(range(len(names)), 2)
        if groups[a] & groups[b] and names[a] in split and names[b] in split and split[names[a]] != split[names[b]]
    }


def key(kind: str, one: Any, two: Any) -> Key:
    return (kind, min(one, two), max(one, two))


@lru_cache(maxsize=64)
def transformer(one: int, two: int) -> Transformer:
    return Transformer.from_crs(one, two, always_xy=True)


def from_to(one: int, two: int, x: Any, y: Any) -> Any:
    return transformer(one, two).transform(x, y)


def keys_of(found: pd.DataFrame) -> list[Key]:
    scenes = found["kind"] == "image"
    one = found["chip_id"].astype(object).where(~scenes, found["scene_id"])
    two = found["other_chip_id"].astype(object).where(~scenes, found["other_scene_id"])
    return [key(kind, *pair) for kind, *pair in zip(found["kind"], one, two, strict=True)]


def found_in_worlds(seeds: range) -> Counter[str]:
    """Planted, found, missed and false, over all worlds; every amount that is known exactly is compared too."""
    count: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed)
        chips, scenes = world.build()
        found = violations(chips, scenes=scenes)
        keys = keys_of(found)
        assert len(set(keys)) == len(keys), "a pair is listed once"
        assert set(world.truth) == brute_force(chips, scenes, (world.lon, world.lat)), f"world {seed} is not as built"
        kinds = Counter(kind for kind, _, _ in world.truth)
        assert measure(chips, scenes=scenes)["leaks"] == {kind: kinds[kind] for kind in ("pixels", "ground", "image")}
        for pair, amount in zip(keys, found["amount"], strict=True):
            known = world.truth.get(pair, np.nan)
            assert np.isnan(known) or amount == pytest.approx(known, rel=0 if pair[0] != "ground" else 0.02)
        count += Counter(planted=len(world.truth), found=len(keys), missed=len(set(world.truth) - set(keys)))
        count += Counter({"false": len(set(keys) - set(world.truth)), "worlds": 1, **kinds})
    return count


def report(count: Counter[str]) -> str:
    return (
        f"\n{count['planted']} violations planted in {count['worlds']} worlds ({count['pixels']} pixels, "
        f"{count['ground']} ground, {count['image']} images): {count['found']} found, {count['missed']} missed, "
        f"{count['false']} false"
    )


def test_a_thousand_planted_violations_are_found_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    count = found_in_worlds(range(40))
    with capsys.disabled():
        print(report(count))
    assert count["planted"] >= 1000
    assert (count["missed"], count["false"]) == (0, 0)


@pytest.mark.slow
def test_ten_thousand_planted_violations_are_found_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    count = found_in_worlds(range(1000, 1350))
    with capsys.disabled():
        print(report(count))
    assert count["planted"] >= 10_000
    assert (count["missed"], count["false"]) == (0, 0)
