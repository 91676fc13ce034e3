"""RecGen by itself on ml-100k rows: AUC of a tuned LLM's answers, and its accuracy on questions in MMLU's layout."""

from __future__ import annotations

import csv

import pytest

from llmbole.grid.request import make_request
from llmbole.llm import mmlu
from llmbole.settings import SettingsError

TUNING = {"recgen.rows": 24, "recgen.steps": 2, "recgen.batch_size": 4, "recgen.listed.history": 2}


@pytest.fixture
def questions(tmp_path):
    """Five examples and eight questions of one subject."""
    for part, number in (("dev", 5), ("test", 8)):
        path = tmp_path / "mmlu" / part / f"sums_{part}.csv"
        path.parent.mkdir(parents=True)
        rows = [[f"{n} + 1?", str(n), str(n + 1), str(n + 2), str(n + 3), "B"] for n in range(number)]
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return tmp_path / "mmlu"


def test_a_tuned_llm_is_scored_on_rows_and_on_general_questions(run, questions):
    pinned = {"ability.data": str(questions), "ability.sha256": mmlu.fingerprint(str(questions))}
    base = run("RecGen", {**TUNING, **pinned}, protocol="loo_ctr")
    assert set(base.metrics) == {"AUC", "LogLoss", "MMLU"} and "recgen" not in base.artifacts
    assert base.artifacts["ability"].summary["subjects"] == {"sums": base.metrics["MMLU"]}
    half = run("RecGen", {**TUNING, "recgen.variant": "half"}, protocol="loo_ctr")
    assert (
        set(half.metrics) == {"AUC", "LogLoss"} and half.artifacts["recgen"].summary["recommendations"] == 12
    )
    assert half.metrics["LogLoss"] != base.metrics["LogLoss"]
    assert str(questions) not in base.path.read_text(encoding="utf-8")


def test_wrong_settings_are_refused_before_any_work(run, questions):
    for settings, message in (
        ({"ability.data": str(questions)}, "data and sha256 go together"),
        ({"ability.data": str(questions), "ability.sha256": "0"}, "sha256 must be that of the files"),
        ({"ability.data": str(questions / "no"), "ability.sha256": "0"}, "there is no such file"),
        ({"ability.shots": 6}, "from 0 to 5"),
    ):
        with pytest.raises(SettingsError, match=message):
            run("RecGen", settings, protocol="loo_ctr")


def test_a_table_keeps_no_place_of_a_file(questions):
    pinned = {"ability.data": str(questions), "ability.sha256": "0", "recgen.rows": 24}
    request = make_request("llmcf/figure4", rows=["Base"], settings=pinned)
    assert request.settings == {"ability.sha256": "0", "recgen.rows": 24}
    assert all(cell.settings["ability.data"] == str(questions) for cell in request.cells)
