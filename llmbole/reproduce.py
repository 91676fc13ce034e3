"""Run a record again from its own content, and say whether the numbers agree and what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbole import provenance
from llmbole.pipeline.run import execute, plan
from llmbole.pipeline.store import Artifact, Store
from llmbole.record import Commit, Environment, Record, RecordError
from llmbole.recording import test_metrics
from llmbole.resolve import SPECIFICATIONS, Resolved, resolve
from llmbole.results import load
from llmbole.settings import SettingsError

DIGITS = 4
_SHORTEST_ID = 8
_HUB_REVISION = 40  # hexadecimal digits; hashes of files have 64


@dataclass(frozen=True)
class Reproduction:
    """A record beside a new run of its content.

    Attributes:
        record: The record.
        metrics: Of the new run.
        digits: Decimals to which metrics are compared.
        differences: A sentence for each thing besides the metrics that differs: data, split, code, versions, machine.
        cached: Stages that were not made anew, for the store had them.
    """

    record: Record
    metrics: Mapping[str, float]
    digits: int
    differences: tuple[str, ...]
    cached: tuple[str, ...]

    @property
    def disagreeing(self) -> list[str]:
        """Names of metrics that are not the record's to so many decimals, or are in one of the two only."""
        names = dict.fromkeys([*self.record.metrics, *self.metrics])
        return [name for name in names if not self._agrees(name)]

    def _agrees(self, name: str) -> bool:
        stated, found = self.record.metrics.get(name), self.metrics.get(name)
        if stated is None or found is None:
            return False
        return abs(stated - found) <= 0.5 * 10.0**-self.digits


def find(identity_start: str, results: Path) -> Record:
    """The record whose id begins with some digits.

    Args:
        identity_start: At least eight digits of its id.
        results: The folder of all records.

    Returns:
        The record.

    Raises:
        RecordError: None or several begin so.
    """
    paths = [path for path in sorted(results.glob("*/*/*.json")) if path.stem.startswith(identity_start)]
    if len(identity_start) < _SHORTEST_ID or len(paths) != 1:
        raise RecordError(
            f"{len(paths)} records in {results} begin with {identity_start!r}; give at least {_SHORTEST_ID} digits of "
            "one record's id"
        )
    return load(paths[0])


