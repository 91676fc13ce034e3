"""Scores of two models side by side: routed by the conventional model's confidence, or averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmbole.evaluator import groups
from llmbole.model.scorer import Context, Scorer


class RoutedScorer:
    """CoReLLa's inference: of a user's items those of which the CRM is least sure are scored by the LLM.

    A share is one of each user's items, as there is no test whose rows it could be a share of.

    Args:
        crm: The conventional model as a scorer of probabilities.
        llm: The LLM as one.
        share: Of the items, or `None`.
        threshold: Entropy above which the LLM is asked, where there is no share.
    """

    shortlist: int | None = None

    def __init__(self, crm: Scorer, llm: Scorer, share: float | None, threshold: float | None) -> None:
        self.crm, self.llm, self.share, self.threshold = crm, llm, share, threshold
        self.retriever: Scorer | None = crm
        self.history_alone = crm.history_alone or llm.history_alone

    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """Probabilities, `[B, C]`, of items `[B, C]`."""
        scores = self.crm.score(contexts, items)
        entropies = groups.entropy(scores.reshape(-1)).reshape(scores.shape)
        rows, columns = np.nonzero(self._routed(entropies))
        if len(rows):
            asked = [contexts[row] for row in rows.tolist()]
            scores[rows, columns] = self.llm.score(asked, items[rows, columns][:, None])[:, 0]
        return scores

    def _routed(self, entropies: np.ndarray) -> np.ndarray:
        """Which items the LLM gets. Shape `[B, C]`."""
        if self.share is None:
            return entropies > self.threshold
        order = np.argsort(-entropies, axis=1, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
        routed: np.ndarray = ranks < int(self.share * order.shape[1] + 0.5)
        return routed


class MeanScorer:
    """The mean of a method's probabilities and its backbone's.

    Args:
        method: The method as a scorer.
        backbone: The backbone as one.
    """

    shortlist: int | None = None

    def __init__(self, method: Any, backbone: Scorer) -> None:  # noqa: ANN401 - a Scorer
        self.method, self.backbone = method, backbone
        self.retriever: Scorer | None = backbone
        self.history_alone: str | None = method.history_alone

    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """Probabilities, `[B, C]`, of items `[B, C]`."""
        mean: np.ndarray = (self.method.score(contexts, items) + self.backbone.score(contexts, items)) / 2
        return mean
