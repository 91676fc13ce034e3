"""The record of one sweep: what was searched, and a row for each trial. Standard library only.

It lies in `<leaderboard>/sweeps/<protocol>/<dataset>/<id>.json`; the id is the SHA-256 of the rest, as a run's is.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole import results
from llmbole.record import (
    Commit,
    Environment,
    ProtocolVersion,
    RecordError,
    Selection,
    Sweep,
    canonical_json,
    content_hash,
    read,
)

SCHEMA = 1
FINISHED, STOPPED, FAILED, RUNNING = "finished", "stopped", "failed", "running"
LOWER_IS_BETTER = frozenset({"LOGLOSS", "RMSE", "MAE", "ECE"})


def lower_is_better(metric: str) -> bool:
    """Whether a metric such as `HIT@10` or `LogLoss` is better when it is lower."""
    return metric.partition("@")[0].upper() in LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial.

    Attributes:
        number: From 0, in the order of the search.
        settings: Dotted names and the values that were tried.
        status: `finished`; `stopped` early by the scheduler; `failed`; `running` when the sweep was interrupted.
        score: Validation metric of a finished trial; the best one so far of any other.
        validations: Times that validation data were scored.
        seconds: Wall time, that of earlier attempts included.
        error: Why it failed.
    """

    number: int
    settings: dict[str, Any]
    status: str
    score: float | None = None
    validations: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """One sweep.

    Attributes:
        schema: Version of this schema.
        key: Hash of the request and of the code of the stages; names the folder in which the sweep is resumed.
        method: Name of the method, or of a RecBole model.
        dataset: Name of the data set.
        protocol: Protocol, its version, and hash of the split.
        metric: The protocol's selection metric, of validation data.
        config: Settings that the trials have in common, those that are searched with their defaults.
        space: Dotted names and what was searched.
        search: `grid`, `random` or `optuna`.
        scheduler: `none`, or `asha` with its numbers.
        trials: A row for each trial, by number.
        seconds: Wall time of all trials together.
        environment: Where the sweep ended.
        commit: The code.
        created: `YYYY-MM-DDThh:mm:ssZ`.
    """

    schema: int = SCHEMA
    key: str
    method: str
    dataset: str
    protocol: ProtocolVersion
    metric: str
    config: dict[str, Any]
    space: dict[str, Any]
    search: str
    scheduler: str
    trials: list[Trial]
    seconds: float
    environment: Environment
    commit: Commit
    created: str

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of all fields, in hexadecimal."""
        return content_hash(dataclasses.asdict(self))

    @property
    def best(self) -> Trial:
        """The finished trial of the best validation metric, the first of equal ones.

        Raises `RecordError`: No trial finished.
        """
        found = best(self.trials, self.metric)
        if found is None:
            raise RecordError(f"no trial of the sweep {self.key[:12]} finished")
        return found

    def selection(self) -> Selection:
        """What records of the best trial's settings say of how these were chosen."""
        sweep = Sweep(id=self.id, search=self.search, scheduler=self.scheduler, seconds=self.seconds)
        return Selection(
            kind="sweep", metric=self.metric, value=self.best.score, trials=len(self.trials), sweep=sweep
        )


def best(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The finished trial of the best metric; the first of equal ones; `None` if no trial finished."""
    sign = 1 if lower_is_better(metric) else -1
    finished = [trial for trial in trials if trial.status == FINISHED and trial.score is not None]
    return min(finished, key=lambda trial: (sign * (trial.score or 0.0), trial.number), default=None)


def append(record: SweepRecord, folder: Path) -> tuple[SweepRecord, Path]:
    """Write a sweep, unless one of the same key with the same trials is there already.

    Args:
        record: The sweep.
        folder: The folder of all sweeps.

    Returns:
        What is on record, and its file.

    Raises:
        RecordError: The sweep breaks the schema, or a file is in the way.
    """
    place = Path(folder, record.protocol.name, record.dataset)
    for path in sorted(place.glob("*.json")):
        earlier = load(path)
        if earlier.key == record.key and _outcomes(earlier) == _outcomes(record):
            return earlier, path
    content = _checked(json.loads(canonical_json(dataclasses.asdict(record))))
    path = place / f"{content.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = {"id": content.id, **dataclasses.asdict(content)}
    results.write_new(path, (json.dumps(text, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return content, path


def load(path: Path) -> SweepRecord:
    """Read a sweep and check its seal.

    Args:
        path: The file.

    Returns:
        The sweep.

    Raises:
        RecordError: The file is no sweep, or was edited.
    """
    try:
        content = results.parse(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path}: no sweep: {error}") from None
    stated = content.pop("id", None)
    try:
        record = _checked(content)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    if record.id != stated or path.stem != stated:
        raise RecordError(f"{path}: the content hashes to {record.id}: edited after it was sealed")
    return record


def _checked(content: Mapping[str, Any]) -> SweepRecord:
    mistakes: list[tuple[str, str]] = []
    record: SweepRecord = read(SweepRecord, content, "", mistakes)
    if not mistakes:
        mistakes += _contradictions(record)
    if mistakes:
        raise RecordError("\n".join(f"{key}: {message}" for key, message in mistakes), mistakes)
    return record


def _contradictions(record: SweepRecord) -> list[tuple[str, str]]:
    mistakes = []
    if record.schema != SCHEMA:
        mistakes.append(("schema", f"this llmbole reads version {SCHEMA}, not {record.schema}"))
    for place, trial in enumerate(record.trials):
        key = f"trials.{place}"
        if trial.status not in (FINISHED, STOPPED, FAILED, RUNNING):
            mistakes.append((f"{key}.status", f"{trial.status!r} is no status"))
        if trial.status == FINISHED and (trial.score is None or not math.isfinite(trial.score)):
            mistakes.append((f"{key}.score", f"a finished trial has a score, not {trial.score}"))
        if set(trial.settings) != set(record.space):
            mistakes.append((f"{key}.settings", f"{sorted(trial.settings)} are not the names of the space"))
    return mistakes


def _outcomes(record: SweepRecord) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.settings, trial.status, trial.score) for trial in record.trials]
