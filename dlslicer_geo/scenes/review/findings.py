"""The scene table, pairs and the chip grid in, what somebody should look at before training out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.types import APPROXIMATE, ChipGrid

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from dlslicer_geo.scenes.review.alike import Overlap, Pair

VALID, SATURATED, ENLARGED, INEXACT = 0.9, 0.05, 2.0, 0.01
BLUR_SHARE, BLUR_SPREAD, BLUR_GROUP = 0.25, 3.5, 8
SAME_PLACE = 0.5  # share of the smaller scene from which an overlap at another date is the same place


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to look at.

    Args:
        scenes: one scene id, or two.
        text: its numbers.
    """

    scenes: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Things of one kind, and the rule by which they were found.

    Args:
        flag: a word or two for a card.
        title: the same as a heading.
        rule: the rule in one sentence, with its numbers.
        items: what was found, the most striking first.
        grave: whether it may spoil a training; otherwise it is only good to know.
    """

    flag: str
    title: str
    rule: str
    items: tuple[Item, ...]
    grave: bool = True


def findings(
    scenes: GeoDataFrame, *, duplicates: Sequence[Pair], overlaps: Sequence[Overlap], grid: ChipGrid
) -> list[Finding]:
    """Everything worth a look, the gravest kinds first; kinds of which there is nothing are left out.

    Args:
        scenes: scene table.
        duplicates: what ``alike.duplicates`` found.
        overlaps: what ``alike.overlaps`` found.
        grid: the chips that will be cut.
    """
    found = [
        *_pairs(duplicates),
        *_overlapping(scenes, overlaps),
        _little_valid(scenes),
        _with_holes(scenes),
        _blurred(scenes),
        _exposed(scenes),
        *_off_the_promise(scenes, grid),
        _odd_sizes(scenes),
        _undated(scenes),
        _approximate(scenes),
    ]
    return sorted((finding for finding in found if finding.items), key=lambda finding: not finding.grave)


def area_text(area_m2: float) -> str:
    """An area in the unit that suits it."""
    if area_m2 >= 1e5:
        return f"{area_m2 / 1e6:,.2f} km²" if area_m2 < 1e8 else f"{area_m2 / 1e6:,.0f} km²"
    return f"{area_m2:,.0f} m²"


def _pairs(duplicates: Sequence[Pair]) -> list[Finding]:
    ordered = sorted(duplicates, key=lambda pair: (-pair.correlation, pair.one, pair.two))
    items: dict[str, list[Item]] = {"identical": [], "near": []}
    for pair in ordered:
        text = "the same bytes" if pair.kind == "identical" else f"correlation {pair.correlation:.3f}"
        items[pair.kind].append(Item(scenes=(pair.one, pair.two), text=text))
    return [
        Finding(
            flag="identical", title="Identical files", items=tuple(items["identical"]),
            rule="Two files with the same bytes: in two splits they would make the test worthless.",
        ),
        Finding(
            flag="near-duplicate", title="Near-duplicate images", items=tuple(items["near"]),
            rule="The same image in another size, brightness or compression: perceptual hash and correlation agree.",
        ),
    ]  # fmt: skip


def _overlapping(scenes: GeoDataFrame, overlaps: Sequence[Overlap]) -> list[Finding]:
    dates = dict(zip(scenes["scene_id"], scenes["acquired"], strict=True))
    again: list[Item] = []
    others: list[Item] = []
    for overlap in sorted(overlaps, key=lambda overlap: (-overlap.share, overlap.one, overlap.two)):
        text = f"{area_text(overlap.area_m2)}, {_percent(overlap.share)} of the smaller one"
        item = Item(scenes=(overlap.one, overlap.two), text=text)
        days = [_text(dates[name]) for name in item.scenes]
        same_place = overlap.share >= SAME_PLACE and None not in days and days[0] != days[1]
        (again if same_place else others).append(item)
    return [
        Finding(
            flag="overlap", title="Overlapping scenes", items=tuple(others),
            rule="Valid areas share ground: splits keep such scenes together, statistics count the ground twice.",
        ),
        Finding(
            flag="repeat", title="The same place at another date", items=tuple(again), grave=False,
            rule=f"At least {_percent(SAME_PLACE)} of the smaller scene is shared with one of another date.",
        ),
    ]  # fmt: skip


def _little_valid(scenes: GeoDataFrame) -> Finding:
    values = _numbers(scenes, "valid_fraction")
    items = _worst(scenes, values, values < VALID, lambda value: f"{_percent(value)} valid")
    rule = f"Less than {_percent(VALID)} of the pixels are valid."
    return Finding(flag="gaps", title="Mostly empty or cut", rule=rule, items=items)


def _with_holes(scenes: GeoDataFrame) -> Finding:
    values = _numbers(scenes, "holes_fraction")
    items = _worst(scenes, -values, values > 0, lambda value: f"{_percent(-value)} in holes")
    rule = "Large black or white areas that no mask declares; they were masked."
    return Finding(flag="holes", title="Undeclared holes", rule=rule, items=items, grave=False)


def _blurred(scenes: GeoDataFrame) -> Finding:
    """Sharpness is compared among images of one pixel type and about one resolution; a factor is a distance."""
    blur, gsd = _numbers(scenes, "blur"), _numbers(scenes, "gsd_m")
    groups: dict[tuple[str, int], list[int]] = {}
    for at, dtype in enumerate(scenes["dtype"]):
        if np.isfinite(blur[at]):
            groups.setdefault((str(dtype), round(np.log2(gsd[at]))), []).append(at)
    share = np.full(len(scenes), np.inf)
    for members in groups.values():
        sharpness = np.log(np.maximum(blur[members], 1e-12))
        below = sharpness - np.median(sharpness)
        spread = 1.4826 * np.median(np.abs(below))
        blurred = (below < np.log(BLUR_SHARE)) & (below < -BLUR_SPREAD * spread)
        if len(members) >= BLUR_GROUP:
            share[np.array(members)[blurred]] = np.exp(below[blurred])
    items = _worst(scenes, share, np.isfinite(share), lambda value: f"{_percent(value)} of the usual sharpness")
    rule = (
        f"Variance of the Laplacian below {_percent(BLUR_SHARE)} of the median of scenes of the same pixel type "
        f"and about the same resolution, and {BLUR_SPREAD:g} robust deviations below it: blur, haze, or plain ground."
    )
    return Finding(flag="blurred", title="Blurred or featureless", rule=rule, items=items)


def _exposed(scenes: GeoDataFrame) -> Finding:
    values = _numbers(scenes, "saturated_fraction")
    items = _worst(scenes, -values, values > SATURATED, lambda value: f"{_percent(-value)} black or white")
    rule = f"More than {_percent(SATURATED)} of the valid pixels are black or white in every band."
    return Finding(flag="exposure", title="Over- or underexposed", rule=rule, items=items)


def _off_the_promise(scenes: GeoDataFrame, grid: ChipGrid) -> list[Finding]:
    if grid.metres is None:
        return []
    gsd = _numbers(scenes, "gsd_m")
    enlarged = grid.size * gsd / grid.metres
    error = np.abs(np.maximum(np.rint(grid.metres / gsd), 1) * gsd / grid.metres - 1)
    promise = f"a chip of {grid.metres:g} m and {grid.size} px"
    coarse = enlarged > ENLARGED
    return [
        Finding(
            flag="coarse", title="Too coarse for the chips",
            rule=f"Pixels would be enlarged more than {ENLARGED:g} times for {promise}.",
            items=_worst(scenes, -enlarged, coarse, lambda value: f"enlarged {-value:.1f} times"),
        ),
        Finding(
            flag="inexact", title="Chips off their promised size",
            rule=f"Whole pixels miss {promise} by more than {_percent(INEXACT)}.",
            items=_worst(scenes, -error, (error > INEXACT) & ~coarse, lambda value: f"{_percent(-value)} off"),
        ),
    ]  # fmt: skip


def _odd_sizes(scenes: GeoDataFrame) -> Finding:
    sizes = list(zip(scenes["width"].tolist(), scenes["height"].tolist(), strict=True))
    ((width, height), number), *_ = Counter(sizes).most_common(1)
    usual = 2 * number > len(sizes)  # where no size is usual, none is odd
    items = [
        Item(scenes=(name,), text=f"{size[0]} × {size[1]} px")
        for name, size in zip(scenes["scene_id"], sizes, strict=True)
        if usual and size != (width, height)
    ]
    rule = f"{number:,} of {len(sizes):,} scenes have {width} × {height} px; these have not."
    return Finding(flag="odd size", title="Odd sizes", rule=rule, items=tuple(items), grave=False)


def _undated(scenes: GeoDataFrame) -> Finding:
    days = zip(scenes["scene_id"], scenes["acquired"], strict=True)
    items = tuple(Item(scenes=(name,), text="no date") for name, day in days if _text(day) is None)
    rule = "Neither the file nor its name says when it was taken."
    return Finding(flag="no date", title="No date", rule=rule, items=items, grave=False)


def _approximate(scenes: GeoDataFrame) -> Finding:
    items = tuple(
        Item(scenes=(name,), text="within an unknown distance" if known != known else f"within {known / 1000:.3g} km")
        for name, kind, known in zip(
            scenes["scene_id"], scenes["georef"], _numbers(scenes, "accuracy_m"), strict=True
        )
        if kind in APPROXIMATE
    )
    rule = "The position says no more than the city: no distance, overlap or adjacency follows from it."
    return Finding(flag="approximate", title="Approximate position", rule=rule, items=items, grave=False)


def _worst(scenes: GeoDataFrame, values: NDArray[np.float64], where: NDArray[np.bool_], say: Any) -> tuple[Item, ...]:
    """Items of the scenes where ``where`` is true, the smallest value first."""
    names = scenes["scene_id"].tolist()
    order = sorted(np.flatnonzero(where).tolist(), key=lambda at: (values[at], names[at]))
    return tuple(Item(scenes=(names[at],), text=say(float(values[at]))) for at in order)


def _numbers(scenes: GeoDataFrame, column: str) -> NDArray[np.float64]:
    return np.asarray(scenes[column], np.float64)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _percent(share: float) -> str:
    """A share that never rounds to all or nothing."""
    percent = 100 * share
    if 0 < percent < 0.1:
        return "<0.1 %"
    if 99.9 < percent < 100:
        return ">99.9 %"
    return f"{round(percent, 1):g} %"
