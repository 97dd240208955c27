"""A run folder in, whether its certificate says the truth out: everything is measured again from the two tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlslicer_geo.errors import TableError
from dlslicer_geo.files import read_json, read_table
from dlslicer_geo.types import APPROXIMATE

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from pandas import DataFrame
    from pyproj import Transformer

CERTIFICATE = "split_certificate.json"

ASKED = ("rule", "seed", "units", "joined_units", "dropped")
"""What a certificate says of how the split was made, which the tables cannot tell."""

LISTED = 6
"""Violations shown of each of the three kinds."""

OFF_M = 0.001
"""A corner may lie so many metres from where the scene and the window put it, which is rounding of degrees."""

RELATIVE = 1e-6
"""Sums and distances may differ by this share, which is rounding between machines."""

DEGREE_M = 111_320.0  # metres of a degree along a meridian, near enough to compare corners


class Row(NamedTuple):
    """One line of a verdict.

    Args:
        what: the figure.
        stated: what the certificate says, or what has to be.
        recomputed: what the tables say; None where they cannot tell.
        agrees: whether both are the same; None where it cannot be told.
    """

    what: str
    stated: Any
    recomputed: Any
    agrees: bool | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What the tables of a run say of its split.

    Args:
        rows: checks of the tables, then every figure and hash of the certificate beside the recomputed one.
        leaks: the worst violations, as :func:`dlslicer_geo.splits.proof.violations` lists them, at most 18.
        proven: whether train, val and test share no pixel, no ground and no image.
        sound: whether the tables agree with each other and with the certificate in everything that can be checked.
    """

    rows: tuple[Row, ...]
    leaks: DataFrame
    proven: bool
    sound: bool


def verify_run(folder: str | Path) -> Verdict:
    """Check a run's split without trusting who wrote it.

    Nothing is read but ``scenes.parquet``, ``chips.parquet`` and ``split_certificate.json``. The outlines of the
    chips are derived again from the scenes' grids and the windows, and what they share is measured on these: a
    geometry that was moved hides nothing. What lies behind the tables, the images themselves, is not opened.

    Args:
        folder: run folder.

    Returns:
        the verdict; a split without a certificate is not sound.

    Raises:
        TableError: if a table is absent, is none of ours, or the chips are not of these scenes.
        SplitError: if the chips have splits that are none.
    """
    from dlslicer_geo import chips as chip_room
    from dlslicer_geo import scenes as scene_room
    from dlslicer_geo.splits import proof

    folder = Path(folder)
    chips = read_table(folder / "chips.parquet", chip_room.COLUMNS)
    scenes = read_table(folder / "scenes.parquet", scene_room.COLUMNS)
    stated = _certificate(folder / CERTIFICATE)
    home = _home(chips, scenes)
    corners = _corners(chips, home)
    rows = _table_rows(chips, scenes, home, corners)
    honest = chips.set_geometry(_outlines(corners), crs="EPSG:4326").assign(
        approximate=home["georef"].isin(APPROXIMATE).to_numpy(), city=home["city"].to_numpy(object)
    )
    figures = json.loads(json.dumps(proof.measure(honest, scenes=scenes)))
    rows += _certificate_rows(stated, figures)
    none = proof.violations(honest[:0], scenes=scenes, limit=0)
    leaks = none if figures["proven"] else proof.violations(honest, scenes=scenes, limit=LISTED)
    sound = all(row.agrees is not False for row in rows)
    return Verdict(rows=tuple(rows), leaks=leaks, proven=bool(figures["proven"]), sound=sound)


def _certificate(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    stated = read_json(path)
    if not isinstance(stated, dict):
        raise TableError(f"{path} is no certificate: run the split again")
    return stated


def _home(chips: GeoDataFrame, scenes: GeoDataFrame) -> DataFrame:
    """The row of the scene table for each chip."""
    import pandas as pd

    table = pd.DataFrame(scenes.drop(columns="geometry")).drop_duplicates("scene_id", ignore_index=True)
    at = pd.Index(table["scene_id"]).get_indexer(pd.Index(chips["scene_id"]))
    if (at < 0).any():
        lost = chips["scene_id"].to_numpy(object)[at < 0]
        raise TableError(
            f"{len(lost)} chips are of scenes that the scene table lacks, such as {lost[0]}: give the tables of one "
            "run"
        )
    return table.take(at).reset_index(drop=True)


def _corners(chips: GeoDataFrame, home: DataFrame) -> NDArray[np.float64]:
    """(n, 4, 2) longitude and latitude of each window's corners, counter-clockwise from the lower left."""
    a, b, c, d, e, f = _transforms(home).T[..., None]
    row, col, height, width = (
        chips[name].to_numpy(np.float64)[:, None] for name in ("row", "col", "height", "width")
    )
    x, y = col + width * [0, 1, 1, 0], row + height * [1, 1, 0, 0]
    native = np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)
    found = np.empty_like(native)
    for name, at in home.groupby("crs").indices.items():
        found[at] = np.stack(_to_degrees(str(name)).transform(native[at, :, 0], native[at, :, 1]), axis=-1)
    lost = ~np.isfinite(found).all(axis=(1, 2))
    if lost.any():
        first = int(lost.argmax())
        raise TableError(
            f"{int(lost.sum())} chips lie nowhere on the ground, such as chip {chips['chip_id'].iloc[first]} of "
            f"scene {home['scene_id'].iloc[first]}: scan, cut and split again"
        )
    return found


