"""Checks of the records' folder: seals, per-user values, references, stray files. Standard library only."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole import results, sweep_record
from llmbole.record import Record, RecordError, checksum, content_hash, file_text, leaves


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file; `line` counts from 1, and is None when the file as a whole is meant."""

    file: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


def verify(folder: Path) -> list[Problem]:
    """Check every record and every other file below the folder of all records.

    Args:
        folder: The folder of all records.

    Returns:
        What is wrong, ordered by file and line; empty when all is well.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [Problem(folder, None, "no such folder")]
    problems: list[Problem] = []
    records: dict[Path, tuple[Record, dict[str, int]]] = {}
    for path in sorted(folder.glob("*/*/*.json")):
        record, lines, found = _check_file(path)
        problems += found
        if record is not None:
            records[path] = record, lines
            problems += _check_place(path, record, lines)
            problems += _check_per_user(path, record, lines)
    problems += _check_superseded(records)
    problems += _check_sweeps(folder.parent / "sweeps", records)
    problems += _check_strays(folder, records)
    return sorted(set(problems), key=lambda problem: (problem.file, problem.line or 0, problem.message))


def line_numbers(payload: Mapping[str, Any]) -> dict[str, int]:
    """Line of every dotted key in the text that `record.file_text` writes, one value a line."""
    numbers: dict[str, int] = {}

    def walk(value: Any, path: str, line: int) -> int:  # noqa: ANN401 - any JSON value
        numbers[path] = line
        if not isinstance(value, dict | list) or not value:
            return line + 1
        line += 1
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            line = walk(entry, f"{path}.{key}" if path else str(key), line)
        return line + 1

    walk(payload, "", 1)
    return numbers


def _line_of(lines: Mapping[str, int], key: str) -> int:
    """The line of a key, or of the closest one above it."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)


def _check_file(path: Path) -> tuple[Record | None, dict[str, int], list[Problem]]:
    """One record's file by itself: JSON, spelling, schema, seal."""
    try:
        text = path.read_bytes().decode()
        payload = results.parse(text)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return None, {}, [Problem(path, line, f"not UTF-8: {error}")]
    except json.JSONDecodeError as error:
        return None, {}, [Problem(path, error.lineno, f"not JSON: {error}")]
    except RecordError as error:
        keys = [key for key, _ in error.mistakes] or [str(error).split()[0]]
        return None, {}, [Problem(path, _last_line_with(text, keys[0]), str(error))]
    lines = line_numbers(payload)
    problems = _check_spelling(path, text, payload)
    identity, checksums = payload.pop("id", None), payload.pop("checksums", None)
    for key, value in (("id", identity), ("checksums", checksums)):
        if not isinstance(value, str):
            return (
                None,
                lines,
                [*problems, Problem(path, _line_of(lines, key), f"{key}: missing, or not a string")],
            )
    problems += _check_seal(path, payload, str(identity), str(checksums), lines)
    try:
        return Record.from_json(payload), lines, problems
    except RecordError as error:
        found = [Problem(path, _line_of(lines, key), f"{key}: {message}") for key, message in error.mistakes]
        return None, lines, problems + found


def _last_line_with(text: str, word: str) -> int:
    numbers = [number for number, line in enumerate(text.split("\n"), 1) if word in line]
    return numbers[-1] if numbers else 1


def _check_spelling(path: Path, text: str, payload: Mapping[str, Any]) -> list[Problem]:
    """The file's text is exactly what llmbole writes: an edit that changes no value is an edit too."""
    fields = {key: value for key, value in payload.items() if key not in ("id", "checksums")}
    try:
        expected = file_text(fields, payload.get("id", ""), payload.get("checksums", ""))
    except ValueError:
        return []  # a number too large for JSON, which the seal's check reports by its key
    if text == expected:
        return []
    found_lines, expected_lines = text.split("\n"), expected.split("\n")
    pairs = list(zip(found_lines, expected_lines, strict=False))
    number = next((i for i, (found, wanted) in enumerate(pairs) if found != wanted), len(pairs))
    wanted = expected_lines[number].strip() if number < len(expected_lines) else "the end of the file"
    return [Problem(path, number + 1, f"edited after it was sealed: llmbole writes {wanted}")]


