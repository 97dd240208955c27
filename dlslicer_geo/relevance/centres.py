"""A network in; where on its input the cells of each depth really look out.

A saliency map has fewer cells than its chip has pixels, and it seems natural that a cell stands for its even share of
the chip. It does not: with odd kernels, symmetric padding and stride 2, cell i of a ResNet is centred on pixel s · i,
not on the middle of its share, s · i + (s - 1) / 2, and maps laid out evenly are drawn up to half a cell too far to
the right and down (15 px of 224 at layer4). Other networks differ, so it is measured: the centre of what a cell looks
at is that of the squared gradient of its activations with respect to the input (the effective receptive field of Luo
et al., *Understanding the Effective Receptive Field in Deep CNNs*, NIPS 2016).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dlslicer_geo.relevance.gradients import watch
from dlslicer_geo.relevance.maps import at_rest
from dlslicer_geo.relevance.networks import FAMILIES

IMAGES, LARGER = 2, 2
"""Images of noise that the centre is averaged over, and how much larger they are than the network's input, so that
the edge does not cut off what a cell looks at; of networks that may take one size only, 8 of that size."""


def shifts(net: nn.Module, names: dict[str, str], edge: int) -> dict[str, float]:
    """How far cells look from the middle of their even share of the input, down and to the right alike.

    Args:
        net: a network of feature maps.
        names: depths, shallow to deep, each with the name of its module.
        edge: of the network's input, in pixels.

    Returns:
        per depth the distance in shares of the input's edge, negative for up and to the left; the noise is seeded,
        and the result differs by about 1 % of the edge between seeds at the deepest depths.
    """
    like = next(net.parameters())
    draw = torch.Generator().manual_seed(0)
    seen: dict[str, Tensor] = {}
    larger = LARGER if type(net) in FAMILIES else 1
    shape = (IMAGES * (LARGER // larger) ** 2, 3, larger * edge, larger * edge)
    double = at_rest(net)
    watch(double, names, seen, graph_from_first=False)
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(shape, generator=draw).to(like).requires_grad_()
        double(x)
        return {name: _distance(seen[name], x, draw) / edge for name in names}


def _distance(activations: Tensor, x: Tensor, draw: torch.Generator) -> float:
    """Mean pixels from the middle of a central cell's even share to the centre of what it looks at.

    Of an even number of cells the two in the middle are taken: the edges then cut off as much on either side.
    """
    cells, edge = activations.shape[-1], x.shape[-1]
    found = []
    for cell in sorted({(cells - 1) // 2, cells // 2}):
        values = activations[:, :, cell, cell]
        signs = torch.randn(values.shape, generator=draw).sign().to(values)
        gradient: Any = torch.autograd.grad((values * signs).sum(), x, retain_graph=True)[0]
        weight = gradient.cpu().double().square().sum(dim=(0, 1))
        middle = torch.arange(edge, dtype=weight.dtype) + 0.5
        centre = ((weight.sum(dim=0) + weight.sum(dim=1)) * middle).sum() / (2 * weight.sum()).clamp(min=1e-300)
        found.append(float(centre) - (cell + 0.5) * edge / cells if bool(weight.any()) else 0.0)
    return sum(found) / len(found)
