"""Relevance is conserved, and equal to slow twins and to autograd by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from relevance_nets import LAYERS, images, network, toy
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from dlslicer_geo.relevance import METHODS, relevance_maps
from dlslicer_geo.relevance.gradients import GRADIENT_METHODS
from dlslicer_geo.relevance.maps import Sweep, sweep
from dlslicer_geo.relevance.networks import depths, plan
from dlslicer_geo.relevance.rules import absolute, conv
from dlslicer_geo.relevance.starts import STARTS

CONSERVING = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnet50d", "tf_efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in CONSERVING),
        *((name, torch.float64) for name in ("resnet18", "tf_efficientnet_lite0")),
        *(pytest.param(name, torch.float64, marks=pytest.mark.slow) for name in CONSERVING[1:-1]),
    ],
)
def test_relevance_is_conserved_at_every_depth(name: str, dtype: torch.dtype) -> None:
    net, x = network(name, dtype=dtype), images(16, 40, dtype)
    for method in STARTS:
        found = sweep(net, x, torch.arange(16) % 10, method=method, layers=LAYERS)
        assert list(found.activations) == list(LAYERS)
        worst = worst_loss(found)
        print(f"{name} {dtype} {method}: {worst:.1e} of the relevance put in is lost")
        assert worst <= 1e-5


def worst_loss(found: Sweep) -> float:
    """The largest share of the relevance put in, of any image, that its sum at any depth differs by."""
    put_in, whole = found.start.sum(dim=1), found.start.abs().sum(dim=1)
    return max(float(((r.sum(dim=(1, 2, 3)) - put_in).abs() / whole).max()) for r in found.relevance.values())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "tf_efficientnet_lite0"])
def test_a_forward_pass_in_bfloat16_conserves_relevance_too(name: str) -> None:
    """Of its own activations: rules are computed in float32 from what the pass stored."""
    net, x, target = network(name), images(16, 40), torch.arange(16) % 10
    for method in STARTS:
        found = sweep(net, x, target, method=method, layers=LAYERS, precision="bf16")
        assert {r.dtype for r in found.relevance.values()} == {torch.float32}
        assert worst_loss(found) <= 1e-3


def test_relevance_survives_filters_without_a_positive_weight() -> None:
    """Depthwise filters are often all negative: 0 where z is 0 loses nine tenths on a real EfficientNet-Lite0."""
    layer = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
    layer.weight.data.uniform_(-1, -0.1)
    relevance = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(conv(layer, torch.rand(2, 3, 5, 5), relevance).sum(), relevance.sum())


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50d", "wide_resnet50_2", "tf_efficientnet_lite0", "mobilenetv2_050"]
)
def test_the_plan_computes_what_the_network_computes(name: str) -> None:
    net, x = network(name), images()
    parts = plan(net)
    with torch.no_grad():
        y = x
        for module in parts.stem:
            y = module(y)
        for stage in parts.stages.values():
            y = stage.run(y, [])
        torch.testing.assert_close(parts.head(parts.tail.run(y, [])), net(x))


def test_the_published_start_sums_to_one_over_n_the_contrastive_and_the_balanced_to_nothing() -> None:
    found = {
        method: sweep(network("resnet18"), images(1), torch.tensor([3]), method=method, layers=LAYERS)
        for method in STARTS
    }
    for depth in LAYERS:
        assert found["relevance-cam"].relevance[depth].sum() == pytest.approx(0.1, abs=1e-5)
        assert found["relevance-cam-contrastive"].relevance[depth].sum() == pytest.approx(0, abs=1e-5)
        assert found["relevance-cam-balanced"].relevance[depth].sum() == pytest.approx(0, abs=1e-5)


def test_the_balanced_start_puts_in_half_of_the_evidence_on_either_side() -> None:
    net, x = network("resnet18", dtype=torch.float64), images(1, dtype=torch.float64)
    with torch.no_grad():
        features, weight = net.forward_head(net.forward_features(x), pre_logits=True)[0], net.get_classifier().weight
        value = features * (weight[3] - torch.cat([weight[:3], weight[4:]]).mean(dim=0))
    start = sweep(net, x, torch.tensor([3]), method="relevance-cam-balanced", layers=("layer4",)).start[0]
    torch.testing.assert_close(start.clamp(min=0).sum(), value.abs().sum() / 2)
    torch.testing.assert_close(start.clamp(max=0).sum(), -value.abs().sum() / 2)
    assert torch.equal(start.sign(), value.sign())


def test_a_start_with_nothing_on_one_side_is_finite() -> None:
    head = nn.Linear(3, 2, bias=False)
    head.weight.data = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found, _ = STARTS["relevance-cam-balanced"](
        torch.tensor([[1.0, 1.0, 0.0], [0, 0, 0]]), head, torch.tensor([0, 0]), None
    )
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0, 0.0], [0, 0, 0]]))


def test_linear_bottlenecks_show_their_relevance_and_rectified_stages_weigh_their_activations() -> None:
    x, target = images(2, dtype=torch.float64), torch.tensor([3, 5])
    for name, rectified in (("tf_efficientnet_lite0", {"layer4"}), ("resnet18", set(LAYERS))):
        net = network(name, dtype=torch.float64)
        found = sweep(net, x, target, method="relevance-cam-margin", layers=LAYERS)
        assert found.rectified == rectified
        maps = relevance_maps(net, x, target, method="relevance-cam-margin", layers=LAYERS)
        for layer in LAYERS:
            assert bool((found.activations[layer] >= 0).all()) == (layer in rectified)
            if layer not in rectified:  # nothing is lost on the way to the map
                torch.testing.assert_close(maps[layer].sum(dim=(1, 2)), found.start.sum(dim=1))


def test_the_margin_start_sums_to_the_margin_over_likely_rivals() -> None:
    net, x = network("resnet18", dtype=torch.float64), images(1, dtype=torch.float64)
    logits = net(x)[0].detach()
    rivals = torch.cat([logits[:3], logits[4:]])
    margin = logits[3] - (rivals.softmax(0) * rivals).sum()
    bias = net.get_submodule("fc").get_parameter("bias").detach()
    others = torch.cat([bias[:3], bias[4:]])
    found = sweep(net, x, torch.tensor([3]), method="relevance-cam-margin", layers=LAYERS)
    expected = margin - (bias[3] - (rivals.softmax(0) * others).sum())
    torch.testing.assert_close(found.relevance["layer1"].sum(), expected)


@pytest.mark.parametrize("method", STARTS)
def test_told_from_one_city_the_start_is_plus_one_and_minus_one(method: str) -> None:
    net, x = network("resnet18", dtype=torch.float64), images(2, dtype=torch.float64)
    target, against = torch.tensor([3, 0]), torch.tensor([5, 9])
    found = sweep(net, x, target, method=method, layers=LAYERS, against=against)
    if method == "relevance-cam-margin":
        bias = net.get_submodule("fc").get_parameter("bias").detach()
        logits = net(x).detach() - bias
        expected = logits.gather(1, target[:, None]) - logits.gather(1, against[:, None])
    else:
        expected = torch.zeros(2, 1, dtype=torch.float64)
    if method in ("relevance-cam", "relevance-cam-contrastive"):
        assert found.start[0].nonzero().flatten().tolist() == [3, 5]
        assert found.start[1, [0, 9]].tolist() == [1, -1]
    for relevance in found.relevance.values():
        torch.testing.assert_close(relevance.sum(dim=(1, 2, 3)), expected[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_b_rather_than_a_is_the_opposite_of_a_rather_than_b(method: str) -> None:
    net, x = network("resnet18", dtype=torch.float64), images(2, dtype=torch.float64)
    a, b = torch.tensor([3, 0]), torch.tensor([5, 9])
    there = relevance_maps(net, x, a, method=method, layers=LAYERS, against=b)
    back = relevance_maps(net, x, b, method=method, layers=LAYERS, against=a)
    for name, values in there.items():
        if method == "layer-cam":  # keeps what is positive, on either side
            assert not torch.allclose(values, -back[name])
        else:
            assert (values + back[name]).abs().max() <= 1e-9 * values.abs().max()


# --- slow twins


def dense(layer: Any, shape: torch.Size) -> Any:
    """A convolution without bias as a matrix (inputs, outputs)."""
    count = shape.numel()
    bare = type(layer)(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        bias=False,
    ).double()
    bare.weight.data = layer.weight.data
    with torch.no_grad():
        return bare(torch.eye(count, dtype=torch.float64).view(count, *shape)).reshape(count, -1)


def slow_z(x: Tensor, matrix: Tensor, relevance: Tensor) -> Tensor:
    """Positive products one by one; where there are none, squared weights."""
    products = (x.reshape(-1, 1) * matrix).clamp(min=0)
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for j, value in enumerate(relevance.reshape(-1)):
        shares = products[:, j] if products[:, j].sum() > 0 else matrix[:, j] ** 2
        result += shares / shares.sum() * value
    return result.view_as(x)


def slow_block(block: Any, x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of a basic block's input (C, h, w)."""
    a1 = torch.relu(block.bn1(block.conv1(x[None])))
    a = block.bn2(block.conv2(a1))[0]
    s = block.downsample(x[None])[0] if block.downsample is not None else x
    share = torch.where(a + s == 0, 0, relevance / (a + s))
    at_a1 = slow_z(a1[0], dense(block.conv2, a1.shape[1:]), share * a)
    shortcut = share * s
    if block.downsample is not None:
        shortcut = slow_z(x, dense(block.downsample[0], x.shape), shortcut)
    return slow_z(x, dense(block.conv1, x.shape), at_a1) + shortcut


