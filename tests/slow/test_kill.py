"""A whole run that is killed at random points ends with the artifacts of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 8
SETTINGS = (
    "--backbone.epochs=4",
    "--backbone.stopping_step=10",
    "--positions=3",
    "--align.positions=3",
    "--align.epochs=4",
    "--project.positions=3",
    "--project.epochs=2",
    "--project.batch_size=4",
    "--progress=false",
    "--threads=1",
)


def start(folder: Path, place: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "llmbole",
        "run",
        "--model=ALLMRec",
        f"--dataset={folder}",
    ]
    command += [f"--store={place / 'store'}", f"--leaderboard={place / 'leaderboard'}", *SETTINGS]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(folder: Path, place: Path) -> str:
    process = start(folder, place)
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    return printed


def made(place: Path) -> dict[str, dict[str, str]]:
    """The hash of every file of every artifact, by the artifact's key."""
    manifests = (place / "store" / "artifacts").glob("*/manifest.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in manifests]
    return {f"{manifest['stage']} {manifest['key']}": manifest["files"] for manifest in found}


@pytest.mark.slow
def test_kills_at_random_points_change_nothing(films, tmp_path):
    began = time.monotonic()
    finish(films, tmp_path / "whole")
    duration = time.monotonic() - began
    chance = random.Random(2026)
    killed = 0
    for _ in range(KILLS):
        process = start(films, tmp_path / "killed")
        try:
            process.wait(timeout=chance.uniform(0.2, 0.8) * duration)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= KILLS // 2
    printed = finish(films, tmp_path / "killed")
    assert "ALLMRec" in printed
    whole, again = made(tmp_path / "whole"), made(tmp_path / "killed")
    assert again == whole
    records = [list((tmp_path / name / "leaderboard").rglob("*.json")) for name in ("whole", "killed")]
    metrics = [json.loads(paths[0].read_text(encoding="utf-8"))["metrics"] for paths in records]
    assert metrics[0] == metrics[1]
