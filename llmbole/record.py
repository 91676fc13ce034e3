"""The record of one run: its schema, its canonical JSON, and its seal. Standard library only.

A record's file holds three kinds of keys:

- the fields of `Record`;
- `id`: SHA-256, in hexadecimal, of the canonical JSON of the fields;
- `checksums`: four hexadecimal digits for each value of the fields, in the order of the file. They prove
  nothing that the id does not prove; with them `verify` finds the line that was edited.

Canonical JSON is UTF-8 without ASCII escapes, keys sorted by code point, no white space, floats as Python's
`repr` writes them (shortest digits that read back as the same number), and no NaN or infinity.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
OPTIONAL = {"optional": True}
"""Marks fields that a record leaves out where there is nothing to say; so older records keep their ids."""
Mistakes = list[tuple[str, str]]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
_HASH = re.compile(r"[0-9a-f]{64}")
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class RecordError(ValueError):
    """A record that breaks the schema or its seal; `mistakes` holds (dotted key, what is wrong) pairs."""

    def __init__(self, message: str, mistakes: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.mistakes = list(mistakes)


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A language model: name, pinned revision (or hash of its folder) and number of parameters.

    Of a model that a server answers with, only the name is known: `revision` is `served`, `parameters` None.
    """

    name: str
    revision: str
    parameters: int | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data of a run: fingerprint of the prepared files, counts found and counts published."""

    name: str
    fingerprint: str
    counts: dict[str, int]
    expected_counts: dict[str, int]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class ProtocolVersion:
    """The protocol of a run, its version, and the hash of the frozen split and candidates."""

    name: str
    version: int
    split: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The sweep that chose the settings: id of its file, how it searched, and the seconds of all its trials."""

    id: str
    search: str
    scheduler: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the settings were chosen: `fixed` before the run, or a `sweep`'s best trial on validation data.

    `value` is the best trial's validation metric, `trials` the number of trials.
    """

    kind: str
    metric: str
    value: float | None
    trials: int
    sweep: Sweep | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class PerUser:
    """The file of per-user test values, beside the record, and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage cost.

    `seconds` is wall time in this run. For a stage found in the store, `cached_from` is the seconds that it
    took when it was computed; it is None for a stage that this run computed.
    """

    seconds: float
    peak_memory_bytes: int | None = None
    llm_tokens: int | None = None
    trainable_parameters: int | None = None
    cached_from: float | None = None

    @property
    def full_seconds(self) -> float:
        """Seconds the stage takes when nothing is cached."""
        return self.seconds if self.cached_from is None else self.cached_from


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a run took place: interpreter, machine, and versions of the libraries that matter."""

    python: str
    platform: str
    processor: str
    cores: int
    memory_bytes: int | None
    gpu: str | None
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The code of a run: commit hash, and whether the tree differed from it (None: unknown)."""

    hash: str
    dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run.

    `label` names how the settings differ from the method's defaults (empty: not at all). `backbone_stage` is
    the stage whose artifact holds the backbone; `backbone_metrics` are its own test metrics on the same
    candidates. `supersedes` is the id of an earlier record that this one corrects. `created` is
    `YYYY-MM-DDThh:mm:ssZ`.
    """

    schema: int = SCHEMA
    method: str
    label: str = ""
    backbone: str | None
    llm: LanguageModel | None
    text_encoder: str | None
    dataset: Dataset
    protocol: ProtocolVersion
    seed: int
    scoring: str
    metrics: dict[str, float]
    backbone_metrics: dict[str, float] | None = None
    backbone_stage: str | None = None
    validation_metrics: dict[str, float]
    group_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    per_user: PerUser | None = None
    selection: Selection
    cost: dict[str, StageCost]
    artifacts: dict[str, str]
    config: dict[str, Any]
    config_hash: str
    environment: Environment
    commit: Commit
    created: str
    supersedes: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, without id and checksums."""
        content = dataclasses.asdict(self)
        if self.selection.sweep is None:
            del content["selection"]["sweep"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Build a record from its fields as JSON values.

        Args:
            content: The fields, without id and checksums.

        Returns:
            The record.

        Raises:
            RecordError: Unknown or missing keys, wrong types, values that contradict each other; all of them.
        """
        mistakes: Mistakes = []
        record = read(cls, content, "", mistakes)
        mistakes = mistakes or list(_contradictions(record))
        if mistakes:
            raise RecordError("\n".join(f"{key}: {message}" for key, message in mistakes), mistakes)
        return record

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of all fields, in hexadecimal."""
        return content_hash(self.to_json())

    @property
    def settings_hash(self) -> str:
        """Hash of the settings without the seed: equal for runs that differ by nothing but their seed."""
        return content_hash({key: value for key, value in self.config.items() if key != "seed"})


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Canonical JSON of a value, as the module's head defines it; RecordError names what is not JSON."""
    mistakes = [(path, problem) for path, problem in _not_json(value, "")]
    if mistakes:
        raise RecordError("\n".join(f"{path or 'value'}: {problem}" for path, problem in mistakes), mistakes)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON value
    """Every (dotted key, scalar or empty container) of a JSON value, in the order of the file."""
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from leaves(entry, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple) and value:
        for position, entry in enumerate(value):
            yield from leaves(entry, f"{path}.{position}" if path else str(position))
    else:
        yield path, value


