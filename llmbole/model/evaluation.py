"""Leaves of evaluation: scores of a phase, test or validation, with the values of each user, or of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmbole.data.pair_rows import PairRows
from llmbole.data.pairs import PairSplit
from llmbole.evaluator import lists, row_values
from llmbole.evaluator.collector import Collector, Evaluator
from llmbole.llm.processes import ALONE, Processes
from llmbole.model import grouping, ranking, retrieval
from llmbole.model.base import LLMRecommender
from llmbole.model.session import Session, open_session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import TEST
from llmbole.pipeline.store import Artifact
from llmbole.trainer.trainer import Trainer

PER_USER_FILE = "per_user.npz"
ROWS_FILE = "rows.npz"
LISTS_PER_BATCH = 64
ROWS_PER_BATCH = 4096


class Ticking:
    """An evaluation loader that reports its batches."""

    def __init__(self, loader: Any, ticker: Any) -> None:  # noqa: ANN401 - any loader
        self._loader, self._ticker = loader, ticker
        self.dataset = self._dataset = loader._dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            self._ticker(1)


def save_scores(
    run: StageRun, session: Session, users: np.ndarray, per_user: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write the values of each user under raw user ids, and average them, over all users and within groups.

    Args:
        run: The stage.
        session: Its split maps internal to raw ids, its protocol names the metrics to report and the groups.
        users: Internal user ids. Shape `[U]`.
        per_user: Metric name to values. Shapes `[U]`.

    Returns:
        `metrics`, metric name to average, and `groups`, group name to its averages.
    """
    rules, split = session.protocol, session.ranking_split
    found = rules.public_names(per_user)
    columns = {name: found[name] for name in rules.report or found if name in found}
    _write_per_user(run, session, users, columns)
    return {
        "metrics": {name: float(values.mean()) for name, values in columns.items()},
        "groups": grouping.of_users(rules.groups, split, users, columns) if run.phase == TEST else {},
    }


def save_rows(
    run: StageRun, session: Session, evaluator: Evaluator, result: Mapping[str, float]
) -> dict[str, Any]:
    """Write scored rows and what they are for each user, and give their metrics, over all rows and within groups.

    Args:
        run: The stage.
        session: Its split maps internal to raw ids, its protocol names the metrics and the groups.
        evaluator: Holds the rows of the evaluation.
        result: Metrics as the evaluation gave them.

    Returns:
        `metrics` and `groups` as `save_scores` gives them.
    """
    rows, rules, split = evaluator.rows, session.protocol, session.split
    assert rows is not None and rows.items is not None  # a value metric was evaluated
    assert isinstance(split, PairSplit)
    np.savez_compressed(
        run.folder / ROWS_FILE, users=rows.users, items=rows.items, labels=rows.labels, scores=rows.scores
    )
    users, columns = row_values.by_user(rows, rules.task)
    for name, value in rules.public_names(evaluator.user_values).items():
        column = np.full(len(users), np.nan)
        column[np.searchsorted(users, value.users)] = value.values
        columns[name] = column
    _write_per_user(run, session, users, columns)
    metrics = rules.public_names(result)
    names = rules.report or rules.metrics
    return {
        "metrics": {name: float(metrics[name]) for name in names},
        "groups": grouping.of_rows(rules.groups, split, rows, names) if run.phase == TEST else {},
    }


def _write_per_user(
    run: StageRun, session: Session, users: np.ndarray, columns: Mapping[str, np.ndarray]
) -> None:
    raw = np.array([str(session.split.user_tokens[user]) for user in users])
    stored: dict[str, Any] = {"users": raw, **columns}
    np.savez_compressed(run.folder / PER_USER_FILE, **stored)


def score_choices(
    run: StageRun, model: LLMRecommender, data: Artifact, split: Artifact, retrieved: Artifact | None
) -> dict[str, Any]:
    """Scores of a phase by a method that answers a prompt with one of the candidates.

    Args:
        run: The stage; it must declare `scoring`, `protocol`, `dataset.name` and `seed`.
        model: The method.
        data: Prepared data.
        split: Frozen split.
        retrieved: The lists to rank, where the protocol has a retriever; else its frozen candidates are ranked.

    Returns:
        The stage's summary: metrics, how they were scored, tokens read.
    """
    session = open_session(run, data, split, type(model), {"eval_batch_size": LISTS_PER_BATCH * 20})
    phase = run.phase
    model.eval()
    model.tokens_read.zero_()
    session.held_out(phase)
    offered, recall = retrieval.shown(retrieved) if retrieved else (None, {})
    loader = session.loader(phase) if offered is None else session.offering(offered, phase)
    with run.progress(len(loader), "batch") as ticker:
        evaluate = _by_generation if run["scoring"] == "generation" else _by_likelihood
        saved, extra = evaluate(run, model, session, Ticking(loader, ticker))
    run.count(llm_tokens=int(model.tokens_read))
    metric, value = next(iter(saved["metrics"].items()))
    return {
        **saved,
        "scoring": run["scoring"],
        "extra": {**extra, **recall},
        "llm_parameters": model.choice.lm.parameters_total,
        "did": f"{metric} {value:.4f} over {extra['users']} users by {run['scoring']}",
    }