def reproduce(
    record: Record,
    store: Path,
    *,
    digits: int = DIGITS,
    dataset: str | None = None,
    raw: str | None = None,
    folders: Mapping[str, str] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Reproduction:
    """Run a record's settings again; nothing is recorded.

    Args:
        record: The record.
        store: Folder of artifacts; what it has already is not made anew.
        digits: Decimals to which metrics are compared.
        dataset: The folder of the data, if the record's were a user's own.
        raw: Folder of the data set's raw files, if they are not to be downloaded.
        folders: Folder of the LLM (`llm`), the judge (`judge`) or the text encoder (`text_encoder`), if the record's
            was given as one.
        device: The torch device.
        progress: Whether to show progress bars.

    Returns:
        The record and the new run.

    Raises:
        SettingsError: The method, data set or protocol is not there, or a folder has to be given.
    """
    resolved, gained = again(
        record, store, dataset=dataset, raw=raw, folders=folders, device=device, progress=progress
    )
    settings = resolved.settings
    shelf = Store(store)
    steps = plan(resolved.method, settings, shelf, resolved.method.goals)
    artifacts = execute(steps, settings, shelf, resolved.options)
    return Reproduction(
        record=record,
        metrics=test_metrics(resolved, artifacts),
        digits=digits,
        differences=tuple(_differences(record, settings, gained, artifacts)),
        cached=tuple(step.stage.makes for step in steps if step.cached),
    )


def again(
    record: Record,
    store: Path,
    *,
    dataset: str | None,
    raw: str | None,
    folders: Mapping[str, str] | None,
    device: str,
    progress: bool,
) -> tuple[Resolved, list[str]]:
    """A record's settings as a run of today.

    Args:
        record: The record.
        store: Folder of artifacts.
        dataset: The folder of the data, if the record's were a user's own.
        raw: Folder of the data set's raw files, if they are not to be downloaded.
        folders: Folder of the LLM (`llm`) or the text encoder (`text_encoder`), if the record's was given as one.
        device: The torch device.
        progress: Whether to show progress bars.

    Returns:
        The run, and the names of the settings that the record does not know, which have today's defaults.

    Raises:
        SettingsError: The method, data set or protocol is not there, or a folder has to be given.
    """
    models = {
        part: model_name(part, record, folders or {}) for part in SPECIFICATIONS if part in record.config
    }
    named = {"protocol": record.config["protocol"]["name"], **models}
    if record.backbone is not None:
        named["backbone"] = record.backbone
    options = {"raw": raw, "device": device, "progress": progress}
    now = resolve(record.method, dataset or record.dataset.name, {**named, **options})
    settings, gained = _filled(record.config, now.settings, "")
    settings["dataset"] = now.settings["dataset"]
    for part in models:
        settings[part] |= {key: now.settings[part][key] for key in ("name", "revision")}
    options = {**now.options, "store": str(store)}
    return replace(now, settings=settings, options=options, label=record.label), gained


def model_name(part: str, record: Record, folders: Mapping[str, str]) -> str:
    """What to ask for to get an LLM or text encoder of a record: a folder, a hub id with its revision, or a name.

    Args:
        part: `llm` or `text_encoder`.
        record: The record.
        folders: Folders of models that were given as one, by part.

    Returns:
        The name.

    Raises:
        SettingsError: It was a folder, and none is given.
    """
    specification = record.config[part]
    name, revision = str(specification["name"]), str(specification["revision"])
    if part in folders:
        return folders[part]
    if name.startswith("./"):
        raise SettingsError(
            f"the record's {part} was the folder {name}; say where it lies with --{part}=FOLDER"
        )
    return f"{name}@{revision}" if len(revision) == _HUB_REVISION else name


def _filled(
    stated: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str
) -> tuple[dict[str, Any], list[str]]:
    """A record's settings with those of today that it does not know, and the names of these."""
    whole, gained = dict(stated), []
    for key, value in defaults.items():
        if key not in stated:
            whole[key] = value
            gained.append(f"{prefix}{key}")
        elif isinstance(value, Mapping) and isinstance(stated[key], Mapping):
            whole[key], below = _filled(stated[key], value, f"{prefix}{key}.")
            gained += below
    return whole, gained


def _differences(
    record: Record, settings: Mapping[str, Any], gained: Sequence[str], artifacts: Mapping[str, Artifact]
) -> Iterator[str]:
    """What is not as it was, the likeliest reasons first."""
    fingerprint = settings["dataset"]["fingerprint"]
    if fingerprint != record.dataset.fingerprint:
        yield f"data: fingerprint {fingerprint[:12]}, the record's is {record.dataset.fingerprint[:12]}"
    split = artifacts["split"].summary["hash"]
    if split != record.protocol.split:
        yield f"split: {split[:12]}, the record's is {record.protocol.split[:12]}"
    for part in SPECIFICATIONS:
        if part not in settings or part not in record.config:
            continue
        then = record.config[part]["revision"]
        if settings[part]["revision"] != then:
            yield f"{part}: revision {settings[part]['revision'][:12]}, the record's is {then[:12]}"
    if gained:
        yield f"settings that the record does not know have today's defaults: {', '.join(gained)}"
    changed = [name for name, artifact in artifacts.items() if record.artifacts.get(name) != artifact.key]
    if changed:
        yield f"code or inputs of the stages {', '.join(changed)}"
    commit = provenance.commit()
    if commit.hash != record.commit.hash or commit.dirty or record.commit.dirty:
        yield f"commit: {_named(commit)}, the record's is {_named(record.commit)}"
    yield from _of_machine(provenance.environment(), record.environment)


def _named(commit: Commit) -> str:
    return f"{commit.hash[:12]}{' with uncommitted changes' if commit.dirty else ''}"


def _of_machine(now: Environment, then: Environment) -> Iterator[str]:
    for name in sorted({*now.versions, *then.versions}):
        if now.versions.get(name) != then.versions.get(name):
            yield f"{name}: {now.versions.get(name, 'none')}, the record's is {then.versions.get(name, 'none')}"
    for key in ("python", "platform", "processor", "gpu"):
        if getattr(now, key) != getattr(then, key):
            yield f"{key}: {getattr(now, key)}, the record's is {getattr(then, key)}"
