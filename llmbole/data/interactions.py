"""Prepared interactions as arrays, user by user and oldest first, which every split begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmbole.data.cards import DOMAIN_MARK
from llmbole.data.convert.report import DataError

PADDING = "[PAD]"


@dataclass(frozen=True)
class Interactions:
    """All interactions, user by user, oldest first; ids count from 1 by first appearance, as RecBole's do.

    Attributes:
        user_tokens: Raw user ids by internal id, `[PAD]` at 0. Shape `[n_users]`.
        item_tokens: Raw item ids by internal id, `[PAD]` at 0. Shape `[n_items]`.
        users: Shape `[N]`.
        items: Shape `[N]`.
        timestamps: In the source's unit. Shape `[N]`.
        ratings: Shape `[N]`.
        rows: Row of each interaction in the prepared file, from 0; breaks ties of time. Shape `[N]`.
    """

    user_tokens: np.ndarray
    item_tokens: np.ndarray
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray
    rows: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Interactions of each user, 0 for the padding user. Shape `[n_users]`."""
        return np.bincount(self.users, minlength=len(self.user_tokens))

    @property
    def offsets(self) -> np.ndarray:
        """User u's interactions stand at `offsets[u]` to `offsets[u + 1]`. Shape `[n_users + 1]`."""
        return np.concatenate([[0], np.cumsum(self.counts)])


def read(file: Path, order: str) -> Interactions:
    """Read a prepared `.inter` file.

    Args:
        file: The file.
        order: The protocol's order, see `Protocol`.

    Returns:
        Its interactions; equal times keep the order of the rows.

    Raises:
        DataError: The file is missing, empty, or has missing values.
    """
    import pandas

    if not file.is_file():
        raise DataError(f"{file} is missing; prepare the data first")
    types = {
        "user_id:token": "string[pyarrow]",
        "item_id:token": "string[pyarrow]",
        "rating:float": np.float64,
        "timestamp:float": np.float64,
    }
    frame = pandas.read_csv(file, sep="\t", dtype=types, usecols=list(types))
    if frame.empty or frame.isna().any(axis=None):
        raise DataError(
            f"{file} has {'missing values' if len(frame) else 'no interactions'}; prepare the data again"
        )
    users, user_tokens = pandas.factorize(frame["user_id:token"])
    items, item_tokens = pandas.factorize(frame["item_id:token"])
    timestamps = frame["timestamp:float"].to_numpy()
    sequence = np.lexsort((time_keys(timestamps, order), users))  # stable: ties keep the order of the rows
    return Interactions(
        user_tokens=np.array([PADDING, *map(str, user_tokens)]),
        item_tokens=np.array([PADDING, *map(str, item_tokens)]),
        users=users[sequence].astype(np.int64) + 1,
        items=items[sequence].astype(np.int64) + 1,
        timestamps=timestamps[sequence],
        ratings=frame["rating:float"].to_numpy(np.float32)[sequence],
        rows=sequence,
    )


def domains_of(tokens: np.ndarray, domains: Sequence[str]) -> np.ndarray:
    """Which of several joined sets each raw id is of.

    Args:
        tokens: Raw ids. Shape `[n]`.
        domains: Names of the sets, see `DatasetCard.domains`.

    Returns:
        The set's number from 0; -1 for the padding id. Shape `[n]`.
    """
    found = np.full(tokens.shape, -1, dtype=np.int64)
    for number, domain in enumerate(domains):
        found[np.char.startswith(tokens, f"{domain}{DOMAIN_MARK}")] = number
    return found


def item_ranges(tokens: np.ndarray, domains: Sequence[str]) -> list[tuple[int, int]]:
    """Internal ids of the items of each joined set, which are consecutive; of data that join none, of all items.

    Args:
        tokens: Raw item ids by internal id, the padding id at 0. Shape `[n_items]`.
        domains: Names of the sets.

    Returns:
        The first id and one past the last for each set.
    """
    if not domains:
        return [(1, len(tokens))]
    ends = np.searchsorted(domains_of(tokens, domains), np.arange(len(domains)), side="right")
    return list(zip([1, *ends[:-1].tolist()], ends.tolist(), strict=True))


def time_keys(timestamps: np.ndarray, order: str) -> np.ndarray:
    """Times as an order sees them: as they are, or as RecBole's datasets hold them by default.

    Args:
        timestamps: Shape `[N]`.
        order: `time` or `recbole_time`, see `Protocol`.

    Returns:
        Keys that sort as the order wants, equal ones being simultaneous. Shape `[N]`.
    """
    if order == "time":
        return timestamps
    low, high = timestamps.min(), timestamps.max()
    return ((timestamps - low) / (high - low) if high > low else np.ones_like(timestamps)).astype(np.float32)


def global_order(found: Interactions) -> np.ndarray:
    """All interactions from the earliest to the latest, equal times in the order of the rows. Shape `[N]`."""
    return np.lexsort((found.rows, found.timestamps))


def time_parts(found: Interactions, ratios: tuple[float, float, float]) -> np.ndarray:
    """Part of each interaction when all of them, in time order, are cut by ratios.

    Args:
        found: Interactions.
        ratios: Shares of training, validation and test.

    Returns:
        0 for training, 1 for validation, 2 for test. Shape `[N]`.

    Raises:
        DataError: A part would be empty.
    """
    size = len(found.items)
    cuts = [round(size * ratios[0]), round(size * (ratios[0] + ratios[1]))]
    if not 0 < cuts[0] < cuts[1] < size:
        raise DataError(f"{size} interactions are too few to cut by {list(ratios)}; each part needs one")
    parts = np.empty(size, dtype=np.int8)
    parts[global_order(found)] = np.searchsorted(cuts, np.arange(size), side="right")
    return parts
