"""The append-only folder of records: `<folder>/<protocol>/<dataset>/<id>.json` and per-user values beside it.

Standard library only.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbole.record import (
    Commit,
    Dataset,
    Environment,
    LanguageModel,
    PerUser,
    ProtocolVersion,
    Record,
    RecordError,
    Selection,
    StageCost,
    Sweep,
    canonical_json,
    checksum,
    content_hash,
    file_text,
    leaves,
)

__all__ = [
    "Commit",
    "Dataset",
    "Environment",
    "LanguageModel",
    "PerUser",
    "ProtocolVersion",
    "Record",
    "RecordError",
    "Selection",
    "StageCost",
    "Sweep",
    "append",
    "average",
    "canonical_json",
    "content_hash",
    "load",
    "load_all",
    "parse",
    "read_per_user",
    "same_run",
    "write_new",
]

logger = logging.getLogger(__name__)

AVERAGE_TOLERANCE = 1e-9
BY_USER = "user_"
"""Begins the names of per-user columns that average to no metric, such as a user's mean loss."""


def append(
    record: Record, folder: Path, *, users: Sequence[str], per_user: Mapping[str, Sequence[float | None]]
) -> Path:
    """Seal a record and write it with its per-user values; a record that is there already is left alone.

    The per-user file is in place before the record, so a record never points to a missing file. What was
    written is taken back when a step fails. RecordError says what breaks the schema, which values do not
    average to the stated metrics, or which file is in the way.

    Args:
        record: The run; its `per_user` is set here.
        folder: The folder of all records.
        users: Raw user ids, one per row.
        per_user: Metric name to one value per user, not rounded; None for a user without a value. Columns that begin
            with `user_` are kept beside them; they average to no metric.

    Returns:
        The record's file.
    """
    content = _per_user_file(users, per_user, record.metrics)
    digest = hashlib.sha256(content).hexdigest()
    file = PerUser(file=f"{digest[:16]}.csv.gz", sha256=digest)
    fields = dataclasses.replace(record, per_user=file).to_json()
    identity = Record.from_json(json.loads(canonical_json(fields))).id
    checksums = "".join(checksum(path, value) for path, value in leaves(fields))
    target = Path(folder, record.protocol.name, record.dataset.name, f"{identity}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    values_file = target.parent / file.file
    values_known = values_file.exists()
    try:
        write_new(values_file, content)
        if target.exists():
            load(target)
            logger.info("record %s is there already, nothing was written", target)
            return target
        write_new(target, file_text(fields, identity, checksums).encode())
    finally:
        if not values_known and not target.exists():
            values_file.unlink(missing_ok=True)
    logger.info("record %s", target)
    return target


def parse(text: str) -> dict[str, Any]:
    """Fields, id and checksums of a record's file; RecordError for NaN, repeated keys, or no object."""

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in entries]
        for key in keys:
            if keys.count(key) > 1:
                raise RecordError(f"key {key!r} stands twice", [(key, "stands twice")])
        return dict(entries)

    def constant(name: str) -> float:
        raise RecordError(f"{name} is not a value of a record")

    payload = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    if not isinstance(payload, dict):
        raise RecordError(f"expected an object, found a {type(payload).__name__}")
    return payload


def load(path: Path) -> Record:
    """Read one record and check its seal.

    Args:
        path: The record's file.

    Returns:
        The record.

    Raises:
        RecordError: The file is not JSON, breaks the schema, or does not match its id.
    """
    try:
        payload = parse(path.read_text(encoding="utf-8"))
        stated = payload.pop("id", None)
        payload.pop("checksums", None)
        record = Record.from_json(payload)
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from None
    if stated != record.id or path.stem != stated:
        raise RecordError(f"{path}: the content does not match the id {stated}; `llmbole verify` says where")
    return record


def load_all(folder: Path) -> list[Record]:
    """All records below a folder, ordered by file name; none when the folder does not exist."""
    return [load(path) for path in sorted(Path(folder).glob("*/*/*.json"))]


def same_run(
    folder: Path,
    *,
    protocol: str,
    dataset: str,
    config_hash: str,
    artifacts: Mapping[str, str],
    clean: bool = False,
    sweep: str | None = None,
) -> Path | None:
    """The record of an identical run, so that a fully cached rerun appends nothing.

    Args:
        folder: The folder of all records.
        protocol: Protocol name.
        dataset: Dataset name.
        config_hash: Hash of the full settings, seed included.
        artifacts: Stage to artifact key; equal keys mean equal code, settings, data, split and seed.
        clean: The code is committed now; then a record from a dirty or unknown tree is not the same run.
        sweep: Id of the sweep that chose the settings; then a record that does not say so is not the same run.

    Returns:
        The file of the newest such record, or None.
    """
    found = [
        (record.created, path)
        for path in sorted(Path(folder, protocol, dataset).glob("*.json"))
        for record in [load(path)]
        if record.config_hash == config_hash
        and record.artifacts == dict(artifacts)
        and not (clean and record.commit.dirty is not False)
        and (sweep is None or (record.selection.sweep is not None and record.selection.sweep.id == sweep))
    ]
    return max(found)[1] if found else None


def read_per_user(path: Path) -> tuple[list[str], dict[str, list[float | None]]]:
    """Raw user ids and the values of each metric (None: no value) of a per-user file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    users = [row[0] for row in rows]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header) if place}
    return users, {name: [float(cell) if cell else None for cell in cells] for name, cells in columns.items()}


def average(values: Sequence[float | None]) -> float:
    """Exactly rounded mean of the values that are there; NaN without any."""
    present = [float(value) for value in values if value is not None]
    return math.fsum(present) / len(present) if present else math.nan


def _per_user_file(
    users: Sequence[str], per_user: Mapping[str, Sequence[float | None]], metrics: Mapping[str, float]
) -> bytes:
    """Gzip'd CSV without time or name in its header: equal values give equal bytes."""
    twice = [user for user, count in Counter(users).items() if count > 1]
    if twice:
        raise RecordError(f"per-user values: user {twice[0]!r} stands twice")
    for name, values in per_user.items():
        if name not in metrics and not name.startswith(BY_USER):
            raise RecordError(f"per-user values: {name!r} is not one of {', '.join(metrics)}")
        if len(values) != len(users):
            raise RecordError(f"per-user values of {name}: {len(values)} values for {len(users)} users")
        if name in metrics and not abs(average(values) - metrics[name]) <= AVERAGE_TOLERANCE:
            raise RecordError(
                f"per-user values of {name} average to {average(values)!r}, the record states "
                f"{metrics[name]!r}; record the average in double precision, not rounded"
            )
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", *per_user])
    columns = [
        ["" if value is None else repr(float(value)) for value in values] for values in per_user.values()
    ]
    writer.writerows(zip(users, *columns, strict=True))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        stream.write(text.getvalue().encode())
    return packed.getvalue()


def write_new(path: Path, content: bytes) -> bool:
    """Write a new file, whole or not at all; False when it is there already with the same content."""
    if path.exists():
        if path.read_bytes() != content:
            raise RecordError(
                f"{path} is there with another content; `llmbole verify` says what is wrong with it"
            )
        return False
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True
