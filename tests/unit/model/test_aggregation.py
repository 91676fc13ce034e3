"""Llama4Rec's Eq. 4 to 6 against cases worked out by hand, and what must hold for any input."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.model.aggregation import (
    AggregateSettings,
    aggregate_lists,
    aggregate_ratings,
    chunk_bounds,
    llm_weights,
    long_tail,
)

COUNTS = np.array([0, 1, 3, 7])  # of the padding user and users 1, 2, 3: l = log 2, log 4, log 8
USERS = np.array([1, 2, 3])


def settings(**changes):
    return AggregateSettings(
        **{"weight": "adaptive", "alpha1": 0.8, "alpha2": 0.1, "constant": 1.0, **changes}
    )


def test_the_long_tail_coefficient_is_the_logarithm_of_interactions():
    assert long_tail(np.array([0, 1, np.e - 1])) == pytest.approx([0, np.log(2), 1])


def test_weights_by_hand():
    """Shares (log 8 - l_u) / (log 8 - log 2) are 1, 1/2 and 0, which the cut-off lifts to 0.1."""
    assert settings().weights(COUNTS, USERS) == pytest.approx([0.8, 0.4, 0.08])
    assert settings(alpha2=0.7).weights(COUNTS, USERS) == pytest.approx([0.8, 0.56, 0.56])
    assert settings(weight="uniform").weights(COUNTS, USERS) == pytest.approx([0.8, 0.8, 0.8])


def test_fewer_interactions_never_mean_a_smaller_weight():
    counts = np.random.default_rng(0).integers(0, 500, 300)
    weights = settings(alpha2=0.3).weights(np.append(0, counts), np.arange(1, 301))
    ordered = weights[np.argsort(counts)]
    assert (np.diff(ordered) <= 1e-12).all()
    assert ordered[0] == pytest.approx(0.8) and ordered[-1] == pytest.approx(0.24)
    assert ((weights >= 0) & (weights <= 1)).all()


def test_users_who_are_all_alike_get_the_cut_off():
    assert llm_weights(np.full(3, 2.0), 2.0, 2.0, 0.5, 0.3) == pytest.approx([0.15] * 3)


def test_a_list_by_hand():
    """C = 1, alpha = 0.6: utilities of positions (3, 1, 2) are -2.2, -1.4, -2.4."""
    assert aggregate_lists(np.array([[3, 1, 2]]), np.array([0.6])).tolist() == [[1, 0, 2]]
    assert aggregate_lists(np.array([[3, 1, 2]]), np.array([0.4])).tolist() == [[1, 0, 2]]
    assert aggregate_lists(np.array([[3, 1, 2]]), np.array([0.3])).tolist() == [[0, 1, 2]]
    assert aggregate_lists(np.array([[3, 1, 2]]), np.array([0.2])).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("constant", [1.0, 0.37, 250.0])
def test_weight_0_is_the_backbone_and_weight_1_the_llm(constant):
    positions = np.array([np.random.default_rng(seed).permutation(10) + 1 for seed in range(50)])
    none, whole = (aggregate_lists(positions, np.full(50, weight), constant) for weight in (0.0, 1.0))
    assert (none == np.arange(10)).all()
    assert (whole == np.argsort(positions, axis=1)).all()


def test_ties_fall_to_the_backbone_order():
    unnamed = np.array([[11, 11, 1, 11]])
    assert aggregate_lists(unnamed, np.ones(1)).tolist() == [[2, 0, 1, 3]]
    half = aggregate_lists(np.array([[2, 1, 3]]), np.array([0.5]))  # utilities -1.5, -1.5, -3
    assert half.tolist() == [[0, 1, 2]]
    thirds = aggregate_lists(
        np.array([[4, 3, 2, 1]]), np.array([0.1 + 0.2 + 0.2])
    )  # all -2.5, but for rounding
    assert thirds.tolist() == [[0, 1, 2, 3]]


def test_ratings_are_interpolated():
    mixed = aggregate_ratings(
        np.array([5.0, 1.0, 3.0]), np.array([3.0, 2.0, 4.0]), np.array([0.25, 0.0, 1.0])
    )
    assert mixed == pytest.approx([3.5, 2.0, 3.0])


def test_chunks_cover_a_list():
    assert chunk_bounds(10, 10) == chunk_bounds(10, 50) == [(0, 10)]
    assert chunk_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"(?s)alpha1 = 1.5.*alpha2 = -0.1.*constant = 0"):
        settings(alpha1=1.5, alpha2=-0.1, constant=0.0)
