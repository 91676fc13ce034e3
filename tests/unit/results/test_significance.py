"""Paired tests against scipy and by hand, and how often they claim what is not there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmbole.significance import LEVEL, compare, holm


def tables(generator, seeds=3, users=60, gap=0.0):
    """Two methods: users differ a lot, and the methods by `gap` and noise."""
    level = generator.normal(size=users)
    shape = (seeds, users)
    return level + gap + generator.normal(size=shape), level + generator.normal(size=shape)


def test_the_tests_are_scipys_on_users_averaged_over_seeds():
    first, second = tables(np.random.default_rng(0), gap=0.3)
    found = compare(first, second)
    users = first.mean(axis=0), second.mean(axis=0)
    assert found.t_test == pytest.approx(stats.ttest_rel(*users).pvalue, rel=1e-12)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(*users).pvalue, rel=1e-12)
    assert (found.unit, found.pairs) == ("users", 60)
    assert found.difference == pytest.approx((first - second).mean())
    assert found.interval[0] < found.difference < found.interval[1]


def test_a_t_test_by_hand():
    # Gaps 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom: p = 0.0742.
    found = compare([[2.0], [4.0], [6.0]], [[1.0], [2.0], [3.0]])
    assert (found.unit, found.pairs, found.difference) == ("seeds", 3, 2.0)
    assert found.t_test == pytest.approx(0.0742, abs=1e-4)


def test_one_seed_and_equal_values_claim_nothing():
    assert compare([[0.5]], [[0.4]]).t_test == 1.0
    same = compare([[0.5, 0.1, 0.7]], [[0.5, 0.1, 0.7]])
    assert (same.t_test, same.wilcoxon, same.interval) == (1.0, 1.0, (0.0, 0.0))


def test_exchanging_the_methods_changes_signs_alone():
    first, second = tables(np.random.default_rng(1), gap=0.2)
    one, other = compare(first, second), compare(second, first)
    assert (one.difference, one.t_test, one.wilcoxon) == pytest.approx(
        (-other.difference, other.t_test, other.wilcoxon)
    )
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_without_a_difference_it_claims_one_at_the_level_and_a_large_one_is_found():
    generator = np.random.default_rng(2)
    tries = 300
    drawn = [compare(*tables(generator), resamples=200) for _ in range(tries)]
    claimed = [(each.t_test < LEVEL, each.wilcoxon < LEVEL) for each in drawn]
    wrong = [sum(values) / tries for values in zip(*claimed, strict=True)]
    outside = sum(not x.interval[0] <= 0 <= x.interval[1] for x in drawn) / tries
    assert all(0.02 < rate < 0.09 for rate in wrong), wrong  # 0.05, with three deviations of 300 tries
    assert outside < 0.09  # it counts the seeds' spread too, so it is wider
    found = [compare(*tables(generator, gap=1.0), resamples=200) for _ in range(20)]
    assert all(x.t_test < LEVEL and x.wilcoxon < LEVEL and x.interval[0] > 0 for x in found)


def test_the_interval_is_wider_where_seeds_disagree():
    gaps = np.random.default_rng(3).normal(size=200)
    calm, torn = np.stack([gaps, gaps]), np.stack([gaps - 1, gaps + 1])
    zero = np.zeros_like(calm)
    width = {
        name: np.diff(compare(value, zero).interval)[0] for name, value in (("calm", calm), ("torn", torn))
    }
    assert width["torn"] > 4 * width["calm"]


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 are 0.04, 0.06, 0.06, 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_wrong_claim_at_the_level():
    drawn = np.random.default_rng(4).uniform(size=(2000, 10))
    assert np.mean([min(holm(row)) < LEVEL for row in drawn.tolist()]) == pytest.approx(LEVEL, abs=0.015)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([[1.0, 2.0]], [[1.0]], "one shape"),
        ([1.0, 2.0], [1.0, 2.0], "seeds, users"),
        ([[1.0, float("nan")]], [[1.0, 2.0]], "finite"),
    ],
)
def test_wrong_tables_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        compare(first, second)


def test_wrong_p_values_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, 1.5])
