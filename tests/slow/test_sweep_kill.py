"""A sweep whose command is killed at random moments ends as one that was left alone; Ctrl-C ends it in order."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

KILLS = 5
TRIALS = 6
SETTINGS = (
    "--epochs=60",
    "--stopping_step=100",
    "--sweep.learning_rate=[0.001, 0.01, 0.1]",
    "--sweep.embedding_size=[8, 16]",
    "--max-concurrent=2",
    "--cpus-per-trial=0.5",
)


def start(folder: Path, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "llmbole", "sweep", "--model=BPR", f"--dataset={folder}"]
    command += [f"--store={place / 'store'}", f"--leaderboard={place / 'leaderboard'}", *SETTINGS]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(folder: Path, place: Path) -> str:
    process = start(folder, place)
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    return printed


def rows(place: Path) -> dict[int, tuple]:
    """Settings, status and score of each trial by its number."""
    paths = (place / "sweeps").glob("*/trials/*.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {row["number"]: (row["settings"], row["status"], row["score"]) for row in found}


def recorded(place: Path) -> dict:
    [path] = (place / "leaderboard" / "sweeps").glob("*/*/*.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_kills_at_random_moments_change_neither_trials_nor_the_best(films, tmp_path):
    began = time.monotonic()
    finish(films, tmp_path / "whole")
    duration = time.monotonic() - began
    chance = random.Random(2026)
    killed = 0
    for number in range(KILLS):
        process = start(films, tmp_path / "killed")
        try:
            process.wait(timeout=chance.uniform(0.3, 0.9) * duration)
        except subprocess.TimeoutExpired:
            before = rows(tmp_path / "killed")
            victim = process.pid
            workers = [
                child for child in psutil.Process(process.pid).children(recursive=True) if trains(child)
            ]
            if number % 2 and workers:  # a worker's process dies, then the command
                os.kill(workers[0].pid, signal.SIGKILL)
                time.sleep(1)
            os.kill(victim, signal.SIGKILL)
            process.wait()
            killed += 1
            done = {key for key, row in before.items() if row[1] == "finished"}
            after = rows(tmp_path / "killed")
            assert all(after[key] == before[key] for key in done)
    assert killed >= 1
    printed = finish(films, tmp_path / "killed")
    assert f"| {TRIALS - 1} " in printed
    whole, again = rows(tmp_path / "whole"), rows(tmp_path / "killed")
    assert again == whole and len(whole) == TRIALS
    best = [
        max(found["trials"], key=lambda row: (row["score"], -row["number"]))
        for found in (recorded(tmp_path / "whole"), recorded(tmp_path / "killed"))
    ]
    assert best[0]["settings"] == best[1]["settings"] and best[0]["score"] == best[1]["score"]


def trains(process: psutil.Process) -> bool:
    """Whether a process is that of a trial; Ray's idle ones have other names."""
    try:
        return any(word.startswith("ray::ImplicitFunc") for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_ctrl_c_prints_what_is_done_and_the_next_run_goes_on(films, tmp_path):
    process = start(films, tmp_path)
    deadline = time.monotonic() + 300
    while not any(row[1] == "finished" for row in rows(tmp_path).values()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "interrupted; run the same command again" in printed and "| finished" in printed
    done = {key: row for key, row in rows(tmp_path).items() if row[1] == "finished"}
    assert done and not list((tmp_path / "leaderboard").rglob("*.json"))
    finish(films, tmp_path)
    after = rows(tmp_path)
    assert all(after[key] == row for key, row in done.items())
    assert {row[1] for row in after.values()} == {"finished"} and len(after) == TRIALS
