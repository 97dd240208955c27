"""A STAC document in, the image of every item it leads to out.

An item, an item collection (a saved search), the address of a live search (its pages are followed), or a catalogue or
collection (its items and children are walked). Only the asset's address and what the item says about date, city and
site are taken: where an image lies is read from the image.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources.addresses import join, locate, path_of, redact, scheme_of
from dlslicer_geo.scenes.sources.listing import SUFFIXES, Listing, joined
from dlslicer_geo.scenes.sources.remote import ENTRIES, Fetched, fetch
from dlslicer_geo.scenes.values import Found

if TYPE_CHECKING:
    from pystac import Asset, Item

logger = logging.getLogger(__name__)

PAGES = 1000
"""Most pages of one search, and deepest nesting of catalogues."""

KEYS = ("visual", "image", "data")
"""Keys of assets that are taken for the image, in this order."""

_NOT_IMAGES = {"thumbnail", "overview", "metadata", "tiles"}  # roles
_MEDIA = {"image/tiff": ".tif", "image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/jp2": ".jp2"}
_FACTS = ("city", "city_name", "site")


def items(document: Fetched, asset: str | None = None) -> Listing:
    """The images of a STAC document.

    Args:
        document: the document as it was read.
        asset: key of the asset that is the image; None takes the role ``visual``, a key of ``KEYS``, or the only
            raster.

    Returns:
        Images whose ``relative`` is ``<collection>/<item id>.<suffix>``; items without any raster are strangers.

    Raises:
        SceneError: if the document is no STAC, cannot be read, or an item leaves open which asset is the image.
    """
    images: list[Found] = []
    strangers: list[dict[str, str]] = []
    for base, record in _features(document):
        item = _item(base, record)
        chosen = _chosen(item, asset, base)
        if chosen is None:
            entry = {"path": f"{redact(base)}#{item.id}", "reason": "it is a STAC item without a raster asset"}
            strangers.append(entry)
        else:
            images.append(_found(base, item, chosen))
        if len(images) + len(strangers) > ENTRIES:
            raise SceneError(f"{redact(document.address)} leads to over {ENTRIES} items: narrow the search")
    if not images and not strangers:
        raise SceneError(
            f"{redact(document.address)} leads to no item: check the search, or the links of the catalogue"
        )
    return joined([Listing(images=images, strangers=strangers)])


def _features(document: Fetched) -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of the document that holds it and the record of every item, depth first, each document once."""
    waiting: list[tuple[Fetched | str, int]] = [(document, 0)]
    seen = {document.address}
    while waiting:
        given, depth = waiting.pop()
        current = fetch(given) if isinstance(given, str) else given
        record = _record(current)
        kind = record.get("type")
        if kind == "Feature":
            yield current.address, record
            continue
        if kind == "FeatureCollection":
            yield from ((current.address, feature) for feature in _list(record, "features", current.address))
            following = _links(record, current.address, ("next",))
        else:
            following = _children(record, current.address)
        if following and depth >= PAGES:
            raise SceneError(f"{redact(document.address)} goes on after {PAGES} pages: narrow the search")
        fresh = [address for address in dict.fromkeys(following) if address not in seen]
        seen.update(fresh)
        waiting += [(address, depth + 1) for address in reversed(fresh)]


def _record(document: Fetched) -> dict[str, Any]:
    name = redact(document.address)
    try:
        record = json.loads(document.text)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{name} is no JSON ({error}): give a STAC document") from None
    if not isinstance(record, dict) or record.get("type") not in (
        "Feature",
        "FeatureCollection",
        "Catalog",
        "Collection",
    ):
        if isinstance(record, dict) and isinstance(record.get("stac_version"), str) and "links" in record:
            return record  # catalogues had no type before STAC 1.0
        raise SceneError(f"{name} is no STAC document: give an item, a search result, a collection or a catalogue")
    return record


def _children(record: dict[str, Any], address: str) -> list[str]:
    """Items and children of a catalogue."""
    found = _links(record, address, ("item", "child"))
    if not found and _links(record, address, ("items", "data")):
        raise SceneError(
            f"{redact(address)} is a live collection without links to its items: "
            "give the address of a search in it, with a bbox"
        )
    return found


def _links(record: dict[str, Any], address: str, kinds: tuple[str, ...]) -> list[str]:
    found = []
    for link in _list(record, "links", address, optional=True):
        if link.get("rel") not in kinds:
            continue
        if not isinstance(link.get("href"), str):
            raise SceneError(f"{redact(address)} has a link {link.get('rel')} without an address: correct it")
        if str(link.get("method", "GET")).upper() != "GET":
            raise SceneError(f"{redact(address)} has further pages that are asked for by POST: save the whole search")
        found.append(_reached(address, link["href"]))
    return found


