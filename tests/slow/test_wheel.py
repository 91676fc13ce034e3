"""The built wheel works by itself: an empty environment, outside the repository, from install to the demo's table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DEMO = ("run", "--model=ALLMRec", "--dataset=ml-100k")


def call(*command: str | Path, cwd: Path, timeout: float = 1800) -> str:
    """Run a command with nothing of this environment's Python in its own, and return all it said."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    environment |= {"HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-5000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the files git knows, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("build")
    listed = call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist")
    call(*command, folder / "source", cwd=folder)
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `llmbole` command of an environment that holds the wheel and what it requires, at the locked versions."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", folder, cwd=folder)
    python = folder / "bin" / "python"
    call(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "requirements.lock",
        wheel,
        cwd=folder,
    )
    assert "No broken requirements" in call(python, "-m", "pip", "check", cwd=folder)
    return folder / "bin" / "llmbole"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"llmbole", wheel.name.split("-py3")[0] + ".dist-info"}
    settings = {
        f"llmbole/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "properties").rglob("*.yaml")
    }
    assert settings <= names
    assert {f"{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "llmbole").rglob("*.py")} <= names
    assert "llmbole/llm/tiny/weights/model.safetensors" in names


def test_lists(installed: Path, tmp_path: Path) -> None:
    folder = ROOT / "properties" / "dataset"
    listed = call(installed, "list", "datasets", cwd=tmp_path).split()
    assert {path.stem for path in folder.glob("*.yaml")} <= set(listed)
    for template in (folder / "template").glob("*.yaml"):
        assert any(name.startswith(f"{template.stem}-") for name in listed)
    assert {"ALLMRec", "LLMOnly", "MLPLLM"} <= set(call(installed, "list", "models", cwd=tmp_path).split())


def test_the_demo(installed: Path, tmp_path: Path) -> None:
    first = call(installed, *DEMO, cwd=tmp_path)
    assert re.search(r"^\|.*HIT@1", first, re.MULTILINE), first[-3000:]
    records = list((tmp_path / "leaderboard" / "results").rglob("*.json"))
    assert len(records) == 1

    started = time.perf_counter()
    second = call(installed, *DEMO, cwd=tmp_path)
    seconds = time.perf_counter() - started
    table = [line for line in first.splitlines() if line.startswith("|")]
    assert [line for line in second.splitlines() if line.startswith("|")] == table
    assert seconds < 60, f"the second run took {seconds:.0f} s: was anything made again?\n{second[-3000:]}"
    assert list((tmp_path / "leaderboard" / "results").rglob("*.json")) == records
