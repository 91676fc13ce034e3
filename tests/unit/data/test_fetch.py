"""Downloads from a server in the test, archives, and hashes that are remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import os
import socket
import stat
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from llmbole.data import archive, fetch, raw, source
from llmbole.data.cards import Download
from llmbole.data.convert.report import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's content; breaks off, refuses, or ignores ranges as the server says."""

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        status = server.statuses.pop(0) if server.statuses else None
        if status:
            self.send_error(status)
            return
        start = 0
        asked = self.headers.get("Range")
        if asked and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.end_headers()
                return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Encoding", "gzip")  # some servers call .gz files so; the bytes must stay
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.content, served.tag, served.ranges = CONTENT, '"one"', True
        served.statuses, served.cuts, served.requests = [], [], []
        served.address = f"http://127.0.0.1:{served.server_port}/file.bin"
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def get(server, target: Path, **known):
    fetch.fetch(Download(server.address, **known), target, progress=False, first_wait=0.001)


def test_a_file_comes_whole_and_checked(server, tmp_path):
    get(server, tmp_path / "file.bin", sha256=SHA, size=len(CONTENT))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_a_broken_connection_is_resumed(server, tmp_path):
    server.cuts = [300_000, 200_000]
    get(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [headers.get("Range") for headers in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_download_is_gone_on_with_by_a_later_process(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    get(server, tmp_path / "file.bin", sha256=SHA)
    assert server.requests[0]["Range"] == "bytes=1000-" and len(server.requests) == 1


def test_a_server_that_ignores_ranges_sends_all_again(server, tmp_path):
    server.cuts, server.ranges = [300_000], False
    get(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_begun_anew(server, tmp_path):
    server.cuts = [300_000]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "ATTEMPTS", 1)
        with pytest.raises(fetch.UnreachableError, match="300000 bytes"):
            get(server, tmp_path / "file.bin")
    server.content, server.tag = CONTENT[::-1], '"two"'
    get(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT[::-1]


def test_a_part_that_is_whole_is_taken(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    get(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_begun_anew(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    get(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    get(server, tmp_path / "file.bin")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"sha256": "0" * 64}, f"SHA-256 {SHA}, not 0000"),
        ({"size": 5}, f"{len(CONTENT)} bytes, not 5"),
    ],
)
def test_what_is_not_the_published_file_is_thrown_away(server, tmp_path, known, message):
    with pytest.raises(DataError, match=message):
        get(server, tmp_path / "file.bin", **known)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_not_tried_again(server, tmp_path):
    server.statuses = [404, 404]
    with pytest.raises(fetch.UnreachableError, match="HTTP 404"):
        get(server, tmp_path / "file.bin")
    assert len(server.requests) == 1


@pytest.fixture
def downloaded(card, server):
    """A data set of three files, of which two are in an archive at the server."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("in/tiny.inter", "inter")
        opened.writestr("in/tiny.item", "item")
    server.content = packed.getvalue()
    members = {"tiny.inter": "in/tiny.inter", "tiny.item": "in/tiny.item"}
    address = server.address.replace("file.bin", "tiny.zip")
    downloads = (
        Download(address, members=members),
        Download(server.address.replace("file.bin", "tiny.user")),
    )
    files = dict.fromkeys(("tiny.inter", "tiny.item", "tiny.user"))
    origin = source.Source("download", files, folder="tiny", downloads=downloads)
    return dataclasses.replace(card, name="tiny", source=origin)


def test_a_data_set_is_fetched_once_and_unpacked(downloaded, server, tmp_path):
    folder = source.locate_raw(downloaded, None, tmp_path / "cache", progress=False)
    assert folder == tmp_path / "cache" / "tiny"
    assert (folder / "tiny.inter").read_text() == "inter" and (folder / "tiny.user").is_file()
    assert len(server.requests) == 2
    source.locate_raw(downloaded, None, tmp_path / "cache", progress=False)
    assert len(server.requests) == 2


def test_files_of_a_given_folder_are_taken_plain_or_from_their_archive(downloaded, server, tmp_path):
    (tmp_path / "tiny.zip").write_bytes(server.content)
    (tmp_path / "tiny.user").write_text("user")
    assert source.locate_raw(downloaded, tmp_path, progress=False) == tmp_path
    assert (tmp_path / "tiny.item").read_text() == "item" and server.requests == []


def test_a_closed_network_names_files_addresses_and_where_to_put_them(
    downloaded, server, tmp_path, monkeypatch
):
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    with pytest.raises(DataError) as error:
        source.locate_raw(downloaded, None, tmp_path / "cache", progress=False)
    message = str(error.value)
    for word in (
        "tiny.zip from http://127.0.0.1",
        "tiny.user from http://127.0.0.1",
        "--raw=FOLDER",
        "refused",
    ):
        assert word in message
    assert str(tmp_path / "cache" / "tiny") in message


def test_a_folder_that_can_not_be_written_says_what_to_do(downloaded, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be written to.*put them there, unpacked"):
        source.locate_raw(downloaded, tmp_path / "file" / "below", progress=False)


def zipped(path: Path, **members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name.replace("__", "/"), content)
    return path


def test_only_wanted_members_are_unpacked(tmp_path):
    zipped(tmp_path / "a.zip", in__file="x", in__other="y")
    archive.unpack(tmp_path / "a.zip", {"mine": "in/file"}, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zip", "mine"]


def test_tar_archives_are_unpacked_too(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as opened:
        info = tarfile.TarInfo("in/file")
        info.size = 3
        opened.addfile(info, io.BytesIO(b"abc"))
    archive.unpack(tmp_path / "a.tar.gz", {"mine": "in/file"}, tmp_path)
    assert (tmp_path / "mine").read_bytes() == b"abc"


@pytest.mark.parametrize("members", [{"x": "../x"}, {"x": "/x"}, {"../x": "x"}, {"": "x"}])
def test_names_that_lead_out_are_refused(tmp_path, members):
    path = zipped(tmp_path / "a.zip", x="1")
    with pytest.raises(DataError, match="leads out of its folder"):
        archive.unpack(path, members, tmp_path / "out")


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            opened.addfile(info)
    for name in ("soft", "hard", "folder"):
        with pytest.raises(DataError, match="is no regular file"):
            archive.unpack(tmp_path / "a.tar", {"file": name}, tmp_path)
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is no regular file"):
        archive.unpack(tmp_path / "a.zip", {"file": "link"}, tmp_path)
    assert not (tmp_path / "file").exists()


def test_a_member_over_the_limit_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", bomb=b"0" * 1_000_000, small=b"1")
    with pytest.raises(DataError, match="unpacks to more than 1000 bytes"):
        archive.unpack(path, {"file": "bomb"}, tmp_path, limit=1000)
    with pytest.raises(DataError, match="more than 999999 bytes"):
        archive.unpack(path, {"a": "small", "b": "bomb"}, tmp_path, limit=1_000_000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.zip"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>", "neither a zip nor a tar"), (None, "has no member 'in/file'; it has other")],
)
def test_other_archives_are_refused(tmp_path, content, message):
    path = zipped(tmp_path / "a.zip", other="x")
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        archive.unpack(path, {"file": "in/file"}, tmp_path)


def test_hashes_of_big_files_are_remembered_while_nothing_changes(card, tmp_path, monkeypatch):
    read: list[Path] = []
    real = raw._sha256
    monkeypatch.setattr(raw, "_sha256", lambda path: (read.append(path), real(path))[1])
    monkeypatch.setattr(raw, "REMEMBERED_FROM", 4)
    monkeypatch.setattr(raw, "SETTLED_SECONDS", 0.0)
    origin = source.Source("folder", dict.fromkeys(("big", "low")))
    card = dataclasses.replace(card, source=origin)
    (tmp_path / "big").write_bytes(b"12345")
    (tmp_path / "low").write_bytes(b"1")
    time.sleep(0.01)
    first = raw.file_hashes(card, tmp_path, tmp_path / "cache")
    again = raw.file_hashes(card, tmp_path, tmp_path / "cache")
    assert first == again and [path.name for path in read] == ["big", "low", "low"]
    before = (tmp_path / "big").stat()
    (tmp_path / "big").write_bytes(b"54321")
    os.utime(tmp_path / "big", ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    assert raw.file_hashes(card, tmp_path, tmp_path / "cache")["big"] == hashlib.sha256(b"54321").hexdigest()


def test_a_file_changed_just_now_is_not_remembered(card, tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "REMEMBERED_FROM", 4)
    card = dataclasses.replace(card, source=source.Source("folder", {"big": None}))
    (tmp_path / "big").write_bytes(b"12345")
    raw.file_hashes(card, tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
