"""The record of one run, from its settings and the artifacts of its stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbole import provenance, results
from llmbole.data.protocol import protocol
from llmbole.pipeline.store import Artifact
from llmbole.resolve import Resolved

if TYPE_CHECKING:
    from llmbole.inference.recommender import Recommender


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

    def recommender(self, **more: Any) -> Recommender:  # noqa: ANN401
        """The run, open to recommend with: `result.recommender()("196", k=5)`.

        Args:
            **more: As `llmbole.open_recommender` takes it: `items`, `shortlist`, `device`.

        Returns:
            The recommender.
        """
        from llmbole.inference.open import open_recommender

        return open_recommender(self, **more)


def record(
    resolved: Resolved, artifacts: Mapping[str, Artifact], made: set[str], selection: results.Selection
) -> Result:
    """Seal a run, unless the very same one is on record already and nothing was computed again.

    Numbers that were computed now get a record of their own, also where the same ones were computed before: on another
    machine they and their cost may differ.

    Args:
        resolved: The run.
        artifacts: What it made or found, by stage.
        made: Stages that ran now; the others were cached.
        selection: How the settings were chosen.

    Returns:
        The record and the artifacts.
    """
    folder = Path(resolved.options["leaderboard"]) / "results"
    keys = {name: artifact.key for name, artifact in artifacts.items()}
    commit = provenance.commit()
    earlier = recorded(resolved, keys, commit, selection.sweep.id if selection.sweep else None)
    if earlier is not None and resolved.method.goals[-1] not in made:
        return Result(results.load(earlier), earlier, False, artifacts)
    users, per_user = _per_user(artifacts[resolved.method.goals[-1]])
    record = _fields(resolved, artifacts, made, commit, selection)
    path = results.append(record, folder, users=users, per_user=per_user)
    return Result(results.load(path), path, True, artifacts)


def recorded(
    resolved: Resolved, keys: Mapping[str, str], commit: results.Commit, sweep: str | None = None
) -> Path | None:
    """The record of a run if the very same one, made by the same code, is on record already.

    Args:
        resolved: The run.
        keys: Of its artifacts, by stage; they need not be made.
        commit: The code now; if it is committed, a record from other than committed code is not the same.
        sweep: Id of the sweep that chose the settings.

    Returns:
        The newest such record's file, or `None`.
    """
    config = dict(resolved.settings)
    return results.same_run(
        Path(resolved.options["leaderboard"]) / "results",
        protocol=config["protocol"]["name"],
        dataset=config["dataset"]["name"],
        config_hash=results.content_hash(config),
        artifacts=keys,
        clean=commit.dirty is False,
        sweep=sweep,
    )


def _fields(
    resolved: Resolved,
    artifacts: Mapping[str, Artifact],
    made: set[str],
    commit: results.Commit,
    selection: results.Selection,
) -> results.Record:
    config, scores = dict(resolved.settings), artifacts[resolved.method.goals[-1]]
    data, split = artifacts["data"].summary, artifacts["split"].summary
    beside = _beside(artifacts, scores)
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
        metrics=test_metrics(resolved, artifacts),
        backbone_metrics=dict(beside.summary["metrics"]) if beside else None,
        backbone_stage="backbone" if beside else None,
        validation_metrics=_validation(config, artifacts, scores),
        group_metrics=dict(scores.summary.get("groups", {})),
        extra=_extra(artifacts, scores),
        selection=selection,
        cost={name: _cost(artifact, name in made) for name, artifact in artifacts.items()},
        artifacts={name: artifact.key for name, artifact in artifacts.items()},
        config=config,
        config_hash=results.content_hash(config),
        environment=provenance.environment(),
        commit=commit,
        created=provenance.utc_now(),
    )


def _extra(artifacts: Mapping[str, Artifact], scores: Artifact) -> dict[str, Any]:
    """Numbers beside the metrics: the scores' own, and what other stages say that they measured."""
    found = dict(scores.summary.get("extra", {}))
    for artifact in artifacts.values():
        found |= artifact.summary.get("measured", {})
    return found


def test_metrics(resolved: Resolved, artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """Test metrics of a run, those against its backbone alone included.

    Args:
        resolved: The run.
        artifacts: What it made or found, by stage.

    Returns:
        Metrics by name.
    """
    scores = artifacts[resolved.method.goals[-1]]
    over = _over_backbone(resolved.settings, scores, _beside(artifacts, scores))
    return {**scores.summary["metrics"], **over}


def _beside(artifacts: Mapping[str, Artifact], scores: Artifact) -> Artifact | None:
    """The scores of the backbone alone, if they are not the run's own."""
    return artifacts.get("backbone_scores") if scores.stage != "backbone_scores" else None


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
    parameters = scores.summary["llm_parameters"]
    served = config.get("generate", {}).get("served_model")
    if served and parameters is None:  # else it answered beside the run's LLM, as a judge
        return results.LanguageModel(name=served, revision="served", parameters=None)
    return results.LanguageModel(
        name=config["llm"]["name"],
        revision=config["llm"]["revision"],
        parameters=parameters,
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
