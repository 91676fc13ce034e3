"""Which interactions are kept: duplicates, ratings, dates, and least numbers of interactions, in this order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmbole.data.cards import Core, Filter


def keep(columns: Mapping[str, np.ndarray], rule: Filter) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Apply a filter.

    Args:
        columns: `user`, `item` (numbers from 0), `rating` and `time`. Shape `[N]` each.
        rule: The filter.

    Returns:
        Numbers of the kept rows, ascending, of shape `[kept]`; and, by reason, numbers of those left out.
    """
    users, items = columns["user"], columns["item"]
    left: dict[str, np.ndarray] = {}
    rows = np.arange(len(users))
    if rule.duplicates != "keep":
        rows = _note(left, "repeated interactions left out", rows, _distinct(users, items, rule.duplicates))
    if rule.min_rating is not None:
        good = np.asarray(columns["rating"][rows] >= rule.min_rating)
        rows = _note(left, f"ratings under {rule.min_rating:g} left out", rows, good)
    if rule.since is not None or rule.until is not None:
        since, until = rule.window
        times = columns["time"][rows]
        rows = _note(
            left, "interactions outside the dates left out", rows, (times >= since) & (times < until)
        )
    if rule.core is not None:
        counted = None
        if rule.core.count_from is not None:
            counted = np.asarray(columns["rating"][rows] >= rule.core.count_from)
        good = _core(np.asarray(users[rows]), np.asarray(items[rows]), counted, rule.core)
        rows = _note(left, "interactions of rare users and items left out", rows, good)
    return rows, left


def _note(left: dict[str, np.ndarray], why: str, rows: np.ndarray, good: np.ndarray) -> np.ndarray:
    if not good.all():
        left[why] = rows[~good]
    return rows[good]


def _distinct(users: np.ndarray, items: np.ndarray, which: str) -> np.ndarray:
    """Where the first or last row of each pair of user and item stands. Shape `[N]`."""
    good = np.zeros(len(users), bool)
    if len(users):
        pairs = users.astype(np.int64) * (int(items.max()) + 1) + items
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        change = pairs[1:] != pairs[:-1]
        edge = np.append(True, change) if which == "first" else np.append(change, True)
        good[order[edge]] = True
    return good


def _core(users: np.ndarray, items: np.ndarray, counted: np.ndarray | None, core: Core) -> np.ndarray:
    """Where users and items have enough counted interactions, counted once or until nothing changes. Shape `[N]`."""
    good = np.ones(len(users), bool)
    counted = np.ones(len(users), bool) if counted is None else counted
    left = len(users) + 1
    while left > (left := int(good.sum())):
        seen = good & counted
        for_users = np.bincount(users[seen], minlength=int(users.max(initial=0)) + 1)
        for_items = np.bincount(items[seen], minlength=int(items.max(initial=0)) + 1)
        good &= (for_users[users] >= core.users) & (for_items[items] >= core.items)
        if core.rounds == "once":
            break
    return good
