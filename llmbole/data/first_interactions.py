"""What is told of users by their first interactions, and which rows come late enough to be told it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from llmbole.data import pair_leak
from llmbole.data.numbered import NumberedRows


def first_interactions(rows: NumberedRows, most: int) -> dict[int, np.ndarray]:
    """What the LLM is shown of each user: the first half of the history's training interactions, up to a number.

    Args:
        rows: All rows.
        most: How many interactions at most.

    Returns:
        User to places in the split's arrays, oldest first; users with fewer than two such interactions are left out.
    """
    split = rows.split
    places = np.intersect1d(split.history_places, split.parts["train"]["positions"])  # ascending
    users, starts, counts = np.unique(split.users[places], return_index=True, return_counts=True)
    kept = np.minimum(counts // 2, most)
    return {
        int(user): places[start : start + number]
        for user, start, number in zip(users, starts, kept, strict=True)
        if number
    }


def rows_told(rows: NumberedRows, shown: Mapping[int, np.ndarray]) -> np.ndarray:
    """Which user's knowledge each row is told: its own user's, if all that it was made of is earlier than the row.

    Args:
        rows: All rows.
        shown: User to the places of the interactions that the LLM was shown.

    Returns:
        From 1 the number of the user in `shown`; 0 for none. Shape `[R]`.
    """
    split, numbers = rows.split, np.zeros(rows.split.n_users, dtype=np.int64)
    last = np.zeros(split.n_users, dtype=np.int64)
    for number, (user, places) in enumerate(shown.items(), start=1):
        numbers[user], last[user] = number, places.max()
    return np.where(rows.positions > last[rows.users], numbers[rows.users], 0)


def check_told(rows: NumberedRows, told: np.ndarray, shown: Iterable[np.ndarray]) -> list[str]:
    """Rows that are told of something that is not of their past, or of what is held out.

    Args:
        rows: All rows.
        told: As `rows_told` gives it. Shape `[R]`.
        shown: The interactions behind each number, from 1.

    Returns:
        Problems, one sentence each; empty if there is none.
    """
    lists = list(shown)
    width = max((len(places) for places in lists), default=0)
    table = np.full((len(lists) + 1, width), -1, dtype=np.int64)
    for number, places in enumerate(lists, start=1):
        table[number, : len(places)] = places
    problems = []
    trained = np.unique(rows.split.parts["train"]["positions"])
    if not np.isin(table[table >= 0], trained).all():
        problems.append("the LLM was shown interactions that are held out")
    for part in rows.firsts:
        own = told[rows.numbers(part)]  # [R_part]
        found: dict[str, None] = {}
        for column in table.T:  # the n-th interaction of every user
            numbers = np.flatnonzero(column[own] >= 0)
            found |= dict.fromkeys(
                pair_leak.check_shown(rows.split.part(part), numbers, column[own[numbers]])
            )
        problems += [f"{part}: {problem}" for problem in found]
    return problems
