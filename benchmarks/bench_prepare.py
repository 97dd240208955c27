# make bench, or: python benchmarks/bench_prepare.py --out benchmarks/results.md
# Expected: a prepared scene gives windows at least 50 times as fast as its JPG opened anew for each.
"""Random 480 px windows of one 4800² scene: from the JPG and from the scene that was prepared from it."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from dlslicer_geo import pixels
from dlslicer_geo.scenes.rasters.prepare import prepare
from dlslicer_geo.scenes.values import Found, Placement
from dlslicer_geo.types import Channels, ChipGrid, Reading

SIDE, CHIP = 4800, 480
BANEPA = Path(__file__).parents[1] / "data/banepa/banepa_oam_z19.tif"
PLACE = Placement(crs="EPSG:32645", transform=Affine(0.4, 0, 4e5, 0, -0.4, 3e6), georef="sidecar")


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many rounds counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = report(measure(Path(folder), options.rounds))
    print(table)
    if options.out:
        options.out.write_text(table, encoding="utf-8")


def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Windows per second of each way to read, and the seconds that preparing takes."""
    jpg = photograph(folder / "scene.jpg")
    start = time.process_time()
    found = Found(path=str(jpg), relative=PurePosixPath(jpg.name), source=str(jpg))
    chips = ChipGrid(size=CHIP, stride=CHIP // 2, metres=None)
    cog = prepare(found, PLACE, Reading(), folder / "scene.tif", chips).path
    spent = time.process_time() - start
    ways: dict[str, tuple[Callable[[], Iterator[Any]], int]] = {
        "JPG, opened anew for each window": (lambda: anew(jpg), 6),
        "JPG, held open": (lambda: held(jpg), 30),
        "prepared, opened anew for each window": (lambda: anew(cog), 300),
        "prepared, held open": (lambda: held(cog), 1500),
    }
    speed = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):  # all ways in turn, so that what else the machine does meets all of them
        speed |= {name: max(speed[name], per_second(*way)) for name, way in ways.items()}
    return speed | {"seconds": spent, "jpg": jpg.stat().st_size / 1e6, "cog": cog.stat().st_size / 1e6}


def photograph(path: Path) -> Path:
    """A JPG of 4800² px of the drone image that ships with the project, mirrored where it is too narrow."""
    with pixels.opened(BANEPA) as source:
        image: NDArray[np.uint8] = source.read().transpose(1, 2, 0)
    tall = np.concatenate([image, image[::-1]])[:SIDE]
    Image.fromarray(np.ascontiguousarray(tall[:, :SIDE])).save(path, quality=90)
    return path


def anew(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Random windows without end, the file opened for each."""
    for window in windows():
        with pixels.opened(path) as source:
            yield pixels.read(source, window, Channels())


def held(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The same with the file held open, as the chip dataset does."""
    with pixels.opened(path) as source:
        for window in windows():
            yield pixels.read(source, window, Channels())


def windows() -> Iterator[Window]:
    """Random windows without end, the same ones each time."""
    random = np.random.default_rng(0)
    while True:
        row, col = random.integers(0, SIDE - CHIP, 2).tolist()
        yield Window(col, row, CHIP, CHIP)


def per_second(way: Callable[[], Iterator[Any]], number: int) -> float:
    """Windows per second of processor time, which other programs on the machine take no share of."""
    with rasterio.Env(GDAL_NUM_THREADS=1):
        found = way()
        next(found)
        start = time.process_time()
        for _, _window in zip(range(number), found, strict=False):
            pass
        return number / (time.process_time() - start)


def report(found: dict[str, float]) -> str:
    """The table in Markdown."""
    first = found["JPG, opened anew for each window"]
    rows = [f"| {name} | {speed:.1f} | {speed / first:.1f} |" for name, speed in found.items() if " " in name]
    return "\n".join(
        [
            "# Windows of 480 px from one scene of 4800 by 4800 px",
            "",
            "| read from | windows per second of one core | ratio |",
            "|---|---:|---:|",
            *rows,
            "",
            f"Prepared once in {found['seconds']:.1f} s of one core; the JPG has {found['jpg']:.0f} MB, the prepared "
            f"scene {found['cog']:.0f} MB. One process, one thread, uint8 RGB, quality 90.",
            f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
            f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}.",
            "",
        ]
    )


if __name__ == "__main__":
    os.environ.setdefault("GDAL_CACHEMAX", "16")  # MB, below what the scene takes, so that decoding is measured
    main()
