"""Tiles of a scene in, what a classifier says of the overlapping chips that cover it out.

Features of a pixel are computed once, however many chips show it. Networks that end in the mean of a map of features
make that possible: the mean over a chip is a sum over the cells of the scene's map, each weighted by the share of it
that lies in the chip. What a chip's border would have hidden is seen, so that the answers are not quite those of the
chip by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from dlslicer_geo.errors import ModelError


class DenseClassifier(LightningModule):
    """A ``CityClassifier`` that takes the tiles of a scene one after the other and answers after the last.

    A batch is one tile: ``image`` uint8 (1, 3, T, T), of which ``halo`` pixels on each side only lend their context;
    ``at`` int64 (c,) the chips of the scene that it touches; ``top`` and ``left`` float64 (c,) where they begin, in
    pixels from the tile's core; ``chip_id`` and ``label`` int64 (n,) of all chips of the scene; whether it is the
    ``first`` and the ``last`` tile of the scene.

    Args:
        model: the classifier.

    Raises:
        ModelError: if its network does not end in the mean of a map, or its input is no whole number of cells.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.size = int(model.hparams["input_size"])
        _check(model, self.size)
        self.found: tuple[Tensor, Tensor] | None = None

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """After the last tile of a scene, what ``CityClassifier.predict_step`` gives for its chips; else nothing."""
        model, count = self.model, len(batch["chip_id"])
        maps = (model.quick or model.maps)(model.normalise(batch["image"]))
        if batch["first"]:
            self.found = None
        self.found = self.found or tuple(m.new_zeros(count, m.shape[1]) for m in maps)
        for found, features in zip(self.found, maps, strict=True):
            found[batch["at"]] += _pooled(features, batch, self.size)
        if not batch["last"]:
            return {}
        last, before = self.found
        self.found = None
        shown = hasattr(model.model, "forward_intermediates")
        said: dict[str, Tensor] = model.answer(last, before if shown else last)
        return {name: batch[name] for name in ("chip_id", "label")} | said


def _pooled(features: Tensor, batch: Any, size: int) -> Tensor:
    """The share (c, D) that the core of a tile with features (1, D, h, h) has in the mean features of its chips."""
    cell = batch["image"].shape[-1] / features.shape[-1]
    rim = round(batch["halo"] / cell)
    core = features[0, :, rim : features.shape[-2] - rim, rim : features.shape[-1] - rim]
    down, across = (
        _shares(batch[edge] / cell, size / cell, cells)
        for edge, cells in zip(("top", "left"), core.shape[1:], strict=True)
    )
    weights = (down[:, :, None] * across[:, None, :]).flatten(1).to(core.dtype)
    return weights @ core.flatten(1).T


def _shares(start: Tensor, length: float, cells: int) -> Tensor:
    """(c, cells) share of the length from each start (c,), in cells, that falls into each cell."""
    at = torch.arange(cells, device=start.device)
    ends = torch.minimum(at + 1, (start + length)[:, None])
    return (ends - torch.maximum(at, start[:, None])).clamp_min(0) / length


@torch.inference_mode()
def _check(model: Any, size: int) -> None:
    """Try the network on one chip of noise."""
    name, was = model.hparams["model"], model.training
    noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(model.device)
    model.eval()
    last, before = model.maps(model.normalise(noise * 255))
    flat = any(features.ndim != 4 for features in (last, before))
    if flat or not _ends_in_mean(model.model, last):
        raise ModelError(
            f"{name} does not end in the mean of a map of features: predict with `--predict.dense false`"
        )
    twice = model.maps(model.normalise(noise.repeat(1, 1, 2, 2) * 255))
    model.train(was)
    if any(large.shape[-1] != 2 * small.shape[-1] for small, large in zip((last, before), twice, strict=True)):
        raise ModelError(
            f"model.input_size is {size}, which is no whole number of cells of {name}: give a multiple of 32, or "
            "predict with `--predict.dense false`"
        )


def _ends_in_mean(network: Any, last: Tensor) -> bool:
    pooled = network.forward_head(last, pre_logits=True)
    mean = last.mean(dim=(2, 3))
    return pooled.shape == mean.shape and torch.allclose(pooled, mean, rtol=1e-3, atol=1e-5)
