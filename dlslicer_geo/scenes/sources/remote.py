"""Addresses in, bytes and names of what lies below them out, with timeouts, retries and limits.

No message carries a credential.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources.addresses import STORES, WEB, join, printable, redact, scheme_of, split

if TYPE_CHECKING:
    from requests import Response

LIMIT_BYTES = 50 << 20
"""Largest list, catalogue or folder page that is read."""

ENTRIES = 100_000
"""Most files below one root, and most members of one archive."""

DEPTH = 16
TIMEOUT_S = (15.0, 30.0)  # to connect, and between two pieces of an answer
TOTAL_S = 300.0  # for one document with all its retries
TRIES = 4
WAIT_S = 60.0  # the longest a server may ask to wait
PAUSE_S = 0.5  # before the second try, doubled for each further one
BUSY = (408, 429, 500, 502, 503, 504)
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_ADVICE = {
    401: "give credentials, or sign the address anew",
    403: "give credentials, or sign the address anew",
    404: "check the address",
    410: "check the address",
}


class Fetched(NamedTuple):
    """A document: the address that answered in the end, its media type (empty when unknown), its bytes."""

    address: str
    kind: str
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8.

        Raises:
            SceneError: if it is something else.
        """
        try:
            return self.body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise SceneError(f"{redact(self.address)} is no text in UTF-8: save it as such") from None


class _AgainError(Exception):
    """A failure that may pass; ``after_s`` is how long the server asks to wait."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


def fetch(address: str, *, limit: int = LIMIT_BYTES, unread: tuple[str, ...] = ()) -> Fetched:
    """Read a small document from an address or a local path.

    Answers 408, 429 and 5xx, broken connections and timeouts are tried again, after the time the server asks for.

    Args:
        address: ``https://…``, ``s3://…``, or a local path.
        limit: largest size in bytes, after decompression.
        unread: beginnings of media types whose body is not wanted.

    Raises:
        SceneError: naming the address without its credentials.
    """
    scheme = scheme_of(address)
    if not scheme:
        return Fetched(address, "", _small(Path(address), limit))
    if scheme not in WEB:
        return Fetched(address, "", _stored(address, limit))
    tries, end = 0, time.monotonic() + TOTAL_S
    while True:
        tries += 1
        try:
            return _once(address, limit, unread, end)
        except _AgainError as error:
            wait = PAUSE_S * 2 ** (tries - 1) if error.after_s is None else error.after_s
            if tries == TRIES or wait > WAIT_S or time.monotonic() + wait > end:
                asked = "" if error.after_s is None else f" and asks to wait {error.after_s:g} s"
                raise SceneError(f"{redact(address)} {error}{asked} (try {tries}): try again later") from None
            time.sleep(wait)


def below(page: Fetched) -> Iterator[tuple[str, PurePosixPath]]:
    """Address and path below the page of every file that a web server lists, subfolders included.

    Raises:
        SceneError: if a page cannot be read, or there are too many.
    """
    base = split(page.address).path.rpartition("/")[0] + "/"
    pages, seen, number = [(page, 0)], {split(page.address).path}, 0
    while pages:
        current, depth = pages.pop()
        for address in _links(current):
            path = split(address).path
            if path in seen:
                continue
            seen.add(path)
            number += 1
            if number > ENTRIES or depth > DEPTH:
                raise SceneError(
                    f"{redact(page.address)} lists over {ENTRIES} files or {DEPTH} levels: give a folder further down"
                )
            if path.endswith("/"):
                pages.append((fetch(address), depth + 1))
            else:
                yield address, PurePosixPath(unquote(path.removeprefix(base)))


def stored(address: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Address and path below the prefix of every object that a store lists.

    Raises:
        SceneError: if the store's library is not installed, or the store cannot be listed.
    """
    parts = split(address)
    system, root = file_system(address, otherwise=", or name the images one by one in a list file")
    try:
        found = sorted(system.find(root))
    except Exception as error:  # the stores' libraries share no base class
        raise _refused(address, error) from None
    if len(found) > ENTRIES:
        raise SceneError(f"{redact(address)} holds {len(found)} objects, over {ENTRIES}: give a longer prefix")
    if not found:
        raise SceneError(f"{redact(address)} holds no object: check the address, and end a folder with /")
    head = f"{parts.scheme}://{parts.netloc}/"
    key = root.lstrip("/").partition("/")[2]
    top = key if not key or address.endswith("/") or system.isdir(root) else key.rpartition("/")[0]
    for name in found:
        inside = name.lstrip("/").partition("/")[2]
        yield head + inside, PurePosixPath(inside.removeprefix(top.rstrip("/")).lstrip("/"))


def opened(address: str) -> Any:
    """A file object over an address or local path that reads only what is asked for.

    Raises:
        SceneError: if it cannot be opened.
    """
    if not scheme_of(address):
        return Path(address).open("rb")
    system, path = file_system(address)
    try:
        return system.open(path, "rb")
    except Exception as error:  # the stores' libraries share no base class
        raise _refused(address, error) from None


