"""Addresses as users write them in, what GDAL opens and what may be shown of them out; nothing is opened."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urljoin, urlsplit
from urllib.request import url2pathname

from dlslicer_geo.errors import SceneError

WEB = ("http", "https")

STORES = {
    "s3": "/vsis3/", "s3a": "/vsis3/", "gs": "/vsigs/", "gcs": "/vsigs/",
    "az": "/vsiaz/", "abfs": "/vsiaz/", "abfss": "/vsiaz/",
}  # fmt: skip
"""Object stores: scheme of an address → GDAL's virtual file system."""

ARCHIVES = {"zip": "/vsizip/", "tar": "/vsitar/"}
_CACHES = ("simplecache", "filecache", "blockcache")  # GDAL caches by itself
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# The second form is a password with characters that should have been percent-encoded.
_USER = re.compile(r"(?<=://)(?:[^\s/?#]*@|[^\s/?#@:]*:(?!\d*(?:[/?#\s]|$))\S*@)")
_START = re.compile(r"://|/vsi")
_END = re.compile(r"[?#]")
_CLOSING = "'\")],.;:>"
_LONGEST = 4096  # characters of a word in a message


class Located(NamedTuple):
    """An address as GDAL opens it, as it may be shown, and whether the first holds a credential the second lacks."""

    path: str
    source: str
    secret: bool


def scheme_of(text: str) -> str:
    """Scheme of an address in lower case; empty for a local path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def redact(text: str) -> str:
    """Any text without the user, password, query and fragment of every address in it."""
    return re.sub(r"\S+", lambda word: _shown(word[0]), text)


def locate(address: str) -> Located:
    """What GDAL opens for an address of one file.

    Raises:
        SceneError: if no file can be read from it.
    """
    if address.startswith("/vsi"):
        return _virtual(address)
    scheme, parts = scheme_of(address), split(address)
    if scheme in STORES:
        inside = f"{_container(parts)}{parts.path}"
        return Located(STORES[scheme] + inside, redact(f"{scheme}://{inside}"), bool(parts.query))
    if scheme in WEB:
        clean = parts._replace(path=parts.path.replace(" ", "%20"), query=parts.query.replace(" ", "%20"))
        path = clean._replace(fragment="").geturl()
        return Located(f"/vsicurl/{path}", redact(path), "@" in parts.netloc or bool(parts.query))
    raise SceneError(
        f"{redact(address)} cannot be read over {scheme}://: give an address with "
        f"{', '.join([*WEB, *STORES])} or file"
    )


def chained(address: str) -> tuple[str, str, str] | None:
    """GDAL's prefix, the member and the archive of ``zip://member::archive``; None for any other text."""
    first, separator, rest = address.partition("::")
    while separator and first.split("://")[0] in _CACHES:
        address, (first, separator, rest) = rest, rest.partition("::")
    scheme = scheme_of(first)
    return (ARCHIVES[scheme], first.split("://", 1)[1], rest) if separator and scheme in ARCHIVES else None


def uncached(address: str) -> str:
    """An address without the ``simplecache::`` in front that fsspec knows."""
    first, separator, rest = address.partition("::")
    return uncached(rest) if separator and first.split("://")[0] in _CACHES else address


def within(archive: str, member: str, system: str = "/vsizip/") -> str:
    """GDAL's path of a member of an archive, which itself is a GDAL path."""
    plain = archive.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))
    return f"{system}{archive}/{member}" if plain else f"{system}{{{archive}}}/{member}"


def join(base: str, href: str) -> str:
    """The address or local path that ``href`` means in a document at ``base``.

    Raises:
        SceneError: if it can be neither.
    """
    if scheme_of(href):
        return href
    scheme = scheme_of(base)
    if scheme in WEB:
        return urljoin(base, href)
    if scheme in STORES:  # urljoin knows no such schemes
        parts = split(base)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(parts.path), href))
        return f"{scheme}://{parts.netloc}{path}"
    try:
        written, decoded = (Path(base).parent / text for text in (href, unquote(href)))
        target = written if written.exists() or not decoded.exists() else decoded
        return str(target.parent.resolve() / target.name)  # one name for one file, so that rings are noticed
    except (OSError, ValueError) as error:
        raise SceneError(f"{base} names {href[:200]!r}, which is no path ({error.__class__.__name__})") from None


def local_path(address: str) -> Path:
    """The path that a ``file://`` address means.

    Raises:
        SceneError: if it names another machine, or nothing.
    """
    parts = split(address)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise SceneError(f"{redact(address)} is no path of this machine: write file:/// and an absolute path")
    return Path(url2pathname(parts.path))


def path_of(address: str) -> PurePosixPath:
    """The path inside an address, decoded, without its host, query and fragment."""
    return PurePosixPath(unquote(split(address).path))


def printable(path: Path) -> str:
    """A local path for tables and messages, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def split(address: str) -> SplitResult:
    """Parts of an address.

    Raises:
        SceneError: if it is malformed.
    """
    try:
        parts = urlsplit(address.strip())
        _ = parts.port  # checked when asked for
    except ValueError as error:
        raise SceneError(f"{redact(address)} is no address ({redact(str(error))}): correct it") from None
    return parts


def _virtual(path: str) -> Located:
    source = redact(path)
    if path.startswith("/vsicurl?"):  # options and the address in one query
        source = redact(parse_qs(path.partition("?")[2]).get("url", [source])[0])
    source = source.removeprefix("/vsicurl/")
    return Located(path, source, redact(path) != path)


def _container(parts: SplitResult) -> str:
    """Bucket or container; ``container@account`` gives the account, which GDAL takes from the environment."""
    return parts.netloc.partition("@")[0]


def _shown(word: str) -> str:
    if len(word) > _LONGEST:
        return _shown(word[:_LONGEST]) + "…"
    word = _USER.sub("", word)
    start = _START.search(word)
    end = _END.search(word, start.end()) if start else None
    at = end.start() if end else -1
    if not start:  # without its host, as some libraries print it
        at = word.find("?")
        at = at if "/" in word[: max(at, 0)] and "=" in word[at:] else -1
    return word if at < 0 else word[:at] + word[len(word.rstrip(_CLOSING)) :]
