"""Maps of any depth and batch, at the promised cost, without a trace on the model; what has no rule is refused."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from relevance_nets import LAYERS, images, network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance import METHODS, relevance_maps
from dlslicer_geo.relevance.networks import depths
from dlslicer_geo.relevance.starts import STARTS


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_images_one_by_one(method: str) -> None:
    """Mean gradients nearly cancel, so gradient methods are compared in float64."""
    dtype = torch.float32 if method in STARTS else torch.float64
    net, x, target = network("resnet18", dtype=dtype), images(4, dtype=dtype), torch.tensor([1, 7, 0, 9])
    whole = relevance_maps(net, x, target, method=method, layers=LAYERS)
    tolerance = 1e-3 if method in ("relevance-cam-contrastive", "relevance-cam-balanced") else 1e-5
    for i in range(4):
        single = relevance_maps(net, x[i : i + 1], target[i : i + 1], method=method, layers=LAYERS)
        for name in LAYERS:
            assert (whole[name][i] - single[name][0]).abs().max() <= tolerance * whole[name][i].abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_a_depth_does_not_depend_on_what_else_is_asked(method: str) -> None:
    net, x, target = network("tf_efficientnet_lite0"), images(), torch.tensor([1, 7])
    together = relevance_maps(net, x, target, method=method, layers=("layer4", "layer2", "layer3"))
    assert list(together) == ["layer2", "layer3", "layer4"]
    for name, values in together.items():
        alone = relevance_maps(net, x, target, method=method, layers=(name,))[name]
        torch.testing.assert_close(alone, values)


@pytest.mark.parametrize("method", METHODS)
def test_a_forward_pass_in_bfloat16_finds_the_same_places(method: str) -> None:
    net, x, target = network("resnet18"), images(4), torch.tensor([1, 7, 0, 9])
    exact = relevance_maps(net, x, target, method=method, layers=LAYERS)
    coarse = relevance_maps(net, x, target, method=method, layers=LAYERS, precision="bf16")
    for name, values in coarse.items():
        assert values.dtype == torch.float32
        assert not torch.equal(values, exact[name])
        pair = torch.stack([values.flatten(), exact[name].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) >= 0.98


def test_depths_are_named_by_resolution() -> None:
    lite = depths(network("tf_efficientnet_lite0"))
    assert lite == {"layer1": "blocks.1", "layer2": "blocks.2", "layer3": "blocks.4", "layer4": "bn2"}
    found = relevance_maps(network("tf_efficientnet_lite0"), images(), torch.tensor([1, 7]), layers=LAYERS)
    assert [tuple(found[name].shape[1:]) for name in LAYERS] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(("name", "limit"), [("resnet18", 2.5), ("resnet50", 2.75)])
def test_four_depths_cost_less_than_three_forward_passes(name: str, limit: float) -> None:
    net, x, target = network(name, 45), images(1, 224), torch.tensor([7])

    def operations(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        return int(counter.get_total_flops())

    with torch.no_grad():
        forward = operations(lambda: net(x))
    assert operations(lambda: relevance_maps(net, x, target, layers=LAYERS)) <= limit * forward
    assert operations(lambda: relevance_maps(net, x, target, layers=("layer4",))) <= 1.01 * forward


# --- the model afterwards


def state(net: nn.Module) -> list[Any]:
    """Everything a visitor could have changed."""
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    return [
        modules,
        {name: values.clone() for name, values in net.state_dict().items()},
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in net.parameters()],
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_left_exactly_as_it_was(method: str, failing: bool) -> None:
    net = network("resnet18").train()
    net.get_submodule("layer2").eval()
    net.get_submodule("layer1").requires_grad_(False)
    net(images()).sum().backward()
    before = state(net)
    if failing:
        with pytest.raises(RuntimeError):
            relevance_maps(net, images()[:, :2], torch.tensor([1, 7]), method=method, layers=LAYERS)
    else:
        relevance_maps(net, images(), torch.tensor([1, 7]), method=method, layers=LAYERS)
    after = state(net)
    assert after[0] == before[0]
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["relevance-cam-margin", "grad-cam"])
def test_ctrl_c_at_any_moment_leaves_the_model_as_it_was(method: str) -> None:
    net, x, target = network("resnet18").train(), images(), torch.tensor([1, 7])
    before, draw, stopped = state(net), random.Random(0), 0
    begin = time.perf_counter()
    relevance_maps(net, x, target, method=method, layers=LAYERS)
    usual = time.perf_counter() - begin
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(40):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(1e-4, draw.uniform(0, usual)))
                    relevance_maps(net, x, target, method=method, layers=LAYERS)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:  # also of an alarm that came while it was being switched off
                stopped += 1
            after = state(net)
            assert after[0] == before[0]
            torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert stopped >= 5


def test_hooks_of_others_still_fire_and_stay() -> None:
    net, seen = network("resnet18"), []
    handle = net.get_submodule("layer2").register_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    relevance_maps(net, images(), torch.tensor([1, 7]), method="grad-cam")
    assert seen == ["Sequential"]
    handle.remove()
    assert not any(module._forward_hooks for module in net.modules())


def test_a_training_network_is_explained_in_evaluation_mode() -> None:
    net, x, target = network("resnet18", drop_rate=0.5, drop_path_rate=0.5), images(), torch.tensor([1, 7])
    expected = relevance_maps(net, x, target, layers=LAYERS)
    torch.testing.assert_close(relevance_maps(net.train(), x, target, layers=LAYERS), expected, rtol=0, atol=0)


# --- refusals


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("seresnet18", r"layer1\.0\.se \(timm SEModule\)"),
        ("efficientnet_b0", r"blocks\.0\.0\.bn1\.act \(torch SiLU\)"),
        ("resnetblur18", r"layer2\.0\.aa \(timm BlurPool2d\)"),
        ("convnext_atto", "timm ConvNeXt"),
        ("vit_tiny_patch16_224", "timm VisionTransformer"),
    ],
)
def test_networks_without_rules_are_refused_by_the_name_of_the_module(name: str, module: str) -> None:
    with pytest.raises(RelevanceError, match=module + ".*has no relevance rule: use grad-cam") as caught:
        relevance_maps(network(name), images(), torch.tensor([1, 7]))
    assert "\n" not in str(caught.value)


def test_a_network_whose_blocks_match_nothing_is_refused() -> None:
    """Canonizers that match nothing and say nothing return relevance of any size."""
    foreign = torchvision.models.resnet18(num_classes=10)
    with pytest.raises(RelevanceError, match="torchvision ResNet"):
        relevance_maps(foreign, images(), torch.tensor([1, 7]))
    mixed = network("resnet18")
    mixed.layer3[0] = torchvision.models.resnet18().layer3[0]
    with pytest.raises(RelevanceError, match=r"layer3\.0 \(torchvision BasicBlock\)"):
        relevance_maps(mixed, images(), torch.tensor([1, 7]), layers=("layer4",))


def test_tokens_are_no_feature_maps() -> None:
    net = network("vit_tiny_patch16_224")
    with pytest.raises(RelevanceError, match=r"blocks\.11 \(Block\).*not feature maps"):
        relevance_maps(net, images(1, 224), torch.tensor([1]), method="grad-cam", layers=("layer3",))
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gradcam"}, "'gradcam': take one of relevance-cam, "),
        ({"layers": ("layer5",)}, "layer5.*this network has layer1, layer2, layer3, layer4"),
        ({"layers": ()}, "ask for one or more"),
        ({"target": torch.tensor([1, 10])}, "from 1 to 10, the network has 10 classes"),
        ({"target": torch.tensor([1])}, r"\(2, 3, 64, 64\) and targets \(1,\)"),
        ({"against": torch.tensor([1, 10])}, "against reach from 1 to 10, the network has 10 classes"),
        ({"against": torch.tensor([0, 7])}, "1 of 2 images are to be told from their own class"),
        ({"against": torch.tensor([0, 7]), "method": "grad-cam"}, "told from their own class"),
        ({"precision": "int8"}, "'int8': take one of float32, bf16"),
    ],
)
def test_questions_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RelevanceError, match=message):
        relevance_maps(network("resnet18"), images(), **({"target": torch.tensor([1, 7])} | changes))


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(RelevanceError, match=r"fc .*is no linear head"):
        relevance_maps(network("resnet18", 0), images(), torch.tensor([0, 0]))
