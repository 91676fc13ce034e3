"""The lists that methods re-rank which can't rank all items: one retriever's best items, the same for every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from llmbole.data.protocol import protocol
from llmbole.model import cf
from llmbole.model.session import Session, open_session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact
from llmbole.settings import load_yaml, properties_folder

LISTS = "lists.npz"


def retrieve(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
    """Train the protocol's retriever and write its best items of every user of the phase.

    `lists.npz` holds `users [U]`, `best [U, C]` in the retriever's order, and `shown [U, C]`, the same in random order:
    a method that sees the retriever's order can do no worse than repeat it.

    Args:
        run: The stage; it must be phased, and declare `protocol` and `dataset.name`.
        data: Prepared data.
        split: Frozen split.

    Returns:
        The stage's summary, with the recall: no method that re-ranks can do better.
    """
    rules = protocol(run["protocol"]["name"])
    assert (
        rules.candidates is not None and rules.candidates.retriever is not None
    )  # else there is no such stage
    retriever = rules.candidates.retriever
    file = properties_folder() / "model" / f"{retriever.model}.yaml"
    settings = load_yaml(file) if file.is_file() else {}
    for key in ("by_task", "sweep"):  # of protocols of labels, of sweeps
        settings.pop(key, None)
    session = open_session(run, data, split, retriever.model, settings, seed=retriever.seed)
    with run.progress(int(session.config["epochs"]), "epoch") as ticker:
        trained = cf.train_backbone(session, "auto", run.folder, run.workspace, ticker)
    name = run.phase
    best = _best(cf.load_backbone(session, run.folder).model, session, retriever.number, name)  # [U, C]
    raw = np.random.PCG64(retriever.seed).random_raw(best.shape)
    shown = np.take_along_axis(best, np.argsort(raw, axis=1, kind="stable"), axis=1)
    phase = session.ranking_split.phase(name)
    np.savez_compressed(run.folder / LISTS, users=phase.users, best=best, shown=shown)
    recall = float((best == phase.targets[:, None]).any(axis=1).mean())
    return {
        "recall": recall,
        "valid": trained["valid"],
        "did": f"{retriever.number} items of {retriever.model} for {len(best)} users, recall {recall:.4f} at most",
    }


@torch.inference_mode()
def _best(model: Any, session: Session, number: int, phase: str) -> np.ndarray:  # noqa: ANN401 - a RecBole model
    """The items of the greatest scores that are not in the history, for every user of a phase. Shape `[U, number]`."""
    found, users = [], []
    for interaction, known, _, _ in session.loader(phase):
        scores = model.full_sort_predict(interaction.to(session.config["device"])).view(len(interaction), -1)
        scores[:, 0] = -torch.inf
        scores[known[0].to(scores.device), known[1].to(scores.device)] = -torch.inf
        found.append(scores.topk(number, dim=1).indices.cpu().numpy())
        users.append(interaction["user_id"].cpu().numpy())
    order = np.argsort(np.concatenate(users), kind="stable")
    return np.concatenate(found)[order]


def shown(retrieved: Artifact) -> tuple[np.ndarray, dict[str, float]]:
    """The lists to re-rank, and what to say of them.

    Args:
        retrieved: What `retrieve` made.

    Returns:
        A list for each user of the phase, of shape `[U, C]`, and `recall@C`.
    """
    with np.load(retrieved.folder / LISTS, allow_pickle=False) as stored:
        lists = stored["shown"]
    return lists, {f"recall@{lists.shape[1]}": float(retrieved.summary["recall"])}
