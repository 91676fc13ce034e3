"""Scores of methods that answer a prompt with the title of one of the candidates: of lists, not of single items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmbole.data.protocol import protocol
from llmbole.llm.choice import TitleChoice
from llmbole.model.conventional_scorer import padded
from llmbole.model.scorer import Context, NewItems, Scorer
from llmbole.pipeline.run import StageRun
from llmbole.settings import SettingsError
from recbole.data.interaction import Interaction

LISTS_PER_BATCH = 64


class ListScorer:
    """Log-likelihoods of the candidates' titles under a prompt that lists all of them.

    A candidate's score holds within its list only. The prompt lists candidates by internal id, so that neither the
    order in which they are given nor a retriever's order changes anything.

    Args:
        model: The method, a `ranking.Chooser`; its items hold new ones too.
        retriever: The run's conventional model, which chooses the lists; also gives the user vectors.
        shortlist: How many candidates the retriever chooses.
    """

    def __init__(self, model: Any, retriever: Any, shortlist: int) -> None:  # noqa: ANN401 - a Chooser, a ConventionalScorer
        self.model = model.eval()
        self.shortlist: int | None = shortlist
        self.retriever: Scorer | None = retriever
        self._users = retriever
        self.history_alone: str | None = None if retriever is None else retriever.history_alone

    @torch.inference_mode()
    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """Log-likelihoods, `[B, C]`, of the candidates `[B, C]` of each user."""
        order = np.argsort(items, axis=1, kind="stable")
        scores = np.empty(items.shape)
        for start in range(0, len(contexts), LISTS_PER_BATCH):
            rows = slice(start, start + LISTS_PER_BATCH)
            listed = np.take_along_axis(items[rows], order[rows], axis=1)
            np.put_along_axis(scores[rows], order[rows], self._batch(contexts[rows], listed), axis=1)
        return scores

    def _batch(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        model = self.model
        history, _ = padded([context.history for context in contexts], max(model.history, 1))
        history = history[:, : model.history]
        candidates = torch.from_numpy(np.array(items, dtype=np.int64))  # [B, C]
        try:
            prompt = model.choice.prompt(torch.from_numpy(history.astype(np.int64)), candidates)
        except ValueError as error:
            raise SettingsError(
                f"{items.shape[1]} items are too many for one prompt of the LLM: {error}"
            ) from error
        found = model.choice.log_likelihood(
            prompt, model.soft_vectors(prompt, self._user_vectors(contexts))
        )  # [B, C]
        return self._equal(items, found.cpu().double().numpy())

    def _equal(self, items: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores where equal answers have the very same one: rounding tells apart what the LLM does not."""
        for row, values in zip(items.tolist(), scores, strict=True):
            known: dict[tuple[int, ...], float] = {}
            for place, item in enumerate(row):
                values[place] = known.setdefault(tuple(self.model.choice.answers[item]), values[place])
        return scores

    def _user_vectors(self, contexts: Sequence[Context]) -> Any:  # noqa: ANN401 - a Tensor or None
        if self.model.users is None:
            return None
        rows: Interaction = self._users.rows.of_users(contexts)
        return self.model.users.user_vectors(rows)


def list_size(run: StageRun) -> int:
    """Candidates that the protocol shows: what the method's test ranked. The run must declare `protocol`."""
    rules = protocol(run["protocol"]["name"]).candidates
    assert rules is not None  # the protocols of these methods have candidates
    return rules.retriever.number if rules.retriever is not None else rules.negatives + 1


def add_titles(run: StageRun, choice: TitleChoice, new: NewItems | None) -> None:
    """Let a prompt list new items, and answer with them.

    Args:
        run: Declares `prompt` and `dataset`.
        choice: The run's prompt; its titles are added to.
        new: The new items.
    """
    if new is None:
        return
    prompt = run["prompt"]
    made = TitleChoice(
        choice.lm,
        prompt["text"],
        prompt["listed"],
        prompt["answer"],
        new.text.title,
        run["dataset"]["words"],
        prompt["title_tokens"],
    )
    choice.titles += made.titles[1:]
    choice.answers += made.answers[1:]
    choice.longest_answer = max(choice.longest_answer, made.longest_answer)
    choice.most_quotes = max(choice.most_quotes, made.most_quotes)
