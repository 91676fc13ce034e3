"""Values of each user: AUC and NDCG over a user's own labelled rows, on plain arrays (`R` rows, `U` users)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from llmbole.evaluator import checks
from llmbole.evaluator.checks import UndefinedMetricError


class PerUser(NamedTuple):
    """A metric's value for each user that has one.

    Attributes:
        users: The users, each once. Shape `[U]`.
        values: Their values. Shape `[U]`.
    """

    users: np.ndarray
    values: np.ndarray

    def mean(self, metric: str) -> float:
        """Unweighted mean over the users; an UndefinedMetricError if there are none."""
        if len(self.users) == 0:
            raise UndefinedMetricError(f"{metric} is undefined: no user has rows of both labels")
        return float(self.values.mean())


class _Ranked(NamedTuple):
    """Rows of the users that have both labels, sorted by user, then by score from the highest."""

    users: np.ndarray  # [U]
    user: np.ndarray  # place of the row's user in `users`, [R]
    positive: np.ndarray  # [R]
    rank: np.ndarray  # 1 for the first row of each user, [R]
    ties: np.ndarray  # first row of each run of equal scores of one user, [T]
    tie: np.ndarray  # place of the row's run in `ties`, [R]

    def averaged_over_ties(self, values: np.ndarray) -> np.ndarray:
        """Each row's value replaced by the mean over the rows that tie with it. Shape `[R]`."""
        if len(values) == 0:
            return values
        sizes = np.diff(np.append(self.ties, len(values)))
        return (np.add.reduceat(values, self.ties) / sizes)[self.tie]

    def sum_of_positives(self, values: np.ndarray) -> np.ndarray:
        """Sum of the values over each user's positive rows. Shape `[U]`."""
        return np.bincount(self.user, weights=values * self.positive, minlength=len(self.users))

    @property
    def positives(self) -> np.ndarray:
        """Number of positive rows of each user. Shape `[U]`."""
        return np.bincount(self.user[self.positive], minlength=len(self.users))

    @property
    def rows(self) -> np.ndarray:
        """Number of rows of each user. Shape `[U]`."""
        return np.bincount(self.user, minlength=len(self.users))


def _rank(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> _Ranked:
    owners, marks, numbers = checks.columns(users=users, labels=labels, scores=scores)
    positive, numbers = checks.binary(marks), checks.scores(numbers)
    names, index = np.unique(owners, return_inverse=True)
    rows = np.bincount(index, minlength=len(names))
    positives = np.bincount(index[positive], minlength=len(names))
    both = (positives > 0) & (positives < rows)  # [all users]
    kept = both[index]
    index, positive, numbers = (np.cumsum(both) - 1)[index[kept]], positive[kept], numbers[kept]
    order = np.lexsort((-numbers, index))
    index, positive, numbers = index[order], positive[order], numbers[order]
    rows = rows[both]
    rank = np.arange(1, len(index) + 1) - np.repeat(np.cumsum(rows) - rows, rows)
    starts = np.ones(len(index), dtype=bool)
    starts[1:] = (index[1:] != index[:-1]) | (numbers[1:] != numbers[:-1])
    return _Ranked(names[both], index, positive, rank, np.flatnonzero(starts), np.cumsum(starts) - 1)


def per_user_auc(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> PerUser:
    """AUC of each user's own rows: how often a positive row scores above a negative one, a tie counting one half.

    Users whose rows are all positive or all negative (so also users with one row) have no value and are left out.

    Args:
        users: User of each row, ids or names. Shape `[R]`.
        labels: 0 or 1. Shape `[R]`.
        scores: Higher is better; any scale. Shape `[R]`.

    Returns:
        The users with both labels in ascending order, and their AUC.

    Raises:
        ValueError: The columns differ in length, a label is not 0 or 1, or a score is NaN.
    """
    ranked = _rank(users, labels, scores)
    positives, rows = ranked.positives, ranked.rows
    from_lowest = (rows + 1)[ranked.user] - ranked.averaged_over_ties(ranked.rank.astype(np.float64))  # [R]
    wins = ranked.sum_of_positives(from_lowest) - positives * (positives + 1) / 2
    return PerUser(ranked.users, wins / (positives * (rows - positives)))


def per_user_ndcg(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> PerUser:
    """NDCG of each user's whole exposed list: no cut-off, gain 1 for a positive row, discount 1 / log2(rank + 1).

    CoLLM's NDCG, averaged there over the users with both labels; the others are left out. Rows with equal scores share
    the mean of the discounts of the ranks they fill: the expected value over all orders of the ties (McSherry and
    Najork, ECIR 2008), which does not depend on the order of the rows.

    Args:
        users: User of each row, ids or names. Shape `[R]`.
        labels: 0 or 1. Shape `[R]`.
        scores: Higher is better; any scale. Shape `[R]`.

    Returns:
        The users with both labels in ascending order, and their NDCG.

    Raises:
        ValueError: The columns differ in length, a label is not 0 or 1, or a score is NaN.
    """
    ranked = _rank(users, labels, scores)
    gained = ranked.sum_of_positives(ranked.averaged_over_ties(1 / np.log2(ranked.rank + 1)))
    most = int(ranked.positives.max(initial=0))
    ideal = np.cumsum(1 / np.log2(np.arange(2, most + 2)))  # of 1, 2, ... positives
    return PerUser(ranked.users, gained / ideal[ranked.positives - 1])
