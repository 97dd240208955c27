"""A city classifier and chips in; what a check asks of every method out: why this city, for each of these chips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance.gradients import GRADIENT_METHODS, gradients
from dlslicer_geo.relevance.inputs import CHIPS_AT_ONCE, Chips, Classifier, chip_rows, inputs
from dlslicer_geo.relevance.maps import METHODS, asked, at_rest, relevance_maps
from dlslicer_geo.relevance.networks import plan
from dlslicer_geo.relevance.starts import STARTS
from dlslicer_geo.types import Progress, quiet

Row = tuple[str, str]
"""Method and depth."""


class Asked(NamedTuple):
    """Methods, and depths from shallow to deep."""

    methods: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def rows(self) -> list[Row]:
        """Every method at every depth."""
        return [(method, layer) for method in self.methods for layer in self.layers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A network and images, and for which class each is explained.

    Args:
        net: the network, in evaluation mode.
        images: (n, 3, H, W) normalised input.
        target: (n,) int64 class, on the CPU.
    """

    net: nn.Module
    images: Tensor
    target: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and classes, a few at a time."""
        return zip(torch.split(self.images, CHIPS_AT_ONCE), torch.split(self.target, CHIPS_AT_ONCE), strict=True)

    def take(self, at: Tensor) -> Question:
        """The question about some of the images."""
        return Question(net=self.net, images=self.images[at], target=self.target[at])

    def maps(self, wanted: Asked) -> dict[Row, Tensor]:
        """Raw maps (n, h, w) by method and depth, on the CPU; all gradient methods share one pass."""
        names = asked(self.net, wanted.methods[0], wanted.layers)
        parts: dict[Row, list[Tensor]] = {row: [] for row in wanted.rows}
        for x, target in self.batches():
            for method in (method for method in wanted.methods if method in STARTS):
                for layer, maps in relevance_maps(self.net, x, target, method=method, layers=wanted.layers).items():
                    parts[method, layer].append(maps.cpu())
            by_gradient = [method for method in wanted.methods if method in GRADIENT_METHODS]
            pairs = gradients(at_rest(self.net), x, target.to(x.device), None, names) if by_gradient else {}
            for layer, (activations, gradient) in pairs.items():
                for method in by_gradient:
                    parts[method, layer].append(GRADIENT_METHODS[method](gradient, activations).cpu())
        return {row: torch.cat(maps) for row, maps in parts.items()}


def fit(net: nn.Module, methods: Sequence[str], layers: Sequence[str]) -> tuple[Asked, list[str]]:
    """What can be asked of a network, and a sentence about what cannot.

    Raises:
        RelevanceError: if a method or depth is unknown, or none of the methods is fit for the network.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise RelevanceError(f"methods are {list(methods)}: take one or more of {', '.join(METHODS)}")
    try:
        plan(net)
    except RelevanceError as refusal:
        left = tuple(method for method in dict.fromkeys(methods) if method not in STARTS)
        if not left:
            raise
        notes = [f"Relevance-CAM is left out: {refusal}."] if set(methods) & set(STARTS) else []
        return Asked(left, tuple(asked(net, left[0], layers))), notes
    return Asked(tuple(dict.fromkeys(methods)), tuple(asked(net, methods[0], layers))), []


def why(model: Classifier, data: Chips, chips: NDArray[np.int64], progress: Progress) -> tuple[Question, Tensor]:
    """Ask about the city that a model finds most probable for each chip.

    Returns:
        the question, and the second most probable class (n,).

    Raises:
        RelevanceError: if chips are unknown, or the model has one city.
    """
    if len(model.cities) < 2:
        raise RelevanceError(f"the model knows {len(model.cities)} city: a check needs a model of two or more")
    net, images = at_rest(model.model), read(model, data, chips, progress)
    with torch.no_grad():
        likely = torch.cat([net(x).topk(2, dim=1).indices.cpu() for x in torch.split(images, CHIPS_AT_ONCE)])
    return Question(net=net, images=images, target=likely[:, 0]), likely[:, 1]


def of_twin(
    twin: Classifier, model: Classifier, data: Chips, chips: NDArray[np.int64], question: Question
) -> Question:
    """Ask a twin about the cities that the model was asked about.

    Raises:
        RelevanceError: if the twin knows other cities, or sees images of another size.
    """
    theirs, ours = list(twin.cities), list(model.cities)
    differ = sorted(set(theirs) ^ set(ours))
    if differ:
        raise RelevanceError(
            f"the twin and the model differ in {len(differ)} cities, such as {differ[0]}: take a model of the same "
            "experiment with another seed"
        )
    images = read(twin, data, chips, quiet)
    if images.shape != question.images.shape:
        raise RelevanceError(
            f"the twin sees {images.shape[-1]} px and the model {question.images.shape[-1]} px: take a model of the "
            "same experiment with another seed"
        )
    target = torch.tensor([theirs.index(city) for city in ours])[question.target]
    return Question(net=at_rest(twin.model), images=images, target=target)


def read(model: Classifier, data: Chips, chips: NDArray[np.int64], progress: Progress) -> Tensor:
    """(n, 3, H, W) input of chips, in the order they are asked for."""
    table = pd.DataFrame(data.chips.drop(columns="geometry")).set_index("chip_id")
    rows = chip_rows(table, np.asarray(chips, np.int64))
    places, parts = zip(*inputs(model, data, rows, progress, "read"), strict=True)
    return torch.cat(parts)[torch.from_numpy(np.concatenate(places).argsort())]
