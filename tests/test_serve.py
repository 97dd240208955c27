from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MAP = b"<!doctype html><title>a map</title>" + bytes(range(256)) * 40


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dlslicer_geo", "serve", str(folder), "--no-browser", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    found = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
    assert found is not None
    return int(found[1])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "run"
    (folder / "map").mkdir(parents=True)
    (folder / "map.html").write_bytes(MAP)
    (folder / "map" / "chips.pmtiles").write_bytes(bytes(range(256)) * 10)
    (folder / "run.json").write_text("{}")
    (folder / "model.ckpt").write_bytes(b"weights")
    (folder / ".secret").write_text("s3cret")
    (folder.parent / "outside.txt").write_text("s3cret")
    (folder / "link.txt").symlink_to(folder.parent / "outside.txt")
    (folder / "away").symlink_to(folder.parent)
    (folder / "inner.html").symlink_to(folder / "map.html")
    return folder


@pytest.fixture(scope="module")
def port(run_folder: Path) -> Iterator[int]:
    process = start(run_folder, "--port", "0")
    yield port_of(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        line.putheader(name, value)
    line.endheaders()
    answer = line.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    line.close()
    return found


def test_files_are_read_whole_and_by_range(port: int) -> None:
    status, headers, body = ask(port, "/map.html")
    assert (status, body) == (200, MAP) and headers["content-type"].startswith("text/html")
    status, headers, body = ask(port, "/map/chips.pmtiles", Range="bytes=100-103")
    assert (status, body) == (206, bytes([100, 101, 102, 103]))
    assert headers["content-range"] == "bytes 100-103/2560"
    assert ask(port, "/map/chips.pmtiles", Range="bytes=9000-9100")[0] == 416
    status, headers, body = ask(port, "/map.html", "HEAD")
    assert (status, body) == (200, b"") and headers["content-length"] == str(len(MAP))


def test_the_address_alone_leads_to_the_map(port: int) -> None:
    status, headers, _ = ask(port, "/")
    assert status == 307 and headers["location"].endswith("map.html")


def test_of_a_run_without_a_map_it_leads_to_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<!doctype html>")
    (tmp_path / "scenes.html").write_text("<!doctype html>")
    process = start(tmp_path, "--port", "0")
    try:
        _, headers, _ = ask(port_of(process), "/")
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert headers["location"].endswith("report.html")


def test_every_answer_says_that_no_other_site_may_use_it(port: int) -> None:
    for path, status in (("/map.html", 200), ("/none", 404)):
        found, headers, _ = ask(port, path)
        assert found == status
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-cache"
        assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1]", "localhost.evil.example"])
def test_a_request_for_another_host_is_refused(port: int, host: str) -> None:
    status, _, body = ask(port, "/map.html", Host=host)
    assert 400 <= status < 500 and body != MAP
    assert ask(port, "/map.html", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(port: int, method: str, run_folder: Path) -> None:
    before = sorted(path.name for path in run_folder.iterdir())
    assert ask(port, "/map.html", method)[0] == 405
    assert ask(port, "/", method)[0] == 405
    assert sorted(path.name for path in run_folder.iterdir()) == before


OUT: tuple[str, ...] = (
    "../outside.txt",
    "map/../../outside.txt",
    "%2e%2e/outside.txt",
    "..%2foutside.txt",
    "%2e%2e%2foutside.txt",
)
OUT += ("..%5coutside.txt", "%252e%252e/outside.txt", "/etc/passwd", "%2fetc/passwd", "map/%00", "x" * 5000)
LINKED = ("away/outside.txt", "link.txt", "inner.html")
PRIVATE = (".secret", "map/../.secret", "model.ckpt", "map/../model.ckpt")


@pytest.mark.parametrize("path", [*OUT, *LINKED, *PRIVATE, "map", "map/"])
def test_nothing_outside_hidden_linked_private_or_listed_is_given(port: int, path: str) -> None:
    status, _, body = ask(port, f"/{path}")
    assert status in (400, 404, 414), path
    assert b"s3cret" not in body and b"weights" not in body and b"root:" not in body and b"chips.pmtiles" not in body


def test_only_this_machine_can_reach_it(port: int) -> None:
    """A server bound to all addresses would answer at every address of the loopback network."""
    with socket.socket() as line, pytest.raises(OSError):
        line.settimeout(5)
        line.connect(("127.0.0.2", port))


def test_ctrl_c_ends_it_well(run_folder: Path) -> None:
    process = start(run_folder, "--port", "0")
    port = port_of(process)
    assert ask(port, "/run.json")[0] == 200
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=20)
    assert process.returncode == 0 and "stopped" in said and "Traceback" not in complained


def test_what_cannot_be_served_is_one_sentence(tmp_path: Path, run_folder: Path, port: int) -> None:
    for folder, words, said in (
        (tmp_path, (), "is no run folder"),
        (tmp_path / "none", (), "is no run folder"),
        (run_folder, ("--port", str(port)), f"port {port} cannot be had"),
        (run_folder, ("--port", "99999"), "port 99999 cannot be had"),
    ):
        process = start(folder, *words)
        _, complained = process.communicate(timeout=60)
        assert process.returncode == 2
        assert said in complained and len(complained.strip().splitlines()) == 1


def test_help_loads_no_web_server() -> None:
    code = "import sys; from dlslicer_geo.cli import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'starlette', 'uvicorn', 'torch'} & set(sys.modules)"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and "127.0.0.1" in done.stdout
