# make bench, or: python benchmarks/bench_verify.py --out benchmarks/verify.md
# Expected: 566,000 chips are proven in less than 30 s of one core and 4 GB, and the time grows with the chips.
"""Chip tables like those of DL-SLICER, of growing size: what their proof takes in seconds and memory."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer

from dlslicer_geo.splits import proof

SIZES = (10_000, 100_000, 566_000, 1_000_000)
CITIES, SIDE, EDGE, STRIDE = 45, 19, 480, 240  # chips along a scene, pixels along a chip and between two
METRE = 200 / 480  # of a pixel
SHARES = (0.7, 0.1, 0.2)


def main() -> None:
    """Measure every size in a process of its own, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="chips, about")
    parser.add_argument("--one", nargs=2, metavar=("CHIPS", "SPLIT"), help="measure one table only: site or random")
    options = parser.parse_args()
    if options.one:
        print(*one(int(options.one[0]), options.one[1]))
        return
    found = {split: [apart(size, split) for size in options.sizes] for split in ("site", "random")}
    table = report(found)
    print(table)
    if options.out:
        options.out.write_text(table, encoding="utf-8")


def apart(size: int, split: str) -> tuple[int, float, float, int]:
    """The same in a new process, so that each size has its own peak of memory."""
    command = [sys.executable, __file__, "--one", str(size), split]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(words[0]), float(words[1]), float(words[2]), int(words[3])


def one(size: int, split: str) -> tuple[int, float, float, int]:
    """Chips, seconds of processor time of the proof, peak memory of the process in GB, leaking pairs."""
    chips, scenes = tables(max(CITIES, round(size / SIDE**2)), split)
    start = time.process_time()
    figures = proof.measure(chips, scenes=scenes)
    seconds = time.process_time() - start
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system calls ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return len(chips), seconds, peak, sum(figures["leaks"].values())


def tables(number: int, split: str) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    """Scenes of 2 km in 45 cities around the world, their chips overlapping by half, split by scene or by chance."""
    random = np.random.default_rng(0)
    city = np.arange(number) % CITIES
    row, col = (axis.ravel() * STRIDE for axis in np.mgrid[:SIDE, :SIDE])
    names = np.array([f"c{c:02d}_{i:07d}" for i, c in enumerate(city)], object)
    columns = {
        "scene_id": np.repeat(names, SIDE**2), "city": np.repeat([f"c{c:02d}" for c in city], SIDE**2),
        "site": np.repeat(names, SIDE**2), "row": np.tile(row, number), "col": np.tile(col, number),
        "height": EDGE, "width": EDGE, "approximate": False,
    }  # fmt: skip
    count = number * SIDE**2
    part = random.choice(["train", "val", "test"], number if split == "site" else count, p=SHARES)
    columns["split"] = np.repeat(part, SIDE**2) if split == "site" else part
    chips = gpd.GeoDataFrame(columns, geometry=outlines(city, row, col), crs="EPSG:4326").assign(
        chip_id=np.arange(count)
    )
    hashes = [f"{value:016x}" for value in random.integers(1 << 63, size=number)]
    scenes = pd.DataFrame({"scene_id": names, "sha256": names, "phash": hashes, "duplicate_of": None})
    return chips, scenes


def outlines(city: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Polygons in degrees; the scenes of a city lie in rows of 40, 2.5 km apart."""
    found = []
    for code in range(CITIES):
        nth = np.arange(int((city == code).sum()))
        east = 400_000 + 2500 * (nth % 40)[:, None, None] + METRE * (col[:, None] + [0, EDGE, EDGE, 0])
        north = 4_700_000 - 2500 * (nth // 40)[:, None, None] - METRE * (row[:, None] + [EDGE, EDGE, 0, 0])
        to_degrees = Transformer.from_crs(32601 + code, 4326, always_xy=True)
        corners = np.stack(to_degrees.transform(east, north), axis=-1).reshape(-1, 4, 2)
        found.append(np.asarray(shapely.polygons(corners), object))
    # city by city, and back into the order of the scenes
    order = np.argsort(np.argsort(np.repeat(city, SIDE**2), kind="stable"), kind="stable")
    return np.concatenate(found)[order]


def report(found: dict[str, list[tuple[int, float, float, int]]]) -> str:
    """The table in Markdown."""
    rows = [
        f"| {split} | {chips:,} | {seconds:.1f} | {peak:.2f} | {pairs:,} |"
        for split, lines in found.items()
        for chips, seconds, peak, pairs in lines
    ]
    slopes = {
        split: np.polyfit(np.log([line[0] for line in lines]), np.log([line[1] for line in lines]), 1)[0]
        for split, lines in found.items()
        if len(lines) > 1
    }
    said = ", ".join(f"{slope:.2f} for {split}" for split, slope in slopes.items())
    return "\n".join(
        [
            "# The proof of a split",
            "",
            "| split | chips | seconds of one core | peak memory, GB | leaking pairs |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            f"Slope of log seconds over log chips (1 is linear): {said}.",
            f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, numpy "
            f"{np.__version__}, shapely {shapely.__version__}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
