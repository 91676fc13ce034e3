"""Leaves of methods that re-rank a conventional model's lists or change its ratings: what goes in, how it is scored.

Stages here are shared: lists and ratings of the conventional model, with the most similar user of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmbole.data import splits
from llmbole.data.pairs import Pairs, PairSplit
from llmbole.data.sequences import Sequences
from llmbole.data.split import PHASES, Phase
from llmbole.evaluator.collector import Collector, Evaluator
from llmbole.model import attributes as item_attributes
from llmbole.model import cf, evaluation, similar_users, stages
from llmbole.model.session import Session, open_session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from recbole.data.interaction import Interaction

LISTS, RATINGS, PREDICTED = "lists.npz", "ratings.npz", "predicted.npz"
USERS_PER_BATCH = 1024


@dataclass(frozen=True)
class Lists:
    """A conventional model's best items for the users of a phase.

    Attributes:
        items: Best first. Shape `[U, n]`.
        scores: Their scores. Shape `[U, n]`.
        similar: The most similar user, -1 for none. Shape `[U]`.
    """

    items: np.ndarray
    scores: np.ndarray
    similar: np.ndarray

    @classmethod
    def load(cls, artifact: Artifact, phase: str) -> Lists:
        """Those of `valid` or `test`, in the order of the split."""
        with np.load(artifact.folder / LISTS, allow_pickle=False) as stored:
            return cls(*(stored[f"{phase}_{name}"] for name in ("items", "scores", "similar")))


@dataclass(frozen=True)
class Ratings:
    """A conventional model's predictions for the rows of a part; arrays as in `Lists`, of shape `[R]`."""

    values: np.ndarray
    similar: np.ndarray

    @classmethod
    def load(cls, artifact: Artifact, part: str) -> Ratings:
        """Those of `valid` or `test`, in the order of the split."""
        with np.load(artifact.folder / RATINGS, allow_pickle=False) as stored:
            return cls(*(stored[f"{part}_{name}"] for name in ("values", "similar")))


@stage(
    makes="lists",
    needs=("data", "split", "backbone", "augmented_backbone"),
    uses=("dataset.name", "protocol", "backbone", "rank.length", "seed"),
    when=("protocol.task", "ranking"),
    phased=True,
)
def list_best(
    run: StageRun, data: Artifact, split: Artifact, backbone: Artifact, augmented_backbone: Artifact | None
) -> Mapping[str, Any]:
    """The conventional model's best items for the users of `phases_of`, and who is most like them."""
    opened = stages.open_backbone(run, data, split, augmented_backbone or backbone)
    session = opened.session
    count = max(run["rank.length"], *session.protocol.topk)
    sequences = Sequences.of(session.ranking_split)
    vectors = similar_users.user_table(opened, sequences)
    columns: dict[str, Any] = {}
    recall = {}
    for name in phases_of(run):
        phase = session.ranking_split.phase(name)
        items, scores = best_items(opened.model, session, phase, count)
        similar, cosines = similar_users.similar_before(vectors, sequences, phase.positions)
        found = {
            "users": phase.users,
            "items": items,
            "scores": scores,
            "similar": similar,
            "cosines": cosines,
        }
        columns |= {f"{name}_{key}": column for key, column in found.items()}
        recall[name] = float((items[:, : run["rank.length"]] == phase.targets[:, None]).any(axis=1).mean())
    np.savez_compressed(run.folder / LISTS, **columns)
    return {
        "recall": recall,
        "did": f"{count} items for {len(columns[f'{run.phase}_users'])} {run.phase} users, the first "
        f"{run['rank.length']} hold {recall[run.phase]:.4f} of their targets",
    }


@stage(
    makes="ratings",
    needs=("data", "split", "backbone", "attributes", "attributed_backbone"),
    uses=("dataset.name", "protocol", "backbone", "seed"),
    when=("protocol.task", "rating"),
    phased=True,
)
def rate_rows(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    backbone: Artifact,
    attributes: Artifact | None,
    attributed_backbone: Artifact | None,
) -> Mapping[str, Any]:
    """The conventional model's ratings of the rows of `phases_of`, and who is most like their users."""
    more = None if attributes is None else item_attributes.columns(split, attributes)
    opened = stages.open_backbone(run, data, split, attributed_backbone or backbone, more)
    session = opened.session
    assert isinstance(session.split, PairSplit)  # ratings are of rows
    sequences = Sequences.of(session.split)
    vectors = similar_users.user_table(opened, sequences)
    columns: dict[str, Any] = {}
    for name in phases_of(run):
        part = session.split.part(name)
        similar, cosines = similar_users.similar_before(vectors, sequences, part.positions)
        found = {"values": _predictions(opened, name), "similar": similar, "cosines": cosines}
        columns |= {f"{name}_{key}": column for key, column in found.items()}
    np.savez_compressed(run.folder / RATINGS, **columns)
    return {"did": f"ratings of {len(columns[f'{run.phase}_values'])} {run.phase} rows"}


