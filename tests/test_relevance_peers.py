"""Relevance agrees with peers: captum's Grad-CAM, zennit with the same rules, and autograd rule by rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerGradCam
from relevance_nets import LAYERS, images, network
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn
from zennit.composites import LayerMapComposite
from zennit.layer import Sum as Residual
from zennit.rules import Norm, Pass, ZPlus
from zennit.torchvision import ResNetBasicBlockCanonizer
from zennit.types import Activation, AvgPool, BatchNorm

from dlslicer_geo.relevance import relevance_maps
from dlslicer_geo.relevance.maps import sweep
from dlslicer_geo.relevance.networks import Chain, Leaf, Sum, depths, plan
from dlslicer_geo.relevance.rules import linear


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_grad_cam_equals_that_of_captum(name: str) -> None:
    net, x, target = network(name, dtype=torch.float64), images(4, dtype=torch.float64), torch.tensor([1, 7, 0, 9])
    found = relevance_maps(net, x, target, method="grad-cam", layers=LAYERS)
    for layer, module in depths(net).items():
        expected = LayerGradCam(net, net.get_submodule(module)).attribute(x, target=target)[:, 0].detach()
        assert (found[layer] - expected).abs().max() <= 1e-5 * expected.abs().max()


def twin_of_torchvision(net: Any) -> Any:
    """torchvision's ResNet-18 with the weights of timm's."""
    twin = torchvision.models.resnet18(num_classes=net.num_classes)
    twin.load_state_dict(net.state_dict())
    return twin.to(next(net.parameters()).dtype).eval()


@pytest.mark.parametrize(("method", "rival"), [("relevance-cam", 1 / 10), ("relevance-cam-contrastive", 1 / 9)])
def test_relevance_equals_that_of_zennit_with_the_same_rules(method: str, rival: float) -> None:
    """zennit's stock composites merge batch norms and do not match; these rules on unmerged weights do."""
    net, x, target = (
        network("resnet18", dtype=torch.float64),
        images(4, dtype=torch.float64),
        torch.tensor([1, 7, 0, 9]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zennit, about its own use of torch
        expected = relevance_of_zennit(twin_of_torchvision(net), x, target, rival)
    found = sweep(net, x, target, method=method, layers=LAYERS)
    for layer, values in expected.items():
        assert (found.relevance[layer] - values).abs().max() <= 1e-5 * values.abs().max()


def relevance_of_zennit(net: Any, x: Tensor, target: Tensor, rival: float) -> dict[str, Tensor]:
    rules = [
        ((nn.Conv2d, nn.Linear), ZPlus(stabilizer=1e-12, zero_params="bias")),
        (Activation, Pass()),
        (BatchNorm, Pass()),
        (AvgPool, Norm(stabilizer=1e-12)),
        (Residual, Norm(stabilizer=1e-12)),
    ]
    composite = LayerMapComposite(layer_map=rules, canonizers=[ResNetBasicBlockCanonizer()])
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    with composite.context(net) as changed:
        handles = [changed.get_submodule(name).register_forward_hook(keep(name)) for name in LAYERS]
        logits = changed(x.requires_grad_())
        start = torch.full_like(logits, -rival).scatter(1, target[:, None], 1.0)
        found = torch.autograd.grad(logits, [seen[name] for name in LAYERS], grad_outputs=start)
        for handle in handles:
            handle.remove()
    return dict(zip(LAYERS, found, strict=True))


# --- autograd, rule by rule


def share(forward: Callable[[Tensor], Tensor], x: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """x ⊙ ∂⟨forward(x), R / forward(x)⟩/∂x by autograd; and the relevance of outputs of which nothing argues."""
    x = x.detach().requires_grad_()
    total = forward(x)
    argued = total.detach().abs() > 1e-14 * total.detach().abs().max()
    ratio = torch.where(argued, relevance / torch.where(argued, total.detach(), 1.0), 0.0)
    gradient = torch.autograd.grad(total, x, grad_outputs=ratio)[0]
    return x.detach() * gradient, torch.where(argued, 0.0, relevance)


def by_autograd(module: Any, x: Tensor, relevance: Tensor) -> Tensor:
    """The relevance of a module's input, from its own forward pass with changed weights."""
    if isinstance(module, SelectAdaptivePool2d | nn.AvgPool2d):
        return share(module, x, relevance)[0]
    weight, bias = module.weight, module.bias

    def positive(values: Tensor) -> Tensor:
        pairs = [(weight.clamp(min=0), values.clamp(min=0)), (weight.clamp(max=0), values.clamp(max=0))]
        first, second = (torch.func.functional_call(module, parameters(w, bias), part) for w, part in pairs)
        total: Tensor = first + second
        return total

    found, rest = share(positive, x, relevance)
    if bool(rest.any()):
        ones = torch.ones_like(x)
        found += share(lambda v: torch.func.functional_call(module, parameters(weight**2, bias), v), ones, rest)[0]
    return found


def parameters(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": torch.zeros_like(bias)}


def leaves(chain: Chain) -> list[Leaf]:
    """Every module of a chain, those of branches and shortcuts too."""
    found: list[Leaf] = []
    for step in chain.steps:
        if isinstance(step, Sum):
            found += [*leaves(step.branch), *leaves(step.shortcut)]
        else:
            found.append(step)
    return found


@pytest.mark.parametrize("name", ["resnet18d", "resnext50_32x4d", "tf_efficientnet_lite0"])
def test_every_rule_equals_autograd_on_the_inputs_it_really_gets(name: str) -> None:
    net, x = network(name, dtype=torch.float64), images(1, 64, torch.float64)
    parts = plan(net)
    inputs: dict[int, Tensor] = {}

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        inputs.setdefault(id(module), given[0].detach().clone())

    handles = [module.register_forward_hook(keep) for module in net.modules()]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    draw, checked = torch.Generator().manual_seed(0), set()
    for leaf in [leaf for chain in (*parts.stages.values(), parts.tail) for leaf in leaves(chain)]:
        if leaf.rule is None:
            continue
        at = inputs[id(leaf.module)]
        with torch.no_grad():
            shape = leaf.module(at.clone()).shape
        relevance = torch.randn(shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            found = leaf.rule(leaf.module, at, relevance)
        expected = by_autograd(leaf.module, at, relevance)
        assert (found - expected).abs().max() <= 1e-10 * expected.abs().max(), type(leaf.module).__name__
        checked.add(type(leaf.module).__name__)
    print(f"{name}: {len(inputs)} modules, rules of {', '.join(sorted(checked))} agree to 1e-10")
    assert len(checked) >= 2


def test_the_rule_of_the_head_equals_autograd() -> None:
    net = network("resnet18", dtype=torch.float64)
    features = F.relu(images(4, 8, torch.float64).flatten(1).repeat(1, 3)[:, :512])
    start = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = linear(net.get_submodule("fc"), features, start)
    torch.testing.assert_close(found, by_autograd(net.get_submodule("fc"), features, start), rtol=1e-10, atol=1e-12)
