"""Roots in, the scene table out, with everything that is worth knowing about the scenes beside it.

Cheap questions come first: what is there, what is it called, where does it lie, must it be prepared. Only when every
image has an answer are pixels read, several scenes at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes import sources
from dlslicer_geo.scenes.ledger import Image, Ledger, Root, Rules
from dlslicer_geo.scenes.measure import Measured, measure, tabulate
from dlslicer_geo.scenes.names import Naming, read_cities, scene_id_of
from dlslicer_geo.scenes.places.approximate import Unplaced, lay_out
from dlslicer_geo.scenes.places.companions import companions
from dlslicer_geo.scenes.places.georef import place
from dlslicer_geo.scenes.places.sidecar import Sidecars
from dlslicer_geo.scenes.rasters import prepare
from dlslicer_geo.scenes.rasters.image import header
from dlslicer_geo.scenes.review import alike
from dlslicer_geo.scenes.sources import dl_slicer
from dlslicer_geo.scenes.values import Found, Placement
from dlslicer_geo.types import Progress, Reading, quiet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What a survey finds.

    Args:
        table: the scene table.
        rejected: ``path`` and ``reason`` of every file that is no scene.
        thumbnails: scene id → uint8 (rows, cols, 3), no side above 96.
        duplicates: pairs of scenes that show the same.
        overlaps: pairs of scenes that share ground.
    """

    table: gpd.GeoDataFrame
    rejected: list[dict[str, str]]
    thumbnails: dict[str, NDArray[np.uint8]]
    duplicates: list[alike.Pair]
    overlaps: list[alike.Overlap]


def survey(
    roots: Sequence[Root], rules: Rules, *, progress: Progress = quiet, executor: Executor | None = None
) -> Survey:
    """Find, place, prepare and measure every scene.

    Args:
        roots: what is searched.
        rules: what is gone by.
        progress: watches.
        executor: prepares and measures; None takes threads of this process.

    Raises:
        ConfigError: if the rules cannot be used.
        SceneError: if a file is bad and ``on_bad`` is ``raise``, if two files have one scene id, if there is no
            scene, or if the disk has no room for what must be prepared.
    """
    ledger = Ledger()
    listing = _listing(roots, rules, ledger)
    number = len(listing.images) + len(ledger.strangers)
    naming = _naming(rules)
    sidecars = Sidecars.gather(listing.files, rules.reading.sidecar)
    found = [*listing.images, *_overlays(sidecars)]
    _strangers(listing.strangers, sidecars, found, ledger)
    watched = progress(found, total=len(found), label="places")
    images = list(_placed(watched, naming, sidecars, rules.reading, ledger))
    images = _roughly_placed(images, naming, rules.reading, ledger)
    images = list(_decided(images, rules, ledger))
    _odd_sizes(images)
    number = max(number, len(found) + len(ledger.strangers))
    ledger.check(rules, number)
    if not images:
        raise SceneError(_nothing(roots, number, ledger))
    _check_ids(images)
    scenes = measure(images, rules, ledger, progress, executor)
    ledger.check(rules, number)
    if not scenes:
        raise SceneError(_nothing(roots, number, ledger))
    return _surveyed(scenes, rules.reading, ledger)


def _surveyed(scenes: Sequence[Measured], reading: Reading, ledger: Ledger) -> Survey:
    table = tabulate(scenes, reading)
    pictures = [scene.picture for scene in scenes]
    duplicates = alike.duplicates(
        table["scene_id"].tolist(), table["sha256"].tolist(), table["phash"].tolist(), pictures
    )  # fmt: skip
    overlaps = alike.overlaps(table)
    first = alike.first_of(duplicates)
    table["duplicate_of"] = [first.get(name) for name in table["scene_id"]]
    shared = Counter[str]()
    for overlap in overlaps:
        shared.update({overlap.one: overlap.area_m2, overlap.two: overlap.area_m2})
    table["overlap_m2"] = [float(shared[name]) for name in table["scene_id"]]
    thumbnails = {scene.record["scene_id"]: scene.thumbnail for scene in scenes if scene.thumbnail is not None}
    return Survey(
        table=table, rejected=ledger.all(), thumbnails=thumbnails, duplicates=duplicates, overlaps=overlaps
    )  # fmt: skip


def _listing(roots: Sequence[Root], rules: Rules, ledger: Ledger) -> sources.Listing:
    if rules.reading.source != "dl-slicer":
        return sources.find(roots, asset=rules.reading.asset)
    images: list[Found] = []
    for root in roots:
        mine, strangers = dl_slicer.tree(root)
        images += mine
        for stranger in strangers:
            ledger.ignore(stranger["path"], stranger["reason"])
    return sources.Listing(images=images, strangers=[], files=[])


def _naming(rules: Rules) -> Naming:
    if rules.reading.source == "dl-slicer":
        return Naming(pattern=None, known=read_cities(Path(rules.cities or dl_slicer.table())))
    return Naming.read(rules.pattern, rules.cities)


def _overlays(sidecars: Sidecars) -> Iterator[Found]:
    """Images inside archives of overlays."""
    for archive, member in sidecars.overlays():
        path = f"/vsizip/{archive}/{member}"
        yield Found(path=path, relative=PurePosixPath(archive.stem, member), source=path)


