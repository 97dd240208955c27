"""How chips are cut and shared out; no input, no output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from dlslicer_geo.errors import ConfigError

SPLITS = ("train", "val", "test")
"""The splits a chip can take part in; a chip in none of them is ``unused``."""


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
        kind: what stays together: ``place`` (all scenes whose ground overlaps, whatever their date or name), ``site``
            (the site column, joined where sites overlap) or ``block`` (squares of ``block_m``); ``paper`` splits as
            published (the last site of a city is halved into val and test, all other sites are train), ``given``
            takes the splits from the file ``given``, and ``random`` keeps nothing together: it leaks, is called a
            leak in every output, and is only there to measure what a leak is worth.
        fractions: wanted shares of chips in train, val and test, per city; they sum to 1.
        block_m: edge of a block in metres, for ``block``.
        gap_m: chips of train nearer than this to one of val or test, and of val nearer than this to one of test, are
            left out, in metres.
        folds: k-fold: the units are dealt into so many folds instead of by ``fractions``; 0 does not.
        fold: the fold that is test; the next one is val, the others are train.
        test_from: year shift: test is what was taken at test places on this ISO date or later, train and val what
            was taken at their places before; the rest is left out. None takes all dates everywhere.
        given: for ``given``: a file with a column ``split``, and polygons (GeoPackage, GeoJSON, GeoParquet), or one
            of the columns ``scene_id``, or ``city`` and ``site``, or ``site`` (CSV, Parquet).
        seed: seeds the draw.
        allow_empty: cities that may lack chips in some split, as a list of codes; ``("*",)`` allows all.
    """

    kind: Literal["place", "site", "block", "paper", "given", "random"] = "place"
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    block_m: float = 2000.0
    gap_m: float = 0.0
    folds: int = 0
    fold: int = 0
    test_from: str | None = None
    given: str | None = None
    seed: int = 0
    allow_empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers, and that they go together.

        Raises:
            ConfigError: if one of them is out of range, or means nothing for the kind.
        """
        if any(not 0 <= share <= 1 for share in self.fractions) or abs(sum(self.fractions) - 1) > 1e-9:
            raise ConfigError(
                f"split.fractions are {list(self.fractions)}: give shares of train, val and test that sum to 1"
            )
        if not 0 < self.block_m < float("inf"):
            raise ConfigError(f"split.block_m is {self.block_m}: give the edge of a block in metres, above 0")
        if not 0 <= self.gap_m < float("inf"):
            raise ConfigError(f"split.gap_m is {self.gap_m}: give metres, 0 or more")
        self._check_folds()
        if self.seed < 0:
            raise ConfigError(f"split.seed is {self.seed}: give 0 or more")
        if (self.kind == "given") != bool(self.given):
            raise ConfigError(
                f"split.kind is {self.kind} and split.given is {self.given}: kind given and a file go together"
            )
        if self.test_from is not None and not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){0,2}", self.test_from):
            raise ConfigError(f"split.test_from is {self.test_from!r}: give a date such as '2020' or '2020-06-30'")
        if self.test_from is not None and self.kind in ("paper", "given", "random"):
            raise ConfigError(f"split.test_from means nothing for split.kind {self.kind}: take place, site or block")

    def _check_folds(self) -> None:
        if self.folds == 0 and self.fold == 0:
            return
        if self.folds < 3 or not 0 <= self.fold < self.folds:
            raise ConfigError(
                f"split.folds is {self.folds} and split.fold {self.fold}: give at least 3 (for train, val and test) "
                "and a fold from 0 to folds - 1"
            )
        if self.kind in ("paper", "given"):
            raise ConfigError(f"split.folds means nothing for split.kind {self.kind}: take place, site or block")

    @property
    def proven(self) -> bool:
        """Whether the rule promises disjoint splits; only ``random`` does not."""
        return self.kind != "random"

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

    @classmethod
    def by_date(cls, test_from: str, **options: Any) -> SplitRule:
        """Year shift: train on what was taken before a date, test on what was taken from it on, at other places."""
        return cls(test_from=test_from, **options)

    @classmethod
    def by_file(cls, path: str, **options: Any) -> SplitRule:
        """The splits that a file gives."""
        return cls(kind="given", given=path, **options)

    @classmethod
    def paper(cls, **options: Any) -> SplitRule:
        """As published: the last site of a city is halved into val and test, all other sites are train."""
        return cls(kind="paper", **options)
