"""A finished run: its settings and its artifacts in the store, from its record or from the settings it was run with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbole import reproduce
from llmbole.defaults import SPECIFICATIONS, form_of
from llmbole.llm import identity
from llmbole.model.scorer import NewItems, Opener, Scorer, opener
from llmbole.pipeline.run import StageRun, Step, execute
from llmbole.pipeline.run import plan as plan_stages
from llmbole.pipeline.stage import stages_of
from llmbole.pipeline.store import Artifact, Store
from llmbole.record import Record
from llmbole.resolve import Resolved, pipeline_of
from llmbole.settings import SettingsError, build

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A run whose artifacts are there.

    Attributes:
        model: Name of the method, or of a RecBole model.
        method: The class whose stages made the artifacts.
        settings: Of the run.
        options: Device and folders.
        artifacts: What its recommender needs, by stage; `None` where the run has no such stage.
        record: The record it was found by, if it was.
    """

    model: str
    method: type
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    artifacts: Mapping[str, Artifact | None]
    record: Record | None = None

    @property
    def opener(self) -> Opener:
        """How the method's runs are opened."""
        return opener(self.method)

    def open(self, new: NewItems | None = None) -> Scorer:
        """Load the trained model.

        Args:
            new: Items that the data set does not have.

        Returns:
            The model as a scorer.

        Raises:
            SettingsError: The method can't score new items.
        """
        how = self.opener
        if new is not None and not how.reads_new:
            raise SettingsError(
                f"{self.model} scores only the items of its data set, and {len(new)} are not among them; leave them "
                "out, or take a method that reads item text, such as ALLMRec or TALLRec"
            )
        declared = {name: _lookup(self.settings, name) for name in how.uses}
        nowhere = Path(self.options["store"]) / "none"  # an opener makes no files
        run = StageRun("recommend", nowhere, nowhere, declared, self.options)
        return how.function(run, new, **{name: self.artifacts.get(name) for name in how.needs})


def of_record(
    record: Record,
    options: Mapping[str, Any],
    *,
    dataset: str | None = None,
    folders: Mapping[str, str] | None = None,
    train: bool = False,
) -> Finished:
    """The run that a record tells of.

    Its own artifacts are taken where the store has them; else those that today's code makes of its settings.

    Args:
        record: The record.
        options: `store`, `device`, `raw` and `progress`.
        dataset: The folder of the data, if the record's were a user's own; only needed to train.
        folders: Folder of the LLM (`llm`) or the text encoder (`text_encoder`), if the record's was given as one.
        train: Whether to make what is missing.

    Returns:
        The run.

    Raises:
        SettingsError: An artifact is missing, or a model is not the record's.
    """
    method = pipeline_of(form_of(record.method, record.protocol.name))
    store = Store(Path(options["store"]))
    own = _own_artifacts(record, method, store)
    located = {**options, **_located(record, folders or {})}
    if own is not None:
        return Finished(record.method, method, record.config, located, own, record)
    resolved, _ = reproduce.again(
        record,
        store.folder,
        dataset=dataset,
        raw=options["raw"],
        folders=folders,
        device=options["device"],
        progress=options["progress"],
    )
    command = f"llmbole reproduce {record.id[:12]} --store={options['store']}"
    found = of_settings(resolved, train=train, command=command)
    logger.warning(
        "record %s: its own artifacts are not in the store, or of other settings than today's code has; these were "
        "made of its settings by today's code",
        record.id[:12],
    )
    return replace(found, record=record)


def of_settings(resolved: Resolved, *, train: bool = False, command: str = "llmbole run") -> Finished:
    """The run of some settings.

    Args:
        resolved: The settings.
        train: Whether to make what is missing.
        command: The command that would make it, for the message.

    Returns:
        The run.

    Raises:
        SettingsError: An artifact is missing.
    """
    store = Store(Path(resolved.options["store"]))
    how = opener(resolved.method)
    steps = plan_stages(resolved.method, resolved.settings, store, how.needs)
    missing = [step for step in steps if not step.cached]
    if missing and not train:
        raise _missing(missing, store, command)
    artifacts = execute(steps, resolved.settings, store, resolved.options)
    kept = {name: artifacts.get(name) for name in how.needs}
    return Finished(resolved.model, resolved.method, resolved.settings, resolved.options, kept)


def _missing(steps: Sequence[Step], store: Store, command: str) -> SettingsError:
    names = ", ".join(f"{step.stage.makes} {step.key[:8]} ({step.reason})" for step in steps)
    return SettingsError(
        f"{store.folder} lacks {names}. `{command}` makes what is missing; so does this command with --train"
    )


def _own_artifacts(record: Record, method: type, store: Store) -> dict[str, Artifact | None] | None:
    """The very artifacts of a record; `None` if one is gone or damaged, or today's code has other settings."""
    how, stages = opener(method), stages_of(method)
    try:
        for name in how.uses:
            _lookup(record.config, name)
        runs = {name: name in record.artifacts or stages[name].runs(record.config) for name in how.needs}
    except ValueError:
        return None  # a setting came after the record
    if any(there and name not in record.artifacts for name, there in runs.items()):
        return None
    found = {name: store.get(record.artifacts[name]) for name, there in runs.items() if there}
    if any(artifact is None for artifact in found.values()):
        return None
    return {name: found.get(name) for name in how.needs}


def _located(record: Record, folders: Mapping[str, str]) -> dict[str, str]:
    """Where an LLM or text encoder lies that was given as a folder; each must be the record's.

    Raises `SettingsError`: A folder has to be given, or another model is here.
    """
    located: dict[str, str] = {}
    for part, kind in SPECIFICATIONS.items():
        if part not in record.config:
            continue
        specification = {**record.config[part], "name": reproduce.model_name(part, record, folders)}
        pinned = specification.pop("revision")
        spec = build(kind, specification, part)
        folder = identity.given_folder(spec)
        if identity.revision(spec) != pinned:
            raise SettingsError(
                f"{part} {record.config[part]['name']} is revision {identity.revision(spec)[:12]} here, and record "
                f"{record.id[:12]} was made with {pinned[:12]}; install or name the record's with --{part}=FOLDER"
            )
        if folder is not None:
            located[f"{part}_folder"] = folder
    return located


def _lookup(settings: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - a setting is of any type
    """One setting by dotted name; a missing one is a SettingsError."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise SettingsError(f"the run's settings lack {name!r}, which its recommender reads")
        value = value[part]
    return value
