"""Scores of LLM-CF for any user and item: examples are retrieved as for a row of today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.data.numbered import ROW, NumberedRows
from llmbole.llm.nearest import EarlierNeighbours
from llmbole.model.conventional_scorer import ConventionalScorer, padded
from llmbole.model.examples import ExampleSettings, row_vectors
from llmbole.model.scorer import Context
from llmbole.model.session import Session


class RowsOfToday:
    """Users and items that have not met yet, in the way of `NumberedRows`.

    Args:
        contexts: The users.
        items: Shape `[B, C]`.

    Attributes:
        users: User of each row, user by user. Shape `[B * C]`.
        items: Shape `[B * C]`.
    """

    def __init__(self, contexts: Sequence[Context], items: np.ndarray) -> None:
        self._contexts, self._width = contexts, items.shape[1]
        self.items = items.reshape(-1)
        self.users = np.repeat([context.user for context in contexts], self._width)

    def __len__(self) -> int:
        return len(self.items)

    def histories(self, numbers: np.ndarray, max_length: int) -> np.ndarray:
        """The newest items of rows' histories, oldest first, right-padded with 0. Shape `[n, max_length]`."""
        found, _ = padded([context.history for context in self._contexts], max_length)
        return found[numbers // self._width]


class InContextScorer(ConventionalScorer):
    """A trained LLM-CF as a scorer.

    All examples are earlier than today. They stand in one order for all rows, drawn with the run's seed, so that a
    score does not depend on what else is scored.

    Args:
        method: The model with its `rows` and the examples they are `shown`.
        session: Settings and data of its backbone.
        rows: All labelled rows.
        chosen: Numbers of those that may be examples. Shape `[N]`.
        text: Vectors of item text. Shape `[n_items, T]`.
        settings: How many examples, and which.
        seed: Of their order.
    """

    def __init__(
        self,
        method: Any,  # noqa: ANN401 - an LLMCF
        session: Session,
        rows: NumberedRows,
        chosen: np.ndarray,
        text: np.ndarray,
        settings: ExampleSettings,
        seed: int,
    ) -> None:
        self._method, self._text, self._settings = method.eval(), text, settings
        labels, times = rows.labels[chosen], rows.timestamps[chosen]
        vectors = row_vectors(rows, chosen, text, settings.history)
        self._groups = [np.arange(len(chosen))]
        if settings.balanced:
            self._groups = [np.flatnonzero(labels == label) for label in (1, 0)]
        self._indexes = [EarlierNeighbours(vectors[group], times[group], settings) for group in self._groups]
        self._today = times.max() + 1
        self._order = np.random.default_rng(seed).permutation(settings.count)
        super().__init__(method.conventional, session)

    def predict(self, contexts: Sequence[Context], items: np.ndarray) -> Tensor:
        """Probabilities of rows, user by user. Shape `[B * C]`."""
        rows: Any = RowsOfToday(contexts, items)
        self._method.rows, self._method.shown = rows, self._examples(rows)
        batch = self.rows.of_pairs(contexts, items)
        batch[ROW] = torch.arange(len(rows))
        scores: Tensor = self._method.predict(batch.to(self.rows.device))
        return scores

    def _examples(self, rows: Any) -> np.ndarray:  # noqa: ANN401 - RowsOfToday
        """Examples of rows as `examples.retrieve` finds them, -1 for none. Shape `[n, K]`."""
        if not self._settings.count:
            return np.full((len(rows), 0), -1)
        queries = row_vectors(rows, np.arange(len(rows)), self._text, self._settings.history)
        count = self._settings.count // len(self._groups)
        before = np.full(len(rows), self._today)
        near = [index.search(queries, before, count) for index in self._indexes]  # each [n, count]
        both = np.logical_and.reduce([each >= 0 for each in near])
        named = [
            np.where(both, group[each] if len(group) else -1, -1)
            for group, each in zip(self._groups, near, strict=True)
        ]
        found: np.ndarray = np.concatenate(named, axis=1)[:, self._order]
        return found
