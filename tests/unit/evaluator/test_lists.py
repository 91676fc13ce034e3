"""Coverage, Gini index and popularity of ranked lists, by hand and against a plain version."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.evaluator.checks import UndefinedMetricError
from llmbole.evaluator.lists import average_popularity, coverage, gini


def test_coverage_by_hand():
    assert coverage([[1, 2], [2, 5]], 6) == 0.5


def test_gini_by_hand():
    assert gini([[1, 2], [3, 4]], 4) == 0
    assert gini([[2], [2], [2]], 4) == 1
    # Counts 0 1 1 2 of 4 items: (-3*0 - 1*1 + 1*1 + 3*2) / (4 * 3).
    assert gini([[1, 2], [3, 1]], 4) == 0.5
    assert gini([[1]], 1) == 0


def test_gini_is_the_mean_difference_of_all_pairs():
    lists = np.random.default_rng(0).zipf(1.5, (50, 4)) % 20 + 1
    counts = np.bincount(lists.flatten(), minlength=21)[1:]
    differences = np.abs(counts[:, None] - counts[None, :]).sum()
    assert gini(lists, 20) == pytest.approx(differences / (2 * 19 * counts.sum()), abs=1e-14)


def test_average_popularity_by_hand():
    assert average_popularity([[1, 2], [2, 3]], [0, 10, 4, 2]) == 5


def test_what_lists_refuse():
    with pytest.raises(ValueError, match="the item of row 1 is 0; ids lie between 1 and 3"):
        coverage([[1, 2], [3, 0]], 3)
    with pytest.raises(ValueError, match="the item of row 0 is 4; ids lie between 1 and 3"):
        gini([[4, 1]], 3)
    with pytest.raises(ValueError, match="the item of row 0 is 3; ids lie between 1 and 2"):
        average_popularity([[3]], [0, 1, 1])
    with pytest.raises(ValueError, match=r"lists have the shape \(2,\)"):
        coverage([1, 2], 3)
    with pytest.raises(ValueError, match="item ids are of the type float64; give internal ids"):
        coverage([[1.0]], 3)
    with pytest.raises(ValueError, match="the popularity of row 1 is nan"):
        average_popularity([[1]], [0, np.nan])
    with pytest.raises(UndefinedMetricError, match="coverage of no rows"):
        coverage(np.zeros((0, 3), dtype=int), 3)
