"""The split: interactions in time order, what is held out, and frozen candidates, as memory-mapped arrays."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data import candidates as frozen
from llmbole.data.convert.report import DataError
from llmbole.data.protocol import Protocol
from llmbole.data.source import DatasetCard
from llmbole.settings import close_name

PHASES = ("valid", "test")
PADDING = "[PAD]"
SPLIT_FILE = "split.json"

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
        lengths = np.minimum(self.positions - self.split.offsets[self.users], max_length)  # [U]
        columns = np.arange(max_length)
        inside = columns < lengths[:, None]  # [U, L]
        places = np.where(inside, (self.positions - lengths)[:, None] + columns, 0)
        return np.where(inside, self.split.items[places], 0), lengths


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
        train_ends: The first of user u's interactions that is held out, or `offsets[u + 1]`. Shape `[n_users]`.
        phases: Users, targets, positions and candidates of each phase.
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
    phases: dict[str, dict[str, np.ndarray]]

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
        file = folder / SPLIT_FILE
        if not file.is_file():
            raise DataError(f"{folder} holds no {SPLIT_FILE}: it is no frozen split")
        content = json.loads(file.read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        phases = {
            phase: {name: np.load(folder / f"{phase}_{name}.npy", mmap_mode="r") for name in names}
            for phase, names in content.pop("phases").items()
        }
        return cls(**content, **arrays, phases=phases)

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
        """
        if name not in self.phases:
            raise ValueError(f"unknown phase {name!r}; {close_name(name, self.phases)}")
        arrays = self.phases[name]
        return Phase(
            self, name, arrays["users"], arrays["targets"], arrays["positions"], arrays.get("candidates")
        )

    @cached_property
    def owners(self) -> np.ndarray:
        """User of each interaction. Shape `[N]`."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    @cached_property
    def time_keys(self) -> np.ndarray:
        """What interactions are ordered by: times as the protocol's order sees them. Shape `[N]`."""
        return time_keys(np.asarray(self.timestamps), self.order)

    def contents_hash(self) -> str:
        """The hash of what the arrays hold now; equal to `hash` unless something was changed."""
        digest = hashlib.sha256(f"{self.protocol} {self.version} {self.order}".encode())
        for name in ARRAYS:
            _update(digest, name, getattr(self, name))
        for phase, arrays in sorted(self.phases.items()):
            for name, array in sorted(arrays.items()):
                _update(digest, f"{phase}_{name}", array)
        return digest.hexdigest()


def _update(digest: Any, name: str, array: np.ndarray) -> None:  # noqa: ANN401 - hashlib names no type
    digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data)


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


def freeze(protocol: Protocol, card: DatasetCard, data_folder: Path, folder: Path) -> dict[str, Any]:
    """Split prepared data and write the split as arrays.

    Unusable interactions, and a user with too few other items for the candidates, are a DataError.

    Args:
        protocol: How to split.
        card: The data set.
        data_folder: Folder of the prepared data.
        folder: An existing folder to write into; after an error it holds half-made files.

    Returns:
        A summary: counts, and the hash.
    """
    split = _split(protocol, card, data_folder / f"{card.name}.inter")
    for name in PHASES:
        if protocol.candidates.kind == "frozen":
            split.phases[name]["candidates"] = _candidates(protocol, split, name)
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(split, name))
    for phase, arrays in split.phases.items():
        for name, array in arrays.items():
            np.save(folder / f"{phase}_{name}.npy", array)
    content = {name: getattr(split, name) for name in ("dataset", "protocol", "version", "order")}
    content["hash"] = split.contents_hash()
    content["phases"] = {phase: sorted(arrays) for phase, arrays in split.phases.items()}
    (folder / SPLIT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    counts = {"users": split.n_users - 1, "items": split.n_items - 1, "interactions": len(split.items)}
    held_out = {f"{name}_users": len(split.phases[name]["users"]) for name in PHASES}
    return {**counts, **held_out, "candidates": protocol.candidates.count, "hash": content["hash"]}


def _split(protocol: Protocol, card: DatasetCard, file: Path) -> Split:
    """Read interactions and hold out the last two of each user; ids count by first appearance, as RecBole's do."""
    users, items, user_tokens, item_tokens, timestamps, ratings = _read(file)
    order = np.lexsort(
        (time_keys(timestamps, protocol.order), users)
    )  # stable: ties keep the order of the rows
    counts = np.bincount(users, minlength=len(user_tokens))  # [n_users], 0 for the padding user
    ends = np.cumsum(counts)
    has_test, has_valid = counts >= 2, counts >= 3
    items = items[order]
    phases = {}
    for name, held, back in (("valid", has_valid, 2), ("test", has_test, 1)):
        positions = ends[held] - back
        phases[name] = {"users": np.flatnonzero(held), "targets": items[positions], "positions": positions}
    return Split(
        dataset=card.name,
        protocol=protocol.name,
        version=protocol.version,
        order=protocol.order,
        hash="",
        item_tokens=item_tokens,
        user_tokens=user_tokens,
        items=items,
        timestamps=timestamps[order],
        ratings=ratings[order],
        offsets=np.concatenate([[0], ends]),
        train_ends=ends - has_test - has_valid,
        phases=phases,
    )


def _read(file: Path) -> tuple[np.ndarray, ...]:
    import pandas

    if not file.is_file():
        raise DataError(f"{file} is missing; prepare the data first")
    types = {
        "user_id:token": str,
        "item_id:token": str,
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
    return (
        users.astype(np.int64) + 1,
        items.astype(np.int64) + 1,
        np.array([PADDING, *user_tokens]),
        np.array([PADDING, *item_tokens]),
        frame["timestamp:float"].to_numpy(),
        frame["rating:float"].to_numpy(np.float32),
    )


def _candidates(protocol: Protocol, split: Split, name: str) -> np.ndarray:
    """Frozen candidates of a phase; the protocol's seed and the phase seed the draw."""
    phase = split.phase(name)
    row_of = np.full(split.n_users, -1)
    row_of[phase.users] = np.arange(len(phase))
    inside = row_of[split.owners] >= 0
    owners, items = row_of[split.owners[inside]], split.items[inside]
    seed = protocol.candidates.seed
    assert seed is not None  # checked by Candidates
    try:
        return frozen.draw(
            phase.targets,
            owners,
            items,
            split.n_items,
            protocol.candidates.negatives,
            (seed, PHASES.index(name)),
        )
    except ValueError as error:
        if len(error.args) != 2:
            raise
        users = [str(split.user_tokens[phase.users[row]]) for row in error.args[1]]
        raise DataError(
            f"{split.dataset}: {protocol.name} draws {protocol.candidates.negatives} items that a user never "
            f"interacted with, but of {split.n_items - 1} items {len(users)} users have fewer left, the first is user "
            f"{users[0]!r}; leave such users out, or take a protocol with fewer negatives"
        ) from None
