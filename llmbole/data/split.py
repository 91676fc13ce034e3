"""The split: interactions in time order, what is held out, and frozen candidates, as memory-mapped arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data import arrays
from llmbole.data.convert.report import DataError
from llmbole.data.histories import newest
from llmbole.data.interactions import time_keys
from llmbole.settings import close_name

PHASES = ("valid", "test")

ARRAYS = ("item_tokens", "user_tokens", "items", "timestamps", "ratings", "offsets", "train_ends")


@dataclass(frozen=True)
class Phase:
    """The held-out interactions of validation or test, one per user.

    Attributes:
        split: The split it belongs to.
        name: `valid` or `test`.
        users: Internal user ids, ascending. Shape `[U]`.
        targets: Held-out items. Shape `[U]`.
        positions: Place of each held-out interaction in the split's arrays. Shape `[U]`.
        candidates: Items to rank, the target among them, in frozen order; `None` for a full ranking. Shape `[U, C]`.
    """

    split: Split
    name: str
    users: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    candidates: np.ndarray | None

    def __len__(self) -> int:
        return len(self.users)

    def history(self, row: int) -> np.ndarray:
        """All items of a row's user before the target, oldest first; for the test that includes the validation item."""
        return self.split.items[self.split.offsets[self.users[row]] : self.positions[row]]

    def histories(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """The newest items before each target, as RecBole's item lists.

        Args:
            max_length: Longest history; the newest items are kept.

        Returns:
            Items, oldest first, right-padded with 0, of shape `[U, max_length]`, and their lengths, of shape `[U]`.
        """
        return newest(self.split.items, self.split.offsets[self.users], self.positions, max_length)


@dataclass(frozen=True)
class Split:
    """Interactions in time order per user, and what is held out.

    A user with three or more interactions has the last for the test, the second last for validation; one with two has
    the last for the test only; a single interaction is for training. RecBole's general datasets are split so.

    Attributes:
        dataset: Name of the data set.
        protocol: Name of the protocol.
        version: Version of the protocol.
        order: The protocol's order.
        hash: SHA-256 of protocol name, version, and all arrays.
        item_tokens: Raw item ids by internal id, `[PAD]` at 0. Shape `[n_items]`.
        user_tokens: Raw user ids by internal id, `[PAD]` at 0. Shape `[n_users]`.
        items: Items, user by user, oldest first. Shape `[N]`.
        timestamps: Their times, in the source's unit. Shape `[N]`.
        ratings: Their ratings. Shape `[N]`.
        offsets: User u's interactions stand at `offsets[u]` to `offsets[u + 1]`. Shape `[n_users + 1]`.
        rows: Row of each interaction in the prepared file. It breaks ties between users when training rows are put in
            RecBole's order; nothing that is evaluated depends on it, so it is not in the hash. Shape `[N]`.
        train_ends: The first of user u's interactions that is held out, or `offsets[u + 1]`. Shape `[n_users]`.
        phases: Users, targets, positions and candidates of each phase.
        n_train_items: One more than the last item that training may draw: `n_items`, but under the scenario
            cross_domain that of the sets that are trained on.
    """

    dataset: str
    protocol: str
    version: int
    order: str
    hash: str
    item_tokens: np.ndarray
    user_tokens: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray
    offsets: np.ndarray
    train_ends: np.ndarray
    rows: np.ndarray
    phases: dict[str, dict[str, np.ndarray]]
    n_train_items: int

    @classmethod
    def load(cls, folder: Path) -> Split:
        """Open a frozen split; arrays are memory-mapped and read only.

        Args:
            folder: Where `freeze` wrote it.

        Returns:
            The split.

        Raises:
            DataError: The folder holds no split.
        """
        content = arrays.describe(folder)
        stored: dict[str, Any] = arrays.load(folder, content.pop("arrays"))
        if content.pop("task") != "ranking":
            raise DataError(f"{folder} holds a split of {content['protocol']}, which ranks nothing")
        phases: dict[str, dict[str, np.ndarray]] = {phase: {} for phase in arrays.open_parts(PHASES)}
        for name in [name for name in stored if name not in (*ARRAYS, "rows")]:
            phase, _, what = name.partition("_")
            phases[phase][what] = stored.pop(name)
        return cls(**content, **stored, phases=phases)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; those of a phase are named after it, such as `test_targets`."""
        own = {name: getattr(self, name) for name in ARRAYS}
        held = {
            f"{phase}_{name}": array
            for phase, stored in sorted(self.phases.items())
            for name, array in sorted(stored.items())
        }
        return {**own, **held}

    @property
    def n_users(self) -> int:
        """Number of users, the padding user 0 included, as RecBole counts."""
        return len(self.user_tokens)

    @property
    def n_items(self) -> int:
        """Number of items, the padding item 0 included, as RecBole counts."""
        return len(self.item_tokens)

    def train_items(self, user: int) -> np.ndarray:
        """A user's training items, oldest first."""
        return self.items[self.offsets[user] : self.train_ends[user]]

    def phase(self, name: str) -> Phase:
        """The held-out part of a name.

        Args:
            name: `valid` or `test`.

        Returns:
            Users, targets and candidates.

        Raises:
            ValueError: The name is neither `valid` nor `test`.
            DataError: It is `test`, which is sealed.
        """
        arrays.refuse_sealed(name)
        if name not in self.phases:
            raise ValueError(f"unknown phase {name!r}; {close_name(name, self.phases)}")
        held = self.phases[name]
        return Phase(self, name, held["users"], held["targets"], held["positions"], held.get("candidates"))

    @cached_property
    def owners(self) -> np.ndarray:
        """User of each interaction. Shape `[N]`."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    @cached_property
    def trained(self) -> np.ndarray:
        """Whether each interaction is for training. Shape `[N]`."""
        return np.arange(len(self.items)) < self.train_ends[self.owners]

    @cached_property
    def train_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Training interactions of each user, `[n_users]`, and item, `[n_items]`."""
        return (
            np.bincount(self.owners[self.trained], minlength=self.n_users),
            np.bincount(self.items[self.trained], minlength=self.n_items),
        )

    @cached_property
    def time_keys(self) -> np.ndarray:
        """What interactions are ordered by: times as the protocol's order sees them. Shape `[N]`."""
        return time_keys(np.asarray(self.timestamps), self.order)

    def contents_hash(self) -> str:
        """The hash of what the arrays hold now; equal to `hash` unless something was changed."""
        return arrays.content_hash(f"{self.protocol} {self.version} {self.order}", self.arrays())
