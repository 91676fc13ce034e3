"""Labelled pairs: rows of user, item and label in three parts, with histories kept as places in one sequence."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data import arrays, candidates
from llmbole.data.convert.report import DataError
from llmbole.data.histories import newest
from llmbole.data.interactions import Interactions, global_order, read, time_parts
from llmbole.data.protocol import Protocol
from llmbole.data.source import DatasetCard, Windows
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
        parts = {part: {name: stored.pop(f"{part}_{name}") for name in ROWS} for part in PARTS}
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
        """
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


def freeze(protocol: Protocol, card: DatasetCard, data_folder: Path, folder: Path) -> dict[str, Any]:
    """Split prepared data into labelled rows and write the split as arrays.

    A data set that lacks what the protocol asks for, an empty part, and users who know every item are a DataError.

    Args:
        protocol: How to split and label.
        card: The data set.
        data_folder: Folder of the prepared data.
        folder: An existing folder to write into; after an error it holds half-made files.

    Returns:
        A summary: counts, and the hash.
    """
    found = read(data_folder / f"{card.name}.inter", protocol.order)
    labels = _labels(protocol, card, found)  # [N]
    membership = _membership(protocol, card, found)  # [N]
    if protocol.scenario is not None:
        membership[~protocol.scenario.trained(found)[found.users] & (membership < 2)] = -1
    shown = np.flatnonzero(labels == 1) if protocol.history == "positives" else np.arange(len(found.items))
    history_counts = np.bincount(found.users[shown], minlength=len(found.user_tokens))
    order = global_order(found)
    parts = {}
    for number, name in enumerate(PARTS):
        positions = order[membership[order] == number]
        if not len(positions):
            raise DataError(f"{card.name}: {protocol.name} leaves no rows for {name}; use more data")
        rows = {"items": found.items[positions], "labels": labels[positions], "positions": positions}
        parts[name] = _with_negatives(protocol, found, rows, number)
    split = PairSplit(
        dataset=card.name,
        protocol=protocol.name,
        version=protocol.version,
        order=protocol.order,
        task=protocol.task,
        hash="",
        item_tokens=found.item_tokens,
        user_tokens=found.user_tokens,
        users=found.users,
        items=found.items,
        timestamps=found.timestamps,
        ratings=found.ratings,
        offsets=found.offsets,
        history_items=found.items[shown],
        history_places=shown,
        history_offsets=np.concatenate([[0], np.cumsum(history_counts)]),
        parts=parts,
    )
    digest = split.contents_hash()
    content = {name: getattr(split, name) for name in ("dataset", "protocol", "version", "order", "task")}
    arrays.save(folder, {**content, "hash": digest}, split.arrays())
    counts = {"users": split.n_users - 1, "items": split.n_items - 1, "interactions": len(found.items)}
    rows_of = {f"{name}_rows": len(parts[name]["items"]) for name in PARTS}
    positive = {} if protocol.task == "rating" else {"positives": _shares(parts)}
    return {**counts, **rows_of, **positive, "hash": digest}


def _shares(parts: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    return {name: round(float(rows["labels"].mean()), 4) for name, rows in parts.items()}


def _labels(protocol: Protocol, card: DatasetCard, found: Interactions) -> np.ndarray:
    """The label of each interaction. Shape `[N]`, float32."""
    assert protocol.labels is not None  # checked by Protocol
    if protocol.labels.kind == "rating":
        return found.ratings
    if protocol.labels.kind == "interaction":
        return np.ones(len(found.items), dtype=np.float32)
    if card.label is None:
        raise DataError(
            f"{card.name}: {protocol.name} needs to know which ratings are a like; set label.positive_from in its yaml"
        )
    return (found.ratings >= card.label.positive_from).astype(np.float32)


def _membership(protocol: Protocol, card: DatasetCard, found: Interactions) -> np.ndarray:
    """The part of each interaction: 0, 1, 2, or -1 for none. Shape `[N]`."""
    if protocol.split == "time_ratio":
        assert protocol.ratios is not None  # checked by Protocol
        return time_parts(found, protocol.ratios)
    if protocol.split == "windows":
        if card.windows is None:
            raise DataError(
                f"{card.name} has no time windows, which {protocol.name} splits by; set windows in its yaml"
            )
        return _by_windows(card.windows, found)
    counts = found.counts[found.users]  # [N]
    from_end = found.offsets[found.users + 1] - 1 - np.arange(len(found.items))
    parts = np.zeros(len(found.items), dtype=np.int8)
    parts[(from_end == 0) & (counts >= 2)] = 2
    parts[(from_end == 1) & (counts >= 3)] = 1
    return parts


def _by_windows(windows: Windows, found: Interactions) -> np.ndarray:
    parts = np.full(len(found.items), -1, dtype=np.int8)
    for number, name in enumerate(PARTS):
        if (window := getattr(windows, name)) is not None:
            parts[_within(window, found.timestamps)] = number
    if windows.held_out is not None:
        order = global_order(found)
        held = order[_within(windows.held_out, found.timestamps)[order]]
        parts[held[: (len(held) + 1) // 2]], parts[held[(len(held) + 1) // 2 :]] = 1, 2
    return parts


def _within(window: tuple[str, str], timestamps: np.ndarray) -> np.ndarray:
    """Whether times lie in a window of dates, which begin and end at midnight UTC. Shape `[N]`."""
    since, until = (
        datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.timezone.utc).timestamp()
        for day in window
    )
    return (timestamps >= since) & (timestamps < until)


def _with_negatives(
    protocol: Protocol, found: Interactions, rows: dict[str, np.ndarray], number: int
) -> dict[str, np.ndarray]:
    """Rows, each followed by the random items drawn for it with label 0."""
    assert protocol.labels is not None  # checked by Protocol
    count, seed = protocol.labels.negatives, protocol.labels.seed
    if not count:
        return rows
    assert seed is not None  # checked by Labels
    users = np.repeat(found.users[rows["positions"]], count)
    try:
        drawn = candidates.draw_one(users, found.users, found.items, len(found.item_tokens), (seed, number))
    except ValueError as error:
        if len(error.args) != 2:
            raise
        first = str(found.user_tokens[error.args[1][0]])
        raise DataError(
            f"{protocol.name} draws items that a user never interacted with, but {len(error.args[1])} users know every "
            f"item, the first is user {first!r}; leave such users out"
        ) from None
    items = np.concatenate([rows["items"][:, None], drawn.reshape(-1, count)], axis=1)  # [R, 1 + count]
    labels = np.zeros(items.shape, dtype=np.float32)
    labels[:, 0] = 1
    return {
        "items": items.reshape(-1),
        "labels": labels.reshape(-1),
        "positions": np.repeat(rows["positions"], 1 + count),
    }
