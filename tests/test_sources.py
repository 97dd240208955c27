"""Where images come from, what is said of everything else, and that no credential is ever shown."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from servers import Answer, Server, gdal_reads

from dlslicer_geo.errors import ConfigError, SceneError
from dlslicer_geo.scenes.sources import Listing, dl_slicer, find, redact, remote

Raster = Callable[..., Path]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)


def names(listing: Listing) -> list[str]:
    return [str(image.relative) for image in listing.images]


def reasons(listing: Listing) -> dict[str, str]:
    return {Path(entry["path"]).name: entry["reason"] for entry in listing.strangers}


def opens(listing: Listing) -> bool:
    return gdal_reads(*(image.path for image in listing.images))


# -- folders and files --


def test_a_folder_gives_images_strangers_and_all_files_in_order(raster: Raster, tmp_path: Path) -> None:
    for name in (
        "b/z.tif",
        "a.TIF",
        "b/A.jpeg",
        ".hidden.tif",
        ".cache/x.tif",
        "b/x.jgw",
        "map.kmz",
        "old.zip",
        "README",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = find([tmp_path])
    assert names(listing) == ["a.TIF", "b/A.jpeg", "b/z.tif"]
    assert reasons(listing) == {
        ".hidden.tif": "it is hidden",
        "x.tif": "it is hidden",
        "x.jgw": "its suffix is .jgw, not .tif, .tiff, .jpg, .jpeg, .png, .webp, .jp2, .j2k or .vrt",
        "map.kmz": "its suffix is .kmz, not .tif, .tiff, .jpg, .jpeg, .png, .webp, .jp2, .j2k or .vrt",
        "old.zip": "it is an archive: give it as a root of its own, or unpack it",
        "README": "its suffix is missing, not .tif, .tiff, .jpg, .jpeg, .png, .webp, .jp2, .j2k or .vrt",
    }
    assert listing.files == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert all(not image.secret and image.path == image.source for image in listing.images)


def test_an_image_given_twice_is_found_once(raster: Raster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raster("in/a.tif", size=(8, 8))
    monkeypatch.chdir(tmp_path)
    listing = find(["in", path, f"file://{path}", Path("in/../in/a.tif")])
    assert names(listing) == ["a.tif"]
    assert listing.images[0].path == str(path.resolve())
    assert listing.files == [path.resolve()]


def test_links_rings_and_odd_names_are_named_and_never_hang(raster: Raster, tmp_path: Path) -> None:
    raster("in/a.tif", size=(8, 8))
    (tmp_path / "in/ring").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/gone.tif").symlink_to(tmp_path / "nothing.tif")
    os.mkfifo(tmp_path / "in/pipe.tif")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/\xff.tif")).touch()
    listing = find([tmp_path / "in"])
    assert names(listing) == ["a.tif"]
    assert reasons(listing) == {
        "ring": "it is a link to a folder: give that folder as a root",
        "gone.tif": "it is a link to nothing",
        "pipe.tif": "it is no regular file",
        "\\udcff.tif": "its name is not UTF-8: rename it",
    }


@pytest.mark.parametrize(
    "root", ["absent", "absent.tif", "absent.txt", "absent.zip", "absent.json", "file:///absent.tif"]
)
def test_a_root_that_is_not_there_is_an_error(root: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"absent.* does not exist: give a folder"):
        find([root if root.startswith("file") else tmp_path / root])


@pytest.mark.parametrize(
    "root",
    ["a" * 300 + ".tif", "\0.tif", f"zip://a.tif::{'x' * 300}", "zip://::", "::", "bad://x", "https://[/x.tif",
     "/vsimem/x", "https://h:port/x.tif", "simplecache::", "tar://::x.tar", "file://", "file://h/x.tif", "//a.tif"],
)  # fmt: skip
def test_roots_that_are_nonsense_are_one_sentence(root: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"does not exist|cannot be|is no|is not listed"):
        find([root])
    (tmp_path / "l.txt").write_text(root)
    with pytest.raises(SceneError, match=r"l\.txt"):
        find([tmp_path / "l.txt"])


# -- lists --


def test_a_list_names_paths_below_it_elsewhere_and_addresses(raster: Raster, tmp_path: Path) -> None:
    for name in ("lists/sub/a b.tif", "other/x/c.tif", "other/y/c.tif", "lists/many/1.tif", "lists/many/2.tif"):
        raster(name, size=(8, 8))
    (tmp_path / "lists/all.txt").write_text(
        "\ufeff# images\n\nsub/a b.tif\r\n../other/x/c.tif\n" + f"{tmp_path}/other/y/c.tif\n"
        "many\nhttps://h.example/t/1/2/3.png?sig=s3cret\nhttps://h.example/t/1/5/3.png\nsub/a b.tif\n",
        encoding="utf-8",
    )
    listing = find([tmp_path / "lists/all.txt"])
    assert names(listing) == ["1.tif", "2/3.png", "2.tif", "5/3.png", "sub/a b.tif", "x/c.tif", "y/c.tif"]
    secret = next(image for image in listing.images if image.secret)
    assert secret.path == "/vsicurl/https://h.example/t/1/2/3.png?sig=s3cret"
    assert secret.source == "https://h.example/t/1/2/3.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing\n", "names no image"),
        ("a.tif\ngone.tif\n", r"l\.txt, line 2: .*gone\.tif does not exist"),
        ("l.txt\n", r"line 1: l\.txt is another list"),
        ("ftp://user:pw@h/x.tif\n", r"line 1: ftp://h/x\.tif cannot be read over ftp://"),
    ],
)
def test_a_list_that_cannot_be_followed_names_its_line(raster: Raster, tmp_path: Path, text: str, words: str) -> None:
    raster("a.tif", size=(8, 8))
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(SceneError, match=words) as caught:
        find([tmp_path / "l.txt"])
    assert "pw" not in str(caught.value)


def test_a_list_in_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.lst").write_bytes(b"a\xff.tif\n")
    with pytest.raises(SceneError, match=r"l\.lst is no text in UTF-8"):
        find([tmp_path / "l.lst"])


# -- archives --


def packed(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


def test_images_in_an_archive_are_read_where_they_are(raster: Raster, tmp_path: Path) -> None:
    body = raster("a.tif", size=(8, 8)).read_bytes()
    path = packed(tmp_path, **{"s/b.tif": body, "a.tif": body, "s/": b"", "s/notes.md": b"", "../../evil.tif": body,
                               "/abs.tif": body, "s/.h.tif": body})  # fmt: skip
    listing = find([path])
    assert names(listing) == ["a.tif", "s/b.tif"]
    assert opens(listing)
    assert listing.images[0].source == f"{path}/a.tif"
    assert reasons(listing) == {
        "evil.tif": "its name leads out of the archive: make the archive anew",
        "abs.tif": "its name leads out of the archive: make the archive anew",
        ".h.tif": "it is hidden",
        "notes.md": "its suffix is .md, not .tif, .tiff, .jpg, .jpeg, .png, .webp, .jp2, .j2k or .vrt",
    }
    for chain, found in (
        (f"zip://s/b.tif::{path}", ["s/b.tif"]), (f"zip://s::file://{path}", ["s/b.tif"]),
        (f"zip://*.tif::{path}", ["a.tif", "s/b.tif"]), (f"zip://::{path}", ["a.tif", "s/b.tif"]),
        (f"/vsizip/{path}/s/b.tif", ["b.tif"]),
    ):  # fmt: skip
        assert names(find([chain])) == found
        assert opens(find([chain]))


def test_archives_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path, **{"a.tif": b"1", "b.tif": b"2"})
    with pytest.raises(SceneError, match="has no member sub"):
        find([f"zip://sub::{path}"])
    with pytest.raises(SceneError, match="leads out of the archive"):
        find([f"zip://../a.tif::{path}"])
    monkeypatch.setattr("dlslicer_geo.scenes.sources.archives.ENTRIES", 1)
    with pytest.raises(SceneError, match="holds 2 members, over 1"):
        find([path])
    path.write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(SceneError, match=r"x\.zip is no \.zip archive"):
        find([path])


# -- addresses --


@pytest.mark.parametrize(
    ("address", "path", "source", "secret"),
    [
        ("https://h/a/b%20c.tif", "/vsicurl/https://h/a/b%20c.tif", "https://h/a/b%20c.tif", False),
        ("https://h/a/b c.tif#x", "/vsicurl/https://h/a/b%20c.tif", "https://h/a/b%20c.tif", False),
        ("HTTPS://u:p%40@h:8/b.tif?se=1&sig=x%2F", None, "https://h:8/b.tif", True),
        ("s3://bucket/key/b.tif", "/vsis3/bucket/key/b.tif", "s3://bucket/key/b.tif", False),
        ("gs://bucket/b.tif", "/vsigs/bucket/b.tif", "gs://bucket/b.tif", False),
        ("az://box/b.jp2", "/vsiaz/box/b.jp2", "az://box/b.jp2", False),
        ("abfs://box@acc.dfs.core.windows.net/b.tif", "/vsiaz/box/b.tif", "abfs://box/b.tif", False),
        ("/vsis3/bucket/b.tif", "/vsis3/bucket/b.tif", "/vsis3/bucket/b.tif", False),
        ("/vsicurl/https://u:p@h/b.tif", "/vsicurl/https://u:p@h/b.tif", "https://h/b.tif", True),
        (
            "/vsicurl?max_retry=3&header.Authorization=Bearer%20x&url=https%3A%2F%2Fh%2Fb.tif%3Fsig%3Dx",
            None, "https://h/b.tif", True,
        ),
        ("simplecache::https://h/b.tif", "/vsicurl/https://h/b.tif", "https://h/b.tif", False),
        ("zip://b.tif::https://h/x.zip", "/vsizip//vsicurl/https://h/x.zip/b.tif", "https://h/x.zip/b.tif", False),
        (
            "zip://b.tif::https://h/x.zip?sig=y", "/vsizip/{/vsicurl/https://h/x.zip?sig=y}/b.tif",
            "https://h/x.zip/b.tif", True,
        ),
    ],
)  # fmt: skip
def test_addresses_are_what_gdal_opens_and_show_no_credential(
    address: str, path: str | None, source: str, secret: bool
) -> None:
    (image,) = find([address]).images
    assert image.path == (path or image.path)
    assert image.path.lower().endswith(address.lower().partition("://")[2]) or path or "vsicurl?" in image.path
    assert (image.source, image.secret) == (source, secret)
    assert image.relative.name == PurePosixPath(source).name.replace("%20", " ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'/vsicurl/https://u:p@h/x.tif?sig=a&b=c' not recognized", "'/vsicurl/https://h/x.tif' not recognized"),
        ("see https://h/x?sig=abc, and s3://k:s@b/y#t.", "see https://h/x, and s3://b/y."),
        ("https://u:p@ss@h/x", "https://h/x"),
        ("https://u:p/a?s#s@h/x.tif", "https://h/x.tif"),
        ("/vsicurl?header.Authorization=x&url=https%3A%2F%2Fh: 403", "/vsicurl: 403"),
        (
            "Max retries exceeded with url: /x.tif?sig=abc (Caused by",
            "Max retries exceeded with url: /x.tif (Caused by",
        ),
        ("http://[::1]:8000/a@2x.png is https://h:80/a@b", "http://[::1]:8000/a@2x.png is https://h:80/a@b"),
        ("is /data/a.tif there? yes", "is /data/a.tif there? yes"),
    ],
)
def test_redact_leaves_no_credential_in_any_text(text: str, shown: str) -> None:
    if "[::1]" not in text:
        assert redact(text) == shown
    assert redact(redact(text)) == redact(text)
    assert not any(secret in redact(text) for secret in ("sig=", "u:p", "abc", "Authorization"))


def test_an_image_on_a_server_is_read_by_range(raster: Raster, tmp_path: Path) -> None:
    raster("in/a b.tif", size=(16, 16))
    with Server(tmp_path / "in", login="me:secret") as server:
        listing = find([f"http://me:secret@{server.host}/a%20b.tif"])
        assert server.requests == []  # nothing is asked for before it is read
        assert opens(listing)
        assert any("range" in request.headers for request in server.requests)
    assert (names(listing), listing.images[0].source) == (["a b.tif"], f"http://{server.host}/a%20b.tif")
    assert listing.images[0].secret


def test_a_folder_on_a_server_is_searched_with_its_subfolders(raster: Raster, tmp_path: Path) -> None:
    for name in ("top.tif", "in/Bishkek (FRU)/N 1/b.tif", "in/a.tif", "in/.h.tif"):
        raster(name, size=(8, 8))
    (tmp_path / "in/a.tfw").touch()
    with Server(tmp_path, login="me:secret") as server:
        for root in (f"http://me:secret@{server.host}/in", f"http://me:secret@{server.host}/in/"):
            listing = find([root])
            assert names(listing) == ["Bishkek (FRU)/N 1/b.tif", "a.tif"]
            assert set(reasons(listing)) == {".h.tif", "a.tfw"}
            assert opens(listing)
    assert not any("secret" in image.source for image in listing.images)
    assert all(image.secret for image in listing.images)


def test_lists_archives_and_nameless_addresses_on_a_server_are_followed(raster: Raster, tmp_path: Path) -> None:
    body = raster("in/sub/a.tif", size=(8, 8)).read_bytes()
    packed(tmp_path, **{"s/b.tif": body}).rename(tmp_path / "in/x.zip")
    with Server(tmp_path / "in") as server:
        server.put("/l.txt", b"sub/a.tif\nhttp://other.example/q/c.tif\n")
        server.put("/export", Answer(body=body, headers={"Content-Type": "image/tiff"}))
        server.put("/odd", Answer(body=b"1", headers={"Content-Type": "video/mp4"}))
        assert names(find([server.address + "/l.txt"])) == ["c.tif", "sub/a.tif"]
        assert names(find([server.address + "/x.zip"])) == ["s/b.tif"]
        assert opens(find([server.address + "/x.zip"]))
        (image,) = find([server.address + "/export?bbox=1,2&token=t0ken"]).images
        assert (image.source, image.secret) == (server.address + "/export", True)
        with pytest.raises(SceneError, match="/odd sends video/mp4: give a folder of images"):
            find([server.address + "/odd?token=t0ken"])


def test_an_archive_on_a_server_is_listed_with_its_login(raster: Raster, tmp_path: Path) -> None:
    packed(tmp_path, **{"s/b.tif": raster("b.tif", size=(8, 8)).read_bytes()})
    with Server(tmp_path, login="me:secret") as server:
        (image,) = find([f"http://me:secret@{server.host}/x.zip"]).images
        assert (image.source, image.secret) == (f"http://{server.host}/x.zip/s/b.tif", True)
        with pytest.raises(SceneError, match=r"x\.zip cannot be read") as caught:
            find([f"http://me:wrong@{server.host}/x.zip?sig=s3cret"])
    assert not any(word in str(caught.value) for word in ("wrong", "s3cret"))


@pytest.mark.parametrize(
    "line", ["/etc/hosts.tif", "file:///etc/hosts.tif", "zip://a.tif::file:///x.zip", "/vsizip//x.zip/a.tif"]
)
def test_a_list_from_elsewhere_may_not_name_files_of_this_machine(line: str) -> None:
    with Server() as server:
        server.put("/l.txt", line)
        if "file:" in line:
            with pytest.raises(SceneError, match="is on this machine"):
                find([server.address + "/l.txt"])
        else:
            (image,) = find([server.address + "/l.txt"]).images
            assert image.path == f"/vsicurl/{server.address}{line}"


# -- failures on the way --


def test_busy_servers_broken_connections_and_redirects_are_got_over() -> None:
    good = Answer(body=b"http://h/a.tif\n" * 99, headers={"Content-Type": "text/plain"})
    with Server() as server:
        server.put(
            "/l.txt", Answer(status=503), Answer(status=429, headers={"Retry-After": "0"}),
            Answer(body=good.body, cut=20), good,
        )  # fmt: skip
        server.put("/moved.txt", Answer(status=302, headers={"Location": "/l.txt"}))
        assert names(find([server.address + "/moved.txt"])) == ["a.tif"]
        assert server.asked("/l.txt") == 4


@pytest.mark.parametrize(
    ("answer", "words", "tries"),
    [
        (Answer(status=500), r"answers 500 .*\(try 4\): try again later", 4),
        (Answer(status=404), r"answers 404 .*: check the address", 1),
        (Answer(status=403), r"answers 403 .*: give credentials", 1),
        (Answer(status=429, headers={"Retry-After": "3600"}), "answers 429 .* asks to wait 3600 s", 1),
        (Answer(body=b"x" * 99, cut=9), "cannot be reached, or breaks off", 4),
        (Answer(status=302, headers={"Location": "/l.txt?sig=s3cret"}), "cannot be read", None),
    ],
)
def test_what_a_server_refuses_is_one_sentence_without_credentials(
    answer: Answer, words: str, tries: int | None
) -> None:
    with Server() as server:
        server.put("/l.txt", answer)
        with pytest.raises(SceneError, match=words) as caught:
            find([f"http://me:s3cret@{server.host}/l.txt?sig=s3cret"])
        assert str(caught.value).startswith(f"http://{server.host}/l.txt ")
        assert "s3cret" not in str(caught.value)
        assert tries is None or server.asked("/l.txt") == tries


def test_a_server_that_is_gone_or_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT_S", (0.2, 0.2))
    with Server() as server:
        server.put("/l.txt", Answer(hang_s=30))
        with pytest.raises(SceneError, match=r"does not answer within 0\.2 s"):
            find([server.address + "/l.txt"])
    with pytest.raises(SceneError, match="cannot be reached"):
        find([server.address + "/l.txt"])


def test_a_list_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dlslicer_geo.scenes.sources.remote.fetch.__kwdefaults__", {"limit": 1 << 20, "unread": ()})
    (tmp_path / "l.txt").write_bytes(b"#" * (2 << 20))
    with Server(tmp_path) as server:
        for root in (server.address + "/l.txt", str(tmp_path / "l.txt")):
            with pytest.raises(SceneError, match="is larger than 1 MiB"):
                find([root])


def test_a_folder_page_that_leads_in_circles_ends() -> None:
    with Server() as server:
        page = Answer(body=b'<a href="./">x</a><a href="/in/">x</a><a href="deep/">x</a><a href="http://[bad">x</a>')
        page.headers["Content-Type"] = "text/html"
        for depth in range(40):
            server.put("/in/" + "deep/" * depth, page)
        with pytest.raises(SceneError, match="16 levels: give a folder further down"):
            find([server.address + "/in/"])


def test_a_store_that_cannot_be_listed_says_what_to_install() -> None:
    with pytest.raises(SceneError, match=r"gs://bucket/folder/ needs a library .* install dlslicer-geo\[gcs\]"):
        find(["gs://bucket/folder/"])


def test_an_object_store_is_listed_below_its_prefix() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("/bucket/top/a.tif", "/bucket/top/s/b.tif", "/bucket/topmost.tif"):
        store.pipe(name, b"1")
    try:
        found = [(address, str(relative)) for address, relative in remote.stored("memory://bucket/top/")]
        assert found == [("memory://bucket/top/a.tif", "a.tif"), ("memory://bucket/top/s/b.tif", "s/b.tif")]
        with pytest.raises(SceneError, match="holds no object"):
            list(remote.stored("memory://bucket/none/"))
    finally:
        store.rm("/bucket", recursive=True)


# -- the DL-SLICER data set --


def planted(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_the_dl_slicer_tree_gives_city_and_site_in_sorted_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planted(
        tmp_path, "raw/Astana (NQZ)/B/2.JPG", "raw/Astana (NQZ)/A/1.jpg", "raw/Alma-Ata (old) (ALA)/S 1/x.png",
        "raw/Gotham (GTH)/A/1.jpg", "raw/notes/1.jpg", "raw/readme.md", "raw/Astana (NQZ)/loose.jpg",
        "raw/Astana (NQZ)/A/deep/1.jpg", "raw/Astana (NQZ)/A/.1.jpg", "raw/Astana (NQZ)/A/1.tif", "raw/.git/x",
    )  # fmt: skip
    (tmp_path / "raw/Almaty empty/").mkdir()
    for root in (tmp_path, tmp_path / "raw"):
        with caplog.at_level("INFO"):
            images, strangers = dl_slicer.tree(root)
        assert [(str(image.relative), dict(image.facts)) for image in images] == [
            ("Alma-Ata (old) (ALA)/S 1/x.png", {"city": "ALA", "city_name": "Almaty", "site": "S 1"}),
            ("Astana (NQZ)/A/1.jpg", {"city": "NQZ", "city_name": "Astana", "site": "A"}),
            ("Astana (NQZ)/B/2.JPG", {"city": "NQZ", "city_name": "Astana", "site": "B"}),
        ]
        said = {Path(entry["path"]).relative_to(tmp_path / "raw").as_posix(): entry["reason"] for entry in strangers}
        assert said == {
            ".git": "it is hidden",
            "Almaty empty": "its name has no city code in parentheses at its end",
            "Astana (NQZ)/A/.1.jpg": "it is hidden",
            "Astana (NQZ)/A/1.tif": "its suffix is .tif, not .jpg or .jpeg or .png",
            "Astana (NQZ)/A/deep": "it is no file: images lie directly in their site",
            "Astana (NQZ)/loose.jpg": "it lies in no site: images are in <City (CODE)>/<SITE>/",
            "Gotham (GTH)": "its city code GTH is none of the 45 of DL-SLICER",
            "notes": "its name has no city code in parentheses at its end",
            "readme.md": "it lies beside the cities: images are in raw/<City (CODE)>/<SITE>/",
        }
        assert "lacks 43 of 45 cities: ESB, " in caplog.messages[-1]


def test_a_dl_slicer_root_without_cities_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="does not exist: download"):
        dl_slicer.tree(tmp_path / "absent")
    planted(tmp_path, "a.jpg")
    with pytest.raises(SceneError, match=r"holds no folder such as 'Almaty \(ALA\)'"):
        dl_slicer.tree(tmp_path)
    planted(tmp_path, "Almaty (ALA)/A/1.jpg", "Alma-Ata (ALA)/A/1.jpg")
    with pytest.raises(SceneError, match=r"Almaty \(ALA\) and Alma-Ata \(ALA\) are both city ALA"):
        dl_slicer.tree(tmp_path)


def test_the_table_has_the_45_classes_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    cities = dl_slicer.cities()
    assert [int(city["class_index"]) for city in cities] == list(range(45))
    assert (cities[0]["code"], cities[0]["city"]) == ("ALA", "Almaty")
    assert pytest.approx(0.416667, abs=1e-6) == dl_slicer.GSD_M
    monkeypatch.setattr(dl_slicer, "TABLE", "absent.csv")
    with pytest.raises(ConfigError, match=r"absent\.csv.* is not there"):
        dl_slicer.cities()
