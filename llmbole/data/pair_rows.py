"""Rows of a part with what a prompt shows beside what a conventional model reads, taken by number."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmbole import compat
from llmbole.data.histories import newest
from llmbole.data.pairs import PairSplit

compat.apply()

from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first

SHOWN = "shown"
SHOWN_RATINGS = "shown_ratings"
REALS = ("label", SHOWN_RATINGS)


class PairRows:
    """Labelled rows of one part.

    Args:
        split: The frozen split.
        part: `train`, `valid` or `test`.
        shown: Longest history in a prompt.
        liked_from: The history in a prompt holds items rated so or better; `None` shows the protocol's history.
        length: Longest history for a conventional model.
        sample: Rows to take, drawn at random; 0 takes all.
        seed: Of the draw.

    Attributes:
        places: Places of the rows in the part. Shape `[R]`.
    """

    def __init__(
        self,
        split: PairSplit,
        part: str,
        *,
        shown: int,
        liked_from: float | None = None,
        length: int = 1,
        sample: int = 0,
        seed: int = 0,
    ) -> None:
        self._pairs, self._shown, self._length = split.part(part), shown, length
        self._split = split
        places = np.arange(len(split.history_items))
        if liked_from is not None:
            places = np.flatnonzero(split.ratings[split.history_places] >= liked_from)
        self._liked_items = split.history_items[places]
        self._liked_places = split.history_places[places]
        self._liked_ratings = split.ratings[self._liked_places]
        self._liked_users = split.users[self._liked_places]  # ascending, as all arrays go user by user
        self.places = np.arange(len(self._pairs))
        if 0 < sample < len(self._pairs):
            drawn = np.random.default_rng(seed).choice(len(self._pairs), sample, replace=False)
            self.places = np.sort(drawn)

    def __len__(self) -> int:
        return len(self.places)

    def taking(self, rows: np.ndarray) -> PairRows:
        """Some of these rows, by number. Shape `[S]`."""
        taken = copy.copy(self)
        taken.places = self.places[rows]
        return taken

    @property
    def users(self) -> np.ndarray:
        """User of each row. Shape `[R]`."""
        return self._split.users[self._pairs.positions[self.places]]

    @property
    def labels(self) -> np.ndarray:
        """Label of each row. Shape `[R]`."""
        return self._pairs.labels[self.places]

    @property
    def ratings(self) -> np.ndarray:
        """Rating of each row; a drawn negative has that of the interaction it was drawn for. Shape `[R]`."""
        return self._split.ratings[self._pairs.positions[self.places]]

    @property
    def items(self) -> np.ndarray:
        """Item of each row. Shape `[R]`."""
        return self._pairs.items[self.places]

    def interaction(self, rows: Tensor | Sequence[int] | np.ndarray) -> Interaction:
        """Rows as RecBole's models read them, and the items that prompts show.

        Args:
            rows: Numbers of rows, from 0. Shape `[B]`.

        Returns:
            `user_id`, `item_id`, `label` and `item_length`, `[B]`; `item_id_list`, `[B, length]`; `shown` and their
            ratings `shown_ratings`, `[B, shown]`, oldest first and right-padded with 0.
        """
        places = self.places[np.asarray(rows)]
        positions = self._pairs.positions[places]
        histories, lengths = self._pairs.histories(places, self._length)
        users = self._split.users[positions]
        starts = np.searchsorted(self._liked_users, users)
        ends = np.maximum(starts, np.searchsorted(self._liked_places, positions))
        shown, _ = newest(self._liked_items, starts, ends, self._shown)
        ratings, _ = newest(self._liked_ratings, starts, ends, self._shown)
        columns = {
            "user_id": users,
            "item_id": self._pairs.items[places],
            "label": self._pairs.labels[places],
            "item_id_list": histories,
            "item_length": lengths,
            SHOWN: shown,
            SHOWN_RATINGS: ratings,
        }
        return Interaction(
            {
                name: torch.from_numpy(np.asarray(column, np.float32 if name in REALS else np.int64))
                for name, column in columns.items()
            }
        )
