"""Pooled features, the head and a class in; the relevance that a sweep begins with out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dlslicer_geo.relevance.rules import linear

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
}
"""Where relevance begins, by method."""
