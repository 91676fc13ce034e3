"""Rows of trials: kept whatever is killed, told on a terminal and in a log, and known to Optuna again."""

from __future__ import annotations

import io
import logging

import pytest

from llmbole.settings import SettingsError
from llmbole.sweep.ledger import Ledger
from llmbole.sweep.progress import Progress, report
from llmbole.sweep_record import Trial


def row(number, status="finished", score=0.5, seconds=10.0, **more):
    settings = {"learning_rate": 0.1 * (number + 1)}
    return Trial(number=number, settings=settings, status=status, score=score, seconds=seconds, **more)


def test_rows_are_read_back_by_number(tmp_path):
    ledger = Ledger(tmp_path)
    rows = [
        row(2),
        row(0, "stopped"),
        row(1, "failed", None, error="ValueError: no"),
        row(3, "running", None),
    ]
    for each in rows:
        ledger.write(each)
    (tmp_path / "trials" / "00004.tmp").write_text('{"number"', encoding="utf-8")  # a writer was killed
    again = Ledger(tmp_path)
    assert again.trials() == sorted(rows, key=lambda each: each.number)
    assert [each.number for each in again.done()] == [0, 2]
    assert [each.number for each in again.open()] == [1, 3]


def test_a_trial_that_was_begun_keeps_its_number(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.number_of({"x": 1}) == 0
    ledger.write(row(0))
    ledger.write(row(1, "running", None))
    assert ledger.number_of(row(1).settings) == 1
    assert ledger.number_of(row(0).settings) == 2  # that one is done: the same settings are another trial


def test_one_process_at_a_time_runs_a_sweep(tmp_path):
    with Ledger(tmp_path).lock(), pytest.raises(SettingsError, match="another process runs this sweep"):
        with Ledger(tmp_path).lock():
            pass
    with Ledger(tmp_path).lock():
        pass


def test_lines_tell_the_best_so_far_and_the_time_left(caplog):
    progress = Progress("HIT@1", total=6, concurrent=2, live=False)
    rows = [row(0, score=0.25), row(1, score=0.5, seconds=20.0), row(2, "running", None, seconds=5.0)]
    with caplog.at_level(logging.INFO, logger="llmbole.sweep.progress"), progress.shown():
        progress.update(rows)
        progress.update(rows, rows[1])
    # four trials of 15 s, of which 5 s are done, by two at a time
    assert [record.message for record in caplog.records] == [
        "trial 1 finished after 20 s: learning_rate=0.2: HIT@1 0.5000; "
        "2 of 6 trials, best HIT@1 0.5000 (learning_rate=0.2), about 28 s left"
    ]


def test_the_live_table_shows_every_row():
    stream = io.StringIO()
    progress = Progress("HIT@1", total=2, concurrent=1, live=True, stream=stream)
    with progress.shown():
        progress.update([row(0, score=0.25), row(1, "failed", None, error="ValueError: no")])
        console = progress._live.console
        console.print(progress._live.renderable)
    drawn = stream.getvalue()
    assert "learning_rate=0.1" in drawn and "0.2500" in drawn and "ValueError" in drawn


def test_the_table_begins_with_the_best_trial_and_names_errors():
    rows = [row(0, score=0.25), row(1, "failed", None, error="ValueError:\nno"), row(2, score=0.5)]
    lines = report([*rows, row(3, "running", 0.9), row(4, "stopped", 0.1)], "HIT@1").splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["2", "0", "3", "4", "1"]
    assert "failed: ValueError: no" in lines[-1] and "unfinished" in lines[2]
    assert [line.split("|")[1].strip() for line in report(rows, "LogLoss").splitlines()[2:4]] == ["0", "2"]


def test_optuna_knows_what_is_done_and_goes_on_with_what_was_begun(tmp_path):
    from llmbole.sweep import tuner
    from llmbole.sweep.request import Resources, Search, make_request

    settings = {
        "store": str(tmp_path / "store"),
        "sweep.learning_rate": {"low": 0.01, "high": 1.0},
        "sweep.embedding_size": None,
    }
    request = make_request(
        "BPR", "ml-100k", settings=settings, search=Search("optuna", 6), resources=Resources(), loggers=()
    )
    ledger = Ledger(tmp_path / "sweep")
    for each in (row(0, score=0.25), row(1, "running", None), row(2, "failed", None), row(3, score=0.5)):
        ledger.write(each)
    _, searcher, samples = tuner._searched(request, ledger, "max")
    assert samples == 4
    assert [trial.value for trial in searcher._ot_study.trials if trial.value is not None] == [0.25, 0.5]
    proposed = [searcher.suggest(str(number))["trial"]["settings"]["learning_rate"] for number in range(3)]
    assert proposed[:2] == pytest.approx([row(1).settings["learning_rate"], row(2).settings["learning_rate"]])
    assert 0.01 <= proposed[2] <= 1.0
