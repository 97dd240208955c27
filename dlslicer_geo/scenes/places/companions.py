"""The address of an image in, the small files that lie beside it out: on disk, or in the same ZIP archive."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dlslicer_geo.errors import SceneError

WORLD_FILES = (
    ".jgw", ".jpgw", ".jpegw", ".pgw", ".pngw", ".tfw", ".tifw", ".tiffw", ".wpw", ".webpw", ".j2w", ".jp2w", ".jkw",
    ".j2kw", ".wld",
)  # fmt: skip
"""Suffixes of world files, in lower case."""

COMPANIONS = (*WORLD_FILES, ".prj", ".qpj", ".aux.xml", ".aux", ".ovr", ".msk", ".rrd", ".rpb", "_rpc.txt", ".xml")
"""Endings of files that belong to an image, in lower case; they follow its name with or without its suffix."""

LARGEST = 1_000_000
"""Bytes of a companion file that is read."""

_IN_ARCHIVE = "/vsizip/"


def companions(paths: Iterable[str | os.PathLike[str]], images: Iterable[str | os.PathLike[str]]) -> set[str]:
    """Those of some files that belong to an image, as ``a.jgw`` and ``a.jpg.aux.xml`` do to ``a.jpg``."""
    names = {name for image in map(str, images) for name in (image, image.rpartition(".")[0])}
    return {path for path in map(str, paths) if not names.isdisjoint(_bases(path))}


def world_suffixes(suffix: str) -> tuple[str, ...]:
    """Suffixes of the world files of an image, the usual one first: ``.jgw``, ``.jpgw``, ``.wld`` of ``.jpg``."""
    letters = suffix.lower().removeprefix(".")
    if not letters:
        return (".wld",)
    own: tuple[str, ...] = (f".{letters[0]}{letters[-1]}w", f".{letters}w")
    if letters in ("j2k", "jpx", "j2c"):
        own = (*own, ".j2w")
    return (*own, ".wld")


def beside(path: str, names: Iterable[str]) -> tuple[str, bytes] | None:
    """The first of some files that lies in the folder of an image.

    Remote folders are not searched.

    Args:
        path: the image as GDAL opens it.
        names: names of files in the order of preference, in lower or upper case.

    Returns:
        the file's name and bytes, None where there is none.

    Raises:
        SceneError: with the reason alone, if it cannot be read or is larger than ``LARGEST``.
    """
    if path.startswith(_IN_ARCHIVE):
        return _in_archive(path.removeprefix(_IN_ARCHIVE), list(names))
    if path.startswith("/vsi") or "://" in path:
        return None
    folder = Path(path).parent
    for name in names:
        if _is_file(folder / name):
            return name, read_small(folder / name, LARGEST)
    return None


def read_small(path: Path, largest: int) -> bytes:
    """The bytes of a file.

    Raises:
        SceneError: with the reason alone, if it cannot be read or has more than ``largest`` bytes.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(largest + 1)
    except OSError as error:
        raise SceneError(f"{path.name} cannot be read ({error.strerror or error}): mend it or remove it") from None
    if len(content) > largest:
        raise SceneError(f"{path.name} has more than {largest:,} bytes: that is no such file, remove or split it")
    return content


def stem_and_suffix(path: str) -> tuple[str, str]:
    """Name without suffix, and suffix, of the image at an address."""
    name = PurePosixPath(path) if path.startswith("/vsi") else Path(path)
    return name.stem, name.suffix


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name with another ending is too long for the disk
        return False


def _bases(path: str) -> Iterator[str]:
    """What is left of a name when the ending of a companion is taken away."""
    lower = path.lower()
    return (path[: -len(ending)] for ending in COMPANIONS if lower.endswith(ending))


def _in_archive(path: str, names: list[str]) -> tuple[str, bytes] | None:
    archive, member = _parted(path)
    if archive is None:
        return None
    folder = member.rpartition("/")[0]
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.NameToInfo
            for name in names:
                info = members.get(f"{folder}/{name}" if folder else name)
                if info is not None and info.file_size <= LARGEST and not info.flag_bits & 1:
                    with opened.open(info) as handle:
                        return name, handle.read(LARGEST)
    except (
        zipfile.BadZipFile,
        OSError,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise SceneError(
            f"what lies beside it in {archive.name} cannot be read ({error}): mend the archive"
        ) from None
    return None


def _parted(path: str) -> tuple[Path | None, str]:
    """The archive on disk and the member of ``/abs/a.zip/folder/a.jpg``."""
    lower = path.lower()
    for ending in (".zip/", ".kmz/"):
        at = lower.find(ending)
        if at >= 0:
            archive, member = path[: at + len(ending) - 1], path[at + len(ending) :]
            for candidate in (Path("/") / archive.lstrip("/"), Path(archive)):
                if _is_file(candidate):
                    return candidate, member
    return None, ""
