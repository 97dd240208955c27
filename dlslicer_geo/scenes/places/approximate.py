"""Images of which no more than the city is known in, places around its centre that claim nothing out.

Sites are laid out in rows and columns around the centre, the images of a site beside one another within its cell,
with a gap between any two, so that nothing overlaps. The layout depends on the names and sizes alone. It lies in a
transverse Mercator projection around the city's centre, on which a pixel measures its ground size and up is north.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from affine import Affine

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.places.georef import metric_grid
from dlslicer_geo.scenes.values import Placement

GAP = 0.1
"""Room between two images, as a share of the largest one of their city."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """An image of a known city and unknown place.

    Args:
        scene_id: unique.
        city: city code.
        site: its part of the city.
        shape: rows and columns.
    """

    scene_id: str
    city: str
    site: str
    shape: tuple[int, int]


def lay_out(
    images: Sequence[Unplaced], centres: Mapping[str, tuple[float, float]], gsd_m: float
) -> dict[str, Placement]:
    """Give every image a place of its own.

    Args:
        images: what is to be placed; the order does not matter.
        centres: longitude and latitude of every city that is needed.
        gsd_m: ground metres per pixel of all of them.

    Returns:
        scene id → placement with the georef ``approximate`` and no accuracy.

    Raises:
        SceneError: if a city has no centre.
    """
    cities: dict[str, list[Unplaced]] = defaultdict(list)
    for image in sorted(images, key=lambda image: (image.city, image.site, image.scene_id)):
        cities[image.city].append(image)
    lacking = sorted(set(cities) - set(centres))
    if lacking:
        raise SceneError(f"no centre is known for the city {lacking[0]}: add lon and lat to data.cities")
    placed: dict[str, Placement] = {}
    for city, members in cities.items():
        placed |= _city(members, centres[city], gsd_m)
    return placed


def _city(images: Sequence[Unplaced], centre: tuple[float, float], gsd_m: float) -> dict[str, Placement]:
    crs, _ = metric_grid(*centre, gsd_m, (1, 1))
    sites: dict[str, list[Unplaced]] = defaultdict(list)
    for image in images:
        sites[image.site].append(image)
    cell = math.ceil(max(max(image.shape) for image in images) * (1 + GAP))  # pixels, so that grids align
    most = max(len(members) for members in sites.values())
    across = math.ceil(math.sqrt(most))  # images in a row of a site
    gap = math.ceil(GAP * cell)
    tall, wide = cell * math.ceil(most / across) + gap, cell * across + gap
    per_row = math.ceil(math.sqrt(len(sites)))
    north, west = tall * math.ceil(len(sites) / per_row) // 2, wide * per_row // 2
    placed = {}
    for number, members in enumerate(sites.values()):
        top, left = (number // per_row) * tall - north, (number % per_row) * wide - west
        for at, image in enumerate(members):
            row, col = top + (at // across) * cell, left + (at % across) * cell
            transform = Affine(gsd_m, 0, col * gsd_m, 0, -gsd_m, -row * gsd_m)
            placed[image.scene_id] = Placement(crs=crs, transform=transform, georef="approximate")
    return placed
