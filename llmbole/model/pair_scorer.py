"""Scores of methods that ask an LLM about one user and one item at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmbole.data.pair_rows import SHOWN, SHOWN_RATINGS
from llmbole.llm.pair_prompt import PairPrompt
from llmbole.model.conventional_scorer import padded
from llmbole.model.pair_settings import PromptSettings
from llmbole.model.scorer import Context, NewItems, Scorer
from llmbole.pipeline.run import StageRun
from llmbole.settings import build
from recbole.data.interaction import Interaction

ROWS_PER_BATCH = 4096


class PairScorer:
    """Probabilities that users like items, each by a prompt of its own.

    Args:
        run: Declares `prompt`, `dataset` and `protocol`.
        model: The method.
        retriever: The run's conventional model, if it has one.
        length: Longest history that the method hands to it.
    """

    shortlist: int | None = None

    def __init__(
        self,
        run: StageRun,
        model: Any,  # noqa: ANN401 - a method that predicts labels by a prompt
        retriever: Any = None,  # noqa: ANN401 - a ConventionalScorer
        length: int = 1,
    ) -> None:
        settings = build(PromptSettings, run["prompt"], "prompt")
        rated = run["protocol"]["labels"]["kind"] == "threshold" and settings.shown == "likes"
        self._liked_from = run["dataset"]["label"]["positive_from"] if rated else None
        self._shown, self._length, self.model = settings.history, length, model.eval()
        self.retriever: Scorer | None = retriever
        self.history_alone: str | None = None if retriever is None else retriever.history_alone
        if model.prompt.rated:
            self.history_alone = (
                "the prompt shows ratings, which a history alone does not have; give a user of the data set"
            )

    @torch.inference_mode()
    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """Probabilities, `[B, C]`, of items `[B, C]`."""
        flat, width = items.reshape(-1), items.shape[1]
        found = []
        for start in range(0, len(flat), ROWS_PER_BATCH):
            places = np.arange(start, min(start + ROWS_PER_BATCH, len(flat)))
            rows = self._rows([contexts[place] for place in places // width], flat[places])
            found.append(self.model.predict(rows).cpu().double().numpy())
        return np.concatenate(found).reshape(items.shape)

    def _rows(self, contexts: Sequence[Context], items: np.ndarray) -> Interaction:
        """Rows as `PairRows.interaction` gives them; those of one user stand together."""
        histories, lengths = padded([context.history for context in contexts], self._length)
        kept = [self._liked(context) for context in contexts]
        shown, _ = padded([history for history, _ in kept], self._shown)
        ratings, _ = padded([given for _, given in kept], self._shown)
        whole = {
            "user_id": np.array([context.user for context in contexts]),
            "item_id": items,
            "item_id_list": histories,
            "item_length": lengths,
            SHOWN: shown,
        }
        columns = {name: torch.from_numpy(column.astype(np.int64)) for name, column in whole.items()}
        return Interaction({**columns, SHOWN_RATINGS: torch.from_numpy(ratings.astype(np.float32))})

    def _liked(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """What the prompt shows of a history, and its ratings; a history without ratings holds likes."""
        if context.ratings is None:
            return context.history, np.zeros(len(context.history))
        if self._liked_from is None:
            return context.history, context.ratings
        liked = context.ratings >= self._liked_from
        return context.history[liked], context.ratings[liked]


def add_titles(prompt: PairPrompt, new: NewItems | None) -> None:
    """Let a prompt ask about new items.

    Args:
        prompt: The run's prompt; its titles are added to.
        new: The new items.
    """
    if new is None:
        return
    wording, tokens = prompt.wording, prompt.lm.tokens
    plain = [" ".join(title.split()) or wording.untitled for title in new.text.title[1:]]
    prompt.titles += [tokens.shorten(title, wording.title_tokens) for title in plain]