def phases_of(run: StageRun) -> tuple[str, ...]:
    """Whose lists or rows are asked about: validation, which chooses between ways of asking, and what is scored."""
    return tuple(name for name in PHASES if name in ("valid", run.phase))


@torch.inference_mode()
def _predictions(opened: cf.Backbone, part: str) -> np.ndarray:
    """Predicted ratings of all rows of a part. Shape `[R]`."""
    device = opened.session.config["device"]
    batches = [opened.model.predict(rows.to(device)).cpu() for rows, *_ in opened.session.loader(part)]
    return torch.cat(batches).double().numpy()


@torch.inference_mode()
def best_items(model: Any, session: Session, phase: Phase, count: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    """The items of the greatest scores for every user of a phase, as the protocol ranks them.

    Args:
        model: A conventional model that ranks all items.
        session: Its settings and data.
        phase: The users.
        count: Items per user.

    Returns:
        Items and scores, best first, users in the order of the split. Shapes `[U, count]`.

    Raises:
        ValueError: A user has fewer items to rank.
    """
    users, items, scores = [], [], []
    for interaction, known, _, _ in session.loader(phase.name):
        rows = interaction.to(session.config["device"])
        found = model.full_sort_predict(rows).view(len(interaction), -1)
        found[:, 0] = -torch.inf
        if known is not None:
            found[known[0].to(found.device), known[1].to(found.device)] = -torch.inf
        best = found.topk(min(count, found.shape[1]), dim=1)
        users.append(interaction["user_id"].cpu().numpy())
        items.append(best.indices.cpu().numpy())
        scores.append(best.values.cpu().numpy())
    order = np.argsort(np.concatenate(users), kind="stable")
    lists, values = np.concatenate(items)[order], np.concatenate(scores)[order]
    short = ~np.isfinite(values).all(axis=1) | (lists.shape[1] < count)
    if short.any():
        user = str(phase.split.user_tokens[phase.users[int(np.argmax(short))]])
        raise ValueError(
            f"{short.sum()} users have fewer than {count} items to rank, the first is user {user!r}: lower "
            "rank.length, or take a protocol with smaller cut-offs"
        )
    return lists, values


def evaluate_lists(session: Session, phase: Phase, lists: np.ndarray) -> tuple[Evaluator, dict[str, float]]:
    """Metrics of ranked lists.

    Args:
        session: The protocol's metrics and cut-offs, as RecBole's settings.
        phase: Users and targets.
        lists: Items, best first; all others are behind them. Shape `[U, n]`.

    Returns:
        The evaluator with the values of each user, and the averages.
    """
    collector, evaluator = Collector(session.config), Evaluator(session.config)
    width = lists.shape[1]
    ranks = torch.arange(width, 0, -1, dtype=torch.float32)
    for rows in np.array_split(np.arange(len(phase)), -(-len(phase) // USERS_PER_BATCH)):
        scores = torch.full((len(rows), phase.split.n_items), -torch.inf)
        scores.scatter_(1, torch.from_numpy(lists[rows]), ranks.expand(len(rows), -1))
        users = Interaction({"user_id": torch.from_numpy(phase.users[rows].astype(np.int64))})
        targets = torch.from_numpy(phase.targets[rows].astype(np.int64))
        collector.eval_batch_collect(scores, users, torch.arange(len(rows)), targets)
    result = evaluator.evaluate(collector.get_data_struct())
    return evaluator, session.protocol.public_names(result)


def score_lists(
    run: StageRun,
    method: type,
    data: Artifact,
    split: Artifact,
    lists: Artifact,
    ways: Mapping[str, Artifact],
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
    compare: Callable[[Phase, np.ndarray], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Scores of the conventional model's lists, put in another order; of several ways the best on validation.

    Args:
        run: The stage; it must declare `protocol`, `dataset.name` and `seed`.
        method: The method's class.
        data: Prepared data.
        split: Frozen split.
        lists: What `list_best` made.
        ways: Name to artifact with positions that an LLM gives the first items of the lists.
        combine: From users `[U]` and positions `[U, k]` to places in the list, best first, `[U, k]`.
        compare: What else to say of the users' lists, `[U, n]`, best first.

    Returns:
        The stage's summary: metrics, the way, what each way reaches on validation users, faults of answers.
    """
    session = open_session(run, data, split, method)
    chosen = session.protocol.selection

    def ranked(way: str, name: str) -> tuple[Phase, np.ndarray]:
        phase, items = session.ranking_split.phase(name), Lists.load(lists, name).items
        with np.load(ways[way].folder / f"{way}.npz", allow_pickle=False) as stored:
            order = combine(phase.users, stored[f"{name}_positions"])  # [U, k]
        head = np.take_along_axis(items, order, axis=1)
        return phase, np.concatenate([head, items[:, order.shape[1] :]], axis=1)

    valid = {way: evaluate_lists(session, *ranked(way, "valid"))[1][chosen] for way in ways}
    way = max(valid, key=lambda name: valid[name])
    phase, best = ranked(way, run.phase)
    evaluator, _ = evaluate_lists(session, phase, best)
    recall = float(lists.summary["recall"][run.phase])  # no order of the lists can do better
    saved = evaluation.save_scores(run, session, evaluator.users, evaluator.per_user)
    metric, value = next(iter(saved["metrics"].items()))
    extra: dict[str, Any] = {"users": len(evaluator.users), "way": way, "recall": recall}
    extra |= {f"valid_{chosen}_{name}": value for name, value in valid.items()}
    for name, artifact in ways.items():
        extra |= {f"{name}_{fault}": share for fault, share in artifact.summary.get("faults", {}).items()}
    if compare is not None:
        extra |= compare(phase, best)
    return {
        **saved,
        "scoring": ways[way].summary["scoring"],
        "extra": extra,
        "llm_parameters": ways[way].summary["llm_parameters"],
        "did": f"{metric} {value:.4f} over {extra['users']} users by {way}",
    }


def score_ratings(
    run: StageRun,
    method: type,
    data: Artifact,
    split: Artifact,
    predicted: Artifact,
    combine: Callable[[str, np.ndarray, np.ndarray], np.ndarray],
    attributes: Artifact | None = None,
) -> dict[str, Any]:
    """Scores of ratings, and what they reach on validation rows.

    Args:
        run: The stage; it must declare `protocol`, `dataset.name` and `seed`.
        method: The method's class.
        data: Prepared data.
        split: Frozen split.
        predicted: An LLM's ratings.
        combine: From `valid` or `test`, users `[R]` and the LLM's ratings `[R]` to ratings.
        attributes: Attributes that an LLM filled in, of whose answers the record tells.

    Returns:
        The stage's summary.
    """
    session = open_session(run, data, split, method)
    assert isinstance(session.split, PairSplit)  # ratings are of rows
    results = {}
    for name in phases_of(run):
        part = session.split.part(name)
        with np.load(predicted.folder / PREDICTED, allow_pickle=False) as stored:
            values = combine(name, part.users, stored[f"{name}_values"])
        evaluator, results[name] = evaluate_ratings(session, part, values)
    saved = evaluation.save_rows(run, session, evaluator, results[run.phase])  # the last of the phases
    metric, value = next(iter(saved["metrics"].items()))
    chosen = session.protocol.selection
    valid = session.protocol.public_names(results["valid"])[chosen]
    users = len(np.unique(part.users))
    shares = {} if attributes is None else attributes.summary["invalid"]
    invalid = {f"attribute_invalid_{name.replace(' ', '_')}": share for name, share in shares.items()}
    return {
        **saved,
        "scoring": predicted.summary["scoring"],
        "extra": {"rows": len(part), "users": users, f"valid_{chosen}": float(valid), **invalid},
        "llm_parameters": predicted.summary["llm_parameters"],
        "did": f"{metric} {value:.4f} over {len(part)} rows",
    }


def evaluate_ratings(session: Session, part: Pairs, values: np.ndarray) -> tuple[Evaluator, dict[str, float]]:
    """Metrics of predicted ratings.

    Args:
        session: The protocol's metrics, as RecBole's settings.
        part: The rows.
        values: Predicted ratings. Shape `[R]`.

    Returns:
        The evaluator with the rows, and the metrics.
    """
    ids = {"user_id": part.users, "item_id": part.items}
    columns = {name: torch.from_numpy(np.array(column, np.int64)) for name, column in ids.items()}
    columns["label"] = torch.from_numpy(np.array(part.labels, np.float32))
    collector, evaluator = Collector(session.config), Evaluator(session.config)
    nowhere = torch.zeros(0, dtype=torch.long)  # positives of a ranking, of which rated rows have none
    collector.eval_batch_collect(torch.from_numpy(values).float(), Interaction(columns), nowhere, nowhere)
    return evaluator, evaluator.evaluate(collector.get_data_struct())


def answered(**ways: Artifact | None) -> dict[str, Artifact]:
    """Those artifacts with positions that were made."""
    return {name: each for name, each in ways.items() if each is not None and "scoring" in each.summary}


def training_counts(split: Artifact) -> np.ndarray:
    """N(u): training interactions of each user. Shape `[n_users]`."""
    return splits.load(split.folder).train_counts[0]
