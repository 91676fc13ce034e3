from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from llmbole import provenance
from llmbole.results import Commit


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one commit."""
    git(tmp_path, "init", "-q")
    for name in ("llmbole/a.py", "README.md", ".gitignore", "leaderboard/results/.gitkeep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("store/\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_tree_gives_its_commit(tree: Path) -> None:
    assert provenance.commit(tree) == Commit(hash=git(tree, "rev-parse", "HEAD"), dirty=False)


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("llmbole/a.py", True),
        ("llmbole/new.py", True),
        ("properties/model/X.yaml", True),
        ("store/artifact", False),
        ("leaderboard/results/p/d/new.json", False),
        ("README.md", False),
    ],
)
def test_a_tree_is_dirty_by_code_and_settings_not_by_results(tree: Path, changed: str, dirty: bool) -> None:
    (tree / changed).parent.mkdir(parents=True, exist_ok=True)
    (tree / changed).write_text("changed")
    assert provenance.commit(tree).dirty is dirty


def test_git_variables_of_a_hook_do_not_mislead(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert provenance.commit(tree).dirty is False


def test_no_repository_no_commit_and_no_git_are_unknown(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = Commit(hash="unknown", dirty=None)
    empty = tree / "nested"
    (empty / "inside").mkdir(parents=True)
    git(empty, "init", "-q")
    assert provenance.commit(empty / "inside") == unknown, (
        "a folder inside of another repository is not its top"
    )
    assert provenance.commit(empty) == unknown, "a repository without a commit"
    monkeypatch.setenv("PATH", "")
    assert provenance.commit(tree) == unknown
    assert "git cannot be run" in caplog.text


def test_an_installed_wheel_gives_its_version_and_notices_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, metadata = tmp_path / "llmbole", tmp_path / "llmbole-9.8.7.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").write_text("code")
    (package / "a.py").write_text("more code")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: llmbole\nVersion: 9.8.7\n")
    rows = []
    for file in sorted(package.glob("*.py")):
        digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
        rows.append(f"llmbole/{file.name},sha256={digest},1\n")
    (metadata / "RECORD").write_text("".join(rows))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.commit() == Commit(hash="llmbole 9.8.7", dirty=False)
    (package / "a.py").write_text("other code")
    assert provenance.commit() == Commit(hash="llmbole 9.8.7", dirty=True)
    (package / "a.py").unlink()
    assert provenance.commit() == Commit(hash="llmbole 9.8.7", dirty=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "elsewhere" / "llmbole" / "provenance.py"))
    assert provenance.commit() == Commit(hash="unknown", dirty=None)


def test_environment_describes_this_machine() -> None:
    found = provenance.environment()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.cores >= 1
    assert found.processor and found.platform
    assert found.memory_bytes is None or found.memory_bytes > 2**28
    assert "numpy" in found.versions and "torch" in found.versions


def test_the_gpu_is_asked_only_of_a_loaded_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert provenance.environment().gpu is None
    names = ["H200", "A100", "H200"]
    cuda = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 3, get_device_name=lambda index: names[index]
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert provenance.environment().gpu == "1 x A100, 2 x H200"


def test_the_time_is_as_records_write_it() -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", provenance.utc_now())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, llmbole.provenance as p, llmbole.render\n"
        "p.environment(); p.commit(); print(list(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "numpy", "pandas", "transformers", "recbole", "ray"):
        assert f"'{heavy}'" not in answer.stdout