def slow_maps(net: Any, x: Tensor, target: int, method: str) -> dict[str, Tensor]:
    """Relevance-CAM of one image (3, H, W) of a net of basic blocks, loop by loop."""
    y = net.maxpool(net.act1(net.bn1(net.conv1(x[None]))))
    entries: list[tuple[str, Any, Tensor]] = []
    for name in LAYERS:
        for block in net.get_submodule(name).children():
            entries.append((name, block, y[0]))
            y = block(y)
    after = y[0]
    f, w, classes = after.mean(dim=(1, 2)), net.fc.weight, net.fc.out_features
    if method == "relevance-cam-margin":
        logits = net.fc(f)
        rivals = [j for j in range(classes) if j != target]
        q = torch.exp(logits[rivals]) / torch.exp(logits[rivals]).sum()
        r = f * (w[target] - sum(q[i] * w[j] for i, j in enumerate(rivals)))
    elif method == "relevance-cam-balanced":
        others = sum(w[j] for j in range(classes) if j != target) / (classes - 1)
        values = [float(f[c] * (w[target, c] - others[c])) for c in range(len(f))]
        gain, loss = sum(v for v in values if v > 0), -sum(v for v in values if v < 0)
        half = (gain + loss) / 2
        r = torch.tensor([v / gain * half if v > 0 else v / loss * half for v in values], dtype=torch.float64)
    else:
        rival = 1 / classes if method == "relevance-cam" else 1 / (classes - 1)
        start = torch.tensor([1.0 if j == target else -rival for j in range(classes)], dtype=torch.float64)
        r = slow_z(f, w.T, start)
    relevance = after * (r / after.sum(dim=(1, 2)).clamp(min=1e-300))[:, None, None]
    found: dict[str, Any] = {}
    for name, block, before in reversed(entries):
        if name not in found:
            found[name] = sum(relevance[c].mean() * after[c] for c in range(len(after)))
        if name == "layer1":
            break
        relevance, after = slow_block(block, before, relevance), before
    return found


