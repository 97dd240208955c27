"""How near ``predict`` comes to the bare forward pass, what its dense way saves, and what memory it takes."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import imagery
import torch
from imagery import SIZE
from rounds import Figure, Growth, Options, Ratio, Theme, Way, apart, in_turn, peak_mb, rates

import dlslicer_geo as dl
from dlslicer_geo.model import placed

PREDICT, FORWARD, DENSE = "predict, end to end", "bare forward pass", "predict, dense"
CPU_CHIPS, CPU_LEAST, GPU_LEAST = 361, 0.93, 0.85
PER_SCENE = 361
"""Chips of a scene of 4800² px."""

SMALL = 1200
"""Edge in pixels of the scenes that memory is measured over: 16 chips each."""


def predicting(folder: Path, options: Options) -> Theme:
    """Wall clock of ``predict`` with ResNet-50 from prepared rasters to finished parts, and of its network alone."""
    name, chips = ("resnet10t", 9) if options.quick else ("resnet50", options.chips or CPU_CHIPS)
    model, data = _world(folder, name, chips, options)
    whole = anew(folder, model, data, options.accelerator)
    whole()  # finds the size of a batch and the precision
    said = json.loads((folder / "predictions-0/manifest.json").read_text())
    ways = {
        PREDICT: whole,
        FORWARD: forward(model, len(data.chips), said, options.accelerator),
        DENSE: anew(folder, model, data, options.accelerator, dense=True),
    }
    speed = rates(in_turn(ways, options.rounds, time.perf_counter), "chips/s")
    least = CPU_LEAST if options.accelerator == "cpu" else GPU_LEAST
    return Theme(
        title=f"Prediction: {name}, {len(data.chips):,} chips of {SIZE} px, {_device(options.accelerator)}",
        figures=list(speed.values()),
        ratios=[
            Ratio(of=speed[PREDICT], to=speed[FORWARD], least=least),
            Ratio(of=speed[DENSE], to=speed[PREDICT]),
        ],
        notes=[
            f"Wall clock; batches of {said['batch_size']}, {said['precision']}, channels last, not compiled, "
            f"{torch.get_num_threads()} threads, {data.workers} reading processes. {PREDICT.capitalize()}: prepared "
            "rasters are read, asked about, and written as parts, and read back. The bare forward pass is the "
            "network on normalised pixels that are on the device already, in batches of the same sizes. The dense "
            "way also asks about up to 256 chips one by one, to say how well it agrees.",
            f"With a GPU (≥ {GPU_LEAST} is asked for): `python benchmarks/bench.py --only predicting "
            "--accelerator gpu --chips 20000`.",
        ],
    )


def forward(model: Any, number: int, said: dict[str, Any], accelerator: str) -> Way:
    """The network over so many chips that are on its device, in the batches and the precision of a manifest."""
    size = said["batch_size"]

    def act() -> int:
        with placed(model, accelerator) as device, torch.inference_mode():
            pixels = torch.randn(size, 3, SIZE, SIZE, device=device).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=said["precision"] == "bf16"):
                for at in range(0, number, size):
                    found = model.model(pixels[: number - at])
            found.float().cpu()
        return number

    return act


def memory(folder: Path, options: Options) -> Theme:
    """Peak memory of whole processes that predict over more and more scenes."""
    numbers = (1, 2, 4) if options.quick else (4, 16, 64)
    for number in numbers:
        imagery.world(folder / f"scenes-{number}", number, SMALL)
    found: dict[int, list[dict[str, float]]] = {number: [] for number in numbers}
    for _ in range(options.rounds):
        for number, measured in found.items():
            measured.append(apart("predicting.py", folder / f"scenes-{number}"))
    peaks = [
        Figure(name=f"peak over {n} scenes", unit="MB", values=tuple(one["peak_mb"] for one in measured))
        for n, measured in found.items()
    ]
    chips = tuple(measured[0]["chips"] for measured in found.values())
    medians = {
        key: tuple(median(one[key] for one in measured) for measured in found.values())
        for key in ("peak_mb", "seconds")
    }
    return Theme(
        title="Peak memory of predict",
        figures=peaks,
        ratios=[Ratio(of=peaks[-1], to=peaks[0], most=1.1)],
        growths=[
            Growth(name="peak memory over chips", sizes=chips, values=medians["peak_mb"], unit="MB"),
            Growth(name="predict over chips, processor time", sizes=chips, values=medians["seconds"]),
        ],
        notes=[
            f"Processes of their own, the largest resident memory that the system tells of each; ResNet-18 at 64 px, "
            f"scenes of {SMALL}² px with 16 chips each, parts of 64 chips."
        ],
    )


def one(folder: Path) -> dict[str, float]:
    """Predict the scenes of a folder in this process: its peak memory and seconds."""
    data = dl.ChipDataModule(*imagery.world(folder, 0), cities=imagery.CITIES)
    torch.manual_seed(0)
    model = dl.CityClassifier("resnet18", cities=data.cities, input_size=64).eval()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        dl.predict(model, data, split="all", out=out, chips_per_part=64, trainer=_trainer("cpu"))
    return {"peak_mb": peak_mb(), "seconds": time.process_time() - start, "chips": len(data.chips)}


def _world(folder: Path, name: str, chips: int, options: Options) -> tuple[Any, dl.ChipDataModule]:
    """A network without training, and about so many chips."""
    number, side = (1, 960) if options.quick else (max(1, round(chips / PER_SCENE)), imagery.SIDE)
    imagery.room(folder, number)
    workers = 0 if options.accelerator == "cpu" else min(8, os.cpu_count() or 1)
    data = dl.ChipDataModule(*imagery.world(folder, number, side), cities=imagery.CITIES, workers=workers)
    torch.manual_seed(0)
    return dl.CityClassifier(name, cities=data.cities).eval(), data


def anew(folder: Path, model: Any, data: dl.ChipDataModule, accelerator: str, *, dense: bool = False) -> Way:
    """Predict all chips, each time in a new folder."""
    places = (folder / f"predictions-{'dense-' if dense else ''}{i}" for i in count())

    def act() -> int:
        return len(dl.predict(model, data, split="all", out=next(places), dense=dense, trainer=_trainer(accelerator)))

    return act


def _trainer(accelerator: str) -> dict[str, Any]:
    return {"accelerator": accelerator, "devices": 1}


def _device(accelerator: str) -> str:
    """What the device calls itself."""
    if accelerator == "cpu":
        return f"CPU with {torch.get_num_threads()} threads"
    device = torch.get_device_module(torch.accelerator.current_accelerator())
    return str(getattr(device, "get_device_name", lambda: accelerator)())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=Path, required=True, help="folder with scenes.parquet and chips.parquet")
    print(json.dumps(one(parser.parse_args().one)))