def checksum(path: str, value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Four hexadecimal digits that change when a value or its key is edited."""
    return content_hash([path, value])[:4]


def file_text(content: Mapping[str, Any], identity: str, checksums: str) -> str:
    """The text of a record's file: every value on a line of its own, the id first and the checksums last."""
    payload = {"id": identity, **content, "checksums": checksums}
    return json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _not_json(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any value
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if isinstance(key, str):
                yield from _not_json(entry, f"{path}.{key}" if path else key)
            else:
                yield path, f"key {key!r} is not a string"
    elif isinstance(value, list | tuple):
        for position, entry in enumerate(value):
            yield from _not_json(entry, f"{path}.{position}" if path else str(position))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{value} is not a number that a record can hold"
    elif not (value is None or isinstance(value, str | int | float)):
        yield path, f"{value!r} ({type(value).__name__}) is not JSON; convert it before it is recorded"


def read(kind: Any, value: Any, key: str, mistakes: Mistakes) -> Any:  # noqa: ANN401 - any annotation
    """Check a JSON value against an annotation and build its dataclasses; mistakes are collected."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return None if value is None else read(arguments[0], value, key, mistakes)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _read_fields(kind, value, key, mistakes)
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return {name: read(arguments[1], entry, f"{key}.{name}", mistakes) for name, entry in value.items()}
    if typing.get_origin(kind) is list and isinstance(value, list):
        return [read(arguments[0], entry, f"{key}.{place}", mistakes) for place, entry in enumerate(value)]
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    name = getattr(kind, "__name__", str(kind)) if not arguments else str(kind)
    mistakes.append((key, f"expected {name}, found {value!r}"))
    return None


def _read_fields(cls: Any, content: Mapping[str, Any], key: str, mistakes: Mistakes) -> Any:  # noqa: ANN401
    kinds = typing.get_type_hints(cls)
    prefix = f"{key}." if key else ""
    before = len(mistakes)
    mistakes += [(f"{prefix}{name}", "unknown key") for name in content if name not in kinds]
    optional = {entry.name for entry in dataclasses.fields(cls) if entry.metadata.get("optional")}
    missing = [name for name in kinds if name not in content and name not in optional]
    mistakes += [(f"{prefix}{name}", "this key is missing") for name in missing]
    values = {
        name: read(kinds[name], content[name], f"{prefix}{name}", mistakes)
        for name in kinds
        if name in content
    }
    return None if len(mistakes) > before else cls(**values)


def _contradictions(record: Record) -> Iterator[tuple[str, str]]:
    if record.schema != SCHEMA:
        yield (
            "schema",
            f"this llmbole reads version {SCHEMA}, not {record.schema}; install the one that wrote it",
        )
    for key, name in (("dataset.name", record.dataset.name), ("protocol.name", record.protocol.name)):
        if not _NAME.fullmatch(name):
            yield key, f"{name!r} cannot name a folder: use letters, digits, '_', '-', '@', '+' and '.'"
    yield from _of_selection(record.selection)
    if record.selection.metric not in record.metrics:
        yield "selection.metric", f"{record.selection.metric!r} is not one of {', '.join(record.metrics)}"
    if record.backbone_metrics is not None and record.backbone_stage not in record.artifacts:
        yield "backbone_stage", f"{record.backbone_stage!r} is not one of {', '.join(record.artifacts)}"
    if record.config_hash != content_hash(record.config):
        yield "config_hash", f"the hash of config is {content_hash(record.config)}, not {record.config_hash}"
    if record.per_user is None:
        yield "per_user", "the file of per-user values is missing"
    if not _CREATED.fullmatch(record.created):
        yield "created", f"{record.created!r} is not of the form 2025-01-31T23:59:59Z"
    if record.supersedes is not None and not _HASH.fullmatch(record.supersedes):
        yield "supersedes", f"{record.supersedes!r} is not a record id (64 hexadecimal digits)"


def _of_selection(selection: Selection) -> Iterator[tuple[str, str]]:
    if selection.kind not in ("fixed", "sweep"):
        yield "selection.kind", f"{selection.kind!r} is neither 'fixed' nor 'sweep'"
    elif (selection.kind == "sweep") != (selection.sweep is not None):
        yield "selection.sweep", "a selection of the kind 'sweep' says which sweep, and no other does"
    if selection.sweep is None:
        return
    if selection.value is None:
        yield "selection.value", "the validation metric of the sweep's best trial is missing"
    if selection.trials < 1:
        yield "selection.trials", f"{selection.trials} trials can't have chosen anything"
    if not _HASH.fullmatch(selection.sweep.id):
        yield "selection.sweep.id", f"{selection.sweep.id!r} is not the id of a sweep (64 hexadecimal digits)"
