"""Small real tables on rows of ml-100k: through Ray and in one process, plans, failing and finished cells, pages."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re

import pytest

from llmbole.cli import main
from llmbole.data.convert.report import DataError
from llmbole.grid import run as grid_run
from llmbole.grid.request import Cell, Prepared
from llmbole.pipeline.run import Step
from llmbole.pipeline.store import Store
from llmbole.results import load_all
from llmbole.sweep import cluster
from llmbole.sweep.request import Resources
from llmbole.table_run import load_all as load_runs

TABLE = "example/conventional"
FEW = ("--set=backbone.epochs=1", "--set=backbone.embedding_size=8", "--rows=BPR")


@pytest.fixture
def table(films, tmp_path, capsys):
    """`llmbole table` on the slice: exit status and what it said."""

    def run(*words, name=TABLE):
        folders = [f"--store={tmp_path / 'store'}", f"--leaderboard={tmp_path / 'leaderboard'}", "--quiet"]
        status = main(["table", name, f"--dataset={films}", *folders, *words])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def verify(tmp_path, capsys):
    status = main(["verify", f"--leaderboard={tmp_path / 'leaderboard'}"])
    return status, capsys.readouterr().out


def cells(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_table_through_ray_and_then_in_one_process(table, tmp_path, capsys, monkeypatch):
    words = ("--set=backbone.epochs=1", "--seeds=1,2", "--max-concurrent=1")
    status, said = table(*words)
    assert status == 0, said
    assert "4 cells ran, 0 were on record, 0 failed" in said
    records = load_all(tmp_path / "leaderboard" / "results")
    assert sorted((record.method, record.seed) for record in records) == [
        ("BPR", 1),
        ("BPR", 2),
        ("SASRec", 1),
        ("SASRec", 2),
    ]
    [page] = (tmp_path / "leaderboard" / "tables").rglob("*.md")
    text = page.read_text(encoding="utf-8")
    assert "stands in for the table's data" in text and "backbone.epochs=1" in text
    # The page's mean is that of the records.
    hits = [record.metrics["HIT@1"] for record in records if record.method == "BPR"]
    [row] = [
        row for row in cells(page.with_suffix(".csv")) if (row["row"], row["metric"]) == ("BPR", "HIT@1")
    ]
    assert float(row["mean"]) == pytest.approx(sum(hits) / 2, rel=1e-12)
    assert f"{sum(hits) / 2:.4f} ± " in text
    assert page.with_name(page.name.replace(".md", ".tex")).read_text(encoding="utf-8").count("tabular") == 2
    # Data and split were made once, and nothing twice.
    stages = [artifact.stage for artifact in Store(tmp_path / "store").artifacts()]
    assert sorted(stages) == sorted(["data", "split", *["backbone", "backbone_scores"] * 4])

    monkeypatch.setattr(grid_run, "connected", lambda *_: pytest.fail("Ray was started"))
    monkeypatch.setattr(grid_run, "run_cell", lambda *_: pytest.fail("a finished cell ran again"))
    status, said = table(*words, "--serial")
    assert status == 0 and "0 cells ran, 4 were on record, 0 failed" in said
    assert page.read_text(encoding="utf-8") == text

    assert verify(tmp_path, capsys) == (0, "0 problems\n")
    page.write_text(text.replace(f"{sum(hits) / 2:.4f} ± ", "0.9999 ± "), encoding="utf-8")
    status, said = verify(tmp_path, capsys)
    line = text[: text.index(f"{sum(hits) / 2:.4f} ± ")].count("\n") + 1
    assert status == 1 and f"{page}:{line}: not what the records say" in said
    main(["render", f"--leaderboard={tmp_path / 'leaderboard'}"])
    assert page.read_text(encoding="utf-8") == text


def test_a_failing_cell_is_a_cell_with_its_error_and_stops_no_other(table, tmp_path, monkeypatch):
    run = grid_run.api.run_resolved

    def fail_once(resolved):
        if resolved.settings["seed"] == 1:
            raise RuntimeError(f"no memory for this one in {resolved.options['store']}/x\nmore")
        return run(resolved)

    with monkeypatch.context() as patched:
        patched.setattr(grid_run.api, "run_resolved", fail_once)
        status, said = table(*FEW, "--seeds=1,2", "--serial")
    assert status == 1
    assert "1 cells ran, 0 were on record, 1 failed" in said
    assert "BPR, seed 1: failed: RuntimeError: no memory for this one in STORE/x\n" in said
    [table_run] = load_runs(tmp_path / "leaderboard" / "tables")
    assert [(cell.seed, cell.record is None) for cell in table_run.cells] == [(1, True), (2, False)]
    logs = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "tables").rglob("*.log"))]
    assert ["Traceback" in log for log in logs] == [True, False]
    status, said = table(*FEW, "--seeds=1,2", "--serial")  # the same command tries it again
    assert status == 0 and "1 cells ran, 1 were on record, 0 failed" in said
    assert "no memory" not in said


def test_a_plan_says_what_is_shared_and_cached_and_how_long(table, tmp_path):
    status, said = table("--plan", *FEW, "--seeds=1,2")
    assert status == 0
    assert "2 cells: 0 on record, 2 to run, 0 that can't run; 6 stages to make" in said
    assert said.count("unknown") >= 2
    [shared] = re.findall(r"^\| split .*$", said, re.MULTILINE)
    assert "BPR (1), BPR (2)" in shared
    assert not list((tmp_path / "store").rglob("manifest.json")) and not (tmp_path / "leaderboard").exists()
    table(*FEW, "--seeds=1", "--serial")
    status, said = table("--plan", *FEW, "--seeds=1,2")
    assert "2 cells: 1 on record, 1 to run" in said and "2 stages to make, one after another: about" in said
    assert "unknown" not in said  # the first seed's times are known
    status, said = table("--plan", *FEW, "--seeds=2", f"--store={tmp_path / 'empty'}")
    assert "4 stages to make, one after another: about" in said and "unknown" not in said  # of the record


def test_a_cell_waits_for_a_shared_stage_and_a_dead_process_stops_no_other(tmp_path):
    import ray

    store, resources, submitted, ended = Store(tmp_path), Resources(each="cell"), [], []
    shared, own = (Step(None, key, False, "") for key in ("shared", "own"))  # type: ignore[arg-type]
    cells = {name: Cell(name, "films", 1, "BPR", "films", {}, "") for name in ("first", "waits", "dies")}
    steps = {"first": [shared], "waits": [shared], "dies": [own]}
    waiting = [(number, Prepared(cells[name], steps[name])) for number, name in enumerate(cells)]

    def work(name):
        if name == "dies":
            os._exit(1)
        return name

    def submit(number, cell):
        submitted.append((cell.row, [other.row if hasattr(other, "row") else other for other in ended]))
        return ray.remote(num_cpus=0.5, max_retries=0)(work).remote(cell.row)

    with cluster.connected(resources) as share:
        for outcome in grid_run._scheduled(waiting, store, dataclasses.replace(share, concurrent=3), submit):
            ended.append(outcome)
    assert [name for name, _ in submitted] == ["first", "dies", "waits"]
    assert "first" in submitted[2][1]  # it began once the stage's maker had ended
    [dead] = [outcome for outcome in ended if not isinstance(outcome, str)]
    assert dead.row == "dies" and dead.error.startswith("its process ended")
    assert sorted(outcome for outcome in ended if isinstance(outcome, str)) == ["first", "waits"]


def test_data_that_cannot_be_had_fail_their_cells_alone(tmp_path, capsys, monkeypatch):
    def refuse(dataset, options):
        raise DataError(f"{dataset}: its raw files can't be downloaded")

    monkeypatch.setattr("llmbole.resolve.identified_dataset", refuse)
    folders = [f"--store={tmp_path / 'store'}", f"--leaderboard={tmp_path / 'leaderboard'}", "--quiet"]
    assert main(["table", "allmrec/table9", "--rows=SASRec", "--seeds=1,2", "--plan", *folders]) == 0
    said = capsys.readouterr().out
    assert "4 cells: 0 on record, 0 to run, 4 that can't run; 0 stages to make\n" in said
    assert said.count("its raw files can't be downloaded") == 2  # once for each data set
    assert main(["table", "allmrec/table9", "--rows=SASRec", "--seeds=1", "--serial", *folders]) == 1
    said = capsys.readouterr().out
    assert "0 cells ran, 0 were on record, 2 failed" in said
    assert "- SASRec, seed 1: failed: DataError: allmrec-toys: its raw files can't be downloaded" in said


def test_cells_of_other_settings_are_not_mixed_and_more_seeds_are_added(table, tmp_path):
    table(*FEW, "--seeds=1", "--serial")
    table(*FEW, "--seeds=2", "--serial")
    path = next((tmp_path / "leaderboard" / "tables").rglob("*.json"))
    assert [cell["seed"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]] == [1, 2]
    table("--set=backbone.epochs=1", "--set=backbone.embedding_size=4", "--rows=BPR", "--seeds=3", "--serial")
    assert [cell["seed"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]] == [3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows=SASrec"], "did you mean 'SASRec'"),
        (["--set=backbone.epoch=1"], "row 'BPR': settings: unknown setting 'backbone.epoch'"),
        (["--set=seed=1"], "--set seed"),
        (["--set=epochs"], "KEY=VALUE"),
        (["--seeds=1,1"], "stands twice"),
        (["--seeds=one"], "whole numbers"),
        (["--device=cpu"], "--serial"),
        (["--cpus-per-cell=0"], "--cpus-per-cell=0.0: must be above 0"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(table, tmp_path, words, message):
    status, said = table(*words, "--plan")
    assert status == 2 and message in said
    assert not (tmp_path / "leaderboard").exists()


def test_an_unknown_experiment_is_refused_with_the_close_name(table):
    status, said = table(name="allmrec/tabel1")
    assert status == 2 and "did you mean 'allmrec/table1'" in said
