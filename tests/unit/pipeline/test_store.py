"""The artifact store: atomic, locked, checked by hash, clear about a disk it cannot use."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llmbole.pipeline.store import MANIFEST, Store, StoreError

KEY = "a" * 64


def maker(text="content", calls=None):
    def make(folder: Path, workspace: Path):
        if calls is not None:
            calls.append(folder)
        (folder / "file.txt").write_text(text)
        return {"stage": "thing", "summary": {}, "cost": {"seconds": 0.0}}

    return make


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_artifact_is_made_once_and_found_again(tmp_path):
    store, calls = Store(tmp_path), []
    artifact, made = store.make(KEY, maker(calls=calls))
    again, made_again = store.make(KEY, maker(calls=calls))
    assert (made, made_again, len(calls)) == (True, False, 1)
    assert again.folder == artifact.folder
    assert (again.folder / "file.txt").read_text() == "content"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "no manifest"])
def test_a_damaged_artifact_is_noticed_and_made_again(tmp_path, damage, caplog):
    store, calls = Store(tmp_path), []
    artifact, _ = store.make(KEY, maker(calls=calls))
    file, manifest = artifact.folder / "file.txt", artifact.folder / MANIFEST
    if damage == "flip":
        file.write_text("Content")
    elif damage == "truncate":
        file.write_text("")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.unlink()
    assert store.get(KEY) is None
    again, made = store.make(KEY, maker(calls=calls))
    assert made and len(calls) == 2
    assert (again.folder / "file.txt").read_text() == "content"
    assert "made again" in caplog.text


def test_a_failing_maker_leaves_nothing_but_its_workspace(tmp_path):
    store = Store(tmp_path)

    def fail(folder, workspace):
        (folder / "half.txt").write_text("half")
        (workspace / "checkpoint.txt").write_text("epoch 1")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.make(KEY, fail)
    assert [name for name in everything(tmp_path) if not name.startswith("locks/")] == [
        f"workspaces/{KEY}/checkpoint.txt"
    ]
    store.make(KEY, maker())
    assert not store.workspace(KEY).exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
    ],
)
def test_a_full_or_unwritable_disk_is_a_clear_error_and_leaves_nothing(tmp_path, code, words):
    store = Store(tmp_path)

    def fail(folder, workspace):
        (folder / "half.txt").write_text("half")
        raise OSError(code, os.strerror(code), str(folder / "half.txt"))

    with pytest.raises(StoreError, match=words):
        store.make(KEY, fail)
    assert store.find(KEY) is None
    assert not any("half" in name for name in everything(tmp_path))


def test_a_file_in_the_way_of_the_folder_is_a_clear_error(tmp_path):
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StoreError, match="must be a folder"):
        Store(tmp_path / "store").make(KEY, maker())


WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from llmbole.pipeline.store import Store

    def make(folder, workspace):
        with open(sys.argv[3], "a") as log:
            log.write("made\\n")
        (folder / "one.txt").write_text("one")
        time.sleep(float(sys.argv[2]))
        (folder / "two.txt").write_text("two")
        return {"stage": "thing", "summary": {}, "cost": {"seconds": 0.0}}

    Store(Path(sys.argv[1])).make("a" * 64, make)
    """
)


def start(tmp_path, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path / "store"), str(seconds), str(tmp_path / "log")]
    )


def test_two_processes_make_it_once(tmp_path):
    workers = [start(tmp_path, 0.5) for _ in range(3)]
    assert [worker.wait(timeout=30) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_killed_maker_leaves_no_artifact_and_no_lock(tmp_path):
    worker = start(tmp_path, 60)
    store = Store(tmp_path / "store")
    deadline = time.time() + 20
    while not list((tmp_path / "store").glob("artifacts/.making-*/one.txt")):
        assert time.time() < deadline
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout=10)
    assert store.find(KEY) is None
    artifact, made = store.make(KEY, maker())
    assert made
    assert sorted(json.loads((artifact.folder / MANIFEST).read_text())["files"]) == ["file.txt"]
    assert not list((tmp_path / "store").glob("artifacts/.making-*"))


def test_who_waits_for_a_maker_that_dies_makes_it(tmp_path):
    first = start(tmp_path, 60)
    deadline = time.time() + 20
    while not list((tmp_path / "store").glob("artifacts/.making-*/one.txt")):
        assert time.time() < deadline
        time.sleep(0.02)
    second = start(tmp_path, 0)
    time.sleep(0.5)
    assert second.poll() is None  # it waits
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=10)
    assert second.wait(timeout=30) == 0
    assert (tmp_path / "log").read_text() == "made\nmade\n"
    assert Store(tmp_path / "store").get(KEY) is not None


def test_prune_removes_leftovers_and_old_artifacts_only(tmp_path):
    store = Store(tmp_path)
    store.make(KEY, maker())
    store.make("b" * 64, maker())
    old = store.find("b" * 64).folder / MANIFEST
    os.utime(old, (time.time() - 10 * 86400,) * 2)
    (tmp_path / "artifacts" / f".making-{'c' * 64}").mkdir()
    store.workspace("d" * 64).mkdir(parents=True)
    assert store.prune()[0] == 2
    assert len(store.artifacts()) == 2
    assert store.prune(unused_days=5)[0] == 1
    assert [artifact.key for artifact in store.artifacts()] == [KEY]
