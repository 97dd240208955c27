"""Tables of chips and scenes in, lists that a browser can draw out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio  # type: ignore[import-untyped]
import shapely
from numpy.typing import NDArray

from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import APPROXIMATE, UNKNOWN, Layer

DIGITS = 6
"""Decimals of a degree: about 0.1 m."""

TOP = 5

VAGUE = " (approximate)"
"""What the name of a group of scenes ends with when they lie somewhere in their city only; drawn dashed."""


def count_chips(layer: Layer) -> int:
    """How many chips a file holds; only its header is read.

    Raises:
        LayerError: if the file cannot be read.
    """
    try:
        return int(pyogrio.read_info(layer.path, layer=0)["features"])
    except (OSError, ValueError, RuntimeError) as error:
        raise LayerError(f"{layer.path} cannot be read as a table of chips ({error}): write it again") from None


def read_chips(layer: Layer) -> gpd.GeoDataFrame:
    """Read the chips of a GeoPackage, with a column ``place``.

    The place is the true city where it is known, else the site: where the chip is, not what the model says.

    Returns:
        the table, whose ``answer`` is the city where an older file has no such column.

    Raises:
        LayerError: if the file cannot be read or lacks a column.
    """
    try:
        table = gpd.read_file(layer.path, layer=0)
    except (OSError, ValueError, RuntimeError) as error:
        raise LayerError(f"{layer.path} cannot be read as a table of chips ({error}): write it again") from None
    needed = ["chip_id", "scene_id", "site", "split", "truth", "city", "confidence", "colour"]
    if missing := [name for name in needed if name not in table.columns]:
        raise LayerError(f"{layer.path} has no column {', '.join(missing)}: write the predictions again")
    if bad := int((~np.isfinite(table["confidence"].astype(float))).sum()):
        raise LayerError(f"{layer.path} has {bad} chips whose confidence is no number: write the predictions again")
    if "answer" not in table:
        table["answer"] = table["city"]
    truth = table["truth"].where(table["truth"].notna(), None)
    table["truth"], table["place"] = truth, truth.fillna(table["site"]).fillna(table["scene_id"]).astype(str)
    return table


def chip_columns(table: gpd.GeoDataFrame, cities: list[str]) -> dict[str, list[Any]]:
    """The columns of a table of chips as lists.

    Args:
        table: as :func:`read_chips` returns it.
        cities: the codes that ``city``, ``truth`` (-1 when unknown) and ``top`` count in.

    Returns:
        ``id scene date split truth city unknown confidence ring vague inner top``: ``unknown`` is 1 where the model
        does not know the city and ``city`` is but the nearest, ``vague`` is 1 where the position is approximate,
        ``ring`` has latitude and longitude of the four corners, ``inner`` the part of the chip's edge that one stride
        takes, ``top`` pairs of city and share.
    """
    index = pd.Index(cities)
    stride = table["stride"] / table["width"] if "stride" in table else pd.Series(1.0, table.index)
    dates = table["acquired"] if "acquired" in table else pd.Series("", table.index)
    return {
        "id": table["chip_id"].tolist(),
        "scene": table["scene_id"].tolist(),
        "date": dates.fillna("").astype(str).tolist(),
        "split": table["split"].tolist(),
        "truth": index.get_indexer(pd.Index(table["truth"])).tolist(),
        "city": index.get_indexer(pd.Index(table["city"])).tolist(),
        "unknown": unknown_chips(table).astype(int).tolist(),
        "confidence": table["confidence"].astype(float).round(4).tolist(),
        "ring": _corners(table.geometry.to_numpy()).tolist(),
        "vague": table["approximate"].astype(int).tolist() if "approximate" in table else [0] * len(table),
        "inner": np.clip(stride, 0, 1).round(4).tolist(),
        "top": _top(table, index),
    }


def unknown_chips(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether the model answered ``unknown``; a city of that name is an answer like any other."""
    return (table["answer"] == UNKNOWN) & (table["city"] != UNKNOWN)