def _list(record: dict[str, Any], name: str, address: str, *, optional: bool = False) -> list[dict[str, Any]]:
    value = record.get(name, [] if optional else None)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise SceneError(f"{redact(address)} is no STAC document: its {name} are no list of objects")
    return value


def _reached(base: str, href: str) -> str:
    """What a document refers to; one from elsewhere may not name files of this machine."""
    target = join(base, href)
    if scheme_of(base) and scheme_of(target) in ("", "file"):
        raise SceneError(
            f"{redact(base)} names {redact(href)} on this machine, which a document from elsewhere may not"
        )
    return target


def _item(base: str, record: dict[str, Any]) -> Item:
    import pystac

    name = f"{redact(base)}, item {record.get('id')!r}"
    if not isinstance(record.get("assets"), dict):
        raise SceneError(
            f"{name}: it has no assets, so it is no STAC item: a table of positions goes to data.sidecar"
        )
    try:
        # links would be followed, and none is needed
        item = pystac.Item.from_dict({**record, "links": []}, migrate=True)
        texts = [item.id, item.collection_id or "", *(asset.href for asset in item.assets.values())]
        if all(isinstance(text, str) for text in texts) and item.id.strip(" ."):
            "".join(texts).encode()  # half a character is no text
            _moment(item)
            return item
        said = "its id, its collection or the address of an asset is missing or no text"
    except Exception as error:  # what pystac raises for odd documents shares no base class
        said = f"{type(error).__name__} {redact(' '.join(str(error).split())[:200])}"
    raise SceneError(f"{name}: it is no STAC item ({said}): correct it")


def _chosen(item: Item, wanted: str | None, base: str) -> Asset | None:
    """The asset that is the image; None when there is no raster."""
    keys = ", ".join(item.assets) or "none"
    if wanted is not None:
        if wanted not in item.assets:
            raise SceneError(
                f"{redact(base)}, item {item.id!r}: it has no asset {wanted!r}, only {keys}: mend data.asset"
            )
        return item.assets[wanted]
    rasters = {key: asset for key, asset in item.assets.items() if _is_raster(asset)}
    visual = [asset for asset in rasters.values() if "visual" in _roles(asset)]
    named = [rasters[key] for key in KEYS if key in rasters]
    for candidates in (visual, named, list(rasters.values()) if len(rasters) == 1 else []):
        if candidates:
            return candidates[0]
    if rasters:
        raise SceneError(
            f"{redact(base)}, item {item.id!r}: it has {len(rasters)} raster assets, {', '.join(rasters)}: "
            "name the one that is the image with data.asset"
        )
    return None


def _is_raster(asset: Asset) -> bool:
    if _roles(asset) & _NOT_IMAGES:
        return False
    return str(asset.media_type or "").startswith("image/") or _suffix(asset.href) in SUFFIXES


def _roles(asset: Asset) -> set[str]:
    roles: Any = asset.roles  # whatever the document says
    return {str(role) for role in roles} if isinstance(roles, list) else set()


def _suffix(href: str) -> str:
    path = path_of(href) if scheme_of(href) else PurePosixPath(href)
    return path.suffix.lower()


def _found(base: str, item: Item, asset: Asset) -> Found:
    target = _reached(base, asset.href)
    suffix = _suffix(target)
    if suffix not in SUFFIXES:
        suffix = _MEDIA.get(str(asset.media_type or "").partition(";")[0].strip(), ".tif")
    parts = [part for part in (item.collection_id, item.id) if part]
    folder = PurePosixPath(*(part.replace("/", "-").replace("\\", "-") for part in parts))
    relative = folder.with_name(folder.name + suffix)
    if not scheme_of(target):
        return Found(path=target, relative=relative, source=target, facts=_facts(item))
    path, source, secret = locate(target)
    return Found(path=path, relative=relative, source=source, secret=secret, facts=_facts(item))


def _moment(item: Item) -> datetime | None:
    return item.datetime or item.common_metadata.start_datetime


def _facts(item: Item) -> dict[str, str]:
    """Date, city and site, where the item gives them."""
    facts = {}
    moment = _moment(item)
    if moment is not None:
        facts["acquired"] = moment.date().isoformat()
    for name in _FACTS:
        values = (item.properties.get(f"dlslicer:{name}"), item.properties.get(name))
        said = next((value for value in values if isinstance(value, str) and value.strip()), None)
        if said is not None:
            facts[name] = said.strip()
    return facts
