"""A network, normalised images and classes in; a raw saliency map per image and depth out.

Relevance-CAM at every asked depth costs one forward pass with stored inputs and one sweep back, without autograd.
The gradient methods take one forward and one backward pass from the shallowest asked depth on. Both work on a double
of the network that shares its weights, so the network itself cannot be left changed, whatever interrupts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance.gradients import GRADIENT_METHODS, gradients, weighted
from dlslicer_geo.relevance.networks import Plan, Tape, depths, plan
from dlslicer_geo.relevance.starts import STARTS

DEFAULT = "relevance-cam-margin"
"""The method taken when none is named."""

METHODS = (*STARTS, *GRADIENT_METHODS)
"""Every method by name."""

PRECISIONS = ("float32", "bf16")
"""Of the forward pass: the network's own, or bfloat16 where torch's autocast takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one pass forward and one sweep back yield.

    Args:
        start: (B, N) or (B, F) relevance put in: of the logits, or of the pooled features for the margin start.
        activations: per depth (B, C, h, w), shallow to deep.
        relevance: per depth (B, C, h, w).
        rectified: depths whose activations have no negative values.
    """

    start: Tensor
    activations: dict[str, Tensor]
    relevance: dict[str, Tensor]
    rectified: frozenset[str]

    def map(self, name: str) -> Tensor:
        """(B, h, w) saliency at a depth: Σ_c α_c A_c with α the mean relevance of a channel, as published.

        Where activations have both signs (linear bottlenecks, not covered by the paper) a weight times an activation
        means nothing, and the map is the relevance itself, Σ_c R_c, smoothed once by 1 2 1 along both edges, which
        keeps its sum: a convolution with stride 2 leaves relevance on every other cell.
        """
        found = self.relevance[name]
        return weighted(found, self.activations[name]) if name in self.rectified else _smoothed(found.sum(dim=1))


def _smoothed(maps: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0]).to(maps) / 4
    padded = functional.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])[:, 0]


def relevance_maps(
    net: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    method: str = DEFAULT,
    layers: Sequence[str] = ("layer4",),
    against: Tensor | None = None,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """Explain a class of each image by a map at each depth.

    Maps are raw: signed, neither rectified nor rescaled, so they add up and compare between images. The network is
    explained as it is in evaluation mode, and never touched.

    Args:
        net: a timm ResNet or EfficientNet-Lite; for the gradient methods any timm network with (B, C, h, w) maps.
        x: (B, 3, H, W) normalised input, on the network's device and of its dtype.
        target: (B,) int64 class of each image.
        method: one of :data:`METHODS`.
        layers: depths among ``layer1`` … ``layer4``.
        against: (B,) int64 class that the target is told from: the start is +1 for the target and -1 for it, the
            margin that over it alone, the gradient that of the difference of both logits. None: all others.
        precision: one of :data:`PRECISIONS`; relevance itself is always carried in the dtype of ``x``.

    Returns:
        per depth, shallow to deep, (B, h, w) of the dtype and on the device of ``x``.

    Raises:
        RelevanceError: if the method, a depth, a class or a module of the network is not fit for it.
    """
    names = asked(net, method, layers)
    double = at_rest(net)
    if method in STARTS:
        options: dict[str, Any] = {"against": against, "precision": precision}
        found = sweep(double, x, target, method=method, layers=layers, **options)
        return {name: found.map(name) for name in names}
    check_question(net, x, target, against)
    with _forward(x, precision):
        pairs = gradients(double, x, target.to(x.device), None if against is None else against.to(x.device), names)
    combine = GRADIENT_METHODS[method]
    return {name: combine(g.to(x.dtype), a.to(x.dtype)) for name, (a, g) in pairs.items()}


@torch.no_grad()
def sweep(
    net: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    method: str,
    layers: Sequence[str],
    against: Tensor | None = None,
    precision: str = "float32",
) -> Sweep:
    """Carry the relevance of a class from the logits back to each asked depth; arguments as :func:`relevance_maps`.

    The network must be in evaluation mode.
    """
    names = asked(net, method, layers)
    check_question(net, x, target, against)
    parts, dtype = plan(net), x.dtype
    tape: Tape = []
    with _forward(x, precision):
        kept, features = _run(parts, x, names, tape)
    rivals = None if against is None else against.to(x.device)
    start, relevance = STARTS[method](features.to(dtype), parts.head, target.to(x.device), rivals)
    found: dict[str, Tensor] = {}
    chain = parts.tail
    for name in reversed(parts.stages):
        relevance = chain.back(relevance, tape)
        chain = parts.stages[name]
        if name in names:
            found[name] = relevance
        if len(found) == len(names):
            break
    return Sweep(
        start=start,
        activations={name: a.to(dtype) for name, a in kept.items()},
        relevance=found,
        rectified=frozenset(name for name, stage in parts.stages.items() if stage.rectified),
    )


def _run(parts: Plan, x: Tensor, names: dict[str, str], tape: Tape) -> tuple[dict[str, Tensor], Tensor]:
    """Activations of the asked depths and the pooled features; the tape begins after the first asked depth."""
    kept: dict[str, Tensor] = {}
    for module in parts.stem:
        x = module(x)
    for name, stage in parts.stages.items():
        x = stage.run(x, tape if kept else None)  # what lies before the first asked depth is not swept
        if name in names:
            kept[name] = x
    return kept, parts.tail.run(x, tape)


def _forward(x: Tensor, precision: str) -> AbstractContextManager[Any]:
    if precision not in PRECISIONS:
        raise RelevanceError(f"precision is {precision!r}: take one of {', '.join(PRECISIONS)}")
    return torch.autocast(x.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def asked(net: nn.Module, method: str, layers: Sequence[str]) -> dict[str, str]:
    """The asked depths, shallow to deep, each with the name of its module.

    Raises:
        RelevanceError: if the method is unknown or not defined for the network, or the network lacks a depth.
    """
    if method not in METHODS:
        raise RelevanceError(f"method is {method!r}: take one of {', '.join(METHODS)}")
    if method in STARTS:
        plan(net)
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    known = depths(net)
    if not layers or not set(layers) <= set(known):
        raise RelevanceError(
            f"layers are {list(layers)}, this network has {', '.join(known) or 'none'}: ask for one or more of these"
        )
    return {name: module for name, module in known.items() if name in layers}


def at_rest(net: nn.Module) -> nn.Module:
    """A double of a network in evaluation mode: the same weights, modes and hooks of its own."""
    doubles: dict[int, nn.Module] = {}

    def double(module: nn.Module) -> nn.Module:
        if id(module) not in doubles:
            made = doubles[id(module)] = type(module).__new__(type(module))
            vars(made).update(vars(module))
            vars(made)["_forward_hooks"] = module._forward_hooks.copy()
            vars(made)["_modules"] = {key: part and double(part) for key, part in module._modules.items()}
        return doubles[id(module)]

    return double(net).eval()


def check_question(net: nn.Module, x: Tensor, target: Tensor, against: Tensor | None = None) -> None:
    """Refuse images and classes that do not fit each other or the network.

    Raises:
        RelevanceError: naming the shapes or the classes.
    """
    classes, like = int(getattr(net, "num_classes", 0)), next(net.parameters())
    if not isinstance(x, Tensor) or x.dtype != like.dtype or x.device != like.device:
        said = f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise RelevanceError(f"images are {said} and the network {like.dtype} on {like.device}: give images like it")
    for name, asked_for in (("targets", target), *((("against", against),) if against is not None else ())):
        if (
            x.ndim != 4
            or not isinstance(asked_for, Tensor)
            or asked_for.shape != x.shape[:1]
            or asked_for.dtype != torch.int64
        ):
            raise RelevanceError(
                f"images are {tuple(x.shape)} and {name} {_described(asked_for)}: "
                "give (B, 3, H, W) and one int64 class each"
            )
        if len(asked_for) and not 0 <= int(asked_for.min()) <= int(asked_for.max()) < classes:
            raise RelevanceError(
                f"{name} reach from {int(asked_for.min())} to {int(asked_for.max())}, the network has {classes} "
                f"classes: give 0 to {classes - 1}"
            )
    if against is not None and bool((against == target).any()):
        raise RelevanceError(
            f"{int((against == target).sum())} of {len(target)} images are to be told from their own class: give "
            "two classes"
        )


def _described(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
