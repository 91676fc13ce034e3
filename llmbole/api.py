"""The Python interface: `llmbole.run(model=..., dataset=...)`, as easy as RecBole's `run_recbole`."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbole import recording, results
from llmbole.data.protocol import protocol
from llmbole.llm import processes
from llmbole.pipeline.run import Step, execute
from llmbole.pipeline.run import plan as plan_stages
from llmbole.pipeline.store import Artifact, Store
from llmbole.recording import Result
from llmbole.resolve import Resolved, identified_dataset, resolve
from llmbole.settings import load_yaml, properties_folder

logger = logging.getLogger(__name__)


def run(
    model: str,
    dataset: str | Path,
    *,
    config_files: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> Result:
    """Run one method on one data set: every stage once, then a record on the leaderboard.

    Args:
        model: A method (`ALLMRec`) or a RecBole model (`LightGCN`).
        dataset: A data set's name, or a folder of your own data (with a `/` in it, or a `Path`).
        config_files: Yaml files laid over the model's defaults.
        settings: Settings over those, nested or with dotted keys (`{"align.learning_rate": 1e-4}`).
        **more: The same as keywords: `backbone="GRU4Rec"`, `seed=1`.

    Returns:
        The record and the artifacts.

    Raises:
        SettingsError: A name, key or value is wrong; no work was done.
    """
    return run_resolved(resolve(model, _named(dataset), {**(settings or {}), **more}, config_files))


def run_resolved(resolved: Resolved, selection: results.Selection | None = None) -> Result:
    """Run what was resolved, and record it.

    Args:
        resolved: The run.
        selection: How its settings were chosen, if not by hand.

    Returns:
        The record and the artifacts.
    """
    store = Store(Path(resolved.options["store"]))
    steps = plan_stages(resolved.method, resolved.settings, store, resolved.method.goals)
    _use_threads(resolved.options["threads"])
    together = _processes(resolved)
    options = {**resolved.options, "progress": resolved.options["progress"] and together.rank == 0}
    artifacts = execute(steps, resolved.settings, store, options, processes=together)
    if together.rank != 0:
        path = Path(together.same(None))
        return Result(results.load(path), path, False, artifacts)
    made = {step.stage.makes for step in steps if not step.cached}
    chosen = selection or results.Selection(
        kind="fixed", metric=resolved.settings["protocol"]["selection"], value=None, trials=1
    )
    result = recording.record(resolved, artifacts, made, chosen)
    together.same(str(result.path))
    return result


def plan(
    model: str,
    dataset: str | Path,
    *,
    config_files: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> list[Step]:
    """What `run` would do with the same arguments: each stage, cached or to run, and why."""
    resolved = resolve(model, _named(dataset), {**(settings or {}), **more}, config_files)
    return plan_stages(
        resolved.method, resolved.settings, Store(Path(resolved.options["store"])), resolved.method.goals
    )


def _named(dataset: str | Path) -> str:
    return dataset if isinstance(dataset, str) else str(dataset.expanduser().resolve())


def prepare(
    dataset: str | Path,
    *,
    raw: Path | str | None = None,
    store: Path | str | None = None,
    progress: bool = True,
) -> Artifact:
    """Fetch and convert a data set, as every run of it would; a later run finds it done.

    Args:
        dataset: A data set's name, or a folder of your own data.
        raw: Folder of its raw files, if they are not to be downloaded.
        store: Folder of artifacts; by default as in overall.yaml.
        progress: Whether to show progress bars.

    Returns:
        The prepared data: its folder, and a summary with counts, expected counts, warnings and fingerprint.
    """
    return _before_models(dataset, raw, store, progress, {})["data"]


def check(
    dataset: str | Path,
    protocol_name: str,
    *,
    raw: Path | str | None = None,
    store: Path | str | None = None,
    progress: bool = True,
) -> tuple[Artifact, list[str]]:
    """Split a data set as every run under a protocol would, and look for leaks in what is stored.

    Args:
        dataset: A data set's name, or a folder of your own data.
        protocol_name: A protocol's name.
        raw: Folder of its raw files, if they are not to be downloaded.
        store: Folder of artifacts; by default as in overall.yaml.
        progress: Whether to show progress bars.

    Returns:
        The frozen split, and a sentence for each leak.
    """
    from llmbole.data import leak, splits

    rules = protocol(protocol_name)
    made = _before_models(dataset, raw, store, progress, {"protocol": dataclasses.asdict(rules)})
    return made["split"], leak.check(splits.load(made["split"].folder), rules)


def _before_models(
    dataset: str | Path,
    raw: Path | str | None,
    store: Path | str | None,
    progress: bool,
    more: dict[str, Any],
) -> Mapping[str, Artifact]:
    """The stages before any model: prepared data, and if a protocol is among the settings the split."""
    from llmbole.model import stages

    class Preparation:
        data = stages.prepare_data
        split = stages.freeze_split

    defaults = load_yaml(properties_folder() / "overall.yaml")
    options = {**defaults, "raw": raw, "store": str(store or defaults["store"]), "progress": progress}
    settings, options["raw"] = identified_dataset(_named(dataset), options)
    shelf = Store(Path(options["store"]))
    whole = json.loads(json.dumps({"dataset": settings, **more}))
    goals = ("split",) if "protocol" in more else ("data",)
    return execute(plan_stages(Preparation, whole, shelf, goals), whole, shelf, options)


def dataset_from_frames(
    interactions: Any,  # noqa: ANN401 - a pandas DataFrame
    items: Any,  # noqa: ANN401
    *,
    folder: Path | str,
    name: str | None = None,
    users: Any = None,  # noqa: ANN401
    **card: Any,  # noqa: ANN401
) -> Path:
    """Write DataFrames as a folder of your own data, to be given to `run` as its data set.

    Args:
        interactions: Columns user_id and item_id, and perhaps rating and timestamp.
        items: Columns item_id and title, and perhaps description, brand, categories and year.
        folder: Where to write; made if it is not there.
        name: What the data set is called in records; by default the folder's last part.
        users: Column user_id and any others.
        **card: What else stands in `dataset.yaml`: `words`, `rating`, `label`, `windows`, `filter`.

    Returns:
        The folder.

    Raises:
        DataError: A table lacks a column.
    """
    from llmbole.data.convert.own import write_folder

    given = {**({"name": name} if name else {}), **card}
    return write_folder(Path(folder), {"interactions": interactions, "items": items, "users": users}, given)


def _processes(resolved: Resolved) -> processes.Processes:
    """The processes that a launcher such as torchrun started for this run, or this one alone."""
    if processes.started() == 1:
        return processes.ALONE
    from llmbole.config import resolve_device

    return processes.opened(resolve_device(resolved.options["device"]))


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(int(threads))
