"""Users of a frozen split as a recommender sees them: everything that is known of them, held-out rows included."""

from __future__ import annotations

import numpy as np

from llmbole.data.pairs import PairSplit
from llmbole.data.split import Split
from llmbole.model.scorer import Context


class People:
    """The users of a split.

    Args:
        split: The frozen split; its arrays stay memory-mapped.

    Attributes:
        ids: Raw user id to internal id.
    """

    def __init__(self, split: Split | PairSplit) -> None:
        self._split = split
        self.ids = {str(raw): place for place, raw in enumerate(split.user_tokens) if place}

    def context(self, user: int) -> Context:
        """A user with all that histories of the protocol show, to this day.

        Args:
            user: Internal id.

        Returns:
            History and ratings.
        """
        split = self._split
        if isinstance(split, PairSplit):
            part = slice(*split.history_offsets[user : user + 2])
            return Context(user, split.history_items[part], split.ratings[split.history_places[part]])
        part = slice(*split.offsets[user : user + 2])
        return Context(user, split.items[part], split.ratings[part])

    def seen(self, user: int) -> np.ndarray:
        """All items that a user has interacted with, ascending, whatever the rating. Shape `[n]`."""
        found: np.ndarray = np.unique(self._split.items[slice(*self._split.offsets[user : user + 2])])
        return found
