"""Chips with their answers in, where they lie in their city, in metres on a small map with a scale bar, out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import shapely
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyproj import Transformer

from dlslicer_geo.report import style, words
from dlslicer_geo.report.evidence import Evidence

ACROSS = ((12, 4), (20, 5), (math.inf, 6))
"""Maps side by side, up to so many cities: 45 of them fill one printed page."""

Floats = NDArray[np.float64]


class Chips(NamedTuple):
    """Chips with a position, an entry each.

    ``lonlat`` (n, 2) centres in degrees; ``city`` the true one; ``train`` whether trained on; ``right`` and
    ``unknown`` what a scored one was called; ``vague`` whether it lies only somewhere in its city; ``row`` its row
    in the chip table.
    """

    lonlat: Floats
    city: NDArray[Any]
    train: NDArray[np.bool_]
    right: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    vague: NDArray[np.bool_]
    row: NDArray[np.int64]

    def of(self, keep: NDArray[Any]) -> Chips:
        """Those of a mask or of places."""
        return Chips(*(values[keep] for values in self))


def placed(evidence: Evidence) -> Chips:
    """The chips that were scored, and those trained on; a chip without a city is neither."""
    table, found = evidence.chips, evidence.found
    at = np.flatnonzero(evidence.scored)
    place = pd.Index(found.chip_id[at]).get_indexer(pd.Index(table["chip_id"]))
    scored = place >= 0
    train = (table["split"] == "train").to_numpy(bool) & ~scored
    city = table["city"].to_numpy(object).copy()
    city[scored] = found.truth[at][place[scored]]
    keep = np.flatnonzero((scored | train) & pd.notna(city))
    answer = np.where(scored, at[place] if len(at) else 0, 0)[keep]
    right, unknown = (found.city == found.truth)[answer], found.unknown[answer]
    centre = shapely.centroid(table.geometry.to_numpy()[keep])
    lonlat = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)])
    vague = table["approximate"].to_numpy(bool) if "approximate" in table.columns else np.zeros(len(table), bool)
    mine = scored[keep]
    return Chips(lonlat, city[keep], train[keep], right & mine, unknown & mine, vague[keep], keep)


def panels(number: int) -> tuple[Figure, list[Any], float]:
    """A canvas with a square map for each of so many cities, their axes, and the edge of a map in inches."""
    most = next(across for limit, across in ACROSS if number <= limit)
    columns, side = min(number, most), style.WIDTH / most
    rows = math.ceil(number / columns)
    figure = style.canvas(side * columns, (side + 0.2) * rows + 0.35)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for empty in axes[number:]:
        empty.axis("off")
    return figure, axes[:number], side


def local(lonlat: Floats) -> Floats:
    """Metres east and north of the middle of the points (azimuthal equidistant)."""
    lon0 = float(lonlat[0, 0])
    east = (lonlat[:, 0] - lon0 + 180) % 360 - 180  # a city may lie on both sides of the antimeridian
    lon = lon0 + (float(east.min()) + float(east.max())) / 2
    lat = (float(lonlat[:, 1].min()) + float(lonlat[:, 1].max())) / 2
    crs = f"+proj=aeqd +lon_0={lon:.6f} +lat_0={lat:.6f} +datum=WGS84 +units=m"
    return np.column_stack(Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*lonlat.T))


def fit(axes: Any, xy: Floats, margin: float = 1.08) -> float:
    """Make a map just large enough for its points, with a scale bar; its half edge in metres."""
    reach = max(float(np.abs(xy).max()) * margin, 50.0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_color(style.LINE)
    _scale_bar(axes, reach)
    return reach


def head(axes: Any, text: str) -> None:
    """Write above a map what it shows."""
    axes.set_title(text, loc="left", fontsize=style.SMALL, color=style.INK, pad=2.5)


def foot(axes: Any, text: str) -> None:
    """Write below the right corner of a map how much it shows."""
    axes.text(
        1, -0.045, text, fontsize=style.LEAST, color=style.INK, ha="right", va="center", transform=axes.transAxes
    )


def _scale_bar(axes: Any, reach: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres below the map, where it hides nothing."""
    power = 10.0 ** math.floor(math.log10(0.7 * reach))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= 0.7 * reach)
    low = -1.09 * reach
    axes.plot(
        [-reach, length - reach], [low, low], color=style.INK, linewidth=1.3, solid_capstyle="butt", clip_on=False
    )  # fmt: skip
    text = words.metres(length) if length < 1000 else f"{length / 1000:g} km"
    axes.text(length - 0.96 * reach, low, text, fontsize=style.LEAST, color=style.INK, va="center")