def _transforms(home: DataFrame) -> NDArray[np.float64]:
    """(n, 6) the transform of each chip's scene."""
    try:
        return np.array(home["transform"].tolist(), np.float64).reshape(len(home), 6)
    except ValueError:
        raise TableError("the scene table has transforms that are not 6 numbers: scan again") from None


def _to_degrees(crs: str) -> Transformer:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except ProjError:
        raise TableError(
            f"the scene table has a scene in {crs[:80]!r}, which is no place on Earth: scan again"
        ) from None


def _outlines(corners: NDArray[np.float64]) -> NDArray[Any]:
    import shapely

    return np.asarray(shapely.polygons(corners), object)


def _table_rows(
    chips: GeoDataFrame, scenes: GeoDataFrame, home: DataFrame, corners: NDArray[np.float64]
) -> list[Row]:
    """Whether both tables fit each other: numbers of chips or scenes that do not, which have to be 0."""
    row, col, height, width = (chips[name].to_numpy(np.int64) for name in ("row", "col", "height", "width"))
    outside = (row < 0) | (col < 0) | (height < 1) | (width < 1)
    outside |= (row + height > home["height"].to_numpy()) | (col + width > home["width"].to_numpy())
    vague = chips["approximate"].to_numpy(bool) != home["georef"].isin(APPROXIMATE).to_numpy()
    strange = sum(
        (chips[name].fillna("").to_numpy(object) != home[name].fillna("").to_numpy(object)).astype(np.int64)
        for name in ("city", "site", "acquired")
    )
    counts = {
        "scenes named twice": scenes["scene_id"].duplicated().sum(),
        "chips numbered twice": chips["chip_id"].duplicated().sum(),
        "chips outside their scene": outside.sum(),
        "chips whose geometry is not their window's": (_off(chips, corners) > OFF_M).sum(),
        "chips called approximate when their scene is not, or the reverse": vague.sum(),
        "chips of another city, site or date than their scene": np.count_nonzero(strange),
    }
    return [Row(what, 0, int(number), not number) for what, number in counts.items()]


def _off(chips: GeoDataFrame, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) largest distance of a corner from where it has to be, in metres; infinite for another kind of outline."""
    import shapely

    shapes = np.asarray(chips.geometry.array)
    whole = (shapely.get_type_id(shapes) == 3) & (shapely.get_num_coordinates(shapes) == 5)
    there = shapely.get_coordinates(shapes[whole]).reshape(-1, 5, 2)[:, :4]
    step = np.abs(there - corners[whole])
    step[..., 0] = np.minimum(step[..., 0], 360 - step[..., 0]) * np.cos(np.deg2rad(there[..., 1]))
    off = np.full(len(shapes), np.inf)
    off[whole] = np.nan_to_num(np.hypot(step[..., 0], step[..., 1]).max(axis=1) * DEGREE_M, nan=np.inf)
    return off


def _certificate_rows(stated: Mapping[str, Any] | None, figures: Mapping[str, Any]) -> list[Row]:
    """Every figure that the tables can tell, and what only the certificate says."""
    if stated is None:
        return [Row(CERTIFICATE, "missing", None, False), *(Row(what, None, figures[what], None) for what in figures)]
    rows = [
        Row(what, stated.get(what, "missing"), value, _agrees(stated, what, value)) for what, value in figures.items()
    ]
    return rows + [Row(what, stated[what], None, None) for what in ASKED if what in stated]


def _agrees(stated: Mapping[str, Any], what: str, value: Any) -> bool:
    """Whether the certificate says this; one that claims no proof where chance made a split disjoint is no lie."""
    return what in stated and (_same(stated[what], value) or (what == "proven" and stated[what] is False))


def _same(one: Any, two: Any) -> bool:
    """Whether two values of JSON are the same, numbers with a fraction to rounding."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    if type(one) is float and type(two) is float:
        return abs(one - two) <= max(OFF_M, RELATIVE * abs(two))
    return type(one) is type(two) and bool(one == two)
