"""Rules of style that no linter of the project checks: sizes, forbidden calls, paths of somebody's machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "llmbole").rglob("*.py"))
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
FORBIDDEN_CALLS = {"print", "eval", "exec", "__import__"}
PICKLES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
# Folders of one person or one machine.
PRIVATE_PATH = re.compile(r"(?<![\w./:-])/(?:home|Users|work|root|mnt|scratch)/\w")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def forbidden(source: str) -> Iterator[str]:
    """Uses of what the package may not use, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            yield from (
                f"{node.lineno}: imports {module}" for module in modules if module.split(".")[0] in PICKLES
            )
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {problem}" for problem in call_problems(node))


def call_problems(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called in FORBIDDEN_CALLS:
        yield f"calls {called}"
    safe = any(
        keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in node.keywords
    )
    if called == "torch.load" and not safe:
        yield "calls torch.load without weights_only=True, which runs code of the file"
    for keyword in node.keywords:
        if isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
            if keyword.arg in ("trust_remote_code", "allow_pickle"):
                yield f"passes {keyword.arg}=True"


def too_long(source: str) -> Iterator[str]:
    """Files and functions over the limit."""
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines (at most {MAX_FILE_LINES})"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines (at most {MAX_FUNCTION_LINES})"


def text_files() -> list[Path]:
    """Text files of the repository that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    paths = [ROOT / entry for entry in listed.split("\0") if entry]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_forbidden_calls(path: Path) -> None:
    if name(path) != "llmbole/compat.py":
        assert list(forbidden(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    assert list(too_long(path.read_text(encoding="utf-8"))) == []


def test_no_private_paths() -> None:
    found = [
        f"{name(path)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        )
        if PRIVATE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("print('x')", "calls print"),
        ("x = eval('1')", "calls eval"),
        ("def f():\n    exec('1')", "calls exec"),
        ("import pickle", "imports pickle"),
        ("from joblib import dump", "imports joblib"),
        ("import torch\ntorch.load('a')", "calls torch.load"),
        ("f(trust_remote_code=True)", "trust_remote_code=True"),
        ("np.load('a', allow_pickle=True)", "allow_pickle=True"),
    ],
)
def test_a_planted_use_is_found(source: str, problem: str) -> None:
    assert [problem in found for found in forbidden(source)] == [True]


def test_allowed_calls_are_not_reported() -> None:
    assert list(forbidden("model.eval()\nf(trust_remote_code=False)\nnp.load('a')\nimport json")) == []


def test_planted_lengths_are_found() -> None:
    body = "    x = 1\n"
    assert list(too_long("def f():\n" + body * MAX_FUNCTION_LINES)) == ["1: f has 61 lines (at most 60)"]
    assert list(too_long("x = 1\n" * (MAX_FILE_LINES + 1))) == ["351 lines (at most 350)"]
    assert list(too_long("def f():\n" + body * (MAX_FUNCTION_LINES - 1))) == []


def test_private_paths_are_recognised() -> None:
    private = "/".join(("", "home", "someone", "data"))
    assert PRIVATE_PATH.search(f"open('{private}')")
    assert not PRIVATE_PATH.search(f"https://example.org{private}")
    assert not PRIVATE_PATH.search(f"properties{private}")
