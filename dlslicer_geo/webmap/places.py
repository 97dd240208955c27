"""Tables of chips in, the places, cities and counts of a map out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from dlslicer_geo.types import Layer
from dlslicer_geo.webmap import shapes

WIDEST = 40.0
"""Degrees: a map that spans more starts at its first place, where there is something to see."""


def cities(layers: Sequence[Layer], tables: list[gpd.GeoDataFrame]) -> list[dict[str, Any]]:
    """Every city that is named anywhere, in the order of the layers; those answered have a colour and a count."""
    codes = [code for layer in layers for code in layer.cities]
    if not tables:
        return [{"code": code, "colour": None, "chips": 0} for code in dict.fromkeys(codes)]
    named = pd.concat([table[["city", "truth"]] for table in tables])
    codes += sorted(set(named["city"]) | set(named["truth"].dropna()))
    answered = pd.concat([table.loc[~shapes.unknown_chips(table), ["city", "colour"]] for table in tables])
    colours = dict(zip(answered["city"], answered["colour"], strict=True))
    counts = answered["city"].value_counts()
    return [
        {"code": code, "colour": colours.get(code), "chips": int(counts.get(code, 0))}
        for code in dict.fromkeys(codes)
    ]


def unknown(tables: list[gpd.GeoDataFrame]) -> dict[str, Any] | None:
    """Colour and number of the chips whose city the model does not know, None where there are none."""
    if not tables:
        return None
    colours = pd.concat([table.loc[shapes.unknown_chips(table), "colour"] for table in tables])
    return {"colour": str(colours.iloc[0]), "chips": len(colours)} if len(colours) else None


def places(tables: list[gpd.GeoDataFrame]) -> list[dict[str, Any]]:
    """Where the chips are: name, bounds, numbers of chips, of chips unknown to the model, and of right answers.

    ``right`` counts among the chips with a ``known`` truth; an answer of ``unknown`` is never right.
    """
    found = []
    for name, table in pd.concat(tables).groupby("place", sort=True) if tables else []:
        west, south, east, north = table.geometry.total_bounds.round(shapes.DIGITS).tolist()
        place = {"name": str(name), "bounds": [[south, west], [north, east]], "chips": len(table)}
        unsure = int(shapes.unknown_chips(table).sum())
        right = int((shapes.verdicts(table) == "right").sum())
        found.append(place | {"unknown": unsure, "known": int(table["truth"].notna().sum()), "right": right})
    return found


def group_places(sections: dict[str, dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Without chips, the groups of the other layers are the places."""
    corners: dict[str, list[Any]] = {}
    for kind, groups in sections.items():
        for name, items in groups.items():
            found = [corner for ring in items for corner in (ring if kind == "scenes" else ring["bounds"])]
            corners.setdefault(name, []).extend(found)
    made = []
    for name, points in sorted(corners.items()):
        low, high = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
        made.append({"name": name, "bounds": [low, high], "chips": 0, "unknown": 0, "known": 0, "right": 0})
    return made


def counts(tables: list[gpd.GeoDataFrame]) -> dict[str, dict[str, int]]:
    """How many chips are of each verdict (under ``error``) and of each split, for the legend."""
    if not tables:
        return {"error": {}, "split": {}}
    error = pd.concat([shapes.verdicts(table) for table in tables]).value_counts()
    split = pd.concat([table["split"] for table in tables]).astype(str).value_counts()
    return {"error": {str(k): int(n) for k, n in error.items()}, "split": {str(k): int(n) for k, n in split.items()}}


def start(found: list[dict[str, Any]]) -> int:
    """Number of the place to start at, -1 for all of them together."""
    corners = np.array([place["bounds"] for place in found])
    span = corners[:, 1].max(axis=0) - corners[:, 0].min(axis=0)
    return 0 if span.max() > WIDEST else -1
