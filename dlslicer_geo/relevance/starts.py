"""Pooled features, the head and a class in; the relevance that a sweep begins with out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dlslicer_geo.relevance.rules import divide, linear

Start = Callable[[Tensor, nn.Linear, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Features (B, F), head, class (B,), class it is told from (B,) or None for all others → relevance put in (its sum is
what every depth conserves), relevance of the features (B, F)."""


def published(features: Tensor, head: nn.Linear, target: Tensor, against: Tensor | None) -> tuple[Tensor, Tensor]:
    """+1 for the class, -1/N for each other of N, as published."""
    return _at_logits(features, head, target, against, 1 / head.out_features)


def contrastive(features: Tensor, head: nn.Linear, target: Tensor, against: Tensor | None) -> tuple[Tensor, Tensor]:
    """+1 for the class, -1/(N-1) for each other of N: nothing in sum."""
    return _at_logits(features, head, target, against, 1 / (head.out_features - 1))


def margin(features: Tensor, head: nn.Linear, target: Tensor, against: Tensor | None) -> tuple[Tensor, Tensor]:
    """The head decomposed exactly: f ⊙ (w_t - Σ q_j w_j), q the softmax over the other classes, or one of them."""
    if against is None:
        rivals = head(features).scatter(1, target[:, None], -torch.inf).softmax(dim=1) @ head.weight
    else:
        rivals = head.weight[against]
    relevance = features * (head.weight[target] - rivals)
    return relevance, relevance


def balanced(features: Tensor, head: nn.Linear, target: Tensor, against: Tensor | None) -> tuple[Tensor, Tensor]:
    """What speaks for the class against as much of what speaks against it: nothing in sum, if there is any of both.

    The head is decomposed exactly, v = f ⊙ (w_t - mean of the other w) or f ⊙ (w_t - w_a), and v⁺ / Σv⁺ - v⁻ / Σv⁻ is
    put in, times half of Σ|v|, so that chips with much evidence weigh more. Products of positive weights tend to one
    pattern whatever they start from; a start that sums to nothing cancels it, and unlike the contrastive start it
    keeps the sign of what the head itself adds up.
    """
    weight = head.weight
    mean = (weight.sum(dim=0) - weight[target]) / (head.out_features - 1)
    others = mean if against is None else weight[against]
    value = features * (weight[target] - others)
    for_it, against_it = value.clamp(min=0), -value.clamp(max=0)
    half = value.abs().sum(dim=1, keepdim=True) / 2
    shares = [divide(part, part.sum(dim=1, keepdim=True).expand_as(part)) for part in (for_it, against_it)]
    relevance = half * (shares[0] - shares[1])
    return relevance, relevance


def _at_logits(
    features: Tensor, head: nn.Linear, target: Tensor, against: Tensor | None, rival: float
) -> tuple[Tensor, Tensor]:
    """+1 for the class and ``-rival`` for all others, or -1 for one, through the head by the z⁺ rule."""
    start = features.new_full((len(features), head.out_features), -rival if against is None else 0.0)
    if against is not None:
        start.scatter_(1, against[:, None], -1.0)
    start.scatter_(1, target[:, None], 1.0)
    return start, linear(head, features, start)


STARTS: dict[str, Start] = {
    "relevance-cam": published,
    "relevance-cam-contrastive": contrastive,
    "relevance-cam-margin": margin,
    "relevance-cam-balanced": balanced,
}
"""Where relevance begins, by method."""
