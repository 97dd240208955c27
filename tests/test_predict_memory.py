"""Memory of a prediction does not grow with the number of scenes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlslicer_geo.chips import cut
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid

EDGE = 1200

PREDICT = """
import resource, sys, pandas, torch
torch.set_num_threads(1)
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.model import CityClassifier
from dlslicer_geo.predict import predict
scenes, chips = (pandas.read_pickle(f"{sys.argv[1]}.{name}.pickle") for name in ("scenes", "chips"))
data = ChipDataModule(scenes, chips)
model = CityClassifier("test_resnet", cities=data.cities, input_size=64)
predict(model, data, out=sys.argv[2], embedding=True, chips_per_part=150)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""A process that predicts and prints the most memory it held, in kB."""


@pytest.mark.slow
def test_64_scenes_take_hardly_more_memory_than_4(raster: Callable[..., Path], tmp_path: Path) -> None:
    shape = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    for number in range(64):
        coarse = np.random.default_rng(number).integers(1, 255, (3, EDGE // 40, EDGE // 40), dtype=np.uint8)
        city, x = ("almaty", 500_000.0) if number % 2 else ("new_york", 600_000.0)
        pixels = coarse.repeat(40, axis=1).repeat(40, axis=2)
        origin = (x + 2_000 * number, 4_700_000.0)
        raster(f"s/{city}_2020_{number}.tif", crs="EPSG:32643", gsd=1.0, origin=origin, pixels=pixels, **shape)
    scenes = scan(tmp_path / "s")
    peaks = []
    for count in (4, 64):
        some = scenes.iloc[:: 64 // count]  # of both cities
        some.to_pickle(tmp_path / f"{count}.scenes.pickle")
        chips = cut(some, ChipGrid(size=64, stride=32, metres=160.0)).assign(split="test")
        chips.to_pickle(tmp_path / f"{count}.chips.pickle")
        command = [sys.executable, "-c", PREDICT, str(tmp_path / str(count)), str(tmp_path / f"out{count}")]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        peaks.append(int(subprocess.run(command, env=alone, capture_output=True, text=True, check=True).stdout))
    print(f"peak memory: {peaks[0] // 1024} MiB over 4 scenes, {peaks[1] // 1024} MiB over 64")
    assert len(list((tmp_path / "out64").glob("part-*"))) == 64
    assert peaks[1] <= 1.1 * peaks[0]
