"""Answers in, local servers that give them out: web pages and files by range, and the protocol of the hub."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "issai/DL-SLICER-dataset"
TYPES = {".json": "application/json", ".txt": "text/plain", ".tif": "image/tiff", ".html": "text/html"}


def gdal_reads(*paths: str) -> bool:
    """Whether GDAL reads pixels of every path; in another process, for opening holds the lock that servers need."""
    code = "import sys, rasterio\nfor path in sys.argv[1:]:\n    with rasterio.open(path) as s: assert s.read().any()"
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return bool(paths)


@dataclass(kw_only=True)
class Answer:
    """One answer; ``cut`` closes the connection after so many bytes of the body, ``hang_s`` waits before it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hang_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Server:
    """A web server on this machine: the files of a folder, index pages, and answers prepared for single paths.

    Args:
        folder: what is served; None serves the prepared answers only.
        login: ``user:password`` that every request must bring.
    """

    def __init__(self, folder: Path | None = None, login: str | None = None) -> None:
        self.folder = folder
        self.login = login
        self.requests: list[Request] = []
        self.queues: dict[str, list[Answer]] = {}
        self.stop = threading.Event()
        self._server = _Silent(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def put(self, path: str, *answers: Answer | bytes | Mapping[str, Any] | list[Any] | str) -> str:
        """Answers for a path, one for each request; the last one stays. Gives the address."""
        self.queues[path] = [_answer(answer, path) for answer in answers]
        return self.address + path

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(request.path == path for request in self.requests)

    def answer(self, request: Request) -> Answer:
        """The answer to a request."""
        if self.login and request.headers.get("authorization") != "Basic " + _base64(self.login):
            return Answer(status=401, headers={"WWW-Authenticate": "Basic"})
        queue = self.queues.get(request.path)
        if queue:
            return queue.pop(0) if len(queue) > 1 else queue[0]
        return self._file(request)

    def _file(self, request: Request) -> Answer:
        path = None if self.folder is None else self.folder / unquote(request.path).lstrip("/")
        if path is None or not path.exists():
            return Answer(status=404)
        if path.is_dir() and not request.path.endswith("/"):
            return Answer(status=301, headers={"Location": request.path + "/"})
        if path.is_dir():
            names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
            links = "".join(f'<li><a href="{quote(name)}">{name}</a></li>' for name in names)
            page = f'<a href="?C=N;O=D">Name</a> <a href="../">Parent</a> <a href="/">top</a> {links}'
            return Answer(body=page.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
        return Answer(body=path.read_bytes(), headers={"Content-Type": TYPES.get(path.suffix, "application/x-any")})


class HubServer(Server):
    """The part of the hub's protocol that a download needs; files with the suffix .jpg are large ones.

    Args:
        files: path in the repository → bytes.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__()
        self.files = dict(files)
        self.wrong: dict[str, list[bytes]] = {}  # path → bodies sent instead, one for each request
        self.page = 1000  # entries on a page of the listing

    def __enter__(self) -> HubServer:
        super().__enter__()
        return self

    def answer(self, request: Request) -> Answer:
        queue = self.queues.get(request.path)
        if queue:
            return queue.pop(0)
        parts = [unquote(part) for part in request.path.strip("/").split("/")]
        if parts[:2] == ["api", "datasets"] and "/".join(parts[2:4]) == REPOSITORY:
            return self._about(parts[4:], request)
        if parts[0] == "datasets" and parts[3:5] == ["resolve", COMMIT]:
            return self._resolve("/".join(parts[5:]), request.method)
        if parts[0] == "cdn" and request.query.get("X-Amz-Signature"):
            return Answer(body=self._body("/".join(parts[1:]), request.method))
        return Answer(status=404, headers={"X-Error-Code": "RepoNotFound"})

    def at(self, path: str) -> str:
        """The path of a file's bytes on the server."""
        return f"/cdn/{quote(path)}" if path.endswith(".jpg") else f"/datasets/{REPOSITORY}/resolve/{COMMIT}/{path}"

    def _about(self, parts: list[str], request: Request) -> Answer:
        if parts[0] == "revision":
            return _answer({"id": REPOSITORY, "sha": COMMIT, "siblings": []}, "a.json")
        folder = "/".join(parts[2:])
        inside = sorted(path for path in self.files if not folder or path.startswith(f"{folder}/"))
        if not inside:
            return Answer(status=404, headers={"X-Error-Code": "EntryNotFound"})
        start = int(request.query.get("cursor", "0"))
        answer = _answer([self._entry(path) for path in inside[start : start + self.page]], "a.json")
        if start + self.page < len(inside):
            following = f"{self.address}{request.path}?recursive=True&cursor={start + self.page}"
            answer.headers["Link"] = f'<{following}>; rel="next"'
        return answer

    def _entry(self, path: str) -> dict[str, Any]:
        body = self.files[path]
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": _git(body)}
        if path.endswith(".jpg"):
            entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return entry

    def _resolve(self, path: str, method: str) -> Answer:
        if path not in self.files:
            return Answer(status=404, headers={"X-Error-Code": "EntryNotFound"})
        body = self.files[path]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_git(body)}"'}
        if not path.endswith(".jpg"):
            return Answer(body=self._body(path, method), headers=headers)
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        headers["X-Linked-Size"] = str(len(body))
        elsewhere = self.address.replace("127.0.0.1", "localhost")  # large files lie on another host
        headers["Location"] = f"{elsewhere}{self.at(path)}?X-Amz-Signature=topsecret"
        return Answer(status=302, headers=headers)

    def _body(self, path: str, method: str) -> bytes:
        queue = self.wrong.get(path)
        return queue.pop(0) if queue and method == "GET" else self.files[path]


class _Silent(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(method=self.command, path=parts.path, query=query, headers=headers)
            server.requests.append(request)
            answer = server.answer(request)
            server.stop.wait(answer.hang_s)
            self.reply(_ranged(answer, headers.get("range")))

        do_HEAD = do_GET

        def reply(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _ranged(answer: Answer, asked: str | None) -> Answer:
    if not asked or answer.status != 200 or answer.cut is not None:
        return answer
    first, _, last = asked.removeprefix("bytes=").partition("-")
    size = len(answer.body)
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if start >= size:
        return Answer(status=416, headers={"Content-Range": f"bytes */{size}"})
    headers = {**answer.headers, "Content-Range": f"bytes {start}-{end}/{size}"}
    return Answer(status=206, body=answer.body[start : end + 1], headers=headers)


def _answer(given: Answer | bytes | Mapping[str, Any] | list[Any] | str, path: str) -> Answer:
    if isinstance(given, Answer):
        return given
    kind = TYPES.get(Path(path).suffix, "text/plain")
    if isinstance(given, Mapping | list):
        return Answer(body=json.dumps(given).encode(), headers={"Content-Type": "application/json"})
    body = given.encode() if isinstance(given, str) else given
    return Answer(body=body, headers={"Content-Type": kind})


def _git(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
