"""What ranked lists show of the catalogue, beyond whether they hit.

Items have RecBole's internal ids: 1 to `n_items`, where 0 is the padding and no item. No paper of the benchmark reports
these numbers; they tell a model that recommends everybody the same from one that does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from llmbole.evaluator import checks


def coverage(lists: ArrayLike, n_items: int) -> float:
    """Share of all items that stand in at least one list.

    Args:
        lists: Recommended items of each user. Shape `[U, k]`.
        n_items: Number of items, the padding not counted (RecBole's `item_num` counts it).

    Returns:
        Above 0, at most 1.

    Raises:
        ValueError: The lists are no matrix, or hold an id that is no item.
        UndefinedMetricError: There are no lists.
    """
    return float((_exposure(lists, n_items, "coverage") > 0).mean())


def gini(lists: ArrayLike, n_items: int) -> float:
    """Gini index of how often each item is recommended, items that never are included.

    With the counts sorted ascending, the share p of the j-th of n items, it is the sum of (2j - n - 1) p / (n - 1)
    (Shani and Gunawardana, Recommender Systems Handbook).

    Args:
        lists: Recommended items of each user. Shape `[U, k]`.
        n_items: Number of items, the padding not counted (RecBole's `item_num` counts it).

    Returns:
        0 if all items are recommended equally often, 1 if only one is.

    Raises:
        ValueError: The lists are no matrix, or hold an id that is no item.
        UndefinedMetricError: There are no lists.
    """
    counts = np.sort(_exposure(lists, n_items, "the Gini index"))  # [n_items]
    if n_items == 1:
        return 0.0
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ counts / (counts.sum() * (n_items - 1)))


def average_popularity(lists: ArrayLike, popularity: ArrayLike) -> float:
    """Mean over users of the mean popularity of the items in a user's list.

    Args:
        lists: Recommended items of each user. Shape `[U, k]`.
        popularity: Number of training interactions of each item id, 0 for the padding. Shape `[n_items + 1]`.

    Returns:
        At least 0.

    Raises:
        ValueError: The lists are no matrix, hold an id that is no item, or a popularity is no finite number.
        UndefinedMetricError: There are no lists.
    """
    (column,) = checks.columns(popularity=popularity)
    amounts = checks.finite(column, "popularity")
    return float(amounts[_items(lists, len(amounts) - 1, "average popularity")].mean())


def _items(lists: ArrayLike, n_items: int, metric: str) -> np.ndarray:
    matrix = np.asarray(lists)
    if matrix.ndim != 2:
        raise ValueError(f"lists have the shape {matrix.shape}; give one row of items per user, [users, k]")
    if n_items < 1:
        raise ValueError(f"there are {n_items} items; give at least 1")
    checks.some_rows(matrix.size, metric)
    return checks.indices(matrix, n_items + 1, "item", least=1)


def _exposure(lists: ArrayLike, n_items: int, metric: str) -> np.ndarray:
    """How often each item is recommended. Shape `[n_items]`."""
    return np.bincount(_items(lists, n_items, metric).reshape(-1), minlength=n_items + 1)[1:]
