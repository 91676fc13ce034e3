"""The guide on methods of one's own: its files, installed as a package outside the repository, run by its command."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "own_method.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', GUIDE, re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line) for line in BLOCKS.pop("commands").splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that the guide's package is installed to, beside its source."""
    source = tmp_path_factory.mktemp("outside") / "my-recommenders"
    for name, text in BLOCKS.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    site = source.with_name("site")
    assert COMMANDS[0] == "pip install --no-deps --no-build-isolation ./my-recommenders".split()
    command = [sys.executable, "-m", *COMMANDS[0], "--quiet", f"--target={site}"]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def module(installed, monkeypatch):
    """The guide's module, which no other test finds registered."""
    spec = importlib.util.spec_from_file_location("blend", installed / "my_recommenders" / "blend.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "blend", module)
    monkeypatch.setattr("llmbole.registry._registered", {})
    spec.loader.exec_module(module)
    return module


def call(site: Path, folder: Path, words: list[str]) -> str:
    """One of the guide's commands, in a folder of its own; what it said."""
    assert words[:2] == ["python", "run_benchmark.py"]
    variables = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *words[2:]]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_guide_names_its_files():
    assert set(BLOCKS) == {
        "setup.py",
        "my_recommenders/__init__.py",
        "my_recommenders/blend.py",
        "my_recommenders/Blend.yaml",
    }
    assert BLOCKS["my_recommenders/__init__.py"] == ""


def test_the_installed_method_is_listed_and_runs(installed, films, tmp_path):
    assert "Blend" in call(installed, tmp_path, COMMANDS[1]).split()
    alone = next(words for words in COMMANDS if "--blend.weight=0" in words)
    words = [f"--dataset={films}" if word.startswith("--dataset=") else word for word in alone]
    said = call(installed, tmp_path, [*words, "--progress=false"])
    assert "| Blend (SASRec, tiny)" in said
    [path] = (tmp_path / "leaderboard" / "results").rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["method"] == "Blend" and record["config"]["blend"] == {"weight": 0, "history": 5}
    assert record["metrics"] == record["backbone_metrics"]  # a weight of 0 is the backbone, as the guide says


def test_scores_of_both_models_are_mixed_by_the_weight(module, monkeypatch):
    from llmbole.model import ranking

    llm, conventional = torch.tensor([-9.0, -8.0, -7.0]), torch.tensor([10.0, 30.0, 20.0])

    class Conventional:
        def predict(self, interaction):
            return conventional

    model = module.Blend(None, Conventional(), module.BlendSettings(weight=0.25, history=5))
    monkeypatch.setattr(ranking, "log_likelihoods", lambda *_: llm)
    found = model.predict({ranking.CANDIDATES: torch.ones(3, 3)})
    # Standardised by hand: -1, 0, 1 and -1, 1, 0.
    assert found.tolist() == pytest.approx([-1.0, 0.75, 0.25])


def test_its_settings_are_checked(module):
    with pytest.raises(ValueError, match="weight = 2: must be between 0"):
        module.BlendSettings(weight=2, history=5)
