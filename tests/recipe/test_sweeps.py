"""Small real sweeps with Ray on rows of ml-100k: failing trials, tests of the best settings, ASHA, threads."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from llmbole import cluster as ray_cluster
from llmbole import sweep_record
from llmbole.cli import main
from llmbole.data import arrays
from llmbole.pipeline.run import execute
from llmbole.pipeline.store import Store
from llmbole.results import load_all
from llmbole.sweep import cluster, trial
from llmbole.sweep.request import Resources, Search, make_request, trial_steps
from llmbole.verify import verify

FEW = {"epochs": 2, "embedding_size": 8}


@pytest.fixture
def sweep(films, tmp_path, capsys):
    """`llmbole sweep` of BPR on the slice: exit status, what it said, and the rows of its trials."""

    def run(*words, model="BPR"):
        own = [f"--store={tmp_path / 'store'}", f"--leaderboard={tmp_path / 'leaderboard'}", "--quiet"]
        few = [f"--{key}={value}" for key, value in FEW.items()] if model == "BPR" else []
        cleared = ["--sweep.learning_rate=null", "--sweep.embedding_size=null"] if model == "BPR" else []
        words = [word for word in [*few, *cleared] if not same_key(word, words)] + list(words)
        status = main(["sweep", f"--model={model}", f"--dataset={films}", *own, *words])
        said = capsys.readouterr()
        rows = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((tmp_path / "sweeps").glob("*/trials/*.json"))
        ]
        return status, said.out + said.err, rows

    return run


def same_key(word, words):
    key = word.partition("=")[0]
    return key in [other.partition("=")[0] for other in words] or key.replace("--", "--sweep.") in [
        other.partition("=")[0] for other in words
    ]


def test_a_sweep_from_its_grid_to_the_leaderboard(sweep, tmp_path):
    words = ("--sweep.embedding_size=[8, 16, -1]", "--max-concurrent=1", "--test", "--seeds=5")
    status, said, rows = sweep(*words)
    assert status == 0, said
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert "negative dimension" in rows[2]["error"] and "negative dimension" in said
    best = max((row for row in rows if row["score"] is not None), key=lambda row: row["score"])
    [file] = (tmp_path / "leaderboard" / "sweeps").glob("*/*/*.json")
    record = sweep_record.load(file)
    assert (record.best.number, len(record.trials), record.search) == (best["number"], 3, "grid")
    assert record.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    tested = load_all(tmp_path / "leaderboard" / "results")
    assert sorted(run.seed for run in tested) == [5]
    for run in tested:
        assert run.config["backbone"]["embedding_size"] == best["settings"]["embedding_size"]
        assert run.selection == record.selection()
        assert run.selection.value == best["score"] and run.selection.trials == 3
    assert verify(tmp_path / "leaderboard" / "results") == []
    assert list((tmp_path / "sweeps").glob("*/ray/*/*/events.out.tfevents.*"))
    # Data and split were made once, before the trials; the artifacts of the test are not among those of trials.
    stages = [artifact.stage for artifact in Store(tmp_path / "store").artifacts()]
    assert sorted(stages) == sorted(["data", "split", *["backbone", "backbone_scores"] * 3])


def test_a_sweep_whose_trials_all_fail_says_so(sweep, tmp_path):
    status, said, rows = sweep("--sweep.embedding_size=[-1]", "--test")
    assert status == 1
    assert [row["status"] for row in rows] == ["failed"]
    assert "no trial finished" in said
    assert not list((tmp_path / "leaderboard").rglob("*.json"))


def test_asha_ends_a_trial_that_is_behind(sweep, tmp_path):
    epochs = 9
    status, said, rows = sweep(
        "--protocol=loo_ctr",
        "--sweep.learning_rate=[0.1, 1.0e-9]",
        f"--epochs={epochs}",
        "--stopping_step=50",
        "--scheduler=asha",
        "--grace=2",
        "--reduction=2",
        "--max-concurrent=1",
    )
    assert status == 0, said
    assert [row["status"] for row in rows] == ["finished", "stopped"]
    assert rows[0]["validations"] == epochs + 1  # one more for the trained model
    assert rows[1]["validations"] == 2 and rows[1]["score"] < rows[0]["score"]
    # The ended trial made no backbone, and its checkpoints are still there.
    assert [artifact.stage for artifact in Store(tmp_path / "store").artifacts()].count("backbone") == 1
    assert len(list((tmp_path / "store" / "workspaces").iterdir())) == 1
    assert "stopped" in said


@pytest.mark.slow
def test_optuna_searches_a_range_and_a_sweep_that_is_done_runs_nothing(sweep, monkeypatch):
    words = ("--sweep.learning_rate={low: 1.0e-3, high: 0.1, log: true}", "--search=optuna", "--trials=3")
    status, said, rows = sweep(*words)
    assert status == 0, said
    assert [row["status"] for row in rows] == ["finished"] * 3
    rates = [row["settings"]["learning_rate"] for row in rows]
    assert len(set(rates)) == 3 and all(1e-3 <= rate <= 0.1 for rate in rates)
    monkeypatch.setattr(ray_cluster, "_set_environment", lambda: pytest.fail("Ray was started again"))
    status, _, again = sweep(*words)
    assert (status, again) == (0, rows)


def test_a_trial_neither_opens_the_test_nor_depends_on_it(films, tmp_path, monkeypatch):
    load, opened = arrays.load, []

    def poisoned(folder, names):
        stored = load(folder, names)
        opened.append(arrays.is_sealed() and not any(name.startswith("test_") for name in stored))
        stored["items"] = np.array(stored["items"])
        stored["items"][np.load(folder / "test_positions.npy")] = 10**9  # no item's number
        return stored

    scores = []
    for place in ("plain", "poisoned"):
        folders = {"store": str(tmp_path / place), "leaderboard": str(tmp_path / "leaderboard")}
        space = {"sweep.learning_rate": [0.1], "sweep.embedding_size": None}
        settings = {**folders, **FEW, **space, "progress": False}
        request = make_request(
            "BPR", str(films), settings=settings, search=Search(), resources=Resources(), loggers=()
        )
        base = request.resolve({})
        before = [step for step in trial_steps(base) if step.stage.makes in ("data", "split")]
        execute(before, base.settings, Store(tmp_path / place), base.options)
        if place == "poisoned":
            monkeypatch.setattr(arrays, "load", poisoned)
        reports: list[dict] = []
        trial.run_trial(request, "00000", {"learning_rate": 0.1}, "cpu", reports.append)
        assert [report["final"] for report in reports] == [False, False, True]
        scores.append([report["score"] for report in reports])
    assert opened and all(opened)
    assert scores[0] == scores[1]


def report_threads(threads):
    """Threads of the libraries of a trial's process, once it has set them."""
    import faiss
    import torch

    trial.use_threads(threads)
    found = {name: os.environ.get(name) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS")}
    return {**found, "torch": torch.get_num_threads(), "faiss": faiss.omp_get_max_threads()}


def test_the_threads_of_a_trial_are_its_cpus(films, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray_cluster, "_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    request = make_request(
        "BPR",
        str(films),
        settings={"store": str(tmp_path / "store")},
        search=Search(),
        resources=Resources(cpus=3),
        loggers=(),
    )
    with cluster.connected(request.resources) as share:
        assert share.concurrent == 2
        found = ray.get(ray.remote(num_cpus=3)(report_threads).remote(request.resources.threads))
    assert found == {"RAYON_NUM_THREADS": "3", "OMP_NUM_THREADS": "3", "torch": 3, "faiss": 3}
