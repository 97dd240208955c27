"""Words after ``serve`` in, a run folder in the browser until Ctrl-C out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dlslicer_geo.cli.parser import Parser
from dlslicer_geo.cli.verbs import PROG

PORT = 8765


def serve(words: list[str]) -> int:
    """``serve RUN``: 0 after Ctrl-C."""
    parser = Parser(
        prog=f"{PROG} serve",
        description="Show a run folder in a browser: files are read only, by this machine alone (127.0.0.1), and in\n"
        "parts, as large maps need it. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--port", metavar="N", type=int, default=PORT, help=f"default {PORT}; 0 takes a free one")
    parser.add_argument("--no-browser", action="store_true", help="only say the address")
    known = parser.parse_args(words)

    from dlslicer_geo import serve as server

    with suppress(KeyboardInterrupt):
        server.serve(Path(known.run), port=known.port, ready=_quietly if known.no_browser else _open)
    print("stopped")
    return 0


def _quietly(address: str) -> None:
    print(f"{address}  (Ctrl-C ends)", flush=True)


def _open(address: str) -> None:
    import webbrowser

    _quietly(address)
    webbrowser.open(address)
