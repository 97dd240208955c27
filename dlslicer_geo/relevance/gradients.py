"""A network, normalised images and a class in; activations, the gradient of its logit and what they make out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Σ_c α_c A_c with α the mean of the weights over positions: Relevance-CAM, and Grad-CAM of gradients."""
    return (weights.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


def product(gradient: Tensor, activations: Tensor) -> Tensor:
    """HiResCAM (Draelos and Carin, 2020)."""
    return (gradient * activations).sum(dim=1)


def positive_product(gradient: Tensor, activations: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., 2021)."""
    return (gradient.clamp(min=0) * activations).sum(dim=1)


GRADIENT_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": weighted,  # Selvaraju et al., 2017, without the final rectifier
    "hires-cam": product,
    "layer-cam": positive_product,
}
"""(gradient of the target's logit, activations) → map, by method."""


def gradients(
    net: nn.Module, x: Tensor, target: Tensor, against: Tensor | None, names: dict[str, str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Activations and the gradient of the class's logit (less that of the other) at each depth, both (B, C, h, w).

    Hooks are left on ``net``: give one whose hooks are its own.

    Args:
        net: the network, in evaluation mode.
        x: (B, 3, H, W) normalised input.
        target: (B,) class.
        against: (B,) class it is told from, or None.
        names: depths, shallow to deep, each with the name of its module.

    Raises:
        RelevanceError: if a depth has no feature maps.
    """
    seen: dict[str, Tensor] = {}
    watch(net, names, seen, graph_from_first=True)
    with torch.inference_mode(False), torch.enable_grad():
        logits = net(x.clone())  # a tensor of inference mode cannot be in a graph
        for name, output in seen.items():
            _check_map(net, names[name], output)
        chosen = logits.gather(1, target[:, None]).sum()
        if against is not None:
            chosen = chosen - logits.gather(1, against[:, None]).sum()
        found = torch.autograd.grad(chosen, list(seen.values()))
    return {name: (a.detach(), g) for (name, a), g in zip(seen.items(), found, strict=True)}


def watch(net: nn.Module, names: dict[str, str], seen: dict[str, Tensor], *, graph_from_first: bool) -> None:
    """Let a network put the output of each depth into ``seen`` when it runs; the hooks stay.

    Args:
        net: one whose hooks are its own.
        names: depths, shallow to deep, each with the name of its module.
        seen: is filled.
        graph_from_first: begin the graph at the shallowest depth, so that frozen weights do not matter.
    """

    def keeper(name: str) -> Callable[..., Any]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if graph_from_first and not seen:
                output = output.detach().requires_grad_()
            # cloned, because the next module may act in place, which autograd forbids on a leaf
            seen[name] = output.clone()
            return seen[name]

        return keep

    for name, module in names.items():
        net.get_submodule(module).register_forward_hook(keeper(name))


def _check_map(net: nn.Module, name: str, output: Tensor) -> None:
    """Refuse tokens and channels-last maps, which have no (B, C, h, w)."""
    stages: Any = net.feature_info
    channels = next((stage["num_chs"] for stage in stages if stage["module"] == name), net.num_features)
    if output.ndim != 4 or output.shape[1] != channels:
        raise RelevanceError(
            f"{name} ({type(net.get_submodule(name)).__name__}) gives {tuple(output.shape)}, not feature maps of "
            f"(B, {channels}, h, w): take a convolutional network"
        )
