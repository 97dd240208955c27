"""Small networks and images that the tests of relevance share."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def shake(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm statistics of its own, so that it does something."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=draw) * 0.1
            module.running_var = torch.rand(module.num_features, generator=draw) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=draw) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=draw) * 0.1
    return net.eval()


def network(name: str, classes: int = 10, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    torch.manual_seed(0)
    return shake(timm.create_model(name, num_classes=classes, **options)).to(dtype)


def toy(classes: int = 4, channels: tuple[int, ...] = (4, 6, 8, 10), dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    blocks: Any = BasicBlock
    return shake(ResNet(blocks, (1, 2, 1, 1), num_classes=classes, channels=channels)).to(dtype)


def images(number: int = 2, edge: int = 64, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(number, 3, edge, edge, generator=torch.Generator().manual_seed(seed)).to(dtype)
