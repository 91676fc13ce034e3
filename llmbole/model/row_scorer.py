"""Scores of methods that read a row by its number: users and items that have not met yet, numbered as rows are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmbole.model.conventional_scorer import padded
from llmbole.model.scorer import Context, Scorer

ROWS_PER_BATCH = 4096


class RowsOfToday:
    """Users and items that have not met yet, in the way of `NumberedRows`.

    Args:
        contexts: The users.
        items: Shape `[B, C]`.
        hides_items: Whether a row's item is what is asked for, as in a ranking.

    Attributes:
        users: User of each row, user by user. Shape `[B * C]`.
        items: Shape `[B * C]`.
        hides_items: As given.
    """

    def __init__(self, contexts: Sequence[Context], items: np.ndarray, *, hides_items: bool = False) -> None:
        self._contexts, self._width, self.hides_items = contexts, items.shape[1], hides_items
        self.items = items.reshape(-1)
        self.users = np.repeat([context.user for context in contexts], self._width)

    def __len__(self) -> int:
        return len(self.items)

    def histories(self, numbers: np.ndarray, max_length: int) -> np.ndarray:
        """The newest items of rows' histories, oldest first, right-padded with 0. Shape `[n, max_length]`."""
        found, _ = padded([context.history for context in self._contexts], max_length)
        return found[numbers // self._width]


class RowScorer:
    """Probabilities of rows of today, each by a prompt of its own.

    Args:
        model: The method; its `probabilities(rows, numbers)` are those of rows by number, `[n]`.
        history_alone: Why it can't score for somebody of whom only the history is known; `None` if it can.
    """

    shortlist: int | None = None
    retriever: Scorer | None = None

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a method that asks about rows
        history_alone: str | None = None,
    ) -> None:
        self.model, self.history_alone = model.eval(), history_alone

    @torch.inference_mode()
    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """Probabilities, `[B, C]`, of items `[B, C]`."""
        rows = RowsOfToday(contexts, items)
        batches = torch.arange(len(rows)).split(ROWS_PER_BATCH)
        found = torch.cat([self.model.probabilities(rows, numbers.numpy()) for numbers in batches])
        scores: np.ndarray = found.double().numpy().reshape(items.shape)
        return scores
