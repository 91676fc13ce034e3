"""Records of sweeps, and what records of runs say of the sweep that chose their settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbole import results, sweep_record
from llmbole.results import RecordError, Selection, Sweep
from llmbole.sweep_record import SweepRecord, Trial, best
from llmbole.tables import record_table
from llmbole.verify import verify

USERS = ["1", "2"]
PER_USER = {"HIT@1": [1.0, 0.0], "NDCG@5": [1.0, 0.5]}
AVERAGES = {"HIT@1": 0.5, "NDCG@5": 0.75}


def trial(number: int, score: float | None, status: str = "finished", **more) -> Trial:
    return Trial(number=number, settings={"align.alpha": number / 10}, status=status, score=score, **more)


@pytest.fixture
def make_sweep(make_record) -> Callable[..., SweepRecord]:
    """A sweep of three trials; keyword arguments replace fields."""
    run = make_record()

    def make(**changes) -> SweepRecord:
        values = {
            "key": "ab" * 32,
            "method": "ALLMRec",
            "dataset": "ml-100k",
            "protocol": run.protocol,
            "metric": "HIT@1",
            "config": {"align": {"alpha": 0.5}},
            "space": {"align.alpha": [0.0, 0.1, 0.2]},
            "search": "grid",
            "scheduler": "none",
            "trials": [trial(0, 0.25), trial(1, 0.5), trial(2, None, "failed", error="ValueError: no")],
            "seconds": 12.5,
            "environment": run.environment,
            "commit": run.commit,
            "created": "2025-01-31T23:59:59Z",
        }
        return SweepRecord(**{**values, **changes})

    return make


@pytest.mark.parametrize(
    ("metric", "trials", "number"),
    [
        ("HIT@1", [trial(0, 0.2), trial(1, 0.4), trial(2, 0.3)], 1),
        ("LogLoss", [trial(0, 0.2), trial(1, 0.4), trial(2, 0.1)], 2),
        ("RMSE", [trial(3, 0.2), trial(1, 0.2)], 1),
        ("HIT@1", [trial(0, 0.2), trial(1, 0.9, "stopped"), trial(2, 0.95, "failed")], 0),
        ("HIT@1", [trial(0, 0.9, "stopped"), trial(1, None, "failed")], None),
        ("HIT@1", [trial(0, 0.0), trial(1, -0.5)], 0),
    ],
)
def test_the_best_trial_is_the_best_finished_one_and_the_first_of_equals(metric, trials, number):
    found = best(trials, metric)
    assert (found.number if found else None) == number


def test_a_sweep_is_written_once_and_read_back(make_sweep, tmp_path):
    record, path = sweep_record.append(make_sweep(), tmp_path)
    assert path == tmp_path / "loo_rank20" / "ml-100k" / f"{record.id}.json"
    assert sweep_record.load(path) == record
    later = make_sweep(created="2026-01-31T23:59:59Z", seconds=13.0)
    assert sweep_record.append(later, tmp_path) == (record, path)
    retried = make_sweep(trials=[trial(0, 0.25), trial(1, 0.5), trial(2, 0.75)])
    again, other = sweep_record.append(retried, tmp_path)
    assert other != path and again.best.number == 2


def test_an_edited_sweep_is_refused(make_sweep, tmp_path):
    _, path = sweep_record.append(make_sweep(), tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("0.25", "0.75"), encoding="utf-8")
    with pytest.raises(RecordError, match="edited after it was sealed"):
        sweep_record.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": [trial(0, None)]}, r"trials\.0\.score: a finished trial has a score"),
        ({"trials": [trial(0, 0.1, "done")]}, r"trials\.0\.status: 'done' is no status"),
        ({"space": {"align.beta": [1]}}, "are not the names of the space"),
        ({"schema": 2}, "reads version 1"),
    ],
)
def test_a_sweep_that_contradicts_itself_is_refused(make_sweep, tmp_path, changes, message):
    with pytest.raises(RecordError, match=message):
        sweep_record.append(make_sweep(**changes), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


SWEEP = Sweep(id="cd" * 32, search="grid", scheduler="none", seconds=12.5)


def chosen(**changes) -> Selection:
    values = {"kind": "sweep", "metric": "HIT@1", "value": 0.5, "trials": 3, "sweep": SWEEP}
    return Selection(**{**values, **changes})


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (chosen(sweep=None), "selection.sweep: a selection of the kind 'sweep' says which sweep"),
        (chosen(kind="fixed"), "selection.sweep: a selection of the kind 'sweep' says which sweep"),
        (chosen(value=None), "selection.value: the validation metric"),
        (chosen(trials=0), "selection.trials: 0 trials"),
        (chosen(sweep=dataclasses.replace(SWEEP, id="cd")), "selection.sweep.id: 'cd' is not the id"),
    ],
)
def test_a_selection_that_contradicts_itself_is_refused(make_record, tmp_path, selection, message):
    with pytest.raises(RecordError, match=message):
        results.append(
            make_record(selection=selection, metrics=AVERAGES), tmp_path, users=USERS, per_user=PER_USER
        )


def test_a_record_without_a_sweep_says_nothing_of_one_and_keeps_its_id(make_record):
    content = make_record().to_json()
    assert "sweep" not in content["selection"]
    assert "sweep" in make_record(selection=chosen()).to_json()["selection"]


def test_a_record_is_checked_against_its_sweep(make_sweep, make_record, tmp_path):
    sweep, path = sweep_record.append(make_sweep(), tmp_path / "sweeps")
    record = make_record(selection=sweep.selection(), metrics=AVERAGES)
    file = results.append(record, tmp_path / "results", users=USERS, per_user=PER_USER)
    assert results.load(file).selection == Selection(
        kind="sweep", metric="HIT@1", value=0.5, trials=3, sweep=dataclasses.replace(SWEEP, id=sweep.id)
    )
    assert verify(tmp_path / "results") == []
    better = make_record(
        selection=dataclasses.replace(sweep.selection(), value=0.6), metrics=AVERAGES, seed=7
    )
    results.append(better, tmp_path / "results", users=USERS, per_user=PER_USER)
    assert ["the sweep" in problem.message for problem in verify(tmp_path / "results")] == [True]
    path.unlink()
    messages = [problem.message for problem in verify(tmp_path / "results")]
    assert len(messages) == 2 and all("holds no sound sweep" in message for message in messages)


def test_the_table_of_a_run_says_how_its_settings_were_chosen(make_record):
    assert "best of 3 trials by validation HIT@1 0.5000 (sweep cdcdcdcdcdcd)" in record_table(
        make_record(selection=chosen())
    )
    assert "trials" not in record_table(make_record())


def test_a_run_chosen_by_a_sweep_is_not_the_same_as_a_fixed_one(make_sweep, make_record, tmp_path):
    sweep = make_sweep()
    record = make_record(metrics=AVERAGES)
    path = results.append(record, tmp_path, users=USERS, per_user=PER_USER)
    same = {"config_hash": record.config_hash, "artifacts": record.artifacts}
    place = {"protocol": "loo_rank20", "dataset": "ml-100k"}
    assert results.same_run(tmp_path, **place, **same) == path
    assert results.same_run(tmp_path, **place, **same, sweep=sweep.id) is None
    swept = dataclasses.replace(record, selection=sweep.selection())
    other = results.append(swept, tmp_path, users=USERS, per_user=PER_USER)
    assert results.same_run(tmp_path, **place, **same, sweep=sweep.id) == Path(other)
