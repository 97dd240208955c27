"""A timm network in, a plan out: its stages as chains of steps that run forward and carry relevance back.

A family of models is one small description: :data:`FAMILIES` names the parts of the network, :data:`BLOCKS` the parts
of its blocks in the order they act. The plan runs these parts itself, so nothing is hooked onto the model; a residual
sum is taken out of place, where timm adds in place and would overwrite the branch that the sum's rule needs.

Depths are named ``layer1`` … ``layer4``. In a ResNet these are its stages; elsewhere the last module before the
resolution falls again, at 1/4, 1/8, 1/16 and 1/32 of the input: ``blocks.1``, ``.2`` and ``.4`` of an
EfficientNet-Lite, and its ``bn2``, the rectified features that are pooled, rather than the linear ``blocks.6``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance.rules import RULES, Rule, Share, absolute, signed

Tape = list[Any]
"""What the steps of a forward pass stored, last step last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The parts of a residual block: names of its modules in order, absent ones left out.

    Args:
        branch: the branch with the weights.
        shortcut: the shortcut; empty means the input itself.
        after: what acts on the sum.
        share: how the sum's relevance is shared.
    """

    branch: tuple[str, ...]
    shortcut: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The parts of a network: names of its modules in order.

    Args:
        stem: what comes first; relevance never reaches it.
        body: holds the blocks.
        tail: between the last block and the pooling.
        head: the linear classifier.
    """

    stem: tuple[str, ...]
    body: tuple[str, ...]
    tail: tuple[str, ...]
    head: str


BLOCKS: dict[type[nn.Module], Block] = {
    BasicBlock: Block(
        branch=("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se", "drop_path"),
        shortcut=("downsample",),
        after=("act2",),
        share=signed,
    ),
    Bottleneck: Block(
        branch=(
            *("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa"),
            *("conv3", "bn3", "se", "drop_path"),
        ),
        shortcut=("downsample",),
        after=("act3",),
        share=signed,
    ),
    ConvBnAct: Block(branch=("conv", "bn1", "aa", "drop_path"), share=absolute),
    DepthwiseSeparableConv: Block(
        branch=("conv_dw", "bn1", "aa", "se", "conv_pw", "bn2", "drop_path"), share=absolute
    ),
    InvertedResidual: Block(
        branch=("conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3", "drop_path"), share=absolute
    ),
}
"""Blocks that relevance can pass."""

FAMILIES: dict[type[nn.Module], Family] = {
    ResNet: Family(
        stem=("conv1", "bn1", "act1", "maxpool"), body=("layer1", "layer2", "layer3", "layer4"), tail=(), head="fc"
    ),
    EfficientNet: Family(stem=("conv_stem", "bn1"), body=("blocks",), tail=("conv_head", "bn2"), head="classifier"),
}
"""Networks that relevance can pass, if all their modules have a rule."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One module and its rule."""

    module: nn.Module
    rule: Rule | None

    def run(self, x: Tensor, tape: Tape | None) -> Tensor:
        """The module's output; its input goes onto the tape if the rule needs it."""
        if tape is not None and self.rule is not None:
            tape.append(x)
        output: Tensor = self.module(x)
        return output

    def back(self, relevance: Tensor, tape: Tape) -> Tensor:
        """Relevance of the input, in the dtype of the output's, whatever the forward pass was computed in."""
        return relevance if self.rule is None else self.rule(self.module, tape.pop().to(relevance.dtype), relevance)


@dataclass(frozen=True, slots=True)
class Sum:
    """A residual sum of a branch and a shortcut that start at the same input."""

    branch: Chain
    shortcut: Chain
    share: Share

    def run(self, x: Tensor, tape: Tape | None) -> Tensor:
        """The sum, out of place; both terms go onto the tape."""
        a, s = self.branch.run(x, tape), self.shortcut.run(x, tape)
        if tape is not None:
            tape.append((a, s))
        return a + s

    def back(self, relevance: Tensor, tape: Tape) -> Tensor:
        """Relevance of the input: that of branch and shortcut together."""
        a, s = (term.to(relevance.dtype) for term in tape.pop())
        of_branch, of_shortcut = self.share(a, s, relevance)
        through_shortcut = self.shortcut.back(of_shortcut, tape)
        return self.branch.back(of_branch, tape) + through_shortcut


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps one after the other."""

    steps: tuple[Leaf | Sum, ...]

    def run(self, x: Tensor, tape: Tape | None = None) -> Tensor:
        """Output of the last step; without a tape nothing is stored."""
        for step in self.steps:
            x = step.run(x, tape)
        return x

    @property
    def rectified(self) -> bool:
        """Whether the output has no negative values, because a rectifier is last."""
        last = self.steps[-1]
        if not isinstance(last, Leaf):
            return False
        acting = last.module.act if isinstance(last.module, BatchNormAct2d) else last.module
        return isinstance(acting, nn.ReLU | nn.ReLU6)

    def back(self, relevance: Tensor, tape: Tape) -> Tensor:
        """Relevance of the first step's input; takes from the tape what :meth:`run` put there."""
        for step in reversed(self.steps):
            relevance = step.back(relevance, tape)
        return relevance


