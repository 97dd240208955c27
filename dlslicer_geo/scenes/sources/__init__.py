"""Roots in, every image that may be a scene out: folders, files, lists, archives, addresses and STAC catalogues.

Nothing is read but names, lists and catalogues; images are opened later. What an address is for GDAL stands in
``addresses``, what lies behind it in ``remote``, what is in an archive in ``archives``, catalogues in ``stac``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources.addresses import (
    STORES,
    WEB,
    chained,
    join,
    local_path,
    locate,
    path_of,
    redact,
    scheme_of,
    split,
    uncached,
)
from dlslicer_geo.scenes.sources.archives import members
from dlslicer_geo.scenes.sources.listing import ARCHIVE, SUFFIXES, Listing, at, joined, sort_files, sort_out
from dlslicer_geo.scenes.sources.remote import Fetched, below, fetch, file_system, stored
from dlslicer_geo.scenes.sources.stac import items

__all__ = ["STORES", "SUFFIXES", "Listing", "file_system", "files_below", "find", "redact", "scheme_of"]

LISTS = (".txt", ".lst")
CATALOGUES = (".json", ".geojson")
_ADVICE = "give a folder of images, one image, a list of them, a .zip of them, a STAC document, or the address of one"


def find(roots: Iterable[str | os.PathLike[str]], *, asset: str | None = None) -> Listing:
    """Find every image below the roots.

    A root is a folder (searched with its subfolders), an image, a list (``.txt`` or ``.lst``: one path or address a
    line, relative to the list; lines that start with ``#`` are left out), a ``.zip`` of images, a STAC document, a
    folder page of a web server, a prefix of an object store, a path of GDAL (``/vsi…``), or a chain of fsspec such as
    ``zip://a.tif::https://…/x.zip``.

    Args:
        roots: local paths and addresses.
        asset: key of the asset of STAC items that is the image; None finds it by role, key and type.

    Raises:
        SceneError: if a root does not exist, cannot be read, or is nothing that holds images.
    """
    return joined([_root(os.fspath(root), asset) for root in roots])


def _root(root: str, asset: str | None) -> Listing:
    text = uncached(root)
    if not text:
        raise SceneError(f"{root!r} is no path and no address: {_ADVICE}")
    chain = chained(text)
    if chain:
        system, wanted, archive = chain
        return members(str(local_path(archive)) if scheme_of(archive) == "file" else archive, wanted, system)
    if text.startswith("/vsi"):
        return _virtual(text)
    if scheme_of(text) == "file":
        return _local(local_path(text), asset)
    return _remote(text, asset) if scheme_of(text) else _local(Path(root), asset)


def _virtual(path: str) -> Listing:
    located = locate(path)
    relative = PurePosixPath(PurePosixPath(located.source).name)
    if relative.suffix.lower() not in SUFFIXES:
        raise SceneError(
            f"{located.source} is no image by its suffix: give a path that ends in {', '.join(SUFFIXES)}"
        )
    return Listing(images=[at(path, relative)])


def _local(root: Path, asset: str | None) -> Listing:
    try:
        folder, is_file = root.is_dir(), root.is_file()
    except OSError as error:
        raise SceneError(f"{root} cannot be looked at ({error.strerror}): check the path") from None
    if folder:
        return _folder(root.resolve())
    if not is_file:
        raise SceneError(f"{root} does not exist: {_ADVICE}")
    file, suffix = root.parent.resolve() / root.name, root.suffix.lower()
    if suffix in LISTS:
        return _listed(fetch(str(file)), asset)
    if suffix in CATALOGUES:
        return items(fetch(str(file)), asset)
    return members(str(file)) if suffix == ARCHIVE else sort_files(file.parent, [file])


def _folder(root: Path) -> Listing:
    """Every file below a folder; what cannot be entered is a stranger."""
    files: list[Path] = []
    strangers: list[dict[str, str]] = []

    def refused(error: OSError) -> None:
        strangers.append({"path": str(error.filename), "reason": f"it cannot be listed ({error.strerror})"})

    for folder, folders, names in _walk(root, refused):
        files += [folder / name for name in names]
        for link in (folder / name for name in folders):
            if link.is_symlink():  # not followed: links may run in rings
                reason = "it is a link to a folder: give that folder as a root"
                strangers.append({"path": str(link), "reason": reason})
    return joined([sort_files(root, files), Listing(strangers=strangers)])


def files_below(root: Path) -> list[Path]:
    """Every file below a folder in sorted order, without those of run folders: what we wrote is no input."""
    return sorted(folder / name for folder, _, names in _walk(root) for name in names)


def _walk(
    root: Path, refused: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    for folder, folders, names in os.walk(root, onerror=refused):
        if Path(folder) != root and {"run.json", "config.yaml"} <= set(names):
            folders.clear()
            continue
        yield Path(folder), folders, names


def _remote(address: str, asset: str | None) -> Listing:
    """Whatever an address holds: its suffix tells, or else what the server sends."""
    path, scheme = path_of(address), scheme_of(address)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return Listing(images=[at(address, PurePosixPath(path.name))])
    if scheme not in (*WEB, *STORES):
        locate(address)  # says which schemes there are
    if suffix in LISTS:
        return _listed(fetch(address), asset)
    if suffix in CATALOGUES:
        return items(fetch(address), asset)
    if suffix == ARCHIVE:
        return members(address)
    if scheme in STORES:
        return sort_out(at(file, relative) for file, relative in stored(address))
    return _sent(fetch(address, unread=("image/", "application/octet-stream")), address, asset)


def _sent(page: Fetched, address: str, asset: str | None) -> Listing:
    """What a web server sent under a name that says nothing."""
    if page.kind.startswith("image/") or page.kind == "application/octet-stream":
        return Listing(images=[at(address, PurePosixPath(path_of(address).name or "image"))])
    if "json" in page.kind:
        return items(page, asset)
    if page.kind == "text/html":
        return sort_out(at(file, relative) for file, relative in below(page))
    if page.kind == "text/plain":
        return _listed(page, asset)
    raise SceneError(f"{redact(address)} sends {page.kind or 'data of no stated type'}: {_ADVICE}")


def _listed(document: Fetched, asset: str | None) -> Listing:
    """What the lines of a list name."""
    name = redact(document.address)
    found: list[tuple[str, Listing]] = []
    for number, line in enumerate(document.text.splitlines(), start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            try:
                target = _entry(document.address, entry)
                found.append((target, _root(target, asset)))
            except SceneError as error:
                raise SceneError(f"{name}, line {number}: {error}") from None
    if not found:
        raise SceneError(f"{name} names no image: write one path or address a line")
    return joined(_renamed(found, document.address))


def _entry(document: str, entry: str) -> str:
    """The address or path that a line of a list means."""
    elsewhere = bool(scheme_of(document))
    if entry.startswith("/vsi") and not elsewhere:
        return entry
    head, chain, last = uncached(entry).rpartition("::")
    if not last:
        raise SceneError(f"{redact(entry)} is no path and no address")
    target = join(document, last)
    if elsewhere and scheme_of(target) in ("", "file"):
        raise SceneError(f"{redact(entry)} is on this machine, and a list from elsewhere may not name it")
    if not chain and _path(target).suffix.lower() in LISTS:
        raise SceneError(f"{redact(entry)} is another list: give both lists as roots")
    return f"{head}{chain}{target}"


def _renamed(found: list[tuple[str, Listing]], document: str) -> list[Listing]:
    """Single images of a list by their path below the list's folder, or else below their host's common parent."""
    listings = [listing for _, listing in found]
    hosts: dict[str, dict[int, PurePosixPath]] = {}
    for number, (target, listing) in enumerate(found):
        if "::" not in target and _path(target).suffix.lower() in SUFFIXES and listing.images:
            path = _path(target if scheme_of(target) else listing.images[0].path)
            hosts.setdefault(_host(target), {})[number] = path
    for host, paths in hosts.items():
        home = _path(document).parent if host == _host(document) else None
        outside = [str(path.parent) for path in paths.values() if home not in path.parents]
        common = PurePosixPath(os.path.commonpath(outside)) if outside else None
        for number, path in paths.items():
            base = next((folder for folder in (home, common) if folder and folder in path.parents), path.parent)
            image = replace(listings[number].images[0], relative=path.relative_to(base))
            listings[number] = replace(listings[number], images=[image])
    return listings


def _host(target: str) -> str:
    return f"{scheme_of(target)}://{split(target).netloc}" if scheme_of(target) else ""


def _path(target: str) -> PurePosixPath:
    return path_of(target) if scheme_of(target) else PurePosixPath(Path(target).as_posix())
