"""Leak check of labelled rows: parts in time order, histories and shown rows of the past only, negatives unknown."""

from __future__ import annotations

import numpy as np

from llmbole.data.pairs import PARTS, Pairs, PairSplit
from llmbole.data.protocol import Protocol


def check(split: PairSplit, protocol: Protocol) -> list[str]:
    """Every leak of a split of labelled rows, one sentence each.

    Args:
        split: The frozen split.
        protocol: The protocol it follows.

    Returns:
        Problems with a user to look at; empty if there is none.
    """
    problems = _sequence_problems(split) + _overlaps(split)
    problems += _time_problems(split) if protocol.split != "leave_one_out" else _last_problems(split)
    for name in PARTS:
        part = split.part(name)
        problems += [
            f"{name}: {problem}" for problem in _history_problems(part) + _row_problems(part, protocol)
        ]
    return problems


def check_shown(part: Pairs, rows: np.ndarray, shown: np.ndarray) -> list[str]:
    """Interactions that a prompt, a retrieved example or a similar user's list shows with a row, and may not.

    What is shown must be earlier than the row's interaction, and never that interaction itself.

    Args:
        part: The rows.
        rows: Number of the row that something is shown with. Shape `[S]`.
        shown: Place of the interaction that is shown, in the split's arrays. Shape `[S]`.

    Returns:
        Problems, one sentence for each kind; empty if all that is shown is of the past.
    """
    split, own = part.split, part.positions[rows]
    return _sentences(
        part,
        rows,
        {
            "rows are shown themselves": shown == own,
            "rows are shown with something later": split.timestamps[shown] > split.timestamps[own],
            "rows are shown with a later one of their user": (split.users[shown] == split.users[own])
            & (shown > own),
        },
    )


def _sequence_problems(split: PairSplit) -> list[str]:
    same_user = split.users[1:] == split.users[:-1]
    back = same_user & (np.diff(split.timestamps) < 0)
    if not back.any():
        return []
    user = str(split.user_tokens[split.users[int(np.argmax(back)) + 1]])
    return [f"{back.sum()} interactions stand after a later one, the first is of user {user!r}"]


def _overlaps(split: PairSplit) -> list[str]:
    """Interactions that stand in two parts."""
    problems = []
    parts = {name: np.unique(split.parts[name]["positions"]) for name in PARTS}
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = np.intersect1d(parts[first], parts[second], assume_unique=True)
        if len(shared):
            user = str(split.user_tokens[split.users[shared[0]]])
            problems.append(
                f"{len(shared)} interactions stand in {first} and in {second}, the first is of user {user!r}"
            )
    return problems


def _time_problems(split: PairSplit) -> list[str]:
    """Parts that begin before the part before them ends."""
    problems = []
    for earlier, later in (("train", "valid"), ("valid", "test")):
        end, begin = split.part(earlier).timestamps.max(), split.part(later).timestamps.min()
        if begin < end:
            problems.append(f"{later} begins at {begin:.0f}, before {earlier} ends at {end:.0f}")
    return problems


def _last_problems(split: PairSplit) -> list[str]:
    """Held-out rows that are not behind all of their user's training rows."""
    last = np.full(split.n_users, -1, dtype=np.int64)
    train = split.part("train")
    np.maximum.at(last, train.users, train.positions)
    problems = []
    for name in ("valid", "test"):
        part = split.part(name)
        flags = {"rows stand before a training row of their user": part.positions <= last[part.users]}
        problems += [f"{name}: {each}" for each in _sentences(part, np.arange(len(part)), flags)]
    return problems


def _history_problems(part: Pairs) -> list[str]:
    """Histories whose newest interaction is not before the row, or is of another user."""
    split = part.split
    start, end = split.history_span(part.positions)
    some = end > start
    newest = (
        np.where(some, split.history_places[np.maximum(end - 1, 0)], -1) if len(split.history_places) else -1
    )
    oldest = split.history_places[np.minimum(start, len(split.history_places) - 1)]
    return _sentences(
        part,
        np.arange(len(part)),
        {
            "histories reach the row itself or beyond": some & (newest >= part.positions),
            "histories begin with another user": some & (split.users[oldest] != part.users),
        },
    )


def _row_problems(part: Pairs, protocol: Protocol) -> list[str]:
    """Rows that are not the interaction they stand for, and negatives that their user knows."""
    split = part.split
    drawn = np.zeros(len(part), dtype=bool)
    if protocol.labels is not None and protocol.labels.kind == "interaction":
        drawn = np.asarray(part.labels == 0)
    known = np.unique(split.users.astype(np.int64) * split.n_items + split.items)
    pairs = part.users.astype(np.int64) * split.n_items + part.items
    return _sentences(
        part,
        np.arange(len(part)),
        {
            "rows are not the interaction they stand for": ~drawn
            & (split.items[part.positions] != part.items),
            "negatives are items that their user interacted with": drawn & np.isin(pairs, known),
            "rows hold a number that is no item": (part.items < 1) | (part.items >= split.n_items),
        },
    )


def _sentences(part: Pairs, rows: np.ndarray, checks: dict[str, np.ndarray]) -> list[str]:
    """One sentence for each check that flags a row, with the first such row's user."""
    sentences = []
    for what, flags in checks.items():
        if flags.any():
            row = int(rows[int(np.argmax(flags))])
            user = str(part.split.user_tokens[part.users[row]])
            sentences.append(f"{flags.sum()} {what}, the first is row {row}, of user {user!r}")
    return sentences