@dataclass(frozen=True, slots=True)
class Plan:
    """A network as chains: the stem, a stage that ends at each depth, and all from there to the pooled features."""

    stem: tuple[nn.Module, ...]
    stages: dict[str, Chain]
    tail: Chain
    head: nn.Linear


def depths(net: nn.Module) -> dict[str, str]:
    """The depths a network offers, shallow to deep: ``layer1`` … ``layer4`` → name of the module that ends it.

    Raises:
        RelevanceError: if the network does not say (it is not of timm, or has no stages).
    """
    if isinstance(net, ResNet):
        return {name: name for name in FAMILIES[ResNet].body}
    stages = getattr(net, "feature_info", None)
    if not isinstance(stages, list):
        raise RelevanceError(f"{_kind(net)} does not name its stages (feature_info): use a network of timm")
    ends = {stage["reduction"]: stage["module"] for stage in stages}
    if isinstance(net, EfficientNet):
        ends[32] = FAMILIES[EfficientNet].tail[-1]
    return {f"layer{k}": ends[2 ** (k + 1)] for k in range(1, 5) if 2 ** (k + 1) in ends}


def plan(net: nn.Module) -> Plan:
    """Lay a network out as chains, every module of it with a rule.

    Raises:
        RelevanceError: naming the first module without a rule.
    """
    family = FAMILIES.get(type(net))
    if family is None:
        raise _undefined("the network", net)
    ends = {module: depth for depth, module in depths(net).items()}
    stages: dict[str, Chain] = {}
    steps: list[Leaf | Sum] = []
    for name, module in _parts(net, (*family.body, *family.tail)):
        steps += _steps(name, module)
        if name in ends:
            stages[ends[name]], steps = Chain(tuple(steps)), []
    return Plan(
        stem=tuple(net.get_submodule(name) for name in family.stem),
        stages=stages,
        tail=Chain(tuple([*steps, *_steps("global_pool", net.get_submodule("global_pool"))])),
        head=_head(net, family.head),
    )


def _parts(net: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that can end a depth: those named, or what a ``blocks`` holds."""
    for name in names:
        module = net.get_submodule(name)
        if name == "blocks":
            yield from ((f"{name}.{index}", part) for index, part in module.named_children())
        else:
            yield name, module


def _steps(name: str, module: nn.Module | None) -> list[Leaf | Sum]:
    """A module as steps; containers are opened, None is nothing."""
    if module is None:
        return []
    if type(module) is nn.Sequential:
        return [step for key, part in module.named_children() for step in _steps(f"{name}.{key}", part)]
    if type(module) in BLOCKS:
        return _block(name, module, BLOCKS[type(module)])
    _check(name, module)
    return [Leaf(module, RULES[type(module)])]


def _block(name: str, module: nn.Module, block: Block) -> list[Leaf | Sum]:
    """A residual block as steps."""
    listed = {*block.branch, *block.shortcut, *block.after}
    for key, part in module.named_children():
        if key not in listed:
            raise _undefined(f"{name}.{key}", part)

    def chain(keys: tuple[str, ...]) -> list[Leaf | Sum]:
        return [step for key in keys for step in _steps(f"{name}.{key}", getattr(module, key, None))]

    if not getattr(module, "has_skip", True):  # blocks of EfficientNet without a shortcut say so
        return chain(block.branch)
    total = Sum(Chain(tuple(chain(block.branch))), Chain(tuple(chain(block.shortcut))), block.share)
    return [total, *chain(block.after)]


def _check(name: str, module: nn.Module) -> None:
    """Refuse a module without a rule, one that hides another, and options that the rules do not cover."""
    if type(module) not in RULES:
        raise _undefined(name, module)
    if isinstance(module, BatchNormAct2d):
        _check(f"{name}.drop", module.drop)
        _check(f"{name}.act", module.act)
    if isinstance(module, SelectAdaptivePool2d) and module.pool_type not in ("avg", "fast", "fastavg"):
        raise RelevanceError(f"{name} pools by {module.pool_type!r}, relevance needs 'avg': build the network so")
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        raise RelevanceError(f"{name} pads by {module.padding_mode}, {module.padding}: relevance needs zeros")


def _head(net: nn.Module, name: str) -> nn.Linear:
    head = net.get_submodule(name)
    if not isinstance(head, nn.Linear) or head.out_features < 2:
        raise RelevanceError(f"{name} ({_kind(head)}) is no linear head of two classes or more: give the network one")
    return head


def _undefined(name: str, module: nn.Module) -> RelevanceError:
    return RelevanceError(
        f"{name} ({_kind(module)}) has no relevance rule: use grad-cam, hires-cam or layer-cam, "
        "or a ResNet or EfficientNet-Lite of timm"
    )


def _kind(module: nn.Module) -> str:
    kind = type(module)
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"
