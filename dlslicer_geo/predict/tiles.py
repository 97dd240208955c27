"""Chips of whole scenes in, the tiles of these scenes at the network's resolution out."""

from __future__ import annotations

from math import ceil, gcd
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from dlslicer_geo import pixels
from dlslicer_geo.errors import SceneError, TableError
from dlslicer_geo.types import Scene

HALO = 64
"""Pixels around a tile that only lend their context: two cells of a network with stride 32."""

LARGEST = 1344
"""Pixels along the core of a tile at most, unless a chip is larger: with its halo it takes the memory of 40 chips."""

Integers = NDArray[np.int64]


class Tiles(Dataset[dict[str, Any]]):
    """Tiles for a ``DenseClassifier``: square cores that share a scene between them, each with a halo around it.

    Only tiles that some chip touches are read. Beyond the image a tile has the network's mean colour, which is what
    convolutions assume beyond a chip.

    Args:
        model: the ``CityClassifier``: the size of its input, its mean colour.
        data: the ``ChipDataModule``.
        chip_ids: of whole scenes, those of a scene next to each other.

    Raises:
        TableError: if the chips of a scene differ in size.
    """

    def __init__(self, model: Any, data: Any, chip_ids: Integers) -> None:
        self.input = int(model.hparams["input_size"])
        self.fill = (model.mean.flatten() * 255).round().cpu().numpy().astype(np.uint8)
        chips = data.chips.iloc[chip_ids]
        names = chips["scene_id"].to_numpy(object)
        self.starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
        self.ends = np.r_[self.starts[1:], len(chip_ids)]
        self.chip_ids, self.labels = chip_ids, data.labels(chip_ids)
        self.windows = chips[["row", "col", "height", "width"]].to_numpy(np.int64)
        self.scenes = data.scenes.set_index("scene_id", drop=False).loc[names[self.starts]].to_dict("records")
        self.cores = [self._core(number) for number in range(len(self.starts))]
        self.index = np.concatenate([self._touched(number) for number in range(len(self.starts))])
        self._open: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def lengths(self, ends: Integers) -> list[int]:
        """Tiles of each part, of which the chips end at these positions."""
        scene_end = self.ends[self.index[:, 0]]
        return [int(n) for n in np.diff(np.searchsorted(scene_end, ends, side="right"), prepend=0)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, *_ = where = self.index[index].tolist()
        core = self.cores[number]
        own = slice(self.starts[number], self.ends[number])
        windows = self.windows[own]
        scale = self.input / windows[0, 2]
        corner = windows[:, :2].min(axis=0)
        start = (windows[:, :2] - corner) * scale - np.array(where[1:]) * core
        at = np.flatnonzero(((start < core) & (start + self.input > 0)).all(axis=1))
        neighbours = self.index[[index - 1, (index + 1) % len(self.index)], 0] != number
        return {
            "image": self._image(number, corner, where[1:])[None],
            "halo": HALO,
            "at": torch.from_numpy(at),
            "top": torch.from_numpy(start[at, 0]),
            "left": torch.from_numpy(start[at, 1]),
            "chip_id": torch.from_numpy(self.chip_ids[own]),
            "label": torch.from_numpy(self.labels[own]),
            "first": bool(neighbours[0]) or index == 0,
            "last": bool(neighbours[1]) or index == len(self.index) - 1,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return self.__dict__ | {"_open": None}

    def _core(self, number: int) -> int:
        """Edge of a core in pixels of the network, a multiple of its input, for which least is computed in all."""
        windows = self.windows[self.starts[number] : self.ends[number]]
        if len(np.unique(windows[:, 2:])) > 1:
            raise TableError(
                f"chips of scene {self.scenes[number]['scene_id']} measure {np.unique(windows[:, 2:]).tolist()} "
                "pixels, and only equal ones can share features: predict with `--predict.dense false`"
            )
        edge = windows[0, 2]
        extent = (np.ptp(windows[:, :2], axis=0) + edge) / edge  # in chips
        choices = range(1, max(1, LARGEST // self.input) + 1)

        def cost(chips: int) -> float:
            return float(np.prod(np.ceil(extent / chips))) * (chips * self.input + 2 * HALO) ** 2

        return min(choices, key=cost) * self.input

    def _touched(self, number: int) -> Integers:
        """(tiles, 3): the scene, and row and column of each core that some chip touches."""
        windows = self.windows[self.starts[number] : self.ends[number]]
        native = self.cores[number] // self.input * windows[0, 2]
        first = windows[:, :2] - windows[:, :2].min(axis=0)
        last = first + windows[0, 2] - 1
        corners = [np.stack([r[:, 0], c[:, 1]], axis=1) // native for r in (first, last) for c in (first, last)]
        cores = np.unique(np.concatenate(corners), axis=0)
        return np.insert(cores, 0, number, axis=1)

    def _image(self, number: int, corner: Integers, tile: list[int]) -> Tensor:
        """A core and its halo, uint8 (3, T, T), read in whole steps: native pixels that make whole pixels."""
        edge = int(self.windows[self.starts[number], 2])
        common = gcd(edge, self.input)
        step, step_out = edge // common, self.input // common
        rim = ceil(HALO / step_out)
        core = self.cores[number] // step_out  # in steps
        spans = [
            _span(int(corner[axis]) + (tile[axis] * core - rim) * step, (core + 2 * rim), step, limit)
            for axis, limit in enumerate((self.scenes[number]["height"], self.scenes[number]["width"]))
        ]
        canvas = np.empty(((core + 2 * rim) * step_out,) * 2 + (3,), np.uint8)
        canvas[:] = self.fill
        (row, height, top), (col, width, left) = spans
        if height > 0 and width > 0:
            steps = -(-height // step), -(-width // step)
            image = self._read(number, Window(col, row, width, height))
            beyond = [(0, steps[0] * step - height), (0, steps[1] * step - width)]
            image = np.pad(image, [(0, 0), *beyond], mode="edge")  # a part of a step would be another scale
            size = steps[0] * step_out, steps[1] * step_out
            canvas[top * step_out :, left * step_out :][: size[0], : size[1]] = _resized(image, size)
        cut = rim * step_out - HALO
        return torch.from_numpy(canvas[cut : len(canvas) - cut, cut : len(canvas) - cut]).permute(2, 0, 1)

    def _read(self, number: int, window: Window) -> NDArray[np.uint8]:
        scene = Scene.from_record(self.scenes[number])
        try:
            if self._open is None or self._open[0] != number:
                if self._open is not None:
                    self._open[1].close()
                self._open = number, pixels.open_source(scene.path)
            return pixels.read(self._open[1], window, scene.channels)
        except OSError as error:
            raise SceneError(
                f"scene {scene.scene_id} cannot be read from {scene.path} ({pixels.words(error)}): put the file "
                "back, or scan again"
            ) from error


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(3, rows, columns) resampled to (*size, 3), antialiased bilinear."""
    found = torch.from_numpy(image)[None].contiguous(memory_format=torch.channels_last)
    if found.shape[-2:] != size:
        found = functional.interpolate(found, size, mode="bilinear", antialias=True)
    return found[0].permute(1, 2, 0).numpy()


def _span(start: int, steps: int, step: int, limit: int) -> tuple[int, int, int]:
    """What of a span of steps lies in the image: first pixel, pixels, steps that lie before it."""
    skipped = max(0, -(start // step))
    first = start + skipped * step
    return first, min(start + steps * step, limit) - first, skipped
