"""Users' interactions in time order with the end of their training, from a leave-one-out split of any task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmbole.data.convert.report import DataError
from llmbole.data.histories import newest
from llmbole.data.pairs import PairSplit
from llmbole.data.split import Split


@dataclass(frozen=True)
class Sequences:
    """Interactions user by user, oldest first; a place is an interaction's number in these arrays.

    Attributes:
        users: User of each interaction. Shape `[N]`.
        items: Shape `[N]`.
        ratings: Shape `[N]`.
        times: Shape `[N]`.
        offsets: User u's interactions stand at `offsets[u]` to `offsets[u + 1]`. Shape `[n_users + 1]`.
        train_ends: The first of user u's interactions that is held out, or `offsets[u + 1]`. Shape `[n_users]`.
        n_items: Number of items, the padding item 0 included.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    times: np.ndarray
    offsets: np.ndarray
    train_ends: np.ndarray
    n_items: int

    @classmethod
    def of(cls, split: Split | PairSplit) -> Sequences:
        """The interactions of a split whose users' training interactions are their first ones.

        Args:
            split: Of a ranking, or of ratings.

        Returns:
            Its interactions.

        Raises:
            DataError: A user has a training interaction behind one that is held out.
        """
        if isinstance(split, Split):
            users, ends = split.owners, np.asarray(split.train_ends)
        else:
            users = np.asarray(split.users)
            trained = np.unique(split.parts["train"]["positions"])
            ends = split.offsets[:-1] + np.bincount(users[trained], minlength=split.n_users)
            if (trained >= ends[users[trained]]).any():
                user = str(split.user_tokens[users[trained[int(np.argmax(trained >= ends[users[trained]]))]]])
                raise DataError(
                    f"{split.protocol}: user {user!r} has a training row behind one that is held out; take a "
                    "leave-one-out protocol"
                )
        items, ratings, times, offsets = (
            np.asarray(column) for column in (split.items, split.ratings, split.timestamps, split.offsets)
        )
        return cls(users, items, ratings, times, offsets, ends, split.n_items)

    @property
    def n_users(self) -> int:
        """Number of users, the padding user 0 included."""
        return len(self.train_ends)

    @cached_property
    def trained(self) -> np.ndarray:
        """Whether each interaction is for training. Shape `[N]`."""
        return np.arange(len(self.items)) < self.train_ends[self.users]

    @cached_property
    def train_counts(self) -> np.ndarray:
        """Training interactions of each user. Shape `[n_users]`."""
        return self.train_ends - self.offsets[:-1]

    def before(self, positions: np.ndarray, length: int) -> np.ndarray:
        """Places of the newest interactions of the same user before some places.

        Args:
            positions: Places. Shape `[B]`.
            length: How many at most.

        Returns:
            Oldest first, -1 behind the last. Shape `[B, length]`.
        """
        return self._newest(self.offsets[self.users[positions]], positions, length)

    def training(self, users: np.ndarray, length: int, until: np.ndarray | None = None) -> np.ndarray:
        """Places of users' newest training interactions.

        Args:
            users: Internal ids. Shape `[B]`.
            length: How many at most.
            until: A time for each; the first later interaction and all behind it are left out. Shape `[B]`.

        Returns:
            Oldest first, -1 behind the last. Shape `[B, length]`.
        """
        starts, ends = self.offsets[users], self.train_ends[users]
        if until is not None:
            # Where the protocol's order sees times less exactly, one may stand before an earlier one.
            latest = (
                np.maximum.accumulate(self.times[start:end])
                for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
            )
            kept = [np.searchsorted(times, time, "right") for times, time in zip(latest, until, strict=True)]
            ends = starts + np.array(kept, dtype=np.int64)
        return self._newest(starts, ends, length)

    def items_at(self, places: np.ndarray) -> np.ndarray:
        """Items of places, 0 where a place is -1. Shape as given."""
        return np.where(places >= 0, self.items[np.maximum(places, 0)], 0)

    def _newest(self, starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
        found, _ = newest(np.arange(1, len(self.items) + 1), starts, ends, length)
        return found - 1
