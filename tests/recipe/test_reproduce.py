"""A record is run again from its own content; a number that was not its own is found, and what differs is named."""

from __future__ import annotations

import dataclasses
import json

import pytest

from llmbole import results
from llmbole.cli import main
from llmbole.record import RecordError
from llmbole.reproduce import find, reproduce
from llmbole.results import load
from llmbole.settings import SettingsError


@pytest.fixture
def recorded(run, tmp_path, raw_slice, capsys):
    """A record of BPR on the slice, and `llmbole reproduce` of the only record on its leaderboard."""
    result = run("BPR", {"backbone.epochs": 1}, folder=tmp_path)

    def command(*words, record=result.record.id[:12]):
        folders = [f"--leaderboard={tmp_path / 'leaderboard'}", f"--raw={raw_slice}", "--quiet"]
        status = main(["reproduce", record, *folders, *words])
        said = capsys.readouterr()
        return status, said.out + said.err

    return result, command


def test_a_record_is_made_again_from_nothing(recorded):
    result, command = recorded
    status, said = command()
    assert status == 0, said
    assert said.count("agrees") == len(result.record.metrics) and "DIFFERS" not in said
    assert "not made anew" not in said and "reproduced: record" in said
    status, said = command(f"--store={result.artifacts['data'].folder.parents[1]}")
    assert status == 0 and "not made anew, the store had them: data, split, backbone, backbone_scores" in said


def test_another_number_is_found_and_what_differs_is_named(recorded, tmp_path, raw_slice):
    result, command = recorded
    record = result.record
    users, values = results.read_per_user(result.path.with_name(record.per_user.file))
    turned = [1.0 - value for value in values["HIT@1"]]
    environment = dataclasses.replace(record.environment, versions={"torch": "1.0"}, python="3.1")
    claimed = dataclasses.replace(
        record,
        metrics={"HIT@1": results.average(turned)},
        environment=environment,
        artifacts={**record.artifacts, "backbone": "0" * 64},
    )
    path = results.append(
        claimed, tmp_path / "leaderboard" / "results", users=users, per_user={"HIT@1": turned}
    )
    status, said = command(f"--store={result.artifacts['data'].folder.parents[1]}", record=path.stem[:12])
    assert status == 1
    assert f"HIT@1        record {claimed.metrics['HIT@1']:.4f}" in said and "DIFFERS" in said
    assert "differs: code or inputs of the stages backbone" in said
    assert "differs: torch: " in said and "the record's is 1.0" in said and "differs: python: " in said
    rounded = dataclasses.replace(
        load(result.path), metrics={k: round(v, 4) for k, v in result.metrics.items()}
    )
    made = reproduce(rounded, result.artifacts["data"].folder.parents[1], raw=str(raw_slice), progress=False)
    assert made.disagreeing == []
    exact = dataclasses.replace(made, digits=12)
    assert exact.disagreeing == [k for k, v in result.metrics.items() if abs(round(v, 4) - v) > 5e-13]


def test_a_folder_that_names_no_single_record_is_refused(recorded, tmp_path):
    result, command = recorded
    status, said = command(record="0123456789ab")
    assert status == 2 and "0 records" in said
    with pytest.raises(RecordError, match="at least 8 digits"):
        find(result.record.id[:4], tmp_path / "leaderboard" / "results")
    assert command("--digits=40")[0] == 2


def test_a_record_of_fewer_settings_gets_todays_defaults_and_says_so(recorded, tmp_path, raw_slice):
    result, _ = recorded
    config = json.loads(json.dumps(result.record.config))
    del config["protocol"]["candidates"]["retriever"], config["backbone"]["training"]
    older = dataclasses.replace(result.record, config=config)
    store = result.artifacts["data"].folder.parents[1]
    made = reproduce(older, store, raw=str(raw_slice), progress=False)
    assert made.disagreeing == []
    [said] = [text for text in made.differences if "does not know" in text]
    assert said.endswith(
        "today's defaults: protocol.candidates.retriever, backbone.training"
    ) or said.endswith("today's defaults: backbone.training, protocol.candidates.retriever")


def test_a_model_that_was_a_folder_has_to_be_given(recorded, tmp_path, raw_slice):
    result, _ = recorded
    config = {**result.record.config, "llm": {"name": "./mine", "revision": "ab" * 32}}
    with pytest.raises(SettingsError, match=r"the folder ./mine; say where it lies with --llm=FOLDER"):
        reproduce(
            dataclasses.replace(result.record, config=config), tmp_path, raw=str(raw_slice), progress=False
        )
