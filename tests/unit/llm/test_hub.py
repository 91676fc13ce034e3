"""A hub id, downloaded from a hub that is a server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmbole.llm import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {path.name: path for path in tiny.FOLDER.iterdir() if path.suffix in (".json", ".safetensors")}
LOAD = """
import json, sys
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec, folder, revision
spec = LLMSpec(name=sys.argv[1])
lm = load(spec)
print(json.dumps([revision(spec), sorted(file.name for file in folder(spec).iterdir()), lm.hidden_size]))
"""


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub for one public model."""

    asked: list[str]
    broken = False

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        """A file at its commit, the model's information, or 404."""
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        if path.startswith("/api/models/some/model/tree/"):
            listed = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in FILES.items()
            ]
            self.send(json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
        elif path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": name} for name in (*FILES, "pytorch_model.bin")]
            information = {"id": "some/model", "sha": COMMIT, "siblings": siblings, "private": False}
            self.send(json.dumps(information).encode(), {"Content-Type": "application/json"}, body)
        elif path.startswith(f"/some/model/resolve/{COMMIT}/") and path.rpartition("/")[2] in FILES:
            content = FILES[path.rpartition("/")[2]].read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            cut = content[: len(content) // 2] if self.broken and path.endswith(".safetensors") else content
            headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
            self.send(cut, headers, body, len(content))
        else:
            self.send_error(404)

    def send(self, content: bytes, headers: dict[str, str], body: bool, length: int | None = None) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(length or len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
            if length and length > len(content):
                self.connection.close()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """A running hub: its address and the class that answers."""
    own = type("OwnHub", (Hub,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), own) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", own
        server.shutdown()
        thread.join()


def load(address: str, cache: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Load a model by hub id in a process whose hub is `address`."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    return subprocess.run(
        [sys.executable, "-c", LOAD, name], capture_output=True, text=True, env=environment, timeout=300
    )


def test_a_hub_id_is_downloaded_once_and_pinned(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    address, server = hub
    first = load(address, tmp_path, "some/model")
    assert first.returncode == 0, first.stderr
    revision, files, width = json.loads(first.stdout)
    assert (revision, width) == (COMMIT, 128)
    assert set(files) == set(FILES)
    assert not any(path.endswith(".bin") for path in server.asked)  # pickled weights are not even asked for
    fetched = len(server.asked)
    again = load(address, tmp_path, f"some/model@{COMMIT}")
    assert json.loads(again.stdout) == [COMMIT, files, 128]
    assert len(server.asked) == fetched  # from the cache


def test_a_broken_download_is_an_error_and_leaves_no_model(
    hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    address, server = hub
    server.broken = True
    failed = load(address, tmp_path, "some/model")
    assert failed.returncode != 0
    assert "some/model" in failed.stderr.splitlines()[-1]
    server.broken = False
    assert load(address, tmp_path, "some/model").returncode == 0


def test_an_unknown_hub_id_says_so(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    failed = load(hub[0], tmp_path, "some/other")
    assert failed.returncode != 0
    assert "some/other" in failed.stderr.splitlines()[-1]
