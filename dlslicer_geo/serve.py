"""A run folder in, a read-only web server of this machine alone out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

HOST = "127.0.0.1"

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
"""Sent with every answer: no other site may read or embed it, and nobody sees a map that has been made anew since."""

PAGES = ("map.html", "report.html", "scenes.html")
"""What the address alone leads to: the first of these that is there."""

PRIVATE = ("model.ckpt",)
"""Names that are not served, besides hidden ones: nobody needs to read them in a browser."""


def application(folder: Path) -> Starlette:
    """The web application: GET and HEAD of files below ``folder``, parts of them by range, no listings.

    Only requests that name this machine as their host are answered, so that no web page can reach the folder under a
    name of its own (DNS rebinding). Symbolic links are not followed.

    Args:
        folder: a run folder.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import RedirectResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    class RunFiles(StaticFiles):
        def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
            full, found = super().lookup_path(path)
            return (full, found) if found and _served(Path(self.directory or "."), path, found) else ("", None)

    def front(request: Any) -> RedirectResponse:
        return RedirectResponse(next((name for name in PAGES if (folder / name).is_file()), PAGES[0]))

    hosts = TrustedHostMiddleware
    return Starlette(
        routes=[Route("/", front), Mount("/", RunFiles(directory=folder, follow_symlink=False))],
        middleware=[Middleware(_Headers), Middleware(hosts, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )


def serve(folder: Path, *, port: int = 0, ready: Callable[[str], None] | None = None) -> None:
    """Serve a run folder on 127.0.0.1 until Ctrl-C.

    Args:
        folder: a run folder.
        port: 0 takes a free one.
        ready: called with the address as soon as it answers.

    Raises:
        ConfigError: if the folder is no run, or the port is taken.
    """
    import socket

    import uvicorn

    if not any((folder / name).is_file() for name in PAGES):
        raise ConfigError(
            f"{folder} is no run folder to look at: it holds none of {', '.join(PAGES)}; give what --out named"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"port {port} cannot be had ({why}): give another one with --port") from None
        door.listen(128)
        settings = uvicorn.Config(
            application(folder), log_level="warning", access_log=False, server_header=False, lifespan="off"
        )
        if ready is not None:
            ready(f"http://{HOST}:{door.getsockname()[1]}/")
        uvicorn.Server(settings).run(sockets=[door])


def _served(folder: Path, path: str, found: os.stat_result) -> bool:
    """Whether a file is one that may be read: regular, not hidden, not private, and no link on the way to it."""
    parts = Path(path).parts
    if not stat.S_ISREG(found.st_mode) or any(part.startswith(".") or part in PRIVATE for part in parts):
        return False
    return not any(folder.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


class _Headers:
    """Adds ``HEADERS`` to every answer, whoever gives it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self.app(scope, receive, with_headers)