def verdicts(table: pd.DataFrame) -> pd.Series[str]:
    """``unknown`` to the model, ``unproven`` where the true city is not known, else ``right`` or ``wrong``."""
    said = pd.Series(np.where(table["truth"] == table["city"], "right", "wrong"), table.index)
    return said.mask(table["truth"].isna(), "unproven").mask(unknown_chips(table), "unknown")


def read_scenes(layer: Layer) -> gpd.GeoDataFrame:
    """Read the scene table.

    Raises:
        LayerError: if the file is no GeoParquet table.
    """
    try:
        return gpd.read_parquet(layer.path)
    except (OSError, ValueError) as error:
        raise LayerError(f"{layer.path} cannot be read as a table of scenes ({error}): write it again") from None


def scene_facts(table: gpd.GeoDataFrame, folder: Path) -> dict[str, dict[str, Any]]:
    """Scene id → ``path city name site date vague bounds``.

    Args:
        table: as :func:`read_scenes` returns it.
        folder: what a relative path in it is seen from.

    Returns:
        ``path`` is absolute or an address, None where the table has none; ``name`` is the city's in full; ``bounds``
        are [[south, west], [north, east]] in degrees.
    """
    if "scene_id" not in table:
        return {}
    texts = {
        name: (table[column] if column in table else pd.Series("", table.index)).fillna("").astype(str)
        for name, column in [("city", "city"), ("name", "city_name"), ("site", "site"), ("date", "acquired")]
    }
    paths = table["path"].tolist() if "path" in table else [None] * len(table)
    georef = table["georef"] if "georef" in table else pd.Series("", table.index)
    corners = table.geometry.bounds.round(DIGITS).to_numpy()[:, [1, 0, 3, 2]].reshape(-1, 2, 2).tolist()
    rows = zip(*texts.values(), georef.isin(APPROXIMATE).tolist(), corners, paths, strict=True)
    facts = [
        dict(zip([*texts, "vague", "bounds"], row, strict=False)) | {"path": _absolute(row[-1], folder)}
        for row in rows
    ]
    return dict(zip(table["scene_id"].astype(str), facts, strict=True))


def scene_rings(table: gpd.GeoDataFrame, group: str = "") -> dict[str, list[Any]]:
    """Group → outlines of its scenes, each a list of (latitude, longitude).

    Args:
        table: as :func:`read_scenes` returns it.
        group: one group for all; otherwise the city is the group, else the site.
    """
    names = pd.Series(group, table.index)
    for column in ("city", "site"):
        if column in table:
            names = names.where(names != "", table[column].fillna(""))
    if "georef" in table:
        names = names.where(~table["georef"].isin(APPROXIMATE), names + VAGUE)
    rings: dict[str, list[Any]] = {}
    for name, outline in zip(names.astype(str), table.geometry, strict=True):
        for part in shapely.get_parts(outline):
            edge = shapely.get_coordinates(part.exterior)[:, ::-1].round(DIGITS)
            rings.setdefault(name, []).append(edge.tolist())
    return dict(sorted(rings.items()))


def _absolute(path: str | None, folder: Path) -> str | None:
    if not path or "://" in path or path.startswith("/vsi"):
        return path or None
    return os.path.abspath(folder / path)  # noqa: PTH100 - a link that the reader laid stays as it is


def _corners(outlines: NDArray[np.object_]) -> NDArray[np.float64]:
    """(n, 8) latitude and longitude of the first four corners."""
    corners = np.stack(
        [shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(outlines), i)) for i in range(4)], axis=1
    )
    return np.asarray(corners[..., ::-1].reshape(len(outlines), 8).round(DIGITS))


def _top(table: gpd.GeoDataFrame, index: pd.Index[Any]) -> list[Any]:
    columns = [name for name in table.columns if name.startswith("prob_")]
    if not columns:
        return [[] for _ in range(len(table))]
    shares = table[columns].to_numpy(float)
    order = np.argsort(-shares, axis=1, kind="stable")[:, :TOP]
    city = index.get_indexer(pd.Index([name.removeprefix("prob_") for name in columns]))[order]
    pairs = np.stack([city, np.take_along_axis(shares, order, axis=1).round(4)], axis=-1)
    return list(pairs.tolist())
