"""Groups of a protocol over what was scored: users with a target, or labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from llmbole.data.pairs import PairSplit
from llmbole.data.split import Split
from llmbole.evaluator import groups
from llmbole.evaluator.groups import Group
from llmbole.evaluator.summary import summarize, summarize_rows
from llmbole.evaluator.value_metrics import Rows

GroupMetrics = dict[str, dict[str, float]]


def of_users(
    names: Sequence[str], split: Split, users: np.ndarray, values: Mapping[str, np.ndarray]
) -> GroupMetrics:
    """Averages of users' metrics within the groups of a ranking's test users.

    Args:
        names: Names of groups, as the protocol has them.
        split: The frozen split.
        users: Internal ids of test users. Shape `[U]`.
        values: Metric name to values. Shapes `[U]`.

    Returns:
        Group name to `count` and the averages; a metric without a value is left out.
    """
    phase = split.phase("test")
    target = np.zeros(split.n_users, dtype=np.int64)
    target[phase.users] = phase.targets
    by_user, by_item = split.train_counts
    counts = {"user": by_user, "item": by_item, "all": np.diff(split.offsets)}
    return _present(summarize(_groups(names, users, target[users], counts, None), values))


def of_rows(names: Sequence[str], split: PairSplit, rows: Rows, metrics: Sequence[str]) -> GroupMetrics:
    """Metrics of labelled rows, computed anew within the groups.

    Args:
        names: Names of groups, as the protocol has them; `confidence` needs scores that are probabilities.
        split: The frozen split.
        rows: What was scored.
        metrics: Names of metrics.

    Returns:
        Group name to `count` and the metrics; one that is undefined in a group is left out.

    Raises:
        ValueError: The rows have no items.
    """
    if rows.items is None:
        raise ValueError("rows without items have no groups")
    users, items = split.train_counts
    counts = {"user": users, "item": items, "all": np.diff(split.offsets)}
    found = _groups(names, rows.users, rows.items, counts, rows.scores)
    return _present(summarize_rows(found, rows.users, rows.labels, rows.scores, metrics))


def _groups(
    names: Sequence[str],
    users: np.ndarray,
    items: np.ndarray,
    counts: Mapping[str, np.ndarray],
    probabilities: np.ndarray | None,
) -> list[Group]:
    makers: dict[str, Callable[[], list[Group]]] = {
        "items_by_warmth": lambda: groups.warm_cold_items(items, counts["item"]),
        "rows_by_warmth": lambda: groups.warm_cold_rows(users, items, counts["user"], counts["item"]),
        "cold_users": lambda: groups.cold_users(users, counts["all"]),
        "popularity": lambda: groups.popularity_bins(items, counts["item"]),
        "history_length": lambda: groups.history_bins(users, counts["user"]),
        "training_users": lambda: _training_users(users, counts["user"]),
        "confidence": lambda: [] if probabilities is None else groups.confidence_thirds(probabilities),
    }
    return [group for name in names for group in makers[name]()]


def _training_users(users: np.ndarray, counts: np.ndarray) -> list[Group]:
    known = counts[users] > 0
    return [Group("training_users", known), Group("new_users", ~known)]


def _present(summary: Mapping[str, Mapping[str, int | float | None]]) -> GroupMetrics:
    return {
        group: {name: float(value) for name, value in metrics.items() if value is not None}
        for group, metrics in summary.items()
    }