@torch.no_grad()
@pytest.mark.parametrize("method", STARTS)
def test_maps_equal_those_of_a_slow_twin(method: str) -> None:
    net, x, target = toy(), images(2, 32, torch.float64), torch.tensor([2, 0])
    found = relevance_maps(net, x, target, method=method, layers=LAYERS)
    for i in range(2):
        for name, expected in slow_maps(net, x[i], int(target[i]), method).items():
            assert (found[name][i] - expected).abs().max() <= 1e-10 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("sign", ["rectified", "general"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.Conv2d(4, 4, 3, 1, 1, groups=4),
        nn.Conv2d(4, 6, 3, 1, 2, dilation=2, groups=2),
        Conv2dSame(4, 4, 5, 2, groups=4),
        Conv2dSame(4, 3, 3, 2),
    ],
)
def test_the_rule_of_convolutions_equals_a_dense_matrix(layer: nn.Conv2d, sign: str) -> None:
    layer = layer.double()
    x = images(1, 8, torch.float64).repeat(1, 2, 1, 1)[:, :4]
    x = x.clamp(min=0) if sign == "rectified" else x
    relevance = torch.randn_like(layer(x))
    expected = slow_z(x[0], dense(layer, x.shape[1:]), relevance[0])
    torch.testing.assert_close(conv(layer, x, relevance)[0], expected, rtol=1e-10, atol=1e-12)


