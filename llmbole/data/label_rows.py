"""Freezing labelled pairs: which interactions are rows of which part, their labels, and negatives drawn for them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data import arrays, candidates
from llmbole.data.convert.report import DataError
from llmbole.data.interactions import Interactions, global_order, item_ranges, read, time_parts
from llmbole.data.pairs import PARTS, PairSplit
from llmbole.data.protocol import Protocol
from llmbole.data.source import DatasetCard, Windows


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
        trained = protocol.scenario.trained(found, card.domains)[found.users]  # [N]
        tested = protocol.scenario.tested(found, card.domains)[found.users]  # [N]
        membership[(~trained & (membership < 2)) | (~tested & (membership == 2))] = -1
    shown = np.flatnonzero(labels == 1) if protocol.history == "positives" else np.arange(len(found.items))
    history_counts = np.bincount(found.users[shown], minlength=len(found.user_tokens))
    order = global_order(found)
    parts = {}
    for number, name in enumerate(PARTS):
        positions = order[membership[order] == number]
        if not len(positions):
            raise DataError(f"{card.name}: {protocol.name} leaves no rows for {name}; use more data")
        rows = {"items": found.items[positions], "labels": labels[positions], "positions": positions}
        parts[name] = _with_negatives(protocol, found, rows, number, card.domains)
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
    protocol: Protocol,
    found: Interactions,
    rows: dict[str, np.ndarray],
    number: int,
    domains: Sequence[str],
) -> dict[str, np.ndarray]:
    """Rows, each followed by the random items of its set drawn for it with label 0."""
    assert protocol.labels is not None  # checked by Protocol
    count, seed = protocol.labels.negatives, protocol.labels.seed
    if not count:
        return rows
    assert seed is not None  # checked by Labels
    users, targets = (np.repeat(of[rows["positions"]], count) for of in (found.users, found.items))
    drawn = np.zeros(len(users), dtype=np.int64)
    try:
        for places, first, end, own in candidates.in_ranges(item_ranges(found.item_tokens, domains), targets):
            known = (found.items >= first) & (found.items < end)
            owners, items = found.users[known], found.items[known] - (first - 1)
            entropy = (seed, number, *own)
            one = candidates.draw_one(users[places], owners, items, end - first + 1, entropy)
            drawn[places] = one + (first - 1)
    except ValueError as error:
        if len(error.args) != 2:
            raise
        user = str(found.user_tokens[error.args[1][0]])
        raise DataError(
            f"{protocol.name} draws items that a user never interacted with, but {len(error.args[1])} users know every "
            f"item, the first is user {user!r}; leave such users out"
        ) from None
    items = np.concatenate([rows["items"][:, None], drawn.reshape(-1, count)], axis=1)  # [R, 1 + count]
    labels = np.zeros(items.shape, dtype=np.float32)
    labels[:, 0] = 1
    return {
        "items": items.reshape(-1),
        "labels": labels.reshape(-1),
        "positions": np.repeat(rows["positions"], 1 + count),
    }
