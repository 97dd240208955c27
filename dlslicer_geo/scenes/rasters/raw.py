"""A found image in, the bytes of its file out: their number, their hash, and a copy of what lies on a server."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dlslicer_geo import files, pixels
from dlslicer_geo.errors import SceneError
from dlslicer_geo.pixels import is_remote, words
from dlslicer_geo.scenes.sources import remote
from dlslicer_geo.scenes.sources.addresses import STORES, redact
from dlslicer_geo.scenes.values import Found

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 20
TRIES = 4
TIMEOUT_S = (15, 60)  # until connected, between two pieces
_ARCHIVE = re.compile(r"(.+?\.(?:zip|kmz|tar|tar\.gz|tgz))/(.+)", re.IGNORECASE)


def digest_of(found: Found) -> str:
    """SHA-256, in hexadecimal, by which the raw image is known.

    Of the bytes of a file, also of one inside an archive. Of remote images, nothing of which is downloaded for this,
    of the address, the size, and the version (ETag, date) that the server states.

    Raises:
        SceneError: with the reason alone, if it cannot be read.
    """
    if is_remote(found.path):
        with _reading():
            return files.sha256_json([found.source, _stated(found.path)])
    with handle_of(found.path) as handle, _reading():
        digest = _hashed(iter(lambda: handle.read(CHUNK), b""))
    return with_parts(digest, found.path) if found.path.lower().endswith(".vrt") else digest


def with_parts(digest: str, path: str) -> str:
    """The hash of an image together with that of every other local file that GDAL reads with it: masks, sources.

    Raises:
        SceneError: with the reason alone, if one of them cannot be read.
    """
    with _reading(), pixels.opened(path) as source:
        others = sorted(name for name in source.files if name != path and Path(name).is_file())
        parts = [[Path(name).name, files.sha256_file(name)] for name in others]
    return files.sha256_json([digest, *parts]) if parts else digest


def stamp_of(found: Found) -> dict[str, str] | None:
    """What a server states of an image: size, ETag, date; None where it states no version, and of local images."""
    if not is_remote(found.path):
        return None
    with _reading():
        stated = _stated(found.path)
    return stated if set(stated) - {"size"} else None


def size_of(path: str) -> int | None:
    """Bytes of the file that a GDAL path names; None where that cannot be told."""
    with _reading():
        if path.startswith("/vsizip/"):
            archive, member = _parts(path)
            with handle_of(archive) as handle, zipfile.ZipFile(handle) as opened:
                return next((entry.file_size for entry in opened.infolist() if entry.filename == member), None)
        if is_remote(path):
            size = _stated(path).get("size", "")
            return int(size) if size.isdecimal() else None
        return Path(path).stat().st_size if Path(path).is_file() else None


@contextmanager
def fetched(found: Found, folder: Path) -> Iterator[tuple[str, str]]:
    """Path to read all pixels from, and SHA-256 of the raw file: itself, or a copy where it is remote.

    A whole download needs one connection and is hashed on the way, where reads by window would ask hundreds of times.
    A remote VRT, which means nothing away from its folder, is left where it is.

    Args:
        found: the image.
        folder: an existing folder for the copy, which is removed when the block ends.

    Raises:
        SceneError: with the reason alone, if it cannot be read.
    """
    if not is_remote(found.path) or found.relative.suffix.lower() == ".vrt":
        yield found.path, digest_of(found)
        return
    copy = folder / f"raw{found.relative.suffix}"
    try:
        with _reading():
            digest = _download(found.path, copy)
        yield str(copy), digest
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def handle_of(path: str) -> Iterator[IO[bytes]]:
    """The bytes of what a GDAL path names: a local file, one on a server, or a member of a zip or tar archive.

    Raises:
        SceneError: with the reason alone, if it cannot be read.
    """
    with ExitStack() as stack:
        with _reading():
            handle = _open(path, stack)
        yield handle


def note_of(text: str | None) -> dict[str, Any]:
    """What a prepared scene says of itself in its tags; empty for other images."""
    try:
        note = json.loads(text or "{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what archives, disks and networks raise into a ``SceneError`` with the reason alone."""
    import requests

    bad = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, requests.RequestException)
    try:
        yield
    except bad as error:
        raise SceneError(f"it cannot be read ({redact(words(error))})") from None


