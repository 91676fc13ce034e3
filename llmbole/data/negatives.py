"""Random items a user has not interacted with, drawn for many rows at once."""

from __future__ import annotations

import numpy as np


class NegativeSampler:
    """Draws uniform random items outside each user's own set.

    Args:
        users: User of each known interaction, internal ids. Shape `[N]`.
        items: Item of each known interaction, internal ids. Shape `[N]`.
        n_items: Number of items, the padding item 0 included.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, n_items: int) -> None:
        self.n_items = n_items
        self._seen = np.unique(users.astype(np.int64) * n_items + items)
        self._seen_users, self._seen_counts = np.unique(self._seen // n_items, return_counts=True)

    def sample(self, generator: np.random.Generator, users: np.ndarray, count: int) -> np.ndarray:
        """Draw for each row `count` different items that its user has no interaction with.

        Args:
            generator: Source of randomness.
            users: User of each row, internal ids. Shape `[B]`.
            count: Items per row.

        Returns:
            Item ids without repeats within a row. Shape `[B, count]`.

        Raises:
            ValueError: A user has interacted with so many items that fewer than `count` are left.
        """
        self._check(users, count)
        drawn = generator.integers(1, self.n_items, size=(len(users), count))  # [B, count]
        while True:
            bad = self._known(users, drawn) | _repeats(drawn)
            if not bad.any():
                return drawn
            drawn[bad] = generator.integers(1, self.n_items, size=int(bad.sum()))

    def _known(self, users: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        keys = users.astype(np.int64)[:, None] * self.n_items + drawn  # [B, count]
        if not len(self._seen):
            return np.zeros(keys.shape, dtype=bool)
        places = np.minimum(np.searchsorted(self._seen, keys), len(self._seen) - 1)
        return self._seen[places] == keys

    def _check(self, users: np.ndarray, count: int) -> None:
        wanted = np.isin(self._seen_users, users)
        free = self.n_items - 1 - self._seen_counts[wanted]
        if len(free) and free.min() < count:
            user = self._seen_users[wanted][free.argmin()]
            raise ValueError(
                f"user {user} has only {free.min()} items without interaction, {count} negatives are asked for"
            )
        if self.n_items - 1 < count:
            raise ValueError(f"there are {self.n_items - 1} items, {count} negatives are asked for")


def _repeats(rows: np.ndarray) -> np.ndarray:
    """Where a value of a row stood earlier in the same row. Shape as given, boolean."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, dtype=bool)
    again = np.concatenate([np.zeros((len(rows), 1), dtype=bool), ordered[:, 1:] == ordered[:, :-1]], axis=1)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated
