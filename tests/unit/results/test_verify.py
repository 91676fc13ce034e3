from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbole import results
from llmbole.record import checksum, content_hash, file_text, leaves
from llmbole.verify import Problem, line_numbers, verify

Append = Callable[..., Path]


def line_of(path: Path, start: str) -> int:
    """The number of the one line that starts so."""
    lines = path.read_text(encoding="utf-8").split("\n")
    (number,) = [number for number, line in enumerate(lines, 1) if line.strip().startswith(start)]
    return number


def places(problems: list[Problem]) -> list[tuple[Path, int | None]]:
    return [(problem.file, problem.line) for problem in problems]


def reseal(path: Path, change: Callable[[dict], object]) -> Path:
    """Forge a record: change its fields and seal it anew under its new name."""
    payload = json.loads(path.read_text(encoding="utf-8"))
    del payload["id"], payload["checksums"]
    change(payload)
    identity = content_hash(payload)
    sums = "".join(checksum(key, value) for key, value in leaves(payload))
    path.unlink()
    forged = path.with_name(f"{identity}.json")
    forged.write_text(file_text(payload, identity, sums), encoding="utf-8")
    return forged


def test_an_untouched_folder_has_no_problems_and_a_missing_one_is_said(
    append_record: Append, tmp_path: Path
) -> None:
    first = append_record()
    append_record(supersedes=first.stem)
    assert verify(tmp_path / "results") == []
    assert verify(tmp_path / "nothing") == [Problem(tmp_path / "nothing", None, "no such folder")]


def test_every_edited_digit_is_reported_with_file_and_line(append_record: Append, tmp_path: Path) -> None:
    path = append_record()
    original = path.read_text(encoding="utf-8")
    missed = []
    digits = [match.start() for match in re.finditer(r"\d", original)]
    assert len(digits) > 600
    for position in digits:
        digit = str((int(original[position]) + 1) % 10)
        path.write_text(original[:position] + digit + original[position + 1 :], encoding="utf-8")
        line = original[:position].count("\n") + 1
        if (path, line) not in places(verify(tmp_path / "results")):
            missed.append((line, original.split("\n")[line - 1]))
    assert missed == []


def test_every_removed_or_repeated_line_is_reported(append_record: Append, tmp_path: Path) -> None:
    path = append_record()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number in range(len(lines)):
        for edited in (lines[:number] + lines[number + 1 :], lines[: number + 1] + lines[number:]):
            path.write_text("".join(edited), encoding="utf-8")
            assert [
                problem for problem in verify(tmp_path / "results") if problem.file == path and problem.line
            ]


def test_several_edited_values_are_reported_each_on_its_line(append_record: Append, tmp_path: Path) -> None:
    path = append_record()
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace('"cores": 2', '"cores": 64').replace('"trials": 1', '"trials": 500'), encoding="utf-8"
    )
    found = verify(tmp_path / "results")
    assert places(found) == [(path, line_of(path, '"trials"')), (path, line_of(path, '"cores"'))]
    assert str(found[0]) == f"{path}:{found[0].line}: selection.trials: edited after the record was sealed"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seconds": 100.0', '"seconds": 100.00', 'llmbole writes "seconds": 100.0'),
        ('"HIT@1": 0.30000000000000004', '"HIT@1": 0.30000000000000003', "llmbole writes"),
        ('  "label": ""', '   "label": ""', "llmbole writes"),
        ('"method": "ALLMRec"', '"method": "\\u0041LLMRec"', "llmbole writes"),
        ('"trials": 1', '"trials": NaN', "NaN is not a value of a record"),
        ('"trials": 1', '"trials": 1 1', "not JSON"),
        ('"trials": 1', '"trials": 1, "trials": 2', "'trials' stands twice"),
        ('"trials"', '"trails"', "selection.trails: unknown key"),
        ('"seconds": 100.0', '"seconds": 1e999', "inf is not a number"),
    ],
)
def test_edits_of_form_are_reported_too(
    append_record: Append, tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = append_record()
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    line = text[: text.index(old)].count("\n") + 1
    found = [problem.message for problem in verify(tmp_path / "results") if problem.line == line]
    assert any(message in text for text in found), verify(tmp_path / "results")


def test_a_renamed_and_a_misplaced_record_are_reported(append_record: Append, tmp_path: Path) -> None:
    path = append_record()
    other = path.with_name(f"{'0' * 64}.json")
    path.rename(other)
    assert places(verify(tmp_path / "results")) == [(other, 2)]
    other.rename(path)
    moved = tmp_path / "results" / "ctr" / "ml-100k"
    shutil.copytree(path.parent, moved)
    found = verify(tmp_path / "results")
    assert places(found) == [(moved / path.name, line_of(path, '"name": "loo_rank20"'))]
    assert "lies in the folder of ctr" in found[0].message


def test_a_forged_metric_does_not_match_the_per_user_values(append_record: Append, tmp_path: Path) -> None:
    forged = reseal(
        append_record(hit=0.25), lambda payload: payload["metrics"].update({"HIT@1": 0.25 + 2e-9})
    )
    assert results.load(forged).metrics["HIT@1"] == 0.25 + 2e-9
    (problem,) = verify(tmp_path / "results")
    assert (problem.file, problem.line) == (
        forged,
        line_numbers(json.loads(forged.read_text()))["metrics.HIT@1"],
    )
    assert "the per-user values average to 0.25" in problem.message


def test_edited_truncated_and_missing_per_user_files_are_reported(
    append_record: Append, tmp_path: Path
) -> None:
    path = append_record()
    values_file = next(path.parent.glob("*.csv.gz"))
    content = values_file.read_bytes()
    for position in (4, len(content) // 2, len(content) - 1):
        edited = bytearray(content)
        edited[position] ^= 1
        values_file.write_bytes(edited)
        found = places(verify(tmp_path / "results"))
        assert (values_file, None) in found and (path, line_of(path, '"sha256"')) in found
    values_file.write_bytes(content[:20])
    assert "cannot be read" in " ".join(problem.message for problem in verify(tmp_path / "results"))
    values_file.unlink()
    assert places(verify(tmp_path / "results")) == [(path, line_of(path, '"file"'))]


def test_a_per_user_file_outside_the_folder_is_not_accepted(append_record: Append, tmp_path: Path) -> None:
    path = append_record()
    shutil.copy(next(path.parent.glob("*.csv.gz")), path.parent.parent / "x.csv.gz")
    forged = reseal(path, lambda payload: payload["per_user"].update(file="../x.csv.gz"))
    assert (forged, line_of(forged, '"file"')) in places(verify(tmp_path / "results"))


def test_superseding_a_record_that_does_not_exist_is_reported(append_record: Append, tmp_path: Path) -> None:
    path = append_record(supersedes="0" * 64)
    found = verify(tmp_path / "results")
    assert places(found) == [(path, line_of(path, '"supersedes"'))]
    assert f"no record {'0' * 64}" in found[0].message


def test_stray_files_are_reported(append_record: Append, tmp_path: Path) -> None:
    path = append_record()
    folder = tmp_path / "results"
    strays = [
        folder / "notes.txt",
        path.parent / "other.csv.gz",
        path.parent / ".a.json.1.tmp",
        folder / "x.json",
    ]
    for stray in strays:
        stray.write_text("{}")
    (folder / ".gitkeep").touch()
    assert sorted(places(verify(folder))) == sorted((stray, None) for stray in strays)
