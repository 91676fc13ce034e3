"""Labelled pairs: rows of user, item and label in three parts, with histories kept as places in one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data import arrays
from llmbole.data.convert.report import DataError
from llmbole.data.histories import newest
from llmbole.settings import close_name

PARTS = ("train", "valid", "test")
SHARED = (
    "item_tokens",
    "user_tokens",
    "users",
    "items",
    "timestamps",
    "ratings",
    "offsets",
    "history_items",
    "history_places",
    "history_offsets",
)
ROWS = ("items", "labels", "positions")


@dataclass(frozen=True)
class Pairs:
    """The rows of one part.

    Attributes:
        split: The split it belongs to.
        name: `train`, `valid` or `test`.
        items: Shape `[R]`.
        labels: 0 or 1, or a rating. Shape `[R]`.
        positions: The interaction that a row is, or was drawn for, as its place in the split's arrays. Shape `[R]`.
    """

    split: PairSplit
    name: str
    items: np.ndarray
    labels: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @property
    def users(self) -> np.ndarray:
        """User of each row. Shape `[R]`."""
        return self.split.users[self.positions]

    @property
    def timestamps(self) -> np.ndarray:
        """Time of each row. Shape `[R]`."""
        return self.split.timestamps[self.positions]

    def history(self, row: int) -> np.ndarray:
        """All items of a row's history, oldest first."""
        start, end = self.split.history_span(self.positions[row : row + 1])
        return self.split.history_items[start[0] : end[0]]

    def histories(self, rows: np.ndarray | slice, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """The newest items of the histories of rows, as RecBole's item lists.

        Args:
            rows: Which rows.
            max_length: Longest history; the newest items are kept.

        Returns:
            Items, oldest first, right-padded with 0, of shape `[B, max_length]`, and their lengths, of shape `[B]`.
        """
        return newest(self.split.history_items, *self.split.history_span(self.positions[rows]), max_length)


@dataclass(frozen=True)
class PairSplit:
    """Interactions in time order per user, and labelled rows of training, validation and test.

    Attributes:
        dataset: Name of the data set.
        protocol: Name of the protocol.
        version: Version of the protocol.
        order: The protocol's order.
        task: `pairs` or `rating`.
        hash: SHA-256 of protocol name, version, and all arrays.
        item_tokens: Raw item ids by internal id, `[PAD]` at 0. Shape `[n_items]`.
        user_tokens: Raw user ids by internal id, `[PAD]` at 0. Shape `[n_users]`.
        users: User of each interaction, ascending. Shape `[N]`.
        items: Items, user by user, oldest first. Shape `[N]`.
        timestamps: Their times, in the source's unit. Shape `[N]`.
        ratings: Their ratings. Shape `[N]`.
        offsets: User u's interactions stand at `offsets[u]` to `offsets[u + 1]`. Shape `[n_users + 1]`.
        history_items: Items of the interactions that histories show. Shape `[M]`.
        history_places: Their places among all interactions, ascending. Shape `[M]`.
        history_offsets: User u's stand at `history_offsets[u]` to `history_offsets[u + 1]`. Shape `[n_users + 1]`.
        parts: Items, labels and positions of each part.
    """

    dataset: str
    protocol: str
    version: int
    order: str
    task: str
    hash: str
    item_tokens: np.ndarray
    user_tokens: np.ndarray
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray
    offsets: np.ndarray
    history_items: np.ndarray
    history_places: np.ndarray
    history_offsets: np.ndarray
    parts: dict[str, dict[str, np.ndarray]]

    @classmethod
    def load(cls, folder: Path) -> PairSplit:
        """Open a frozen split; arrays are memory-mapped and read only.

        Args:
            folder: Where `freeze` wrote it.

        Returns:
            The split.

        Raises:
            DataError: The folder holds no split of labelled pairs.
        """
        content = arrays.describe(folder)
        stored: dict[str, Any] = arrays.load(folder, content.pop("arrays"))
        if content["task"] == "ranking":
            raise DataError(f"{folder} holds a split of {content['protocol']}, which labels nothing")
        parts = {
            part: {name: stored.pop(f"{part}_{name}") for name in ROWS} for part in arrays.open_parts(PARTS)
        }
        return cls(**content, **stored, parts=parts)

    @property
    def n_users(self) -> int:
        """Number of users, the padding user 0 included, as RecBole counts."""
        return len(self.user_tokens)

    @property
    def n_items(self) -> int:
        """Number of items, the padding item 0 included, as RecBole counts."""
        return len(self.item_tokens)

    def part(self, name: str) -> Pairs:
        """The rows of a part.

        Args:
            name: `train`, `valid` or `test`.

        Returns:
            Its rows.

        Raises:
            ValueError: There is no such part.
            DataError: It is `test`, which is sealed.
        """
        arrays.refuse_sealed(name)
        if name not in self.parts:
            raise ValueError(f"unknown part {name!r}; {close_name(name, self.parts)}")
        return Pairs(self, name, **self.parts[name])

    def history_span(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the histories before interactions begin and end in `history_items`. Shapes `[B]`."""
        starts = self.history_offsets[self.users[positions]]
        return starts, np.searchsorted(self.history_places, positions)

    @cached_property
    def train_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Training interactions of each user, `[n_users]`, and item, `[n_items]`; drawn negatives do not count."""
        positions = np.unique(self.parts["train"]["positions"])
        return (
            np.bincount(self.users[positions], minlength=self.n_users),
            np.bincount(self.items[positions], minlength=self.n_items),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; those of a part are named after it, such as `test_labels`."""
        rows = {f"{part}_{name}": self.parts[part][name] for part in PARTS for name in ROWS}
        return {**{name: getattr(self, name) for name in SHARED}, **rows}

    def contents_hash(self) -> str:
        """The hash of what the arrays hold now; equal to `hash` unless something was changed."""
        return arrays.content_hash(f"{self.protocol} {self.version} {self.order}", self.arrays())
