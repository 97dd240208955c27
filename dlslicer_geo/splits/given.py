"""Chips and the splits that a file gives for scenes, sites or polygons in, a draft of the split out."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from numpy.typing import NDArray
from pandas import DataFrame
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.draft import UNUSED, Draft, drop
from dlslicer_geo.splits.ground import Ground, Polygons, project
from dlslicer_geo.splits.units import TOLERANCE_M2
from dlslicer_geo.types import SPLITS

REACHES_OUT = "reaches out of the given regions"
NOT_NAMED = "not named in the given file"
SET_ASIDE = "unused in the given file"

KEYS = (("scene_id",), ("city", "site"), ("site",))
"""Columns that can say which scenes a row means; the first that are there do."""


def by_given(chips: GeoDataFrame, ground: Ground, given: DataFrame | None, scenes: DataFrame | None) -> Draft:
    """Take the splits of a table with a column ``split``.

    Args:
        chips: chip table.
        ground: its ground.
        given: polygons in any CRS, or a table with ``scene_id``, ``city`` and ``site``, or ``site``.
        scenes: scene table: rows may name its scenes too, of which no chip is left.

    Raises:
        SplitError: if the table has no such columns, no row for train, val or test, a split that there is not, a row
            that means no scene or no polygon, two splits for one scene, or polygons of two splits that overlap.
    """
    if given is None:
        raise SplitError("split.kind given takes the splits from a table: give it as given")
    if "split" not in given:
        raise SplitError(f"the given splits have no column split but {', '.join(map(str, given.columns))}: add one")
    names = given["split"].to_numpy(object)
    odd = np.array([not isinstance(name, str) or name not in (*SPLITS, "unused") for name in names], np.bool_)
    if odd.any():
        raise SplitError(
            f"row {odd.argmax()} of the given splits says {names[odd.argmax()]!r}: write train, val, test or unused"
        )
    wanted = tuple(name for name in SPLITS if (names == name).any())
    if not wanted:
        raise SplitError(
            f"none of the {len(given)} rows of the given splits says train, val or test: name what goes where"
        )
    given = given.reset_index(drop=True)
    if isinstance(given, GeoDataFrame):
        return replace(_by_polygon(chips, ground, given), wanted=wanted)
    return replace(_by_name(chips, given, scenes), wanted=wanted)


def _by_name(chips: GeoDataFrame, given: DataFrame, scenes: DataFrame | None) -> Draft:
    """Splits of whole scenes or sites."""
    key = next((list(key) for key in KEYS if set(key) <= set(given)), None)
    if key is None:
        raise SplitError(
            f"the given splits have the columns {', '.join(map(str, given.columns))}: name scenes by scene_id, by "
            "city and site, or by site"
        )
    known = DataFrame(chips[["scene_id", "city", "site"]])
    if scenes is not None:
        known = pd.concat([known, scenes[["scene_id", "city", "site"]]])
    empty = given[key].isna().any(axis=1).to_numpy(bool)
    if empty.any():
        raise SplitError(f"row {empty.argmax()} of the given splits has no {' or no '.join(key)}: fill it in")
    given = given.astype(dict.fromkeys(key, str))  # a site that is a number in one file is a text in another
    _check_names(given, known.drop_duplicates(), key)
    rows = given[[*key, "split"]].assign(unit=np.arange(len(given))).drop_duplicates(key)
    found = DataFrame(chips[key]).astype(str).merge(rows, on=key, how="left")
    code = found["split"].map({**{name: at for at, name in enumerate(SPLITS)}, "unused": UNUSED})
    split, unit = (column.to_numpy(np.float64) for column in (code.fillna(0), found["unit"].fillna(-1)))
    draft = Draft(code=split.astype(np.int64), unit=unit.astype(np.int64))
    draft = replace(draft, dropped=_count(SET_ASIDE, code == UNUSED))
    return drop(draft, code.isna().to_numpy(), NOT_NAMED)


def _check_names(given: DataFrame, known: DataFrame, key: list[str]) -> None:
    """Every row means scenes that there are, in one city, and no two rows contradict each other."""
    words = given[key].astype(str).agg(", ".join, axis=1)
    twice = given.assign(words=words).groupby("words")["split"].nunique()
    if (twice > 1).any():
        raise SplitError(f"the given splits put {twice.idxmax()} in two splits: keep one of the rows")
    there = known[key].astype(str).agg(", ".join, axis=1)
    lost = ~words.isin(there)
    if lost.any():
        at = int(lost.to_numpy().argmax())
        raise SplitError(
            f"row {at} of the given splits names {' and '.join(key)} {words[at]}, of which there is no scene "
            f"({int(lost.sum())} of {len(given)} rows do): correct or remove it"
        )
    if key == ["site"]:
        cities = known[known["site"].isin(given["site"])].groupby("site")["city"].nunique(dropna=False)
        if (cities > 1).any():
            raise SplitError(
                f"the given splits name site {cities.idxmax()}, which {cities.max()} cities have: add a column city"
            )


def _by_polygon(chips: GeoDataFrame, ground: Ground, given: GeoDataFrame) -> Draft:
    """Splits of ground: a chip belongs to a split when it lies wholly inside the split's polygons."""
    if not ground.exact.all():
        raise SplitError(
            f"{int((~ground.exact).sum())} of {len(chips)} chips lie somewhere in their city only (approximate "
            "position), so that polygons mean nothing for them: name scenes or sites instead"
        )
    _check_polygons(given)
    shapes, names = np.asarray(given.geometry.array), given["split"].to_numpy(object)
    regions = {name: shapely.union_all(shapes[names == name]) for name in SPLITS}
    _check_overlap(regions, given)
    outline: Polygons = np.asarray(chips.to_crs(CRS.from_user_input(given.crs)).geometry.array)
    ground_m2 = np.zeros(len(chips))
    for epsg in np.unique(ground.epsg):
        at = ground.epsg == epsg
        ground_m2[at] = shapely.area(project(ground.polygon[at], int(epsg)))
    code = np.full(len(chips), UNUSED)
    for split, name in enumerate(SPLITS):
        code[_inside(outline, regions[name], ground_m2)] = split
    unit = np.full(len(chips), -1)
    chip, polygon = shapely.STRtree(shapes).query(outline, predicate="intersects")
    same = np.array([*SPLITS, "unused"], object)[code[chip]] == names[polygon]
    unit[chip[same][::-1]] = polygon[same][::-1]  # the first of several
    return drop(Draft(code=np.where(code == UNUSED, 0, code), unit=unit), code == UNUSED, REACHES_OUT)


