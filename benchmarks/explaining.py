"""What saliency at four depths costs beside a forward and backward pass, and whether it is written meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import imagery
import numpy as np
import timm
import torch
from rounds import Figure, Growth, Options, Ratio, Theme, Way, growth, in_turn
from torch.nn import functional

import dlslicer_geo as dl
from dlslicer_geo.layers import Question, stream_saliency
from dlslicer_geo.pipeline.ahead import ahead
from dlslicer_geo.relevance import DEFAULT, Explainer, relevance_maps
from dlslicer_geo.relevance.inputs import CHIPS_AT_ONCE

LAYERS = ("layer4", "layer3", "layer2", "layer1")
CLASSES = 45
EDGE = 96
"""Edge in pixels of what the network sees while layers are written, so that writing is no trifle beside it."""


def explaining(folder: Path, options: Options) -> Theme:
    """Processor time of one thread for each chip."""
    torch.set_num_threads(1)
    names, size, edge = (("resnet10t",), 2, 64) if options.quick else (("resnet18", "resnet50"), CHIPS_AT_ONCE, 224)
    figures: list[Figure] = []
    ratios: list[Ratio] = []
    for name in names:
        ways = passes(name, size, edge)
        spent = in_turn(ways, options.rounds)
        own = {way: Figure(name=f"{name}: {way}", unit="s", values=tuple(seconds)) for way, seconds in spent.items()}
        figures += own.values()
        ratios.append(Ratio(of=own[SALIENCY], to=own[BACKWARD], most=3))
    return Theme(
        title="Saliency: four depths, per chip",
        figures=figures,
        ratios=ratios,
        notes=[
            f"Processor time of one thread for each chip of {edge} px, {size} chips at a time; {DEFAULT}. The "
            "backward pass goes down to all weights, as in training."
        ],
    )


SALIENCY, BACKWARD, FORWARD = "saliency at four depths", "forward and backward pass", "forward pass"


def passes(name: str, size: int, edge: int) -> dict[str, Way]:
    """Saliency of a batch, and the passes it is compared with."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=CLASSES).eval().to(memory_format=torch.channels_last)
    x = torch.randn(size, 3, edge, edge).contiguous(memory_format=torch.channels_last)
    wanted = torch.arange(size) % CLASSES

    def saliency() -> int:
        relevance_maps(net, x, wanted, layers=LAYERS)
        return size

    def backward() -> int:
        net.zero_grad()
        functional.cross_entropy(net(x), wanted).backward()  # type: ignore[no-untyped-call]
        return size

    def forward() -> int:
        with torch.inference_mode():
            net(x)
        return size

    return {SALIENCY: saliency, BACKWARD: backward, FORWARD: forward}


ASK, WRITE, BOTH, SUM = "explained only", "laid and written only", "both, as explain does", "sum of the two"


def overlapping(folder: Path, options: Options) -> Theme:
    """Wall clock of explaining and of laying and writing, apart and together."""
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    numbers, side = ((1, 2, 4), 960) if options.quick else ((2, 4, 16), 1440)
    asking = _asking(folder, numbers[-1], side, "resnet10t" if options.quick else "resnet18")
    groups = [rows["chip_id"].to_numpy(np.int64) for _, rows in asking.data.chips.groupby("scene_id")]
    answers = list(asking.stream(groups))
    outs = (folder / f"gis-{i}" for i in count())

    def both() -> int:
        with ahead(asking.stream(groups)) as coming:
            return _written(asking, coming, next(outs), len(groups))

    ways: dict[str, Way] = {
        ASK: partial(_explained, asking, groups),
        WRITE: lambda: _written(asking, iter(answers), next(outs), len(groups)),
        BOTH: both,
    }
    spent = in_turn(ways, options.rounds, time.perf_counter)
    spent[SUM] = [ask + write for ask, write in zip(spent[ASK], spent[WRITE], strict=True)]
    figures = {name: Figure(name=name, unit="s", values=tuple(seconds)) for name, seconds in spent.items()}
    return Theme(
        title="Saliency: written while more is explained, per scene",
        figures=list(figures.values()),
        ratios=[Ratio(of=figures[BOTH], to=figures[SUM], most=1), Ratio(of=figures[BOTH], to=figures[ASK])],
        growths=[_growth(asking, groups, numbers, options.rounds)],
        notes=[
            f"Wall clock; {len(groups)} scenes of {side}² px with {len(groups[0])} chips each, ResNet-18 at "
            f"{EDGE} px with {torch.get_num_threads()} thread(s), four depths, COG files with statistics and styles."
        ],
    )


def _asking(folder: Path, number: int, side: int, name: str) -> Explainer:
    """A question about a network without training."""
    data = dl.ChipDataModule(*imagery.world(folder, number, side), cities=imagery.CITIES)
    torch.manual_seed(0)
    model = dl.CityClassifier(name, cities=data.cities, input_size=EDGE).eval()
    return Explainer(model, data, layers=LAYERS[::-1], target=data.cities[0])


def _written(asking: Explainer, answers: Any, out: Path, number: int) -> int:
    """Lay the answers on the ground, a file for each scene."""
    for _, rows in asking.data.chips.groupby("scene_id"):
        scene = rows["scene_id"].iloc[0]
        question = Question(scene=scene, city=str(asking.target), method=asking.method, layers=asking.layers)
        stream_saliency(partial(_next, answers), rows, out, question=question)
    return number


def _explained(asking: Explainer, groups: Sequence[Any]) -> int:
    return len(list(asking.stream(groups)))


def _next(answers: Any, _ids: Any) -> Any:
    return next(answers)


def _growth(asking: Explainer, groups: Sequence[Any], numbers: Sequence[int], rounds: int) -> Growth:
    """Explained at growing numbers of scenes."""
    works: dict[int, Way] = {}
    for number in numbers:
        some = groups[:number]
        works[sum(map(len, some))] = partial(_explained, asking, some)
    return growth("explain so many chips", works, min(rounds, 3))
