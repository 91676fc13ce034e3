"""Scores of LLM-CF for any user and item: examples are retrieved as for a row of today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.data.numbered import ROW, NumberedRows
from llmbole.llm.nearest import EarlierNeighbours
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.examples import ExampleSettings, row_vectors
from llmbole.model.row_scorer import RowsOfToday
from llmbole.model.scorer import Context
from llmbole.model.session import Session
from recbole.data.interaction import Interaction


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
        batch = self._show(RowsOfToday(contexts, items), self.rows.of_pairs(contexts, items))
        scores: Tensor = self._method.predict(batch)
        return scores

    def predict_all(self, contexts: Sequence[Context]) -> Tensor:
        """Scores of all items in a ranking, whose rows are known by user and history. Shape `[B, n_items]`."""
        unknown = np.zeros((len(contexts), 1), dtype=np.int64)
        batch = self._show(RowsOfToday(contexts, unknown, hides_items=True), self.rows.of_users(contexts))
        scores: Tensor = self._method.full_sort_predict(batch)
        return scores

    def _show(self, rows: Any, batch: Interaction) -> Interaction:  # noqa: ANN401 - RowsOfToday
        """Give the method rows with their examples, and a batch their numbers."""
        self._method.rows, self._method.shown = rows, self._examples(rows)
        batch[ROW] = torch.arange(len(rows))
        return batch.to(self.rows.device)

    def _examples(self, rows: Any) -> np.ndarray:  # noqa: ANN401 - RowsOfToday
        """Examples of rows as `examples.retrieve` finds them, -1 for none. Shape `[n, K]`."""
        if not self._settings.count:
            return np.full((len(rows), 0), -1)
        numbers, length = np.arange(len(rows)), self._settings.history
        queries = row_vectors(rows, numbers, self._text, length, masked=rows.hides_items)
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
