"""One command in two processes: TALLRec on ml-100k rows ends with what one process ends with."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import llmbole
from llmbole.settings import parse_value
from llmbole.verify import verify

ROOT = Path(__file__).resolve().parents[2]
FEW = (
    "--prompt.history=2 --tune.steps=4 --tune.check_every=2 --tune.rows=61 --tune.valid_rows=41 --tune.batch_size=7 "
    "--tune.accumulation=2 --lora.dropout=0.0 --progress=false"
)
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def folder(raw_slice, tmp_path_factory) -> Path:
    """Rows of twelve users as a data set of one's own, which other processes find too."""
    made = tmp_path_factory.mktemp("own") / "shop"
    made.mkdir()
    for kind, columns in (
        ("inter", ("user_id", "item_id", "rating", "timestamp")),
        ("item", ("item_id", "title")),
    ):
        lines = (raw_slice / f"ml-slice.{kind}").read_text(encoding="utf-8").splitlines()[1:]
        rows = [line.split("\t")[: len(columns)] for line in lines]
        kept = [row for row in rows if kind == "item" or int(row[0]) <= 12]
        with open(made / ("items.csv" if kind == "item" else "interactions.csv"), "w", newline="") as stream:
            csv.writer(stream).writerows([columns, *kept])
    card = "rating: {low: 1, high: 5}\nlabel: {positive_from: 4}\nwords: {item: movie, items: movies, verb: watch, "
    (made / "dataset.yaml").write_text(f"{card}past: watched}}\n", encoding="utf-8")
    return made


def command(folder: Path, where: Path, *more: str) -> subprocess.CompletedProcess[str]:
    folders = [f"--dataset={folder}", f"--store={where / 'store'}", f"--leaderboard={where / 'leaderboard'}"]
    return subprocess.run(
        [sys.executable, *TWO, "run_benchmark.py", "--model=TALLRec", *folders, *FEW.split(), *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def artifacts(where: Path) -> dict[str, tuple[Path, dict]]:
    manifests = [
        (path.parent, json.loads(path.read_text(encoding="utf-8")))
        for path in (where / "store" / "artifacts").glob("*/manifest.json")
    ]
    return {manifest["stage"]: (path, manifest) for path, manifest in manifests}


def test_two_processes_end_with_what_one_ends_with(folder, tmp_path):
    where = {name: str(tmp_path / "one" / name) for name in ("store", "leaderboard")}
    words = [word.removeprefix("--").partition("=") for word in FEW.split()]
    settings = {key: parse_value(value) for key, _, value in words}
    llmbole.run("TALLRec", folder, settings={**where, **settings})
    one = artifacts(tmp_path / "one")
    for stage in ("data", "split"):  # what is there already is found by both processes
        place = one[stage][0].relative_to(tmp_path / "one")
        shutil.copytree(tmp_path / "one" / place, tmp_path / "two" / place)
    done = command(folder, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cached") == 2
    two = artifacts(tmp_path / "two")
    assert {name: made["key"] for name, (_, made) in one.items()} == {
        name: made["key"] for name, (_, made) in two.items()
    }
    summaries = [each["lora"][1]["summary"] for each in (one, two)]
    for name in ("loss", "valid_auc", "valid_aucs"):
        assert summaries[1][name] == pytest.approx(summaries[0][name], abs=1e-6)
    weights = [load_file(each["lora"][0] / "adapter_model.safetensors") for each in (one, two)]
    assert all(np.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])
    scored = [np.load(each["scores"][0] / "rows.npz") for each in (one, two)]
    for name in ("users", "items", "labels"):
        assert np.array_equal(scored[0][name], scored[1][name])
    assert np.allclose(scored[0]["scores"], scored[1]["scores"], atol=1e-5)
    for stage in ("lora", "scores"):
        costs = [each[stage][1]["cost"]["llm_tokens"] for each in (one, two)]
        assert costs[0] == costs[1]
    # The first process alone writes a record, a table and lines of progress.
    records = list((tmp_path / "two" / "leaderboard" / "results").rglob("*.json"))
    assert len(records) == 1 and not verify(tmp_path / "two" / "leaderboard" / "results")
    assert done.stdout.count("| TALLRec (tiny) |") == 1
    assert done.stderr.count("loaded tiny") == 2  # to tune, and to score


def test_a_mistake_ends_all_processes(folder, tmp_path):
    done = command(folder, tmp_path, "--tune.patience=0")
    assert done.returncode != 0
    assert "patience = 0: must be at least 1" in done.stderr
