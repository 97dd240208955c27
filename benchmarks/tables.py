# python benchmarks/tables.py [--json FILE] [--sizes 62500 250000 1000000]
# Expected, in five minutes: 566,000 chips are cut, split and proven in 30 s of one core at most; no slope above 1.15.
"""Worlds of growing size in; seconds of one core, peak memory and slopes of everything that tables go through out."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from pyproj import Transformer
from reporting import as_json, as_markdown
from rounds import Figure, Growth, Ratio, Theme, apart, peak_mb

import dlslicer_geo as dl
from dlslicer_geo import files
from dlslicer_geo.chips import COLUMNS
from dlslicer_geo.layers import vectors
from dlslicer_geo.types import Predictions

Step = Callable[[str, Callable[[], Any]], Any]
"""Measures what something takes, by name."""

SIZES, ROUNDS = (62_500, 250_000, 1_000_000), (5, 3, 1)
ASKED = 566_000
"""Chips that issue 6 names."""

LIMITS = (("cut", "polygons"), ("GeoParquet written", "pyarrow writes"), ("GeoParquet read", "pyarrow reads"))
"""Steps, and what is left of them when only the library does its work."""

BARE = tuple(bare for _, bare in LIMITS)
CITIES = 45
METRE = 200 / 480  # of a pixel
SIDES = {"large": 4800, "small": 960}  # pixels along a scene: 361 chips, or 9
RULES = {
    "place": dl.SplitRule.by_place(), "site": dl.SplitRule.by_site(), "block": dl.SplitRule.by_block(1000.0),
}  # fmt: skip


def world(number: int, side: int) -> gpd.GeoDataFrame:
    """A scene table: so many square scenes in at most 45 cities, five or more in each, none of which share ground."""
    cities = max(1, min(CITIES, number // 5))
    city = np.arange(number) % cities
    nth, across = np.arange(number) // cities, int(np.ceil(np.sqrt(number / cities)))
    west = 400_000 + (side * METRE + 300) * (nth % across)
    north = 4_700_000 - (side * METRE + 300) * (nth // across)
    names = [f"c{c:02d}_{i:07d}" for i, c in enumerate(city)]
    bits = np.random.default_rng(0).integers(1 << 63, size=number)
    columns = {
        "scene_id": names, "city": [f"c{c:02d}" for c in city], "site": names, "acquired": "2024-05-01",
        "crs": [f"EPSG:{32601 + c}" for c in city], "georef": "geotiff", "width": side, "height": side,
        "gsd_m": METRE, "valid_fraction": 1.0, "sha256": names, "duplicate_of": None,
        "phash": [f"{value:016x}" for value in bits],
        "transform": [(METRE, 0.0, x, 0.0, -METRE, y) for x, y in zip(west.tolist(), north.tolist(), strict=True)],
    }  # fmt: skip
    corners = np.empty((number, 4, 2))
    for code in range(cities):
        at = city == code
        x = west[at, None] + side * METRE * np.array([0, 1, 1, 0])
        y = north[at, None] - side * METRE * np.array([1, 1, 0, 0])
        corners[at] = np.stack(Transformer.from_crs(32601 + code, 4326, always_xy=True).transform(x, y), axis=-1)
    return gpd.GeoDataFrame(columns, geometry=shapely.polygons(corners), crs="EPSG:4326")


def answers(chips: gpd.GeoDataFrame) -> Predictions:
    """What a model may say of every chip: right in about seven of ten."""
    random = np.random.default_rng(0)
    cities = tuple(sorted(chips["city"].unique()))
    logits = random.standard_normal((len(chips), len(cities)), np.float32)
    logits[np.arange(len(chips)), pd.Index(cities).get_indexer(chips["city"])] += 2.5
    np.exp(logits, out=logits)
    return Predictions(
        cities=cities, chip_id=chips["chip_id"].to_numpy(), scene_id=chips["scene_id"].to_numpy(object),
        truth=chips["city"].to_numpy(object), probabilities=logits / logits.sum(axis=1, keepdims=True),
    )  # fmt: skip


def steps(number: int, side: str, folder: Path) -> dict[str, float]:
    """Seconds of one core that each step takes for about so many chips, and what the same takes bare."""
    found: dict[str, float] = {}

    def step(name: str, act: Callable[[], Any]) -> Any:
        start = time.process_time()
        done = act()
        found[name] = time.process_time() - start
        return done

    scenes = world(max(2, round(number / (SIDES[side] // 240 - 1) ** 2)), SIDES[side])
    chips = step("cut", lambda: dl.cut(scenes, dl.ChipGrid(size=480, stride=240, metres=200)))
    found["chips"] = len(chips)
    for kind in RULES if side == "large" else ("place",):
        done = step(f"split by {kind}", partial(dl.split, chips, RULES[kind], scenes=scenes))[0]
    if side == "large":
        corners = shapely.get_coordinates(chips.geometry.array).reshape(-1, 5, 2)
        step("polygons", lambda: shapely.polygons(corners))
        _files(done, folder, step)
        _answers(done, folder, step)
    found["peak"] = peak_mb()
    return found


def _files(chips: gpd.GeoDataFrame, folder: Path, step: Step) -> None:
    path = folder / "chips.parquet"
    step("GeoParquet written", lambda: files.write_table(chips, path, {"by": "benchmark"}))
    step("GeoParquet read", lambda: files.read_table(path, COLUMNS))
    bare = step("pyarrow reads", lambda: pq.read_table(path))
    step("pyarrow writes", lambda: pq.write_table(bare, folder / "bare.parquet"))


def _answers(chips: gpd.GeoDataFrame, folder: Path, step: Step) -> None:
    found = answers(chips)
    step("score", lambda: dl.score(found, chips))
    path = folder / "predictions.gpkg"
    step(
        "GeoPackage",
        lambda: vectors.write_predictions_layer(vectors.prediction_table(chips, found), path, found, {}),
    )


def tables(sizes: Sequence[int]) -> Theme:
    """Every step at every size, each size in a process of its own."""
    large = {size: _rounds(size, "large", number) for size, number in zip(sizes, ROUNDS, strict=True)}
    small = {size: _rounds(size, "small", number) for size, number in zip(sizes, ROUNDS, strict=True)}
    asked = _rounds(min(ASKED, max(sizes)), "large", 1)
    names = [name for name in large[sizes[0]] if name not in ("chips", "peak", *BARE)]
    growths = [_growth(name, name, large) for name in names]
    growths += [_growth(f"{name}, scenes of 9 chips", name, small) for name in ("cut", "split by place")]
    memory = [_growth("peak memory", "peak", large, unit="MB", most=None)]
    whole = [_whole(asked, kind) for kind in RULES]
    limit = Figure(name="what is asked for", unit="s", values=(30.0,))
    first = {name: Figure(name=name, unit="s", values=tuple(values)) for name, values in large[sizes[0]].items()}
    return Theme(
        title="Tables",
        figures=[*whole, limit, *(first[name] for pair in LIMITS for name in pair)],
        ratios=[
            *(Ratio(of=figure, to=limit, most=1.0) for figure in whole),
            *(Ratio(of=first[name], to=first[bare]) for name, bare in LIMITS),
        ],
        growths=growths + memory,
        notes=[
            "Processor time of one core. Splitting includes its certificate. Each size has a process of its own; "
            f"medians of {', '.join(map(str, ROUNDS))} of them from the smallest to the largest, one of "
            f"{asked['chips'][0]:,.0f} chips. Bare limits are those of {first['chips'].values[0]:,.0f} chips: making "
            "polygons of known corners, and reading and writing the same columns with pyarrow alone."
        ],
    )


def _rounds(size: int, side: str, number: int) -> dict[str, list[float]]:
    parts = [apart("tables.py", size, side) for _ in range(number)]
    return {name: [part[name] for part in parts] for name in parts[0]}


def _growth(
    title: str, name: str, found: Mapping[int, Mapping[str, list[float]]], unit: str = "s", most: float | None = 1.15
) -> Growth:
    sizes = tuple(part["chips"][0] for part in found.values())
    return Growth(
        name=title, sizes=sizes, values=tuple(median(part[name]) for part in found.values()), unit=unit, most=most
    )


def _whole(asked: Mapping[str, list[float]], kind: str) -> Figure:
    values = tuple(a + b for a, b in zip(asked["cut"], asked[f"split by {kind}"], strict=True))
    return Figure(
        name=f"cut, split by {kind} and certificate, {asked['chips'][0]:,.0f} chips", unit="s", values=values
    )


def main() -> None:
    """Measure one size in this process, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=3, default=SIZES, help="chips, about")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--one", nargs=2, metavar=("CHIPS", "SCENES"), help="measure one size: large or small scenes")
    asked = parser.parse_args()
    if asked.one:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(json.dumps(steps(int(asked.one[0]), asked.one[1], Path(folder))))
        return
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), "1"))
    theme = tables(asked.sizes)
    print(as_markdown(theme))
    if asked.json:
        asked.json.write_text(json.dumps([as_json(theme)], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