def _check_seal(
    path: Path, fields: Mapping[str, Any], identity: str, checksums: str, lines: Mapping[str, int]
) -> list[Problem]:
    """The id and the checksums match the content; the checksums say which values were edited."""
    try:
        actual = content_hash(fields)
        entries = list(leaves(fields))
        sums = [checksum(key, value) for key, value in entries]
    except RecordError as error:
        return [Problem(path, _line_of(lines, key), f"{key}: {message}") for key, message in error.mistakes]
    if actual == identity:
        if checksums == "".join(sums):
            return []
        return [Problem(path, _line_of(lines, "checksums"), "checksums: edited after the record was sealed")]
    if path.stem == actual:
        return [Problem(path, _line_of(lines, "id"), f"id: the content and the file name say {actual}")]
    stated = re.findall("....", checksums)
    edited = [key for (key, _), found, sealed in zip(entries, sums, stated, strict=False) if found != sealed]
    if len(checksums) != 4 * len(entries):
        edited = [*edited[:1], ""]
    messages = {key: f"{key}: edited after the record was sealed" for key in edited if key}
    if not messages or "" in edited:
        messages["id"] = f"id: the content hashes to {actual}; keys were added or removed, or much was edited"
    return [Problem(path, _line_of(lines, key), message) for key, message in messages.items()]


def _check_place(path: Path, record: Record, lines: Mapping[str, int]) -> Iterator[Problem]:
    stated = json.loads(path.read_text(encoding="utf-8"))["id"]
    if path.stem != stated:
        yield Problem(path, lines["id"], f"id: {stated} is not the file's name")
    for key, name, place in (
        ("protocol.name", record.protocol.name, path.parent.parent.name),
        ("dataset.name", record.dataset.name, path.parent.name),
    ):
        if name != place:
            yield Problem(path, lines[key], f"{key}: {name} lies in the folder of {place}")


def _check_per_user(path: Path, record: Record, lines: Mapping[str, int]) -> Iterator[Problem]:
    """The per-user file is the sealed one, and its columns average to the stated metrics."""
    assert record.per_user is not None
    file = path.parent / record.per_user.file
    if Path(record.per_user.file).name != record.per_user.file or not file.is_file():
        yield Problem(
            path, lines["per_user.file"], f"per_user.file: {record.per_user.file} is not beside the record"
        )
        return
    if hashlib.sha256(file.read_bytes()).hexdigest() != record.per_user.sha256:
        yield Problem(path, lines["per_user.sha256"], f"per_user.sha256: {file.name} has another hash")
        yield Problem(file, None, f"the hash is not the one in {path.name}")
    try:
        _, columns = results.read_per_user(file)
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        yield Problem(file, None, f"cannot be read: {error}")
        return
    for name, values in columns.items():
        if name.startswith(results.BY_USER) and name not in record.metrics:
            continue
        stated, found = record.metrics.get(name), results.average(values)
        if stated is None or not abs(stated - found) <= results.AVERAGE_TOLERANCE:
            line = _line_of(lines, f"metrics.{name}")
            yield Problem(path, line, f"metrics.{name}: {stated}, but the per-user values average to {found}")


def _check_superseded(records: Mapping[Path, tuple[Record, dict[str, int]]]) -> Iterator[Problem]:
    known = {path.relative_to(path.parent.parent.parent) for path in records}
    for path, (record, lines) in records.items():
        if record.supersedes is None:
            continue
        if Path(path.parent.parent.name, path.parent.name, f"{record.supersedes}.json") not in known:
            message = f"supersedes: no record {record.supersedes} of this protocol and dataset"
            yield Problem(path, lines["supersedes"], message)


def _check_sweeps(folder: Path, records: Mapping[Path, tuple[Record, dict[str, int]]]) -> Iterator[Problem]:
    """Every sweep is as it was sealed, and every record's selection is what its sweep says."""
    sweeps = {}
    for path in sorted(folder.glob("*/*/*.json")):
        try:
            sweeps[path.stem] = sweep_record.load(path)
        except RecordError as error:
            yield Problem(path, None, str(error))
    for path, (record, lines) in records.items():
        selection = record.selection
        if selection.sweep is None:
            continue
        found = sweeps.get(selection.sweep.id)
        line = _line_of(lines, "selection.sweep.id")
        if found is None:
            yield Problem(
                path, line, f"selection.sweep.id: {folder} holds no sound sweep {selection.sweep.id}"
            )
        elif found.selection() != selection:
            yield Problem(path, line, f"selection: the sweep {selection.sweep.id} says {found.selection()}")


def _check_strays(folder: Path, records: Mapping[Path, tuple[Record, dict[str, int]]]) -> Iterator[Problem]:
    """Files that are neither a record, nor a record's per-user file, nor a folder's placeholder."""
    expected = {
        path.parent / record.per_user.file for path, (record, _) in records.items() if record.per_user
    }
    broken = {path.parent for path in folder.glob("*/*/*.json") if path not in records}
    for path in folder.rglob("*"):
        if path.is_dir() or path in expected or path.name == ".gitkeep":
            continue
        if path.suffix == ".json" and path.parent.parent.parent == folder:
            continue
        if path.name.endswith(".csv.gz") and path.parent in broken:
            continue
        interrupted = path.suffix == ".tmp" or path.name.endswith(".csv.gz")
        hint = "left by an interrupted write, delete it" if interrupted else "move it out of the folder"
        yield Problem(path, None, f"no record refers to this file: {hint}")