def score_pairs(
    run: StageRun,
    model: Any,  # noqa: ANN401 - a method that predicts labels by a prompt
    data: Artifact,
    split: Artifact,
    rows: PairRows,
    beside: Artifact | None = None,
) -> dict[str, Any]:
    """Scores of a phase by a method that gives each labelled row a probability.

    Args:
        run: The stage; it must declare `protocol`, `dataset.name` and `seed`.
        model: The method.
        data: Prepared data.
        split: Frozen split.
        rows: All rows of the phase.
        beside: Scores of another model on the same rows; the mean of both is scored.

    Returns:
        The stage's summary: metrics, groups, how rows were scored.
    """
    session = open_session(run, data, split, type(model))
    model.eval()
    before = model.prompt.tokens_read
    processes = run.processes or ALONE
    with run.progress(len(processes.part(torch.arange(len(rows)))), "row") as ticker:
        scores = predict_all(model, rows, ticker, processes)  # [R]
    run.count(llm_tokens=int(processes.sums(model.prompt.tokens_read - before)[0]))
    scoring = "answer_probability" if beside is None else "mean_with_backbone"
    scores = scores if beside is None else (scores + _beside(beside, rows)) / 2
    return {
        **save_pairs(run, session, rows, scores),
        "scoring": scoring,
        "llm_parameters": model.prompt.lm.parameters_total,
    }


def save_pairs(run: StageRun, session: Session, rows: PairRows, scores: torch.Tensor) -> dict[str, Any]:
    """Evaluate scores of labelled rows, and write what `save_rows` writes.

    Args:
        run: The stage.
        session: Its protocol names the metrics and the groups.
        rows: All rows of the test.
        scores: Their scores. Shape `[R]`.

    Returns:
        `metrics`, `groups`, `extra` with the numbers of rows and users, and `did`.
    """
    collector, evaluator = Collector(session.config), Evaluator(session.config)
    nowhere = torch.zeros(0, dtype=torch.long)  # positives of a ranking, of which labelled rows have none
    interaction = rows.interaction(torch.arange(len(rows)))
    collector.eval_batch_collect(scores, interaction, nowhere, nowhere)
    saved = save_rows(run, session, evaluator, evaluator.evaluate(collector.get_data_struct()))
    extra = {"rows": len(rows), "users": len(np.unique(evaluator.users))}
    metric, value = next(iter(saved["metrics"].items()))
    did = f"{metric} {value:.4f} over {extra['rows']} rows of {extra['users']} users"
    return {**saved, "extra": extra, "did": did}


@torch.inference_mode()
def predict_all(
    model: Any,  # noqa: ANN401 - a method that predicts labels by a prompt
    rows: PairRows,
    progress: Callable[[int], None],
    processes: Processes = ALONE,
) -> torch.Tensor:
    """Probabilities of rows, in their order; several processes score each row once.

    Args:
        model: The method, in evaluation mode.
        rows: The rows.
        progress: Told the number of rows that this process finished.
        processes: That share the rows; all of them get all probabilities.

    Returns:
        Shape `[R]`, float64, on the CPU.
    """
    found = [torch.zeros(0, dtype=torch.float64)]
    for numbers in processes.part(torch.arange(len(rows))).split(ROWS_PER_BATCH):
        if len(numbers):  # a process without rows has one empty batch
            found.append(model.predict(rows.interaction(numbers)).cpu().double())
            progress(len(numbers))
    return processes.gather(torch.cat(found), len(rows))


