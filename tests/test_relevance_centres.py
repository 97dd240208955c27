"""Cells are drawn where they look, which is measured, and the ground knows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from relevance_nets import images, network
from torch import nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.layers import Lattice, blend
from dlslicer_geo.relevance import relevance_maps
from dlslicer_geo.relevance.centres import shifts
from dlslicer_geo.relevance.networks import depths
from dlslicer_geo.types import Saliency, bilinear

CELL = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


def test_the_cells_of_a_resnet_start_from_the_pixel_of_their_strides() -> None:
    """Odd kernels, symmetric padding, stride 2: cell i is centred on pixel s i, and not on s i + (s - 1) / 2."""
    net = network("resnet18")
    found = shifts(net, depths(net), 128)
    for layer, cell in CELL.items():
        assert found[layer] * 128 == pytest.approx(-(cell - 1) / 2, abs=0.12 * cell)


def test_measuring_leaves_the_network_alone_and_gives_the_same_again() -> None:
    net = network("resnet18").train()
    before = {name: values.clone() for name, values in net.state_dict().items()}
    with torch.no_grad():
        first = shifts(net, depths(net), 64)
    with torch.inference_mode():
        assert shifts(net, depths(net), 64) == first
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_even_convolution_shows_its_half_pixel() -> None:
    """A network of one layer whose cells look exactly at the middle of their share, and one with a pixel more."""

    class One(nn.Module):
        def __init__(self, kernel: int) -> None:
            super().__init__()
            self.cells = nn.Conv2d(3, 8, kernel, stride=4, padding=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.cells(x))

    torch.manual_seed(0)
    even, odd = (shifts(One(kernel), {"layer1": "cells"}, 64)["layer1"] * 64 for kernel in (4, 3))
    assert even == pytest.approx(0, abs=0.25)
    assert odd == pytest.approx(-0.5, abs=0.25)


def test_samples_stand_where_they_look() -> None:
    weights = bilinear(4, 8, -1 / 16)  # each sample a quarter of its cell to the left
    at = weights @ ((np.arange(4) + 0.5) / 4 - 1 / 16)
    inside = slice(1, 6)
    np.testing.assert_allclose(at[inside], ((np.arange(8) + 0.5) / 8)[inside])
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_a_shifted_map_lands_shifted_on_the_ground() -> None:
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 4, 4] = 1
    windows = np.array([[0, 0, 64, 64]])
    lattice = Lattice.over(windows, 32, (64, 64))
    centroids = []
    for shift in (0.0, -3 / 64):
        values, _ = blend(maps, windows, lattice, shift=shift)
        at = (np.arange(64) + 0.5)[:, None]
        centroids.append(float((values * at).sum() / values.sum()))
    assert centroids[0] == pytest.approx(36, abs=0.2)
    assert centroids[1] == pytest.approx(33, abs=0.2)


def test_a_saliency_resamples_its_maps_with_the_shift_of_their_depth() -> None:
    values = np.zeros((1, 8, 8), np.float32)
    values[0, 4, 4] = 1
    straight, moved = (one_map(values, shift).resampled("layer4", slice(0, 1), (64, 64))[0] for shift in (0, -4 / 64))
    np.testing.assert_allclose(moved[8:52, 8:52], straight[12:56, 12:56])


def one_map(values: NDArray[np.float32], shift: float) -> Saliency:
    return Saliency(
        method="grad-cam", layers=("layer4",), maps={"layer4": values}, chip_id=np.array([0]), scene_id=("a",),
        city=("ALA",), windows=np.array([[0, 0, 64, 64]]), stride=np.array([32]), grids={}, input_size=64,
        shift={"layer4": shift},
    )  # fmt: skip


def test_images_unlike_the_network_are_refused_in_one_sentence() -> None:
    net = network("resnet18")
    with pytest.raises(
        RelevanceError, match=r"images are torch\.float64 on cpu and the network torch\.float32 on cpu"
    ):
        relevance_maps(net, images(dtype=torch.float64), torch.tensor([1, 7]))
    with pytest.raises(RelevanceError, match="targets a list"):
        relevance_maps(net, images(), [1, 7])  # type: ignore[arg-type]
    assert list(relevance_maps(net, images(), torch.tensor([1, 7]), layers="layer3")) == ["layer3"]
