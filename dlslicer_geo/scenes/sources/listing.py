"""Names of files in, images and strangers told apart out; no file is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dlslicer_geo.scenes.sources.addresses import locate, printable
from dlslicer_geo.scenes.values import Found

SUFFIXES = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp", ".jp2", ".j2k", ".vrt")
"""Suffixes of files that are meant to be scenes, in lower case."""

ARCHIVE = ".zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies below some roots.

    Args:
        images: what may be scenes, in the order of ``relative``, each once.
        strangers: what was never meant to be a scene, as ``{"path": ..., "reason": ...}``, in the order of the paths.
        files: every local file that was seen, companions of images among them, in order.
    """

    images: list[Found] = field(default_factory=list)
    strangers: list[dict[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def joined(listings: Sequence[Listing]) -> Listing:
    """One listing of all, everything once: what came first stays."""
    images: dict[str, Found] = {}
    strangers: dict[str, dict[str, str]] = {}
    files: dict[Path, None] = {}
    for listing in listings:
        for image in listing.images:
            images.setdefault(image.path, image)
        for entry in listing.strangers:
            strangers.setdefault(entry["path"], entry)
        files.update(dict.fromkeys(listing.files))
    return Listing(
        images=sorted(images.values(), key=lambda image: (image.relative.parts, image.source, image.path)),
        strangers=sorted(strangers.values(), key=lambda entry: entry["path"]),
        files=sorted(files),
    )


def stranger(relative: PurePosixPath) -> str | None:
    """Why a file was never meant to be a scene; None when it was."""
    if any(part.startswith(".") for part in relative.parts):
        return "it is hidden"
    if relative.suffix.lower() in SUFFIXES:
        return None
    if relative.suffix.lower() == ARCHIVE:
        return "it is an archive: give it as a root of its own, or unpack it"
    return f"its suffix is {relative.suffix or 'missing'}, not {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def at(address: str, relative: PurePosixPath) -> Found:
    """The file at an address, by its path below the root."""
    located = locate(address)
    return Found(path=located.path, relative=relative, source=located.source, secret=located.secret)


def sort_out(entries: Iterable[Found]) -> Listing:
    """Images and strangers among files that are not local."""
    images: list[Found] = []
    strangers: list[dict[str, str]] = []
    for entry in entries:
        reason = stranger(entry.relative)
        if reason is None:
            images.append(entry)
        else:
            strangers.append({"path": entry.source, "reason": reason})
    return Listing(images=images, strangers=strangers)


def sort_files(root: Path, files: Iterable[Path]) -> Listing:
    """Images and strangers among local files below ``root``."""
    images: list[Found] = []
    strangers: list[dict[str, str]] = []
    seen: list[Path] = []
    for file in files:
        relative = PurePosixPath(file.relative_to(root).as_posix())
        unusable = _unusable(file)
        reason = unusable or stranger(relative)
        if reason is None:
            images.append(Found(path=str(file), relative=relative, source=str(file)))
        else:
            strangers.append({"path": printable(file), "reason": reason})
        if unusable is None:
            seen.append(file)
    return Listing(images=images, strangers=strangers, files=seen)


def _unusable(file: Path) -> str | None:
    if printable(file) != str(file):
        return "its name is not UTF-8: rename it"
    try:
        if not file.exists():
            return "it is a link to nothing"
        return None if file.is_file() else "it is no regular file"
    except OSError as error:
        return f"it cannot be looked at ({error.strerror})"