def _beside(scores: Artifact, rows: PairRows) -> torch.Tensor:
    """Another model's probabilities of the same rows. Shape `[R]`."""
    with np.load(scores.folder / ROWS_FILE, allow_pickle=False) as stored:
        other, items = stored["scores"], stored["items"]
    if not np.array_equal(items, rows.items):
        raise ValueError(
            f"{scores.folder / ROWS_FILE} holds other rows than are scored; delete it and run again"
        )
    if other.min() < 0 or other.max() > 1:
        raise ValueError(
            f"{scores.folder / ROWS_FILE} holds scores that are no probabilities; they have no mean"
        )
    return torch.from_numpy(other)


def _by_likelihood(
    run: StageRun,
    model: Any,  # noqa: ANN401 - a `ranking.Chooser` that is a module
    session: Session,
    loader: Ticking,
) -> tuple[dict[str, Any], dict[str, Any]]:
    trainer = Trainer(session.config, model, workspace=run.workspace)
    trainer.eval_collector.data_collect(loader)
    trainer.evaluate(loader)
    evaluator = trainer.evaluator
    extra = {"users": len(evaluator.users), **_catalogue(session, evaluator)}
    return save_scores(run, session, evaluator.users, evaluator.per_user), extra


def _by_generation(
    run: StageRun,
    model: Any,  # noqa: ANN401 - a `ranking.Chooser` that is a module
    session: Session,
    loader: Ticking,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """HIT@1 of greedy answers: right only if the answer names the target, and no other candidate."""
    users, hits, valid, texts = [], [], [], []
    for interaction, _, _, positive_items in loader:
        interaction = interaction.to(session.config["device"])
        width = interaction[ranking.CANDIDATES].shape[1]
        answers, places = ranking.answers(model, interaction)
        offered = interaction[ranking.CANDIDATES][::width].cpu().numpy()  # [B, C]
        named = np.where(places >= 0, offered[np.arange(len(places)), np.maximum(places, 0)], 0)  # [B]
        hits.append((named == positive_items.cpu().numpy()).astype(np.float64))
        valid.append(places >= 0)
        users.append(interaction["user_id"][::width].cpu().numpy())
        texts += answers
    _write_answers(run.folder / "answers.txt", texts)
    everyone = np.concatenate(users)
    saved = save_scores(run, session, everyone, {"hit@1": np.concatenate(hits)})
    return saved, {"users": len(everyone), "valid_answers": float(np.concatenate(valid).mean())}


def _write_answers(path: Path, texts: list[str]) -> None:
    """Answers as they came, one per line, line breaks escaped."""
    path.write_text(
        "".join(text.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for text in texts), encoding="utf-8"
    )


@torch.inference_mode()
def score_conventional(
    run: StageRun,
    model: Any,  # noqa: ANN401 - a RecBole model
    session: Session,
    loader: Any = None,  # noqa: ANN401 - RecBole's or this project's loader
) -> dict[str, Any]:
    """Scores of a phase by a conventional model.

    Args:
        run: The stage.
        model: A trained RecBole model.
        session: Its settings and data.
        loader: The test rows, if not as the session has them.

    Returns:
        The stage's summary.
    """
    loader = session.loader(run.phase) if loader is None else loader
    trainer = Trainer(session.config, model, workspace=run.workspace)
    trainer.eval_collector.data_collect(loader)
    result = trainer.evaluate(loader)
    evaluator = trainer.evaluator
    if evaluator.rows is not None:
        saved = save_rows(run, session, evaluator, result)
        extra: dict[str, Any] = {"rows": len(evaluator.rows.labels), "users": len(np.unique(evaluator.users))}
        over = f"{extra['rows']} rows of {extra['users']} users"
    else:
        saved = save_scores(run, session, evaluator.users, evaluator.per_user)
        extra = {"users": len(evaluator.users), **_catalogue(session, evaluator)}
        over = f"{extra['users']} users"
    metric, value = next(iter(saved["metrics"].items()))
    return {**saved, "scoring": "model_scores", "extra": extra, "did": f"{metric} {value:.4f} over {over}"}


def _catalogue(session: Session, evaluator: Evaluator) -> dict[str, float]:
    """What the recommended lists show of the catalogue, at each cut-off, where the protocol asks for it."""
    if evaluator.lists is None:
        return {}
    split, found = session.ranking_split, {}
    _, popularity = split.train_counts
    for cut_off in session.protocol.topk:
        shown = evaluator.lists[:, :cut_off]
        found[f"Coverage@{cut_off}"] = lists.coverage(shown, split.n_items - 1)
        found[f"Gini@{cut_off}"] = lists.gini(shown, split.n_items - 1)
        found[f"AveragePopularity@{cut_off}"] = lists.average_popularity(shown, popularity)
    return found
