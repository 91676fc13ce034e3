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

import pandas
import pytest

import llmbole

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


@pytest.fixture(scope="module")
def folder(movielens_slice, tmp_path_factory) -> Path:
    """The slice of ml-100k as own data."""
    rows = pandas.read_csv(movielens_slice / "ml-100k.inter", sep="\t", dtype=str)
    rows.columns = [name.partition(":")[0] for name in rows.columns]
    items = pandas.read_csv(movielens_slice / "ml-100k.item", sep="\t", dtype=str, quoting=3)
    items = items.rename(columns={"item_id:token": "item_id", "movie_title:token_seq": "title"})
    return llmbole.dataset_from_frames(
        rows.astype({"rating": float, "timestamp": float}),
        items[["item_id", "title"]],
        folder=tmp_path_factory.mktemp("own") / "films",
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
def test_kills_at_random_points_change_nothing(folder, tmp_path):
    began = time.monotonic()
    finish(folder, tmp_path / "whole")
    duration = time.monotonic() - began
    chance = random.Random(2026)
    killed = 0
    for _ in range(KILLS):
        process = start(folder, tmp_path / "killed")
        try:
            process.wait(timeout=chance.uniform(0.2, 0.8) * duration)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= KILLS // 2
    printed = finish(folder, tmp_path / "killed")
    assert "ALLMRec" in printed
    whole, again = made(tmp_path / "whole"), made(tmp_path / "killed")
    assert again == whole
    records = [list((tmp_path / name / "leaderboard").rglob("*.json")) for name in ("whole", "killed")]
    metrics = [json.loads(paths[0].read_text(encoding="utf-8"))["metrics"] for paths in records]
    assert metrics[0] == metrics[1]