def _open(path: str, stack: ExitStack) -> IO[bytes]:
    if path.startswith(("/vsizip/", "/vsitar/")):
        archive, member = _parts(path)
        return _member(stack.enter_context(handle_of(archive)), member, stack)
    address = _address(path)
    if address is not None:
        return stack.enter_context(remote.opened(address))
    if path.startswith("/vsi"):
        raise SceneError(f"the bytes of {redact(path).split('/')[1]} cannot be hashed: copy it to a folder")
    return stack.enter_context(Path(path).open("rb"))


def _member(archive: IO[bytes], member: str, stack: ExitStack) -> IO[bytes]:
    try:
        if zipfile.is_zipfile(archive):
            return stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open(member))
        archive.seek(0)
        with tarfile.open(fileobj=archive) as opened:  # it leaves the archive itself open
            inside = opened.extractfile(member)
    except (KeyError, RuntimeError) as error:  # not there, or encrypted
        raise SceneError(f"it cannot be read ({words(error)})") from None
    if inside is None:
        raise SceneError("it is no file inside its archive")
    return stack.enter_context(inside)


def _parts(path: str) -> tuple[str, str]:
    """GDAL's paths of an archive and of its member: ``/vsizip//folder/x.zip/member``, ``/vsizip/{…}/member``."""
    rest = path[len("/vsizip/") :]
    if rest.startswith("{"):
        archive, _, member = rest[1:].rpartition("}")
        return archive, member.lstrip("/")
    for parent in [] if is_remote(rest) else Path(rest).parents:
        if parent.is_file():
            return str(parent), Path(rest).relative_to(parent).as_posix()
    match = _ARCHIVE.fullmatch(rest)
    if match is None:
        raise FileNotFoundError(f"{rest} is in no archive")
    return match[1], match[2]


def _address(path: str) -> str | None:
    """Address of a GDAL path on a server; None of other paths."""
    for scheme, prefix in STORES.items():
        if path.startswith(prefix):
            return f"{scheme}://{path.removeprefix(prefix)}"
    plain = path.removeprefix("/vsicurl/")
    return plain if "://" in plain and not plain.startswith("/vsi") else None


def _stated(path: str) -> dict[str, str]:
    """What the server states of a path, or of the archive it is in."""
    if path.startswith(("/vsizip/", "/vsitar/")):
        return _stated(_parts(path)[0])
    address = _address(path)
    if address is None:
        return {}
    if address.startswith("http"):
        return _head(address)
    with remote.opened(address) as handle:
        info = getattr(handle, "details", None) or {}
    names = {"size": ("size",), "etag": ("ETag", "etag"), "modified": ("LastModified", "updated", "last_modified")}
    return {key: str(info[name]) for key, given in names.items() for name in given if info.get(name) is not None}


def _head(url: str) -> dict[str, str]:
    with _session() as session:
        answer = session.head(url, timeout=TIMEOUT_S, allow_redirects=True)
        if answer.status_code in (403, 405, 501):  # an address signed for GET, or a server without HEAD
            answer = session.get(url, timeout=TIMEOUT_S, stream=True)
        answer.close()
        answer.raise_for_status()
    names = {"size": "Content-Length", "etag": "ETag", "modified": "Last-Modified"}
    return {key: answer.headers[name] for key, name in names.items() if name in answer.headers}


def _session() -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(total=TRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # the bytes of the file are hashed, not those on the wire
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    return session


def _download(path: str, target: Path) -> str:
    """Copy a remote file, anew when the connection breaks, and hash it on the way."""
    import requests

    tries = 0
    while True:
        tries += 1
        try:
            with target.open("wb") as copy:
                return _hashed(_pieces(path), copy)
        except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
            if tries == TRIES:
                raise


def _hashed(pieces: Iterable[bytes], copy: IO[bytes] | None = None) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
    return digest.hexdigest()


def _pieces(path: str) -> Iterator[bytes]:
    address = _address(path)
    if address is None or not address.startswith("http"):
        with handle_of(path) as handle:
            yield from iter(lambda: handle.read(CHUNK), b"")
        return
    with _session() as session, session.get(address, timeout=TIMEOUT_S, stream=True) as answer:
        answer.raise_for_status()
        yield from answer.iter_content(CHUNK)