def file_system(address: str, *, otherwise: str = "") -> tuple[Any, str]:
    """The fsspec file system of an address and the path in it.

    Args:
        address: of a store or a web server.
        otherwise: what can be done without the store's library.

    Raises:
        SceneError: if the library is not installed.
    """
    import fsspec

    scheme = scheme_of(address)
    try:
        return fsspec.core.url_to_fs(address, **_options(scheme))  # type: ignore[no-any-return]
    except ImportError:
        raise SceneError(
            f"{redact(address)} needs a library for {scheme}://: install "
            f"dlslicer-geo[{EXTRAS.get(scheme, scheme)}]{otherwise}"
        ) from None
    except Exception as error:  # the stores' libraries share no base class
        raise _refused(address, error) from None


def _once(address: str, limit: int, unread: tuple[str, ...], end: float) -> Fetched:
    import requests

    try:
        with requests.get(address, stream=True, timeout=TIMEOUT_S, headers={"User-Agent": "dlslicer-geo"}) as answer:
            if answer.status_code in BUSY:
                raise _AgainError(f"answers {answer.status_code} {answer.reason}", _after(answer))
            if answer.status_code >= 400:
                advice = _ADVICE.get(answer.status_code, "check the address")
                raise SceneError(f"{redact(address)} answers {answer.status_code} {answer.reason}: {advice}")
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            body = b"" if unread and kind.startswith(unread) else _body(answer, address, limit, end)
            return Fetched(str(answer.url), kind, body)
    except requests.Timeout:
        raise _AgainError(f"does not answer within {TIMEOUT_S[1]:g} s") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        raise _AgainError("cannot be reached, or breaks off") from None
    except (requests.RequestException, UnicodeError, ValueError) as error:
        raise SceneError(f"{redact(address)} cannot be read ({redact(str(error))}): check the address") from None


def _body(answer: Response, address: str, limit: int, end: float) -> bytes:
    pieces, size = [], 0
    for piece in answer.iter_content(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise SceneError(_too_large(address, limit))
        if time.monotonic() > end:
            raise SceneError(f"{redact(address)} took over {TOTAL_S:g} s: try again later")
    return b"".join(pieces)


def _after(answer: Response) -> float | None:
    """Seconds that the server asks to wait; a date counts as unknown."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _small(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as handle:
            body = handle.read(limit + 1)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise SceneError(f"{printable(path)} cannot be read ({said}): check the path") from None
    if len(body) > limit:
        raise SceneError(_too_large(str(path), limit))
    return body


def _stored(address: str, limit: int) -> bytes:
    with opened(address) as handle:
        try:
            body = bytes(handle.read(limit + 1))
        except Exception as error:  # the stores' libraries share no base class
            raise _refused(address, error) from None
    if len(body) > limit:
        raise SceneError(_too_large(address, limit))
    return body


def _too_large(address: str, limit: int) -> str:
    return f"{redact(address)} is larger than {limit >> 20} MiB: give a smaller list, page or catalogue"


def _links(page: Fetched) -> list[str]:
    """Addresses on a page that lie below it, in the order of the page, with the credentials of the page."""
    parser = _Links()
    parser.feed(page.body.decode("utf-8", errors="replace"))
    here = split(page.address)
    folder = here.path.rpartition("/")[0] + "/"
    found = []
    for href in parser.found:
        try:
            there = split(join(page.address, href))
        except SceneError:  # some link of the page that is no address at all
            continue
        below = there.path.removeprefix(folder)
        same = there.hostname == here.hostname and there.port == here.port and there.path.startswith(folder)
        # links with a query sort the page or show it otherwise
        if same and below and not there.query and ".." not in unquote(below).split("/"):
            found.append(f"{here.scheme}://{here.netloc}{there.path}")
    return found


class _Links(HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        if tag == "a":
            self.found += [value.strip() for name, value in attrs if name == "href" and value]


def _options(scheme: str) -> dict[str, Any]:
    """Timeouts of a web server; the variables by which GDAL is told to read public buckets hold for listing too."""
    if scheme in WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=TIMEOUT_S[0], sock_read=TIMEOUT_S[1])
        return {"client_kwargs": {"timeout": timeout}, "skip_instance_cache": True}
    system = STORES.get(scheme, "")
    name = {"/vsis3/": "AWS", "/vsigs/": "GS", "/vsiaz/": "AZURE"}.get(system, "")
    if os.environ.get(f"{name}_NO_SIGN_REQUEST", "").upper() not in ("YES", "TRUE", "1", "ON"):
        return {}
    return {"token": "anon"} if name == "GS" else {"anon": True}


def _refused(address: str, error: Exception) -> SceneError:
    said = redact(str(error).partition("\n")[0]) or type(error).__name__
    return SceneError(f"{redact(address)} cannot be read ({said}): check the address and the credentials")