def test_sums_without_a_rectifier_share_by_size_and_stay_bounded() -> None:
    a, s, relevance = torch.tensor([1.0, 3.0]), torch.tensor([-1.0 + 1e-6, 1.0]), torch.tensor([2.0, 2.0])
    of_a, of_s = absolute(a, s, relevance)
    torch.testing.assert_close(of_a, torch.tensor([1.0, 1.5]))
    torch.testing.assert_close(of_a + of_s, relevance)


# --- gradient methods


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_gradient_methods_equal_autograd_by_hand(name: str) -> None:
    net, x, target = network(name, dtype=torch.float64), images(dtype=torch.float64), torch.tensor([1, 7])
    kept: list[Tensor] = []
    handle = net.get_submodule(depths(net)["layer3"]).register_forward_hook(lambda m, i, o: kept.append(o))
    logits = net(x)
    handle.remove()
    gradient = torch.autograd.grad(logits[0, 1] + logits[1, 7], kept[0])[0]
    expected = {
        "grad-cam": torch.einsum("bc,bchw->bhw", gradient.mean(dim=(2, 3)), kept[0]),
        "hires-cam": torch.einsum("bchw,bchw->bhw", gradient, kept[0]),
        "layer-cam": torch.einsum("bchw,bchw->bhw", gradient.clamp(min=0), kept[0]),
    }
    for method, values in expected.items():
        found = relevance_maps(net, x, target, method=method, layers=("layer2", "layer3"))
        torch.testing.assert_close(found["layer3"], values.detach())


def test_hires_cam_before_the_pooling_sums_to_the_logit_without_bias() -> None:
    net, x, target = network("resnet18", dtype=torch.float64), images(dtype=torch.float64), torch.tensor([1, 7])
    logits = net(x).detach().gather(1, target[:, None])[:, 0]
    bias = net.get_submodule("fc").get_parameter("bias").detach()[target]
    found = relevance_maps(net, x, target, method="hires-cam", layers=("layer4",))["layer4"]
    torch.testing.assert_close(found.sum(dim=(1, 2)), logits - bias)
    flat = relevance_maps(net, x, target, method="grad-cam", layers=("layer4",))["layer4"]
    torch.testing.assert_close(found, flat)  # behind a global average the gradient is the same everywhere


@pytest.mark.parametrize("name", ["seresnet18", "convnext_atto", "densenet121", "regnetx_002"])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_gradient_methods_work_on_any_network_of_feature_maps(name: str, method: str) -> None:
    net = network(name).requires_grad_(False)
    found = relevance_maps(net, images(), torch.tensor([1, 7]), method=method, layers=("layer2", "layer4"))
    assert {name: tuple(m.shape) for name, m in found.items()} == {"layer2": (2, 8, 8), "layer4": (2, 2, 2)}
    assert all(bool(m.isfinite().all()) and not m.requires_grad for m in found.values())
