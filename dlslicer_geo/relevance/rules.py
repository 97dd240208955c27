"""A module, its stored input and the relevance of its output in; the relevance of that input out.

A rule is a declaration: :data:`RULES` says for each type of module how relevance passes it, and ``None`` says that it
passes unchanged. A module whose type is not listed has no rule and is refused, never guessed.

Source: Lee et al., *Relevance-CAM: Your Model Already Knows Where to Look*, CVPR 2021; the z-plus rule is that of
Montavon et al., *Explaining nonlinear classification decisions with deep Taylor decomposition*, 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import get_same_padding
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

Rule = Callable[[Any, Tensor, Tensor], Tensor]
"""(module, input, relevance of the output) → relevance of the input."""

Share = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(a, s, relevance of a + s) → relevance of a, relevance of s."""


def divide(relevance: Tensor, total: Tensor) -> Tensor:
    """``relevance / total``, and 0 where the total is nothing."""
    limits = torch.finfo(total.dtype)
    something = total.abs() > limits.tiny / limits.eps  # below it the quotient could overflow
    return torch.where(something, relevance / torch.where(something, total, 1.0), 0.0)


def linear(module: nn.Linear, x: Tensor, relevance: Tensor) -> Tensor:
    """The z rule without bias for x (B, C) and a relevance (B, N)."""
    return _weighted(x, module.weight, relevance, F.linear, lambda ratio, weight: ratio @ weight)


def conv(module: nn.Conv2d, x: Tensor, relevance: Tensor) -> Tensor:
    """The z rule without bias for x (B, C, H, W)."""
    height, width = x.shape[-2:]
    top, bottom, left, right = _padding(module, x)
    padded = (*x.shape[:2], top + height + bottom, left + width + right)
    options = (module.stride, 0, module.dilation, module.groups)

    def forward(values: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(F.pad(values, (left, right, top, bottom)), weight, None, *options)

    def transposed(ratio: Tensor, weight: Tensor) -> Tensor:
        back: Tensor = conv2d_input(padded, weight, ratio, *options)  # type: ignore[no-untyped-call]
        return back[..., top : top + height, left : left + width]

    return _weighted(x, module.weight, relevance, forward, transposed)


def average(module: nn.AvgPool2d, x: Tensor, relevance: Tensor) -> Tensor:
    """Local average pooling shares in proportion to its input."""
    ratio = divide(relevance, module(x))
    stride = module.stride or module.kernel_size
    options = (module.ceil_mode, module.count_include_pad, module.divisor_override)
    window = [_pair(v) for v in (module.kernel_size, stride, module.padding)]
    back: Tensor = torch.ops.aten.avg_pool2d_backward(ratio, x, *window, *options)
    return x * back


def global_average(module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """Global average pooling shares in proportion to its input; the relevance is (B, C)."""
    ratio = divide(relevance, x.sum(dim=(2, 3)))
    return x * ratio[:, :, None, None]


RULES: dict[type[nn.Module], Rule | None] = {
    nn.Linear: linear,
    nn.Conv2d: conv,
    Conv2dSame: conv,
    nn.AvgPool2d: average,
    SelectAdaptivePool2d: global_average,
    # an element-wise scale or a rectifier leaves every share where it is
    **dict.fromkeys((nn.BatchNorm2d, BatchNormAct2d, nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout, DropPath)),
}
"""How relevance passes each known type of module; None: unchanged."""


def signed(a: Tensor, s: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Share by value, as published: fit for a sum that a rectifier follows, as relevance is 0 where a + s ≤ 0."""
    ratio = divide(relevance, a + s)
    return a * ratio, s * ratio


def absolute(a: Tensor, s: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Share by size, for sums without a rectifier: a + s can vanish with both large, |a| + |s| cannot.

    Not covered by the paper.
    """
    ratio = divide(relevance, a.abs() + s.abs())
    return a.abs() * ratio, s.abs() * ratio


def _weighted(
    x: Tensor,
    weight: Tensor,
    relevance: Tensor,
    forward: Callable[[Tensor, Tensor], Tensor],
    transposed: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Share by the positive products: w⁺x for a rectified input, w⁺x⁺ and w⁻x⁻ together for any other.

    An output without a positive product owes its value to the bias; the paper's sources then say 0, and on a real
    EfficientNet-Lite0, whose depthwise filters are often all negative, nine tenths of the relevance vanish. Such an
    output is shared by the squared weights (the w² rule), so that the sum is kept. Dense convolutions have none.
    """
    parts = [(x.clamp(min=0), weight.clamp(min=0))]
    if bool((x < 0).any()):
        parts.append((x.clamp(max=0), weight.clamp(max=0)))
    total = sum((forward(values, part) for values, part in parts), start=torch.zeros_like(relevance))
    argued = total > _noise(total)
    ratio = torch.where(argued, relevance / torch.where(argued, total, 1.0), 0.0)
    shared = sum((values * transposed(ratio, part) for values, part in parts), start=torch.zeros_like(x))
    rest = relevance.masked_fill(argued, 0)
    if bool(rest.any()):
        squared = weight.square()
        shared = shared + transposed(divide(rest, forward(torch.ones_like(x), squared)), squared)
    return shared


def _noise(total: Tensor) -> Tensor:
    """What a sum of nothing can measure where a convolution is computed by transforms, per image."""
    largest = total.abs().amax(dim=tuple(range(1, total.ndim)), keepdim=True)
    return largest * torch.finfo(total.dtype).eps


def _padding(module: nn.Conv2d, x: Tensor) -> tuple[int, int, int, int]:
    """Rows and columns of zeros at the top, bottom, left and right."""
    if not isinstance(module, Conv2dSame):
        high, wide = _pair(module.padding)
        return high, high, wide, wide
    sizes = zip(x.shape[-2:], module.kernel_size, module.stride, module.dilation, strict=True)
    high, wide = (int(get_same_padding(*size)) for size in sizes)
    return high // 2, high - high // 2, wide // 2, wide - wide // 2


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
