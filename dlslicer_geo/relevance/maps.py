"""A network, normalised images and classes in; a raw saliency map per image and depth out.

Relevance-CAM at every asked depth costs one forward pass with stored inputs and one sweep back, without autograd.
The gradient methods take one forward and one backward pass from the shallowest asked depth on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance.networks import Tape, depths, plan
from dlslicer_geo.relevance.rules import linear

DEFAULT = "relevance-cam-margin"
"""The method taken when none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one pass forward and one sweep back yield.

    Args:
        start: (B, N) or (B, F) relevance put in: of the logits, or of the pooled features for the margin start.
        activations: per depth (B, C, h, w), shallow to deep.
        relevance: per depth (B, C, h, w).
    """

    start: Tensor
    activations: dict[str, Tensor]
    relevance: dict[str, Tensor]


def relevance_maps(
    net: nn.Module, x: Tensor, target: Tensor, *, method: str = DEFAULT, layers: Sequence[str] = ("layer4",)
) -> dict[str, Tensor]:
    """Explain a class of each image by a map at each depth.

    Maps are raw: signed, neither rectified nor rescaled, so they add up and compare between images. The network is
    run in evaluation mode and left exactly as it was.

    Args:
        net: a timm ResNet or EfficientNet-Lite; for the gradient methods any timm network with (B, C, h, w) maps.
        x: (B, 3, H, W) normalised input, on the network's device and of its dtype.
        target: (B,) int64 class of each image.
        method: one of :data:`METHODS`.
        layers: depths among ``layer1`` … ``layer4``.

    Returns:
        per depth, shallow to deep, (B, h, w) of the dtype and on the device of ``x``.

    Raises:
        RelevanceError: if the method, a depth, the target or a module of the network is not fit for it.
    """
    names = asked(net, method, layers)
    _check(net, x, target)
    with evaluating(net):
        if method in STARTS:
            found = sweep(net, x, target, method=method, layers=layers)
            # a linear bottleneck's output has both signs, and a weight means relevance, not sign: size says where
            return {name: _weighted(found.relevance[name], a.abs()) for name, a in found.activations.items()}
        pairs = _gradients(net, x, target, names)
        return {name: GRADIENT_METHODS[method](gradient, a) for name, (a, gradient) in pairs.items()}


@torch.no_grad()
def sweep(net: nn.Module, x: Tensor, target: Tensor, *, method: str, layers: Sequence[str]) -> Sweep:
    """Carry the relevance of a class from the logits back to each asked depth; arguments as :func:`relevance_maps`.

    The network must be in evaluation mode.
    """
    names = asked(net, method, layers)
    parts = plan(net)
    tape: Tape = []
    activations: dict[str, Tensor] = {}
    for module in parts.stem:
        x = module(x)
    for name, stage in parts.stages.items():
        x = stage.run(x, tape if activations else None)  # what lies before the first asked depth is not swept
        if name in names:
            activations[name] = x
    features = parts.tail.run(x, tape)
    start, relevance = STARTS[method](features, parts.head, target.to(x.device))
    found: dict[str, Tensor] = {}
    chain = parts.tail
    for name in reversed(parts.stages):
        relevance = chain.back(relevance, tape)
        chain = parts.stages[name]
        if name in names:
            found[name] = relevance
        if len(found) == len(names):
            break
    return Sweep(start=start, activations=activations, relevance=found)


def asked(net: nn.Module, method: str, layers: Sequence[str]) -> dict[str, str]:
    """The asked depths, shallow to deep, each with the name of its module.

    Raises:
        RelevanceError: if the method is unknown or not defined for the network, or the network lacks a depth.
    """
    if method not in METHODS:
        raise RelevanceError(f"method is {method!r}: take one of {', '.join(METHODS)}")
    if method in STARTS:
        plan(net)
    known = depths(net)
    if not layers or not set(layers) <= set(known):
        raise RelevanceError(
            f"layers are {list(layers)}, this network has {', '.join(known) or 'none'}: ask for one or more of these"
        )
    return {name: module for name, module in known.items() if name in layers}


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode and every module back as it was, whatever happens."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check(net: nn.Module, x: Tensor, target: Tensor) -> None:
    if x.ndim != 4 or target.shape != x.shape[:1] or target.dtype != torch.int64:
        raise RelevanceError(
            f"images are {tuple(x.shape)} and targets {tuple(target.shape)} {target.dtype}: "
            "give (B, 3, H, W) and one int64 class each"
        )
    classes = int(getattr(net, "num_classes", 0))
    if len(target) and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise RelevanceError(
            f"targets reach from {int(target.min())} to {int(target.max())}, the network has {classes} classes: "
            f"give 0 to {classes - 1}"
        )


# --- starts: pooled features (B, F), head, target → relevance put in, relevance of the features


def _at_logits(features: Tensor, head: nn.Linear, target: Tensor, rival: float) -> tuple[Tensor, Tensor]:
    """+1 for the target, ``-rival`` for every other class, through the head by the z⁺ rule."""
    start = features.new_full((len(features), head.out_features), -rival)
    start.scatter_(1, target[:, None], 1.0)
    return start, linear(head, features, start)


def _published(features: Tensor, head: nn.Linear, target: Tensor) -> tuple[Tensor, Tensor]:
    return _at_logits(features, head, target, 1 / head.out_features)


def _contrastive(features: Tensor, head: nn.Linear, target: Tensor) -> tuple[Tensor, Tensor]:
    return _at_logits(features, head, target, 1 / (head.out_features - 1))


def _margin(features: Tensor, head: nn.Linear, target: Tensor) -> tuple[Tensor, Tensor]:
    """The head decomposed exactly: f ⊙ (w_t − Σ q_j w_j), q the softmax over the other classes."""
    rivals = head(features).scatter(1, target[:, None], -torch.inf).softmax(dim=1)
    relevance = features * (head.weight[target] - rivals @ head.weight)
    return relevance, relevance


Start = Callable[[Tensor, nn.Linear, Tensor], tuple[Tensor, Tensor]]

STARTS: dict[str, Start] = {
    "relevance-cam": _published,
    "relevance-cam-contrastive": _contrastive,
    "relevance-cam-margin": _margin,
}
"""Where relevance begins, by method."""


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Σ_c α_c A_c with α the mean of the weights over positions: Relevance-CAM, and Grad-CAM of gradients."""
    return (weights.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


def _product(gradient: Tensor, activations: Tensor) -> Tensor:
    """HiResCAM (Draelos and Carin, 2020)."""
    return (gradient * activations).sum(dim=1)


def _positive_product(gradient: Tensor, activations: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., 2021)."""
    return (gradient.clamp(min=0) * activations).sum(dim=1)


GRADIENT_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": _weighted,  # Selvaraju et al., 2017, without the final rectifier
    "hires-cam": _product,
    "layer-cam": _positive_product,
}
"""(gradient of the target's logit, activations) → map, by method."""

METHODS = (*STARTS, *GRADIENT_METHODS)
"""Every method by name."""


def _gradients(net: nn.Module, x: Tensor, target: Tensor, names: dict[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Activations and the gradient of the target's logit at each depth, both (B, C, h, w)."""
    with torch.enable_grad(), _watched(net, names) as seen:
        logits = net(x)
        for name, output in seen.items():
            _check_map(net, names[name], output)
        chosen = logits.gather(1, target.to(logits.device)[:, None]).sum()
        gradients = torch.autograd.grad(chosen, list(seen.values()))
    return {name: (a.detach(), g) for (name, a), g in zip(seen.items(), gradients, strict=True)}


@contextmanager
def _watched(net: nn.Module, names: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of modules; the graph begins at the shallowest, so frozen weights do not matter."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., Any]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            # cloned, because the next module may act in place, which autograd forbids on a leaf
            seen[name] = output if seen else output.detach().requires_grad_().clone()
            return seen[name]

        return keep

    handles: list[Any] = []
    try:
        for name, module in names.items():
            handles.append(net.get_submodule(module).register_forward_hook(watch(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _check_map(net: nn.Module, name: str, output: Tensor) -> None:
    """Refuse tokens and channels-last maps, which have no (B, C, h, w)."""
    stages: Any = net.feature_info
    channels = next((stage["num_chs"] for stage in stages if stage["module"] == name), net.num_features)
    if output.ndim != 4 or output.shape[1] != channels:
        raise RelevanceError(
            f"{name} ({type(net.get_submodule(name)).__name__}) gives {tuple(output.shape)}, not feature maps of "
            f"(B, {channels}, h, w): take a convolutional network"
        )
