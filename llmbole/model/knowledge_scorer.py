"""Scores of KAR for any user and item: what the LLM was shown of a user is of the past today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.data.numbered import ROW
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.row_scorer import RowsOfToday
from llmbole.model.scorer import Context
from llmbole.model.session import Session


class KnowledgeScorer(ConventionalScorer):
    """A trained KAR as a scorer.

    Args:
        method: The model with the `places` of its rows' knowledge.
        session: Settings and data of its backbone.
        places: Which vector is each user's (`user`) and each item's (`item`) knowledge, 0 for none. Shapes `[n_users]`
            and `[n_items]`.
    """

    def __init__(self, method: Any, session: Session, places: Mapping[str, np.ndarray]) -> None:  # noqa: ANN401 - a KAR
        self._method, self._places = method.eval(), places
        super().__init__(method.conventional, session)

    def predict(self, contexts: Sequence[Context], items: np.ndarray) -> Tensor:
        """Probabilities of rows, user by user. Shape `[B * C]`."""
        rows, device = RowsOfToday(contexts, items), self.rows.device
        ids = {"user": rows.users, "item": rows.items}
        self._method.places = {
            side: torch.from_numpy(self._places[side][own]).to(device) for side, own in ids.items()
        }
        batch = self.rows.of_pairs(contexts, items)
        batch[ROW] = torch.arange(len(rows))
        scores: Tensor = self._method.predict(batch.to(device))
        return scores
