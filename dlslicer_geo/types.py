"""The values that pass between rooms: frozen, slotted, keyword-only; no input, no output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.errors import ConfigError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

T = TypeVar("T")

SPLITS = ("train", "val", "test")
"""The splits a chip can take part in; a chip in none of them is ``unused``."""


class Progress(Protocol):
    """Wraps an iterable of known length so that somebody watching sees how far it is."""

    def __call__(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield every item of ``items`` unchanged."""
        ...


def quiet(items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
    """The :class:`Progress` that shows nothing."""
    yield from items


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One georeferenced image.

    Args:
        scene_id: unique, safe in a file name.
        city: city code, None for an image of an unknown place.
        city_name: the city in words, None like ``city``.
        site: the part of a city the scene belongs to; the same ground at another date has the same site.
        path: where the image is (a file name or any GDAL path).
        grid: the native pixel grid (shape, transform, CRS).
        bands: number of bands.
        dtype: numpy name of the pixel type.
        nodata: declared nodata value, None when there is none.
        gsd_m: ground metres per pixel, measured on the ellipsoid at the scene's centre.
        acquired: ISO 8601 year, month or day, None when unknown.
        georef: where the position comes from (``geotiff``, ...).
        accuracy_m: accuracy of the position in metres, None when unknown.
        sha256: hash of the file.
        valid_fraction: share of the pixels that are valid, 0 to 1.
    """

    scene_id: str
    city: str | None
    city_name: str | None
    site: str
    path: str
    grid: GeoBox
    bands: int
    dtype: str
    nodata: float | None
    gsd_m: float
    acquired: str | None
    georef: str
    accuracy_m: float | None
    sha256: str
    valid_fraction: float

    @classmethod
    def from_record(cls, record: Mapping[Any, Any]) -> Scene:
        """One row of the scene table (``table.to_dict("records")``) as a value."""
        from odc.geo.geobox import GeoBox

        grid = GeoBox((int(record["height"]), int(record["width"])), _affine(record["transform"]), str(record["crs"]))
        return cls(
            scene_id=str(record["scene_id"]),
            city=_text(record["city"]),
            city_name=_text(record["city_name"]),
            site=str(record["site"]),
            path=str(record["path"]),
            grid=grid,
            bands=int(record["bands"]),
            dtype=str(record["dtype"]),
            nodata=_number(record["nodata"]),
            gsd_m=float(record["gsd_m"]),
            acquired=_text(record["acquired"]),
            georef=str(record["georef"]),
            accuracy_m=_number(record["accuracy_m"]),
            sha256=str(record["sha256"]),
            valid_fraction=float(record["valid_fraction"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipGrid:
    """How chips are cut from every scene.

    Args:
        size: edge of a chip in pixels as the model reads it, after resampling.
        stride: distance between two chips, in the same pixels.
        metres: edge of a chip on the ground; None takes ``size`` native pixels whatever they measure.
        min_valid: a chip with a smaller share of valid pixels is dropped, 0 to 1.
        on_misfit: a scene that cannot hold one chip, or is too coarse: ``raise`` a ``GridError``, or ``drop`` it.
    """

    size: int = 480
    stride: int = 240
    metres: float | None = 200.0
    min_valid: float = 0.5
    on_misfit: Literal["raise", "drop"] = "raise"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one of them is out of range.
        """
        if self.size < 1 or not 1 <= self.stride <= self.size:
            raise ConfigError(
                f"chips.stride is {self.stride} and chips.size is {self.size}: take 1 <= stride <= size"
            )
        if self.metres is not None and not 0 < self.metres < float("inf"):
            raise ConfigError(f"chips.metres is {self.metres}: give the edge of a chip in metres, above 0")
        if not 0 <= self.min_valid <= 1:
            raise ConfigError(f"chips.min_valid is {self.min_valid}: give a share between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How chips are shared out between train, val and test.

    Args:
        kind: the unit that stays together: ``place`` (all scenes whose ground overlaps, whatever their date or
            name), ``site`` (the site column, joined where sites overlap) or ``block`` (squares of ``block_m``).
        fractions: wanted shares of chips in train, val and test, per city; they sum to 1.
        block_m: edge of a block in metres, for ``block``.
        seed: seeds the draw.
        allow_empty: cities that may lack chips in some split, as a list of codes; ``("*",)`` allows all.
    """

    kind: Literal["place", "site", "block"] = "place"
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    block_m: float = 2000.0
    seed: int = 0
    allow_empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if the fractions are no shares of one whole, or the block has no size.
        """
        if any(not 0 <= share <= 1 for share in self.fractions) or abs(sum(self.fractions) - 1) > 1e-9:
            raise ConfigError(
                f"split.fractions are {list(self.fractions)}: give shares of train, val and test that sum to 1"
            )
        if not 0 < self.block_m < float("inf"):
            raise ConfigError(f"split.block_m is {self.block_m}: give the edge of a block in metres, above 0")

    @classmethod
    def by_place(cls, **options: Any) -> SplitRule:
        """Scenes that share ground stay together, whatever their date."""
        return cls(kind="place", **options)

    @classmethod
    def by_site(cls, **options: Any) -> SplitRule:
        """Sites stay together."""
        return cls(kind="site", **options)

    @classmethod
    def by_block(cls, metres: float = 2000.0, **options: Any) -> SplitRule:
        """Square blocks of ``metres`` stay together."""
        return cls(kind="block", block_m=metres, **options)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What a model said about chips, with the names that give its numbers a meaning.

    Args:
        cities: city codes in the order of the columns of ``probabilities``.
        chip_id: (n,) int64, rows of the chip table.
        scene_id: n scene ids.
        truth: n city codes, None where unknown.
        probabilities: (n, len(cities)) float32, rows sum to 1.
        embedding: (n, d) float32 pooled features, None when not asked for.
        folder: where the parts lie, None when only in memory.
    """

    cities: tuple[str, ...]
    chip_id: NDArray[np.int64]
    scene_id: tuple[str, ...]
    truth: tuple[str | None, ...]
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None
    folder: Path | None = None

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chip_id)

    @property
    def city(self) -> tuple[str, ...]:
        """The most probable city of each chip."""
        return tuple(self.cities[i] for i in self.probabilities.argmax(axis=1))

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(n,) probability of the most probable city, 0 to 1."""
        return self.probabilities.max(axis=1) if len(self) else np.zeros(0, np.float32)

    def draw(self, number: int, *, per: Literal["city"] = "city", seed: int = 0) -> NDArray[np.int64]:
        """Draw chips at random without replacement.

        Args:
            number: chips from each city (all of them where a city has fewer).
            per: the group drawn from: the true city, or the predicted one where the truth is unknown.
            seed: seeds the draw.

        Returns:
            sorted (m,) int64 chip ids.
        """
        random = np.random.default_rng(seed)
        group = np.array([t if t is not None else c for t, c in zip(self.truth, self.city, strict=True)], object)
        drawn = [
            random.permutation(np.sort(self.chip_id[group == city]))[:number] for city in sorted(set(group.tolist()))
        ]
        return np.sort(np.concatenate([*drawn, np.zeros(0, np.int64)]))


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

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chip_id)

    def select(self, keep: NDArray[np.bool_]) -> Saliency:
        """The chips where ``keep`` (n,) is true."""
        at = np.flatnonzero(keep)
        scene_id = tuple(self.scene_id[i] for i in at)
        return Saliency(
            method=self.method,
            layers=self.layers,
            maps={name: values[at] for name, values in self.maps.items()},
            chip_id=self.chip_id[at],
            scene_id=scene_id,
            city=tuple(self.city[i] for i in at),
            windows=self.windows[at],
            stride=self.stride[at],
            grids={name: self.grids[name] for name in dict.fromkeys(scene_id)},
            input_size=self.input_size,
            notes=self.notes,
        )


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
    """

    kind: Literal["scenes", "chips", "city", "confidence", "saliency", "image"]
    path: Path
    title: str
    group: str = ""
    cities: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None
    note: str = ""


def _affine(values: Any) -> Any:
    from affine import Affine

    return Affine(*(float(v) for v in values))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