def _strangers(
    strangers: Sequence[dict[str, str]], sidecars: Sidecars, found: Sequence[Found], ledger: Ledger
) -> None:
    """Note the files that are neither images nor belong to one."""
    belonging = {str(table) for table in sidecars.files}
    belonging |= companions((stranger["path"] for stranger in strangers), (image.path for image in found))
    for stranger in strangers:
        if stranger["path"] not in belonging:
            ledger.ignore(stranger["path"], stranger["reason"])


def _placed(
    found: Iterable[Found], naming: Naming, sidecars: Sidecars, reading: Reading, ledger: Ledger
) -> Iterator[Image]:
    """Images with names and, where anything tells, a place."""
    with rasterio.Env():
        for image in found:
            try:
                yield _one_placed(image, naming, sidecars, reading)
            except SceneError as error:
                ledger.reject(image.source, error)


def _one_placed(found: Found, naming: Naming, sidecars: Sidecars, reading: Reading) -> Image:
    about = header(found.path)
    placement = place(found, about, sidecars, reading)
    facts = {**(placement.facts if placement else {}), **sidecars.facts_of(found), **found.facts}
    names = naming.of(found.relative, facts)
    return Image(
        found=found, scene_id=scene_id_of(found.relative), names=names, header=about, placement=placement
    )  # fmt: skip


def _roughly_placed(images: list[Image], naming: Naming, reading: Reading, ledger: Ledger) -> list[Image]:
    """Lay out the images that have nothing but a city; reject those that have not even that."""
    lost = [image for image in images if image.placement is None]
    if not lost:
        return images
    gsd_m = reading.gsd_m or (dl_slicer.GSD_M if reading.source == "dl-slicer" else None)
    known = naming.known or read_cities(Path(dl_slicer.table()))
    centres = {code: city.centre for code, city in known.items() if city.centre is not None}
    laid: list[Unplaced] = []
    for image in lost:
        city = image.names["city"]
        try:
            _check_city(city, centres, gsd_m)
        except SceneError as error:
            ledger.reject(image.found.source, error)
            continue
        shape = image.header.height, image.header.width
        laid.append(Unplaced(scene_id=image.scene_id, city=str(city), site=str(image.names["site"]), shape=shape))
    placements = lay_out(laid, centres, gsd_m or 1.0)
    if placements:
        logger.warning(
            "%d images have nothing but a city: they are laid out around its centre, marked approximate, "
            "and no distance or overlap is claimed for them",
            len(placements),
        )
    placed = [replace(image, placement=image.placement or placements.get(image.scene_id)) for image in images]
    return [image for image in placed if image.placement is not None]


def _check_city(city: str | None, centres: dict[str, tuple[float, float]], gsd_m: float | None) -> None:
    nothing = "nothing says where it lies (no georeference, world file, sidecar row, tile name or GPS position)"
    if city is None:
        raise SceneError(f"{nothing} and its city is unknown: give a sidecar table, or names that fit data.pattern")
    if city not in centres:
        raise SceneError(f"{nothing} and no centre of {city!r} is known: add lon and lat to a table data.cities")
    if gsd_m is None:
        raise SceneError(f"{nothing}: set data.gsd_m to place it approximately in {city}, or give a sidecar table")


def _why(image: Image, placement: Placement, rules: Rules) -> str | None:
    why = prepare.why(image.found, image.header, placement, rules.reading)
    if why is not None and rules.prepared is None:
        raise SceneError(f"it must be written anew ({why}): give a folder for prepared rasters (prepared=)")
    if why is not None:
        prepare.estimate([(image.header, placement)])  # raises where it cannot be warped
    return why


def _decided(images: Iterable[Image], rules: Rules, ledger: Ledger) -> Iterator[Image]:
    """Images that can be used, with the reason why they must be prepared first."""
    for image in images:
        if image.placement is None:
            continue
        try:
            yield replace(image, why=_why(image, image.placement, rules))
        except SceneError as error:
            ledger.reject(image.found.source, error)


def _odd_sizes(images: Sequence[Image]) -> None:
    """Say which images differ in size from all the others."""
    count = Counter((image.header.width, image.header.height) for image in images)
    if not 1 < len(count) <= len(images) / 2:  # where every image has its own size none is odd
        return
    (width, height), most = count.most_common(1)[0]
    odd = [image for image in images if (image.header.width, image.header.height) != (width, height)]
    if most > len(odd):
        named = ", ".join(f"{i.scene_id} ({i.header.width}×{i.header.height})" for i in odd[:5])
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        logger.info("%d of %d images are not %d×%d px: %s%s", len(odd), len(images), width, height, named, more)


def _check_ids(images: Sequence[Image]) -> None:
    ordered = sorted(images, key=lambda image: image.scene_id)
    for one, two in pairwise(ordered):
        if one.scene_id == two.scene_id:
            raise SceneError(
                f"{one.found.source} and {two.found.source} would both be scene {one.scene_id}: rename one of them, "
                "or give their common parent folder as the root"
            )


def _nothing(roots: Sequence[Root], number: int, ledger: Ledger) -> str:
    root = sources.redact(", ".join(str(root) for root in roots))
    if not number:
        return f"{root} holds no file: give a folder of images"
    first = [*ledger.bad, *ledger.strangers][0]
    return (
        f"{root} holds no scene among {number} files, the first being {first['path']} ({first['reason']}): "
        "give a folder of images whose names fit data.pattern"
    )
