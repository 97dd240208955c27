"""Names of files of a Hugging Face repository in, the files in a folder out: patient, and checked by hash."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dlslicer_geo import files
from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources.addresses import redact

BUSY = (408, 429, 500, 502, 503, 504)
TIMEOUT_S = 30.0
PAUSE_S = 1.0  # before the second try, doubled up to LONGEST_PAUSE_S
LONGEST_PAUSE_S = 8.0
TRIES = 2  # of a file that is not what the hub states
GB = 1e9
_LOGGERS = (
    "huggingface_hub.file_download", "huggingface_hub.utils._http", "httpx", "httpx2",
    *(f"{core}.{part}" for core in ("httpcore", "httpcore2") for part in ("connection", "http11", "http2", "proxy")),
)  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository.

    Args:
        path: its path in the repository.
        size: bytes.
        digest: ``sha256:…``, or ``git:…`` (SHA-1 of a git blob) for small files, in lower case.
    """

    path: str
    size: int
    digest: str

    def is_at(self, path: Path) -> bool:
        """Whether the file at a path has this size and hash."""
        return path.is_file() and path.stat().st_size == self.size and self.digest_of(path) == self.digest

    def digest_of(self, path: Path) -> str:
        """Hash of the file at a path in the kind of ``digest``."""
        if self.digest.startswith("sha256:"):
            return f"sha256:{files.sha256_file(path)}"
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as handle:
            while piece := handle.read(1 << 20):
                digest.update(piece)
        return f"git:{digest.hexdigest()}"


class _BusyError(Exception):
    """The hub asks to come back; ``after_s`` says when, if it does."""

    def __init__(self, status: int, after_s: float | None) -> None:
        super().__init__(f"answers {status}")
        self.after_s = after_s


