"""The data set comes whole and checked, or not at all, whatever the hub does."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import COMMIT, Answer, HubServer

from dlslicer_geo.download import Downloaded, download
from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.sources import dl_slicer

ALMATY, ASTANA = "raw/Almaty (ALA)/NORTH/1.jpg", "raw/Astana (NQZ)/S1/a b.jpg"
TOKEN = "hf_donotshowthistoken"


def pixels(seed: int, size: int = 300_000) -> bytes:
    return bytes((seed * 31 + i * i) % 251 for i in range(1000)) * (size // 1000)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    files = {
        ALMATY: pixels(1),
        "raw/Almaty (ALA)/SOUTH/2.jpg": pixels(2),
        "raw/Almaty (ALA)/SOUTH/note.png": b"small",
        ASTANA: pixels(3),
        "README.md": b"about",
    }
    with HubServer(files) as server:
        yield server


def fetch(hub: HubServer, out: Path, **options: Any) -> Downloaded:
    return download("dl-slicer", out, endpoint=hub.address, **{"patience_s": 20.0} | options)


def tree(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "download.json"
    }


def raw(hub: HubServer, part: str = "raw/") -> dict[str, bytes]:
    return {path: body for path, body in sorted(hub.files.items()) if path.startswith(part)}


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def test_every_image_comes_under_its_name_and_nothing_else_is_left(hub: HubServer, tmp_path: Path) -> None:
    hub.page = 2  # the listing comes in pages
    done = fetch(hub, tmp_path)
    assert tree(tmp_path) == raw(hub)
    assert (done.files, done.skipped, done.revision) == (4, 0, COMMIT)
    assert done.bytes == sum(len(body) for body in raw(hub).values())
    images, _ = dl_slicer.tree(tmp_path)
    assert [image.facts["city"] for image in images] == ["ALA", "ALA", "ALA", "NQZ"]


def test_one_city_is_fetched_alone_and_the_others_later(hub: HubServer, tmp_path: Path) -> None:
    assert fetch(hub, tmp_path, cities=["NQZ"]).files == 1
    assert tree(tmp_path) == raw(hub, "raw/Astana")
    done = fetch(hub, tmp_path)
    assert (done.files, done.skipped) == (3, 1)
    assert tree(tmp_path) == raw(hub)


def test_what_is_there_and_right_is_neither_fetched_nor_hashed_again(hub: HubServer, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    before, stamps = len(hub.requests), (tmp_path / ALMATY).stat()
    (tmp_path / ALMATY).write_bytes(bytes(len(hub.files[ALMATY])))  # same size and time: taken for what was checked
    os.utime(tmp_path / ALMATY, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert fetch(hub, tmp_path).skipped == 4
    assert not any("resolve" in request.path or "cdn" in request.path for request in hub.requests[before:])


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_file_that_was_damaged_since_is_fetched_anew(hub: HubServer, tmp_path: Path, damage: str) -> None:
    fetch(hub, tmp_path)
    path = tmp_path / ALMATY
    if damage == "changed":
        path.write_bytes(bytes(len(hub.files[ALMATY])))
        os.utime(path, ns=(1, 1))
    elif damage == "cut":
        path.write_bytes(hub.files[ALMATY][:1000])
    else:
        path.unlink()
    done = fetch(hub, tmp_path)
    assert (done.files, done.skipped) == (1, 3)
    assert tree(tmp_path) == raw(hub)


def test_a_record_that_was_lost_costs_hashes_and_no_download(hub: HubServer, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    (tmp_path / "download.json").write_text('{"files": [')
    assert fetch(hub, tmp_path).skipped == 4
    assert len(json.loads((tmp_path / "download.json").read_text())["files"]) == 4


# -- what hubs do (acceptance 6) --


def test_a_connection_that_breaks_off_is_gone_on_with_by_range(hub: HubServer, tmp_path: Path) -> None:
    hub.files[ALMATY] = pixels(1, 12_000_000)
    hub.put(hub.at(ALMATY), Answer(body=hub.files[ALMATY], cut=11_000_000))
    fetch(hub, tmp_path)
    assert tree(tmp_path) == raw(hub)
    ranges = [r.headers.get("range") for r in hub.requests if r.path == hub.at(ALMATY) and r.method == "GET"]
    assert ranges[0] is None
    assert str(ranges[1]).startswith("bytes=")
    assert ranges[1] != "bytes=0-"


def test_a_wrong_checksum_is_fetched_once_more(hub: HubServer, tmp_path: Path) -> None:
    hub.wrong[ALMATY] = [bytes(len(hub.files[ALMATY]))]
    fetch(hub, tmp_path)
    assert tree(tmp_path) == raw(hub)


@pytest.mark.parametrize("path", [ALMATY, "raw/Almaty (ALA)/SOUTH/note.png"])
def test_a_checksum_wrong_twice_is_refused_and_leaves_no_file(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.wrong[path] = [bytes(len(hub.files[path]))] * 2
    with pytest.raises(SceneError, match=r"came 2 times as \d+ bytes with (sha256|git):[0-9a-f]+, but .* states"):
        fetch(hub, tmp_path)
    left = tree(tmp_path)
    assert path not in left
    assert left.items() <= raw(hub).items()
    assert not (tmp_path / ".download").exists()
    fetch(hub, tmp_path)
    assert tree(tmp_path) == raw(hub)


def test_too_many_requests_are_waited_for_as_long_as_the_hub_asks(hub: HubServer, tmp_path: Path) -> None:
    busy = Answer(status=429, headers={"Retry-After": "1"})
    hub.put(hub.at(ALMATY), busy, busy)
    began = time.monotonic()
    fetch(hub, tmp_path)
    assert time.monotonic() - began >= 2
    assert tree(tmp_path) == raw(hub)


@pytest.mark.parametrize("where", ["revision", "file"])
def test_a_hub_that_asks_to_wait_an_hour_is_not_waited_for(hub: HubServer, tmp_path: Path, where: str) -> None:
    path = "/api/datasets/issai/DL-SLICER-dataset/revision/main" if where == "revision" else hub.at(ASTANA)
    hub.put(path, *[Answer(status=429, headers={"Retry-After": "3600"})] * 9)
    began = time.monotonic()
    with pytest.raises(SceneError, match=r"answers 429 and asks to wait 3600 s, longer than 20 s.*same command"):
        fetch(hub, tmp_path)
    assert time.monotonic() - began < 5
    assert ASTANA not in tree(tmp_path)
    del hub.queues[path]
    fetch(hub, tmp_path)
    assert tree(tmp_path) == raw(hub)


def test_a_hub_that_fails_for_ever_is_given_up(hub: HubServer, tmp_path: Path) -> None:
    hub.put(hub.at(ASTANA), *[Answer(status=500)] * 99)
    with pytest.raises(SceneError, match=r"issai/DL-SLICER-dataset at http.* answers 500.*same command"):
        fetch(hub, tmp_path, patience_s=1.5)
    assert sorted(tree(tmp_path)) == sorted(raw(hub, "raw/Almaty"))


def test_no_hub_at_all_is_one_sentence(hub: HubServer, tmp_path: Path) -> None:
    with HubServer({}) as gone:
        pass
    with pytest.raises(SceneError, match=r"cannot be reached, or breaks off"):
        fetch(gone, tmp_path, patience_s=0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_is_no_hub_is_one_sentence(hub: HubServer, tmp_path: Path) -> None:
    hub.put("/api/datasets/issai/DL-SLICER-dataset/revision/main", b"<html>welcome</html>")
    with pytest.raises(SceneError, match="does not answer as a hub"):
        fetch(hub, tmp_path)


def test_an_unknown_revision_and_a_refusal_are_one_sentence(hub: HubServer, tmp_path: Path) -> None:
    path = "/api/datasets/issai/DL-SLICER-dataset/revision/"
    hub.put(f"{path}old", Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"}))
    with pytest.raises(SceneError, match="no such revision"):
        fetch(hub, tmp_path, revision="old")
    hub.put(f"{path}main", Answer(status=403))
    with pytest.raises(SceneError, match="answers 403"):
        fetch(hub, tmp_path)


def test_a_killed_download_leaves_nothing_half_and_the_next_one_ends_it(hub: HubServer, tmp_path: Path) -> None:
    hub.put(hub.at(ASTANA), Answer(hang_s=60))
    call = f"download('dl-slicer', {str(tmp_path)!r}, endpoint={hub.address!r})"
    code = f"from dlslicer_geo.download import download; {call}"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "HF_HUB_OFFLINE": "0"})
    try:
        until = time.monotonic() + 30
        while not hub.asked(hub.at(ASTANA)) and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    final = {name: body for name, body in tree(tmp_path).items() if name.startswith("raw/")}
    assert final == raw(hub, "raw/Almaty")
    assert (tmp_path / ".download").exists()
    done = fetch(hub, tmp_path)
    assert (done.files, done.skipped) == (1, 3)
    assert tree(tmp_path) == raw(hub)


# -- before anything is fetched --


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**6, 0, 600_000))
    with pytest.raises(SceneError, match=r"needs 0\.00 GB, but its disk has 0\.00 GB free.*--city"):
        fetch(hub, tmp_path / "new" / "folder")
    assert not any("resolve" in request.path for request in hub.requests)
    assert list(tmp_path.iterdir()) == []
    assert fetch(hub, tmp_path, cities=["NQZ"]).files == 1


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("imagenet", {}, "no data set 'imagenet'"),
        ("dl-slicer", {"cities": ["XXX"]}, r"city 'XXX' is none of the 45 known ones: ALA, "),
        ("dl-slicer", {"endpoint": "hub.example"}, "https://"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    tmp_path: Path, what: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        download(what, tmp_path, **options)


def test_a_repository_of_archives_is_said_to_be_one(hub: HubServer, tmp_path: Path) -> None:
    hub.files = {"raw/ALA.zip": b"PK" * 9, "README.md": b"about"}
    with pytest.raises(SceneError, match=r"only 1 other files \(raw/ALA\.zip\).*unpack"):
        fetch(hub, tmp_path)
    hub.files = {"images.tar": b"1", "README.md": b"about"}
    with pytest.raises(SceneError, match=r"only 2 other files \(README\.md, images\.tar\)"):
        fetch(hub, tmp_path)


def test_a_city_the_hub_lacks_is_named(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no folder of the city FRU"):
        fetch(hub, tmp_path, cities=["FRU", "ALA"])


@pytest.mark.parametrize("path", ["raw/../(ALA)/x.jpg", "raw/Almaty (ALA)/../x.jpg", "raw/A (ALA)/S/a\\..\\b.jpg"])
def test_a_path_that_leads_elsewhere_is_left_on_the_hub(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.files[path] = pixels(9)
    fetch(hub, tmp_path / "in")
    assert tree(tmp_path / "in") == {name: body for name, body in raw(hub).items() if name != path}
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_neither_token_nor_signature_is_seen_anywhere(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.put(hub.at(ALMATY), Answer(body=hub.files[ALMATY], cut=100_000))
    hub.put(hub.at(ASTANA), *[Answer(status=500)] * 99)
    with caplog.at_level(logging.DEBUG), pytest.raises(SceneError) as caught:
        fetch(hub, tmp_path, patience_s=0.5)
    assert any(request.headers.get("authorization") == f"Bearer {TOKEN}" for request in hub.requests)
    assert any(request.query.get("X-Amz-Signature") == "topsecret" for request in hub.requests)
    out = capfd.readouterr()
    said = f"{caught.value} {out.out} {out.err} {(tmp_path / 'download.json').read_text()}"
    for secret in (TOKEN, "topsecret"):
        assert secret not in said
        assert not [record.name for record in caplog.records if secret in record.getMessage()]
