"""Training positions of user sequences: what came before, and the item that came next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from llmbole.data.split import Split


@dataclass(frozen=True)
class Positions:
    """Places in training sequences at which the next item is to be predicted.

    Attributes:
        users: Internal user ids. Shape `[P]`.
        targets: The next item's internal id. Shape `[P]`.
        histories: Items before it, oldest first, right-padded with 0 as RecBole's item lists. Shape `[P, L]`.
        lengths: Number of items in each history, at least 1. Shape `[P]`.
        ages: 0 for a user's last training position, 1 for the one before, ... Shape `[P]`.
    """

    users: np.ndarray
    targets: np.ndarray
    histories: np.ndarray
    lengths: np.ndarray
    ages: np.ndarray


def training_positions(split: Split, per_user: int, max_length: int) -> Positions:
    """The last positions of every user's training sequence that have a history.

    Args:
        split: The frozen split.
        per_user: Positions per user at most; 0 takes all.
        max_length: Longest history; the newest items are kept.

    Returns:
        Positions, user by user, oldest first. A user with a single training item has none.
    """
    lengths = np.array([len(split.train_items(user)) for user in range(split.n_users)])  # [n_users]
    taken = np.maximum(lengths - 1, 0) if per_user == 0 else np.minimum(np.maximum(lengths - 1, 0), per_user)
    users = np.repeat(np.arange(split.n_users), taken)  # [P]
    order = np.arange(len(users)) - np.repeat(np.cumsum(taken) - taken, taken)  # 0, 1, ... within a user
    places = lengths[users] - taken[users] + order  # index of the target in the user's sequence
    history_lengths = np.minimum(places, max_length)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    items = (
        np.concatenate([split.train_items(user) for user in range(split.n_users)])
        if len(users)
        else np.zeros(0, np.int64)
    )
    columns = np.arange(max_length)  # [L]
    inside = columns < history_lengths[:, None]  # [P, L]
    source = (starts[users] + places - history_lengths)[:, None] + columns  # [P, L]
    histories = (
        np.where(inside, items[np.where(inside, source, 0)], 0)
        if len(users)
        else np.zeros((0, max_length), np.int64)
    )
    targets = items[starts[users] + places] if len(users) else np.zeros(0, np.int64)
    return Positions(users, targets, histories, history_lengths, lengths[users] - 1 - places)


class RandomPositions:
    """Draws a position of every user's training sequence that has a history.

    Args:
        split: The frozen split.
        length: Longest history.
    """

    def __init__(self, split: Split, length: int) -> None:
        sequences = [split.train_items(user) for user in range(split.n_users)]
        sizes = np.array([len(sequence) for sequence in sequences])
        users = np.flatnonzero(sizes > 1)
        self.users, self.length = torch.from_numpy(users), length
        self.items = torch.from_numpy(np.concatenate(sequences).astype(np.int64))  # [N]
        self.sizes = torch.from_numpy(sizes[users])  # [P]
        self.starts = torch.from_numpy((np.cumsum(sizes) - sizes)[users])  # [P]

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`item [P]`, and the items before it, the newest first, `newest_first [P, length]`, 0 behind them."""
        chance = torch.rand(len(self.users), generator=generator)  # [P]
        before = 1 + (chance * (self.sizes - 1)).long().clamp(
            max=self.sizes - 2
        )  # items before the drawn one
        places = before[:, None] - 1 - torch.arange(self.length)  # [P, length]
        shown = self.items[self.starts[:, None] + places.clamp(min=0)]
        return {
            "item": self.items[self.starts + before],
            "newest_first": torch.where(places >= 0, shown, 0),
        }
