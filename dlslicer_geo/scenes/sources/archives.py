"""An archive of images in, its members as GDAL opens them out; only the table of contents is read."""

from __future__ import annotations

import fnmatch
import zipfile
from pathlib import Path, PurePosixPath

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources.addresses import locate, redact, scheme_of, within
from dlslicer_geo.scenes.sources.listing import SUFFIXES, Listing, joined, sort_out
from dlslicer_geo.scenes.sources.remote import ENTRIES, opened
from dlslicer_geo.scenes.values import Found


def members(archive: str, wanted: str = "", system: str = "/vsizip/") -> Listing:
    """Images in an archive.

    Args:
        archive: local path or address.
        wanted: one member, a folder in the archive, a pattern such as ``*.tif``, or empty for all members.
        system: GDAL's virtual file system of this kind of archive.

    Raises:
        SceneError: if it cannot be read, holds too much, or nothing that is wanted.
    """
    wanted = wanted.strip("/")
    local = not scheme_of(archive)
    if local and not _is_file(archive):
        raise SceneError(f"{archive[:500]} does not exist: give an archive of images")
    path, source, secret = (str(Path(archive).resolve()),) * 2 + (False,) if local else locate(archive)

    def member(name: str) -> Found:
        relative = PurePosixPath(name)
        return Found(path=within(path, name, system), relative=relative, source=f"{source}/{name}", secret=secret)

    if PurePosixPath(wanted).suffix.lower() in SUFFIXES and not _is_pattern(wanted):
        unsafe = _unsafe(wanted)
        if unsafe:
            raise SceneError(f"{source}, member {wanted}: {unsafe}")
        return Listing(images=[member(wanted)])
    if system != "/vsizip/":
        raise SceneError(f"{source} is not listed: name one image in it, as in tar://image.tif::{source}")
    names, strangers = _wanted(_contents(archive), wanted, source)
    if wanted and not names:
        raise SceneError(f"{source} has no member {wanted}: check its name")
    return joined([sort_out(member(name) for name in names), Listing(strangers=strangers)])


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name that no file can have
        return False


def _wanted(contents: list[zipfile.ZipInfo], wanted: str, source: str) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the wanted members, and what cannot be read, with reasons."""
    names: list[str] = []
    strangers: list[dict[str, str]] = []
    for entry in contents:
        reason = _unsafe(entry.filename) or ("it is encrypted" if entry.flag_bits & 1 else None)
        if reason:
            strangers.append({"path": f"{source}/{entry.filename}", "reason": reason})
        elif not entry.filename.endswith("/") and _fits(entry.filename, wanted):
            names.append(entry.filename)
    return names, strangers


def _contents(archive: str) -> list[zipfile.ZipInfo]:
    name = redact(archive)
    try:
        with opened(archive) as handle, zipfile.ZipFile(handle) as unpacked:
            found = unpacked.infolist()
    except SceneError:
        raise
    except zipfile.BadZipFile as error:
        raise SceneError(f"{name} is no .zip archive that can be read ({error}): make it anew") from None
    except Exception as error:  # what reads over a network shares no base class
        said = redact(str(error).partition("\n")[0]) or type(error).__name__
        raise SceneError(f"{name} cannot be read ({said}): check the address, or fetch the archive first") from None
    if len(found) > ENTRIES:
        raise SceneError(f"{name} holds {len(found)} members, over {ENTRIES}: split it, or unpack it")
    return found


def _unsafe(name: str) -> str | None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ":" in parts[0] or ".." in parts:
        return "its name leads out of the archive: make the archive anew"
    return "its name has a control character: rename it" if not name.isprintable() else None


def _is_pattern(wanted: str) -> bool:
    return any(sign in wanted for sign in "*?[")


def _fits(name: str, wanted: str) -> bool:
    return not wanted or name.startswith(f"{wanted}/") or name == wanted or fnmatch.fnmatchcase(name, wanted)
