"""What a run ends with: predictions, reports, saliency and layers; no input, no output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.types.inputs import Channels

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


Column = NDArray[np.object_]
"""(n,) names, each a str or None."""

UNKNOWN = "unknown"
"""The answer for a chip of a city that the model has not learnt."""

DETECTORS = ("softmax", "energy", "knn")
"""What tells such chips: ``softmax`` (Hendrycks and Gimpel 2017), ``energy`` (Liu et al. 2020), and ``knn``, the
distance to the training chips in feature space (Sun et al. 2022); all the higher the less known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What a model said about chips, with the names that give its numbers a meaning.

    Everything about chips is a column: names may be given as any sequence, and become an array of objects.

    Args:
        cities: city codes in the order of the columns of ``probabilities``.
        chip_id: (n,) int64, rows of the chip table.
        scene_id: (n,) scene ids.
        truth: (n,) city codes, None where unknown.
        probabilities: (n, len(cities)) float32, rows sum to 1.
        embedding: (n, d) float32 pooled features, None when not asked for.
        folder: where the parts lie, None when only in memory.
        temperature: what the logits were divided by before the softmax: 1 for probabilities as they were trained.
        unknown_scores: per detector (``softmax``, ``energy``, ``knn``) (n,) float32, the higher the less known.
        detector: the one that decides whether a chip's city is unknown to the model; empty where none does.
        threshold: of that detector: chips above it are unknown.
    """

    cities: tuple[str, ...]
    chip_id: NDArray[np.int64]
    scene_id: Any
    truth: Any
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None
    folder: Path | None = None
    temperature: float = 1.0
    unknown_scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    detector: str = ""
    threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("scene_id", "truth"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), object))
        missing = self.truth != self.truth  # NaN, as pandas calls what is not there
        if missing.any():
            object.__setattr__(self, "truth", np.where(missing, None, self.truth))

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chip_id)

    @property
    def city(self) -> Column:
        """(n,) the most probable city of each chip."""
        return np.asarray(np.array(self.cities, object)[self.probabilities.argmax(axis=1)])

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(n,) whether the true city is known."""
        return np.asarray(self.truth != np.array(None), np.bool_)

    @property
    def home(self) -> Column:
        """(n,) the true city of each chip, or the most probable one where the truth is unknown."""
        return np.asarray(np.where(self.labelled, self.truth, self.city))

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(n,) probability of the most probable city, 0 to 1."""
        return self.probabilities.max(axis=1) if len(self) else np.zeros(0, np.float32)

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """(n,) whether the model says that it does not know the chip's city; false where it has no detector."""
        if self.threshold is None:
            return np.zeros(len(self), bool)
        return np.asarray(self.unknown_scores[self.detector] > np.float32(self.threshold))

    @property
    def answer(self) -> Column:
        """(n,) the most probable city of each chip, or ``unknown``."""
        return np.where(self.unknown, np.array(UNKNOWN, object), self.city)

    @property
    def uncalibrated(self) -> NDArray[np.float32]:
        """(n, len(cities)) probabilities before the temperature."""
        logits = np.log(self.probabilities.astype(np.float64).clip(1e-45)) * self.temperature
        raw = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raw / raw.sum(axis=1, keepdims=True), np.float32)

    def select(self, keep: NDArray[np.bool_], *, chip_id: NDArray[np.int64] | None = None) -> Predictions:
        """The chips where ``keep`` (n,) is true, or those under other numbers."""
        some = self.take(np.flatnonzero(keep))
        return some if chip_id is None else replace(some, chip_id=chip_id)

    def take(self, at: NDArray[np.int64]) -> Predictions:
        """The chips at these places, in this order."""
        return replace(
            self,
            chip_id=self.chip_id[at],
            scene_id=self.scene_id[at],
            truth=self.truth[at],
            probabilities=self.probabilities[at],
            embedding=None if self.embedding is None else self.embedding[at],
            unknown_scores={name: values[at] for name, values in self.unknown_scores.items()},
        )

    def draw(self, number: int, *, per: Literal["city"] = "city", seed: int = 0) -> NDArray[np.int64]:
        """Draw chips at random without replacement.

        Args:
            number: chips from each city (all of them where a city has fewer).
            per: the group drawn from: the true city, or the predicted one where the truth is unknown.
            seed: seeds the draw.

        Returns:
            sorted (m,) int64 chip ids.
        """
        from pandas import factorize

        random = np.random.default_rng(seed)
        city, _ = factorize(self.home, sort=True)
        order = np.lexsort((self.chip_id, city))
        groups = np.split(self.chip_id[order], np.flatnonzero(np.diff(city[order])) + 1)
        return np.sort(np.concatenate([random.permutation(group)[:number] for group in groups]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """How good predictions are, beside what is cheap to have.

    Args:
        metrics: numbers by name, ready for JSON.
        confusion: (c, c) int64, row = true city, column = predicted city.
        cities: c city codes, the order of both axes.
    """

    metrics: dict[str, Any]
    confusion: NDArray[np.int64]
    cities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saliency:
    """Raw relevance of chips for a city, with the windows and grids that place it on the ground.

    Args:
        method: ``relevance-cam``, ``relevance-cam-contrastive``, ``relevance-cam-margin``, ``grad-cam`` ...
        layers: names of the depths, shallow to deep.
        maps: per layer (n, h, w) float32, signed, not rescaled.
        chip_id: (n,) int64.
        scene_id: n scene ids.
        city: n codes of the city that was explained.
        windows: (n, 4) int64 pixel windows: row, col, height, width in the scene.
        stride: (n,) int64 distance to the next chip of the scene, in native pixels.
        grids: native grid per scene id.
        input_size: edge in pixels of what the network saw.
        notes: anything a reader of the file must know (model hash, how un-rectified sums were shared ...).
        approximate: ids of the scenes that lie somewhere in their city only.
        rather_than: code of the one city that the explained ones are told from; empty for all others.
        shift: per layer how far below and to the right of the middle of its even share of the chip a cell looks, in
            shares of the chip's edge; 0 for a layer that is not named.
    """

    method: str
    layers: tuple[str, ...]
    maps: Mapping[str, NDArray[np.float32]]
    chip_id: NDArray[np.int64]
    scene_id: tuple[str, ...]
    city: tuple[str, ...]
    windows: NDArray[np.int64]
    stride: NDArray[np.int64]
    grids: Mapping[str, GeoBox]
    input_size: int
    notes: Mapping[str, str] = field(default_factory=dict)
    approximate: tuple[str, ...] = ()
    rather_than: str = ""
    shift: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chip_id)

    def resampled(self, layer: str, at: slice, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Maps of some chips on another grid over the chip (k, rows, cols), bilinear, every cell where it looks."""
        maps, shift = self.maps[layer][at].astype(np.float64), self.shift.get(layer, 0.0)
        down, across = (bilinear(n, cells, shift) for n, cells in zip(maps.shape[1:], shape, strict=True))
        with np.errstate(invalid="ignore"):  # a map that is not finite stays so
            return np.asarray(down @ maps @ across.T)

    def select(self, keep: NDArray[np.bool_]) -> Saliency:
        """The chips where ``keep`` (n,) is true."""
        at = np.flatnonzero(keep)
        scene_id = tuple(self.scene_id[i] for i in at)
        return replace(
            self,
            maps={name: values[at] for name, values in self.maps.items()},
            chip_id=self.chip_id[at],
            scene_id=scene_id,
            city=tuple(self.city[i] for i in at),
            windows=self.windows[at],
            stride=self.stride[at],
            grids={name: self.grids[name] for name in dict.fromkeys(scene_id)},
            approximate=tuple(name for name in self.approximate if name in set(scene_id)),
        )


def bilinear(samples: int, cells: int, shift: float = 0.0) -> NDArray[np.float64]:
    """(cells, samples) weights that bring samples along an edge to the middles of cells along the same edge.

    Args:
        samples: their number; sample i stands at ``(i + 0.5) / samples + shift`` of the edge.
        cells: their number.
        shift: in shares of the edge. Beyond the outermost samples these are repeated.
    """
    at = np.clip(((np.arange(cells) + 0.5) / cells - shift) * samples - 0.5, 0, samples - 1)
    return np.asarray(np.maximum(1 - np.abs(at[:, None] - np.arange(samples)), 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One thing on a map: a file and how it is to be read.

    Args:
        kind: ``scenes`` and ``chips`` are vector files, the others rasters; ``image`` is imagery itself.
        path: the file.
        title: what the legend says.
        group: layers of one group are switched together (a city, an area).
        cities: city codes in the order of the palette, for ``chips`` and ``city``.
        limits: smallest and largest value of the colour scale, for ``confidence`` and ``saliency``.
        note: a caveat shown with the layer.
        channels: for ``image``: what is shown as red, green and blue; None finds out.
        approximate: whether the layer lies somewhere in its city only.
    """

    kind: Literal["scenes", "chips", "city", "confidence", "saliency", "image"]
    path: Path
    title: str
    group: str = ""
    cities: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None
    note: str = ""
    channels: Channels | None = None
    approximate: bool = False
