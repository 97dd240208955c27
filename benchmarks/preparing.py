"""What ``scan --prepare`` takes for photographs, against a bare decode and a bare copy."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import imagery
import numpy as np
import torch
from PIL import Image
from rounds import Options, Ratio, Theme, Way, growth, in_turn, rates

SMALL = 1200
"""Edge in pixels of the scenes whose number grows."""

SCAN, DECODE, COPY = "scan --prepare", "bare decode of the JPG", "bare copy of the prepared file"


def preparing(folder: Path, options: Options) -> Theme:
    """Processor time of all threads: scenes found, prepared, hashed, measured, and looked through for holes."""
    torch.set_num_threads(1)
    side, small = (960, 480) if options.quick else (imagery.SIDE, SMALL)
    raw = imagery.photographs(folder / "raw", 1, side)
    scenes = imagery.scanned(folder / "raw", folder / "kept")
    many = imagery.photographs(folder / "many", 16, small)
    works = {number: scan(_linked(folder / f"many-{number}", many[:number]), folder) for number in (1, 4, 16)}
    ways: dict[str, Way] = {
        SCAN: scan(folder / "raw", folder),
        DECODE: lambda: len(np.asarray(Image.open(raw[0]))) and 1,
        COPY: lambda: _copied(Path(scenes["path"][0]), folder / "copy"),
    }
    speed = rates(in_turn(ways, options.rounds), "scenes/s")
    return Theme(
        title=f"Preparing a JPG of {side}² px",
        figures=list(speed.values()),
        ratios=[Ratio(of=speed[SCAN], to=speed[DECODE]), Ratio(of=speed[SCAN], to=speed[COPY])],
        growths=[growth(f"scan --prepare of so many scenes of {small}² px", works, options.rounds)],
        notes=["Processor time of all threads; the copy goes through the page cache."],
    )


def scan(root: Path, folder: Path) -> Way:
    """Prepare the photographs of a folder anew, each time in another place, which is removed."""
    places = (folder / f"{root.name}-prepared-{i}" for i in count())

    def act() -> int:
        place = next(places)
        number = len(imagery.scanned(root, place))
        shutil.rmtree(place)
        return number

    return act


def _linked(folder: Path, photographs: list[Path]) -> Path:
    folder.mkdir()
    for path in photographs:
        for file in (path, path.with_suffix(".jgw")):
            (folder / file.name).symlink_to(file)
    return folder


def _copied(path: Path, to: Path) -> int:
    shutil.copyfile(path, to)
    return 1