class Hub:
    """A data set on the hub.

    Args:
        repository: its name there.
        endpoint: address of the hub; None takes that of ``huggingface_hub``.
        patience_s: how long a busy or absent hub is waited for before giving up, for each request.
    """

    def __init__(self, repository: str, endpoint: str | None, patience_s: float) -> None:
        from huggingface_hub import HfApi

        self.repository = repository
        self.patience_s = patience_s
        self._api = HfApi(endpoint=endpoint.rstrip("/") if endpoint else None)

    def commit(self, revision: str) -> str:
        """The commit that a branch or tag means now.

        Raises:
            SceneError: if the hub or the revision cannot be reached.
        """
        found = self._ask(lambda: self._api.dataset_info(self.repository, revision=revision, timeout=TIMEOUT_S).sha)
        if not found:
            raise SceneError(f"{self._name} names no commit for revision {revision!r}: give another --revision")
        return found

    def below(self, folder: str, commit: str) -> list[HubFile]:
        """The files below a folder, in the order of their paths; those at the top when the folder is not there.

        Raises:
            SceneError: if the hub cannot be reached.
        """
        return sorted(self._ask(lambda: self._below(folder, commit)), key=lambda file: file.path)

    def fetch(self, file: HubFile, commit: str, folder: Path) -> Path:
        """Download one file below a folder, under its path in the repository.

        Raises:
            SceneError: if the hub cannot be reached, or the file is not what it states, twice in a row.
        """

        def bring() -> Path:
            path = folder / file.path
            path.unlink(missing_ok=True)
            self._api.hf_hub_download(
                self.repository, file.path, repo_type="dataset", revision=commit, local_dir=folder,
                cache_dir=folder, tqdm_class=_silent(),
            )  # fmt: skip
            return path

        found = ""
        for _ in range(TRIES):
            path = self._ask(bring)
            if file.is_at(path):
                return path
            found = f"{path.stat().st_size} bytes with {file.digest_of(path)}"
            path.unlink()
        raise SceneError(
            f"{file.path} came {TRIES} times as {found}, but {self._name} states {file.size} bytes with "
            f"{file.digest}: nothing was kept of it; try again later, the same command goes on"
        )

    @property
    def _name(self) -> str:
        return f"{self.repository} at {redact(self._api.endpoint)}"

    def _below(self, folder: str, commit: str) -> list[HubFile]:
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        options: dict[str, Any] = {"repo_type": "dataset", "revision": commit}
        try:
            entries = list(self._api.list_repo_tree(self.repository, folder, recursive=True, **options))
        except EntryNotFoundError:
            entries = list(self._api.list_repo_tree(self.repository, **options))
        return [_file(entry) for entry in entries if isinstance(entry, RepoFile)]

    def _ask(self, call: Callable[[], T]) -> T:
        """Call the hub until it answers, patience ends, or the failure is one that stays."""
        began, pause = None, PAUSE_S
        while True:
            try:
                with _watched():
                    return call()
            except SceneError:
                raise
            except Exception as error:  # the hub's HTTP libraries have changed their names, and so their errors
                reason, after_s = self._passing(error)
            now = time.monotonic()
            began = now if began is None else began
            wait = pause if after_s is None else after_s
            if now + wait - began > self.patience_s:
                asked = "" if after_s is None else f" and asks to wait {after_s:g} s"
                raise SceneError(
                    f"{self._name} {reason}{asked}, longer than {self.patience_s:g} s: try again later, the same "
                    "command goes on where it stopped"
                )
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _passing(self, error: Exception) -> tuple[str, float | None]:
        """In words why a call failed and how long to wait, if it may pass.

        Raises:
            SceneError: if it stays.
        """
        from huggingface_hub import errors

        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # what failed in asking for the size and hash of a file
        if isinstance(error, _BusyError):
            return str(error), error.after_s
        said = redact(str(error).strip().partition("\n")[0])
        if isinstance(error, errors.OfflineModeIsEnabled):
            raise SceneError(f"{self._name} is not asked in offline mode: unset HF_HUB_OFFLINE") from None
        if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
            kind = "revision" if isinstance(error, errors.RevisionNotFoundError) else "repository, or none for you"
            raise SceneError(f"{self._name} has no such {kind}: check it, or log in to the hub") from None
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code not in BUSY:
            advice = "check the address of the hub, and log in to it if it asks for that"
            raise SceneError(f"{self._name} answers {error.response.status_code} ({said}): {advice}") from None
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise SceneError(f"{error.filename} cannot be written ({error.strerror}): make room or mend it") from None
        if (
            isinstance(error, KeyError | TypeError | AttributeError | ValueError)
            or type(error) is errors.FileMetadataError
        ):
            raise SceneError(f"{self._name} does not answer as a hub ({said}): check its address") from None
        return f"cannot be reached, or breaks off ({said or type(error).__name__})", None


@contextmanager
def _watched() -> Iterator[None]:
    """While inside, a busy hub is an error at once, no request waits for ever, and logs show no signed address.

    The library would obey any Retry-After by itself, an hour if asked to.
    """
    from huggingface_hub import get_session

    session: Any = get_session()
    hooks, timeout = session.event_hooks, session.timeout
    session.event_hooks = {**hooks, "response": [*hooks.get("response", []), _stop_if_busy]}
    session.timeout = TIMEOUT_S
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_redacted)
    try:
        yield
    finally:
        session.event_hooks, session.timeout = hooks, timeout
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(_redacted)


def _silent() -> Any:
    """A progress bar that shows nothing: only the command line shows progress, by files."""
    from huggingface_hub.utils.tqdm import tqdm

    base: Any = tqdm

    class Silent(base):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent


def _stop_if_busy(response: Any) -> None:
    if response.status_code in BUSY:
        text = response.headers.get("Retry-After", "")
        raise _BusyError(response.status_code, float(text) if text.isascii() and text.isdigit() else None)


def _redacted(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def _file(entry: Any) -> HubFile:
    digest = f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}"
    return HubFile(path=str(entry.path), size=int(entry.size), digest=digest.lower())