def _inside(outline: Polygons, region: BaseGeometry, ground_m2: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether no more of each outline than the tolerance lies outside a region."""
    shapely.prepare(region)
    inside = shapely.covers(region, outline)
    edge = np.flatnonzero(~inside & shapely.intersects(region, outline))
    size = shapely.area(outline[edge])
    outside = 1 - shapely.area(shapely.intersection(outline[edge], region)) / size
    inside[edge] = outside * ground_m2[edge] <= TOLERANCE_M2
    return inside


def _check_polygons(given: GeoDataFrame) -> None:
    if given.crs is None:
        raise SplitError("the given polygons say no coordinate reference system: write them with one")
    for at, shape in enumerate(given.geometry):
        if shape is None or shape.is_empty or shape.geom_type not in ("Polygon", "MultiPolygon"):
            kind = "no geometry" if shape is None or shape.is_empty else f"a {shape.geom_type}"
            raise SplitError(f"row {at} of the given splits has {kind}: give polygons")
        if not shape.is_valid:
            raise SplitError(
                f"the polygon in row {at} of the given splits is not valid ({shapely.is_valid_reason(shape)}): "
                "mend it"
            )


def _check_overlap(regions: dict[str, BaseGeometry], given: GeoDataFrame) -> None:
    for one, two in combinations(SPLITS, 2):
        shared = regions[one].intersection(regions[two])
        if shared.area == 0:
            continue
        metres = float(GeoSeries([shared], crs=given.crs).to_crs("EPSG:6933").area.iloc[0])  # of equal area
        if metres > TOLERANCE_M2:
            raise SplitError(
                f"the given polygons of {one} and {two} overlap on {metres:.4g} m²: draw them so that they only touch"
            )


def _count(reason: str, chips: pd.Series) -> dict[str, int]:
    number = int(chips.sum())
    return {reason: number} if number else {}
