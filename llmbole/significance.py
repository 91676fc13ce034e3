"""Whether one method is better than another, or the numbers only happen to differ: paired tests, and Holm's correction.

The unit is the user: the values of a user under both methods, each averaged over seeds, make a pair. A metric that has
no values of users (AUC over all rows) is paired by seed. The bootstrap draws users and seeds both, each with
replacement (Owen, The Pigeonhole Bootstrap, 2007), so that its interval also shows how much seeds differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.05
RESAMPLES = 2000
SEED = 20250605
_CHUNK = 200  # resamples at once: a chunk of 20,000 users takes 32 MB


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same users and seeds.

    Attributes:
        difference: Mean of the first minus mean of the second.
        t_test: Two-sided p-value of the paired t-test; 1 if it is undefined (fewer than two pairs, equal values).
        wilcoxon: Two-sided p-value of Wilcoxon's signed-rank test; 1 if all pairs are equal.
        interval: Bootstrap interval of the difference, 95 %.
        pairs: Number of pairs that the tests saw.
        unit: `users` or `seeds`.
    """

    difference: float
    t_test: float
    wilcoxon: float
    interval: tuple[float, float]
    pairs: int
    unit: str


def compare(
    first: ArrayLike, second: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two methods that were tested on the same users with the same seeds.

    Args:
        first: Values by seed and user; one column for a metric without values of users. Shape `[S, U]`.
        second: The other method's, in the same order. Shape `[S, U]`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        The comparison.

    Raises:
        ValueError: The shapes differ, or a value is not a finite number.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 2 or one.size == 0:
        raise ValueError(
            f"expected two tables [seeds, users] of one shape, found {one.shape} and {other.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("a value is not a finite number: leave users without a value out of both tables")
    gaps = one - other  # [S, U]
    unit = "users" if gaps.shape[1] > 1 else "seeds"
    pairs = gaps.mean(axis=0) if unit == "users" else gaps[:, 0]
    return Comparison(
        difference=float(gaps.mean()),
        t_test=_t_test(pairs),
        wilcoxon=_wilcoxon(pairs),
        interval=_bootstrap(gaps, resamples, seed),
        pairs=len(pairs),
        unit=unit,
    )


def _t_test(gaps: np.ndarray) -> float:
    if len(gaps) < 2 or np.ptp(gaps) == 0:
        return 1.0  # no spread, no statistic: nothing is claimed
    return float(stats.ttest_1samp(gaps, 0.0).pvalue)


def _wilcoxon(gaps: np.ndarray) -> float:
    return float(stats.wilcoxon(gaps).pvalue) if np.any(gaps) else 1.0


def _bootstrap(gaps: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the mean gap when seeds and users are drawn anew. `gaps` has shape `[S, U]`."""
    generator = np.random.default_rng(seed)
    seeds, users = gaps.shape
    means = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size)  # [B, S]
        of_users = generator.multinomial(users, np.full(users, 1 / users), size)  # [B, U]
        means.append(((of_seeds @ gaps) * of_users).sum(axis=1) / (seeds * users))  # [B]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, so that the chance of any wrong claim stays below the level. Holm, 1979.

    Args:
        p_values: Of the tests of one family.

    Returns:
        Adjusted p-values in the same order: in ascending order the k-th of m is multiplied by m - k + 1, is at least
        the one before it, and at most 1.

    Raises:
        ValueError: A p-value is outside [0, 1].
    """
    if any(not 0 <= value <= 1 or math.isnan(value) for value in p_values):
        raise ValueError(f"p-values lie in [0, 1], not {list(p_values)}")
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
