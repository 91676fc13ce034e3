"""The Python interface: `llmbole.run(model=..., dataset=...)`, as easy as RecBole's `run_recbole`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole import provenance, results
from llmbole.data.protocol import protocol
from llmbole.pipeline.run import Step, execute
from llmbole.pipeline.run import plan as plan_stages
from llmbole.pipeline.store import Artifact, Store
from llmbole.resolve import Resolved, identified_dataset, resolve
from llmbole.settings import load_yaml, properties_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run gives back.

    Attributes:
        record: The sealed record.
        path: Its file.
        appended: False if an identical run was on record already.
        artifacts: What every stage made, by stage.
    """

    record: results.Record
    path: Path
    appended: bool
    artifacts: Mapping[str, Artifact]

    @property
    def metrics(self) -> Mapping[str, float]:
        """Test metrics."""
        return self.record.metrics

    @property
    def table(self) -> str:
        """The run's small table in markdown."""
        from llmbole.render import record_table

        return record_table(self.record)


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
    artifacts = execute(steps, resolved.settings, store, resolved.options)
    made = {step.stage.makes for step in steps if not step.cached}
    chosen = selection or results.Selection(
        kind="fixed", metric=resolved.settings["protocol"]["selection"], value=None, trials=1
    )
    return _record(resolved, artifacts, made, chosen)


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


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(int(threads))


def _record(
    resolved: Resolved, artifacts: Mapping[str, Artifact], made: set[str], selection: results.Selection
) -> Result:
    """Seal the run, unless the very same one is on record already."""
    folder = Path(resolved.options["leaderboard"]) / "results"
    config = dict(resolved.settings)
    keys = {name: artifact.key for name, artifact in artifacts.items()}
    commit = provenance.commit()
    earlier = results.same_run(
        folder,
        protocol=config["protocol"]["name"],
        dataset=config["dataset"]["name"],
        config_hash=results.content_hash(config),
        artifacts=keys,
        clean=commit.dirty is False,
        sweep=selection.sweep.id if selection.sweep else None,
    )
    if earlier is not None:
        return Result(results.load(earlier), earlier, False, artifacts)
    users, per_user = _per_user(artifacts[resolved.method.goals[-1]])
    record = _fields(resolved, artifacts, made, commit, selection)
    path = results.append(record, folder, users=users, per_user=per_user)
    return Result(results.load(path), path, True, artifacts)


def _fields(
    resolved: Resolved,
    artifacts: Mapping[str, Artifact],
    made: set[str],
    commit: results.Commit,
    selection: results.Selection,
) -> results.Record:
    config, scores = dict(resolved.settings), artifacts[resolved.method.goals[-1]]
    data, split = artifacts["data"].summary, artifacts["split"].summary
    beside = artifacts.get("backbone_scores") if scores.stage != "backbone_scores" else None
    backbone = config.get("backbone", {}).get("name")
    return results.Record(
        method=resolved.model,
        label=resolved.label,
        backbone=backbone if resolved.model != backbone else None,
        llm=_language_model(config, scores),
        text_encoder=config.get("text_encoder", {}).get("name"),
        dataset=results.Dataset(
            name=config["dataset"]["name"],
            fingerprint=config["dataset"]["fingerprint"],
            counts={name: data[name] for name in ("users", "items", "interactions")},
            expected_counts=dict(data["expected"] or {}),
            warnings=list(data["warnings"]),
        ),
        protocol=results.ProtocolVersion(
            name=config["protocol"]["name"], version=config["protocol"]["version"], split=split["hash"]
        ),
        seed=config["seed"],
        scoring=scores.summary["scoring"],
        metrics={**scores.summary["metrics"], **_over_backbone(config, scores, beside)},
        backbone_metrics=dict(beside.summary["metrics"]) if beside else None,
        backbone_stage="backbone" if beside else None,
        validation_metrics=_validation(config, artifacts, scores),
        group_metrics=dict(scores.summary.get("groups", {})),
        extra=dict(scores.summary.get("extra", {})),
        selection=selection,
        cost={name: _cost(artifact, name in made) for name, artifact in artifacts.items()},
        artifacts={name: artifact.key for name, artifact in artifacts.items()},
        config=config,
        config_hash=results.content_hash(config),
        environment=provenance.environment(),
        commit=commit,
        created=provenance.utc_now(),
    )


def _over_backbone(
    config: Mapping[str, Any], scores: Artifact, backbone_scores: Artifact | None
) -> dict[str, float]:
    """Metrics of the method against its backbone alone; none where that is not above chance."""
    from llmbole.evaluator.metrics import relative_improvement

    names = config["protocol"]["over_backbone"]
    if not names or backbone_scores is None:
        return {}
    base = backbone_scores.summary["metrics"]["AUC"]
    return (
        {name: relative_improvement(scores.summary["metrics"]["AUC"], base) for name in names}
        if base > 0.5
        else {}
    )


def _validation(
    config: Mapping[str, Any], artifacts: Mapping[str, Artifact], scores: Artifact
) -> dict[str, float]:
    """Validation metrics of what was scored; a method with an LLM is scored on test users only."""
    found = artifacts["backbone"].summary["valid"] if scores.stage == "backbone_scores" else {}
    return protocol(config["protocol"]["name"]).public_names(found)


def _language_model(config: Mapping[str, Any], scores: Artifact) -> results.LanguageModel | None:
    if "llm" not in config:
        return None
    return results.LanguageModel(
        name=config["llm"]["name"],
        revision=config["llm"]["revision"],
        parameters=scores.summary["llm_parameters"],
    )


def _cost(artifact: Artifact, made: bool) -> results.StageCost:
    cost = artifact.cost
    return results.StageCost(
        seconds=float(cost["seconds"]) if made else 0.0,
        cached_from=None if made else float(cost["seconds"]),
        peak_memory_bytes=int(cost["peak_memory_bytes"]),
        llm_tokens=cost.get("llm_tokens"),
        trainable_parameters=cost.get("trainable_parameters"),
    )


def _per_user(scores: Artifact) -> tuple[list[str], dict[str, list[float | None]]]:
    """Raw user ids and per-user values of the scores' artifact; None where a user has none."""
    import numpy as np

    with np.load(scores.folder / "per_user.npz", allow_pickle=False) as stored:
        users = [str(user) for user in stored["users"]]
        columns = {name: stored[name].tolist() for name in stored.files if name != "users"}
        missing_as_none = {
            name: [None if math.isnan(value) else value for value in values]
            for name, values in columns.items()
        }
        return users, missing_as_none
