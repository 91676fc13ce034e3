from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbole import record as schema
from llmbole import results
from llmbole.results import Commit, Record, RecordError, StageCost
from llmbole.verify import verify

USERS = ["196", "186", "é,22"]
PER_USER = {"HIT@1": [1.0, 0.0, 0.0], "NDCG@5": [1.0, 0.6309297535714575, 0.0]}
Make = Callable[..., Record]
Append = Callable[..., Path]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_canonical_json_is_exactly_defined() -> None:
    value = {"b": [1, 1.0, 1e-4, True, None], "a": {"é": "\n", "A": 0.1 + 0.2}}
    assert results.canonical_json(value) == (
        '{"a":{"A":0.30000000000000004,"é":"\\n"},"b":[1,1.0,0.0001,true,null]}'
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [{"b": float("nan")}]}, r"a\.0\.b: nan is not a number"),
        ({"a": float("inf")}, r"a: inf is not a number"),
        ({"a": {1: 2}}, r"a: key 1 is not a string"),
        ({"a": Path("x")}, r"a: PosixPath\('x'\) \(PosixPath\) is not JSON"),
    ],
)
def test_canonical_json_names_what_it_refuses(value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        results.canonical_json(value)


def test_file_and_folder_names_and_the_id_seal_the_content(make_record: Make, tmp_path: Path) -> None:
    path = results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    payload = json.loads(path.read_text(encoding="utf-8"))
    identity = payload.pop("id")
    payload.pop("checksums")
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert identity == hashlib.sha256(text.encode()).hexdigest()
    assert path == tmp_path / "loo_rank20" / "ml-100k" / f"{identity}.json"
    per_user_file = path.parent / payload["per_user"]["file"]
    assert hashlib.sha256(per_user_file.read_bytes()).hexdigest() == payload["per_user"]["sha256"]
    assert verify(tmp_path) == []


def test_a_loaded_record_equals_the_one_that_was_written(make_record: Make, tmp_path: Path) -> None:
    record = make_record()
    loaded = results.load(results.append(record, tmp_path, users=USERS, per_user=PER_USER))
    assert dataclasses.replace(loaded, per_user=None) == record
    assert list(loaded.cost) == ["backbone", "projection"]
    assert results.load_all(tmp_path) == [loaded]
    assert results.load_all(tmp_path / "nothing") == []


def test_per_user_file_holds_raw_ids_and_exact_values_and_has_reproducible_bytes(
    make_record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = results.append(make_record(), tmp_path / "a", users=USERS, per_user=PER_USER)
    monkeypatch.setattr("time.time", lambda: 0.0)
    second = results.append(make_record(seed=1), tmp_path / "b", users=USERS, per_user=PER_USER)
    files_written = [next(path.parent.glob("*.csv.gz")) for path in (first, second)]
    assert files_written[0].read_bytes() == files_written[1].read_bytes()
    assert gzip.decompress(files_written[0].read_bytes()).decode() == (
        'user_id,HIT@1,NDCG@5\n196,1.0,1.0\n186,0.0,0.6309297535714575\n"é,22",0.0,0.0\n'
    )
    assert results.read_per_user(files_written[0]) == (USERS, PER_USER)


def test_users_without_a_value_are_left_out_of_the_average(make_record: Make, tmp_path: Path) -> None:
    record = dataclasses.replace(make_record(), metrics={"HIT@1": 0.5})
    path = results.append(record, tmp_path, users=USERS, per_user={"HIT@1": [1.0, None, 0.0]})
    assert results.read_per_user(next(path.parent.glob("*.csv.gz")))[1] == {"HIT@1": [1.0, None, 0.0]}
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("users", "per_user", "message"),
    [
        (USERS, {"HIT@1": [1.0, 1.0, 0.0]}, r"HIT@1 average to 0\.66.*states 0\.33.*double precision"),
        (USERS, {"HIT@1": [1.0, 0.0]}, "HIT@1: 2 values for 3 users"),
        (USERS, {"MRR": [1.0, 0.0, 0.0]}, "'MRR' is not one of HIT@1, NDCG@5"),
        (["196", "186", "196"], PER_USER, "user '196' stands twice"),
        (USERS, {"HIT@1": [None, None, None]}, "average to nan"),
    ],
)
def test_per_user_values_that_do_not_fit_are_refused(
    make_record: Make, tmp_path: Path, users: list[str], per_user: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        results.append(make_record(), tmp_path, users=users, per_user=per_user)
    assert files(tmp_path) == []


def test_rounded_metrics_are_refused(make_record: Make, tmp_path: Path) -> None:
    record = dataclasses.replace(make_record(), metrics={"HIT@1": 0.3333})
    with pytest.raises(RecordError, match="not rounded"):
        results.append(record, tmp_path, users=USERS, per_user={"HIT@1": [1.0, 0.0, 0.0]})


def test_unknown_missing_and_mistyped_keys_are_all_named(make_record: Make) -> None:
    content = make_record(per_user=results.PerUser(file="x", sha256="y")).to_json()
    assert Record.from_json(content).to_json() == content
    content["methd"] = content.pop("method")
    content["llm"]["size"] = 3
    del content["dataset"]["counts"]
    content["seed"] = "2025"
    content["metrics"]["HIT@1"] = True
    with pytest.raises(RecordError) as caught:
        Record.from_json(content)
    assert sorted(caught.value.mistakes) == [
        ("dataset.counts", "this key is missing"),
        ("llm.size", "unknown key"),
        ("methd", "unknown key"),
        ("method", "this key is missing"),
        ("metrics.HIT@1", "expected float, found True"),
        ("seed", "expected int, found '2025'"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "reads version 1, not 2"),
        ({"config_hash": "0" * 64}, "the hash of config is"),
        ({"backbone_stage": "cf"}, "backbone_stage: 'cf' is not one of backbone, projection"),
        ({"created": "2025-01-31 23:59:59"}, "created: '2025-01-31 23:59:59' is not of the form"),
        ({"supersedes": "12"}, "supersedes: '12' is not a record id"),
        ({"extra": {"share": float("nan")}}, r"extra\.share: nan"),
        (
            {"selection": results.Selection(kind="best", metric="AUC", value=None, trials=1)},
            "(?s)neither 'fixed' nor 'sweep'.*'AUC' is not one of",
        ),
        (
            {"protocol": results.ProtocolVersion(name="../x", version=1, split="")},
            r"protocol\.name: '\.\./x' cannot name a folder",
        ),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    make_record: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        results.append(make_record(**changes), tmp_path, users=USERS, per_user=PER_USER)
    assert files(tmp_path) == []


def test_the_same_content_again_is_left_alone_and_said(
    make_record: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    with caplog.at_level(logging.INFO, logger="llmbole.results"):
        again = results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    assert again == path
    assert "is there already, nothing was written" in caplog.text
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)} == before


def test_a_record_that_was_edited_is_not_written_over(make_record: Make, tmp_path: Path) -> None:
    path = results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    edited = path.read_text(encoding="utf-8").replace('"trials": 1', '"trials": 9')
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(RecordError, match="does not match the id"):
        results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    assert path.read_text(encoding="utf-8") == edited


def test_a_per_user_file_with_another_content_is_not_written_over(make_record: Make, tmp_path: Path) -> None:
    path = results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    values_file = next(path.parent.glob("*.csv.gz"))
    values_file.write_bytes(b"other")
    with pytest.raises(RecordError, match="is there with another content"):
        results.append(make_record(seed=7), tmp_path, users=USERS, per_user=PER_USER)
    assert values_file.read_bytes() == b"other"


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_a_failing_write_leaves_nothing(
    make_record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failing_call: int
) -> None:
    real, calls = getattr(os, step), []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == failing_call:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, step, failing)
    if step == "replace" and failing_call == 3:
        results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
        return
    with pytest.raises(OSError, match="No space left"):
        results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    monkeypatch.undo()
    assert files(tmp_path) == []
    results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    assert verify(tmp_path) == []


def test_a_write_that_fails_between_the_files_takes_the_first_one_back(
    make_record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    assert files(tmp_path) == []


def test_a_killed_write_is_found_and_completed_by_the_next_one(make_record: Make, tmp_path: Path) -> None:
    path = results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    path.rename(path.with_name(".x.json.123.tmp"))
    messages = [problem.message for problem in verify(tmp_path)]
    assert len(messages) == 2 and all("left by an interrupted write" in message for message in messages)
    assert results.load_all(tmp_path) == []
    path.with_name(".x.json.123.tmp").unlink()
    results.append(make_record(), tmp_path, users=USERS, per_user=PER_USER)
    assert verify(tmp_path) == []


def test_same_run_finds_only_the_identical_run(
    append_record: Append, make_record: Make, tmp_path: Path
) -> None:
    record = make_record()
    identity = {
        "protocol": "loo_rank20",
        "dataset": "ml-100k",
        "config_hash": record.config_hash,
        "artifacts": record.artifacts,
    }
    folder = tmp_path / "results"
    assert results.same_run(folder, **identity) is None
    dirty = append_record(commit=Commit(hash="ab", dirty=True))
    assert results.same_run(folder, **identity) == dirty
    assert results.same_run(folder, **identity, clean=True) is None
    clean = append_record(created="2025-02-01T00:00:00Z")
    assert results.same_run(folder, **identity, clean=True) == clean
    assert results.same_run(folder, **identity) == clean
    assert results.same_run(folder, **{**identity, "config_hash": "0" * 64}) is None
    assert results.same_run(folder, **{**identity, "artifacts": {"backbone": "a0" * 16}}) is None
    assert results.same_run(folder, **{**identity, "dataset": "beauty"}) is None


def test_settings_hash_ignores_the_seed_and_nothing_else(make_record: Make) -> None:
    assert make_record(seed=1).settings_hash == make_record(seed=2).settings_hash
    assert make_record(seed=1).config_hash != make_record(seed=2).config_hash
    assert make_record(config={"a": 1}).settings_hash != make_record(config={"a": 2}).settings_hash


def test_full_seconds_of_a_cached_stage_are_those_of_its_computation() -> None:
    assert StageCost(seconds=0.1, cached_from=60.0).full_seconds == 60.0
    assert StageCost(seconds=12.0).full_seconds == 12.0


def test_average_is_exact() -> None:
    values = [0.1] * 10 + [None]
    assert results.average(values) == 0.1
    assert sum([0.1] * 10) / 10 != 0.1


def test_results_record_and_verify_need_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import llmbole.results, llmbole.record, llmbole.verify\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(tops - set(sys.stdlib_module_names)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['llmbole']"


def test_every_leaf_has_a_line_of_its_own(make_record: Make) -> None:
    content = make_record().to_json()
    text = schema.file_text(content, "i", "c")
    lines = text.split("\n")
    values = [
        line.strip().rstrip(",") for line in lines if line.strip() not in ("", "{", "}", "},", "]", "],")
    ]
    values = [line for line in values if not line.endswith((": {", ": ["))]
    assert len(values) == len(list(schema.leaves(content))) + 2
