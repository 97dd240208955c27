"""A city classifier, its data and chip numbers in; raw saliency that knows its chips, cities and grids out."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance.centres import shifts
from dlslicer_geo.relevance.inputs import Chips, Classifier, chip_rows, inputs, sweeps, weights_sha256
from dlslicer_geo.relevance.maps import DEFAULT, asked, at_rest, relevance_maps
from dlslicer_geo.relevance.starts import STARTS
from dlslicer_geo.types import APPROXIMATE, Progress, Saliency, Scene, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

log = logging.getLogger(__name__)

NOTES = {
    "relevance-cam": "+1 for the city, -1/N for each other of the N cities, as published",
    "relevance-cam-contrastive": "+1 for the city, -1/(N-1) for each other of the N cities",
    "relevance-cam-margin": "logit margin of the city over its likely rivals, head decomposed exactly",
    "relevance-cam-balanced": "what speaks for the city over the mean of all others against as much of what speaks "
    "against it, head decomposed exactly, nothing in sum",
}
"""Where relevance starts, in words for the reader of a file."""

NOTES_AGAINST = dict.fromkeys(NOTES, "+1 for the city, -1 for the other") | {
    "relevance-cam-margin": "logit margin of the city over the other, head decomposed exactly",
    "relevance-cam-balanced": "what speaks for the city over the other against as much of what speaks against it, "
    "head decomposed exactly, nothing in sum",
}
"""The same where a city is told from one other."""


def explain(
    model: Classifier,
    data: Chips,
    *,
    chips: NDArray[np.int64],
    layers: Sequence[str] = ("layer4",),
    method: str = DEFAULT,
    target: str | Mapping[str, str] = "predicted",
    rather_than: str = "",
    precision: str = "float32",
    progress: Progress = quiet,
) -> Saliency:
    """Find where in each chip the evidence for a city lies.

    Maps are raw: signed, neither rectified nor rescaled per chip. The model is never touched.

    Args:
        model: a city classifier over a timm network.
        data: the data module that has the chips.
        chips: (n,) int64 chip ids, each once.
        layers: depths among ``layer1`` … ``layer4``; see :mod:`dlslicer_geo.relevance.networks` for their meaning.
        method: one of :data:`~dlslicer_geo.relevance.METHODS`.
        target: the city to explain: ``predicted`` (for all chips of a scene the one with the highest mean
            probability over the given chips), ``true``, the code of a city, or a code for every scene id.
        rather_than: code of the one city that it is told from; empty tells it from all others.
        precision: ``float32``, or ``bf16`` for the forward pass.
        progress: watches the batches.

    Returns:
        saliency of the n chips, float32.

    Raises:
        RelevanceError: if chips are unknown, the target is no city of the model or not known, or the method, a depth
            or a module of the network does not fit.
    """
    asking = Explainer(
        model, data, layers=layers, method=method, target=target, rather_than=rather_than, precision=precision
    )
    return asking(chips, progress=progress)


def predicted_cities(
    model: Classifier, data: Chips, chips: NDArray[np.int64], *, progress: Progress = quiet
) -> dict[str, str]:
    """The city with the highest mean probability over the given chips of each scene, by scene id."""
    rows = pd.DataFrame(data.chips.drop(columns="geometry")).set_index("chip_id").loc[chips]
    classes = _predicted(model, data, rows, progress)
    return {str(scene): model.cities[i] for scene, i in zip(rows["scene_id"], classes.tolist(), strict=True)}


class Explainer:
    """A question about a model, made ready once and then asked of any chips; arguments as of :func:`explain`."""

    def __init__(
        self,
        model: Classifier,
        data: Chips,
        *,
        layers: Sequence[str] = ("layer4",),
        method: str = DEFAULT,
        target: str | Mapping[str, str] = "predicted",
        rather_than: str = "",
        precision: str = "float32",
    ) -> None:
        self.model, self.data = model, data
        self.layers, self.method, self.precision = tuple(asked(model.model, method, layers)), method, precision
        self.target, self.rather_than = target, rather_than
        self._shifts: dict[str, float] = {}
        self._check_cities()
        self.table = pd.DataFrame(data.chips.drop(columns="geometry")).set_index("chip_id")

    @cached_property
    def notes(self) -> dict[str, str]:
        """What a reader of a file must know."""
        target = self.target if isinstance(self.target, str) else "predicted"
        notes = _notes(self.model.model, self.method, target, self.rather_than)
        return notes | ({"precision": f"{self.precision} forward"} if self.precision != "float32" else {})

    def __call__(self, chips: NDArray[np.int64], *, progress: Progress = quiet) -> Saliency:
        """Explain chips by their numbers, each once.

        Raises:
            RelevanceError: if chips are unknown, or their city is not known.
        """
        (why,) = self.stream([chips], progress=progress)
        return why

    def stream(
        self, groups: Sequence[NDArray[np.int64]], *, progress: Progress = quiet
    ) -> Generator[Saliency, None, None]:
        """Explain groups of chips by their numbers, each once: an answer for each group, read by one loader.

        Raises:
            RelevanceError: if chips are unknown, or their city is not known.
        """
        groups = [np.array(group, np.int64) for group in groups]
        if not groups:
            return
        classes = self._classes(chip_rows(self.table, np.concatenate(groups)), progress)
        ends = np.cumsum([len(group) for group in groups])
        swept = sweeps(self.model, self.data, groups, progress, "explain")
        for number, parts in groupby(swept, key=itemgetter(0)):
            rows = self.table.loc[groups[number]]
            yield self._answer(rows, classes[ends[number] - len(rows) : ends[number]], (x for _, _, x in parts))

    def _answer(self, rows: pd.DataFrame, classes: NDArray[np.int64], swept: Iterable[Tensor]) -> Saliency:
        """What is said of the chips of some rows, from their classes and their input in the order of the rows."""
        maps: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.layers}
        edge = done = 0
        for x in swept:
            for name, values in self._maps(x, classes[done : done + len(x)]).items():
                maps[name].append(values.float().cpu().numpy())
            done, edge = done + len(x), int(x.shape[-1])
        log.debug("explained %d chips by %s at %s", len(rows), self.method, ", ".join(self.layers))
        scene_id = tuple(rows["scene_id"])
        return Saliency(
            method=self.method,
            layers=self.layers,
            maps={name: np.concatenate(parts) for name, parts in maps.items()},
            chip_id=rows.index.to_numpy(np.int64),
            scene_id=scene_id,
            city=tuple(self.model.cities[i] for i in classes),
            windows=rows[["row", "col", "height", "width"]].to_numpy(np.int64),
            stride=rows["stride"].to_numpy(np.int64),
            grids=_grids(self.data.scenes, scene_id),
            input_size=edge,
            notes=self.notes,
            approximate=_approximate(self.data.scenes, scene_id),
            rather_than=self.rather_than,
            shift=self._shift(edge),
        )

    def check(self, chips: NDArray[np.int64]) -> None:
        """Refuse chips that cannot be explained before any is.

        Raises:
            RelevanceError: if chips are unknown, or their city is not known.
        """
        rows = chip_rows(self.table, np.asarray(chips, np.int64))
        if self.target != "predicted":
            self._classes(rows, quiet)

    def city_of(self, scene: str, city: str) -> str:
        """The city that is explained for the chips of a scene of that city; not for the target ``predicted``."""
        if isinstance(self.target, str):
            return city if self.target == "true" else self.target
        return self.target[scene]

    def _shift(self, edge: int) -> dict[str, float]:
        """Where cells look, measured once."""
        if not self._shifts:
            names = asked(self.model.model, self.method, self.layers)
            self._shifts = shifts(self.model.model, names, edge)
        return self._shifts

    def _maps(self, x: Tensor, classes: NDArray[np.int64]) -> dict[str, Tensor]:
        wanted, rivals = torch.from_numpy(classes), None
        if self.rather_than:
            rivals = torch.full_like(wanted, list(self.model.cities).index(self.rather_than))
        options: dict[str, Any] = {"method": self.method, "layers": self.layers, "precision": self.precision}
        return relevance_maps(self.model.model, x, wanted, against=rivals, **options)

    def _check_cities(self) -> None:
        cities = list(self.model.cities)
        if isinstance(self.target, str):
            asked_for = [self.target] if self.target not in ("predicted", "true") else []
        else:
            asked_for = sorted(set(self.target.values()))
        for city in (city for city in asked_for if city not in cities):
            raise RelevanceError(f"target is {city!r}: give predicted, true, or one of {', '.join(cities)}")
        if not self.rather_than:
            return
        if self.rather_than not in cities or self.rather_than in asked_for:
            raise RelevanceError(
                f"rather_than is {self.rather_than!r}: give a city of the model that is not the target: "
                f"{', '.join(city for city in cities if city not in asked_for)}"
            )
        if not asked_for:
            raise RelevanceError(
                f"the target is {self.target!r}, rather than {self.rather_than}: name the city that it is told from"
            )

    def _classes(self, rows: pd.DataFrame, progress: Progress) -> NDArray[np.int64]:
        """(n,) class to explain for each chip."""
        cities = pd.Index(list(self.model.cities))
        if self.target == "predicted":
            return _predicted(self.model, self.data, rows, progress)
        if self.target == "true":
            return _true(cities, rows)
        if isinstance(self.target, str):
            return np.full(len(rows), cities.get_loc(self.target), np.int64)
        lacking = sorted(set(rows["scene_id"]) - set(self.target))
        if lacking:
            raise RelevanceError(
                f"no city is named for {len(lacking)} scenes, such as {lacking[0]}: name one for each"
            )
        return cities.get_indexer(pd.Index(rows["scene_id"].map(self.target))).astype(np.int64)


def _true(cities: pd.Index[Any], rows: pd.DataFrame) -> NDArray[np.int64]:
    unknown = rows.loc[~rows["city"].isin(cities), "city"]
    if len(unknown):
        first = unknown.iloc[0] if isinstance(unknown.iloc[0], str) else "unknown"
        raise RelevanceError(
            f"the city of {len(unknown)} chips, such as chip {unknown.index[0]} ({first}), is none of "
            "the model's: explain the target 'predicted' or a city by its code"
        )
    return cities.get_indexer(pd.Index(rows["city"])).astype(np.int64)


def _approximate(scenes: GeoDataFrame, scene_id: Iterable[str]) -> tuple[str, ...]:
    """Those of the scenes that lie somewhere in their city only."""
    known = set(scenes["scene_id"][scenes["georef"].isin(APPROXIMATE)]) if "georef" in scenes else set()
    return tuple(sorted(known & set(scene_id)))


def _predicted(model: Classifier, data: Chips, rows: pd.DataFrame, progress: Progress) -> NDArray[np.int64]:
    """The class with the highest mean probability over the chips of a scene, for each of its chips."""
    scene_of, scenes = pd.factorize(rows["scene_id"])
    total = np.zeros((len(scenes), len(model.cities)))
    net = at_rest(model.model)
    with torch.no_grad():
        for at, x in inputs(model, data, rows, progress, "predict"):
            probabilities = net(x).cpu().double().softmax(dim=1).numpy()
            np.add.at(total, scene_of[at], probabilities)
    best: NDArray[np.int64] = total.argmax(axis=1)
    return best[scene_of]


def _grids(scenes: GeoDataFrame, scene_id: tuple[str, ...]) -> dict[str, Any]:
    """The native grid of each scene that is needed."""
    used = scenes[scenes["scene_id"].isin(set(scene_id))]
    return {str(record["scene_id"]): Scene.from_record(record).grid for record in used.to_dict("records")}


def _notes(net: nn.Module, method: str, target: str, rather_than: str) -> dict[str, str]:
    notes = {"target": target, "network": type(net).__name__, "weights_sha256": weights_sha256(net)}
    if method in STARTS:
        notes |= {
            "start": NOTES_AGAINST[method] if rather_than else NOTES[method],
            "residual_sums": "by value where a rectifier follows (ResNet), by size otherwise (EfficientNet-Lite)",
            "map": "sum over channels of mean relevance times activation; where activations have both signs "
            "(EfficientNet-Lite, layer1 to layer3) of the relevance itself, smoothed once by 1 2 1",
            "no_positive_product": "shared by squared weights, so that the sum of relevance is kept",
        }
    return notes
