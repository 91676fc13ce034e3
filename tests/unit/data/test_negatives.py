"""Training negatives: never seen, never repeated, reproducible, and uniform over what is left."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.data.negatives import NegativeSampler


def sampler(seen: dict[int, list[int]], n_items: int) -> NegativeSampler:
    pairs = [(user, item) for user, items in seen.items() for item in items]
    users, items = np.array(pairs).T if pairs else (np.zeros(0, int), np.zeros(0, int))
    return NegativeSampler(users, items, n_items)


def test_rows_hold_no_seen_item_no_padding_and_no_repeat():
    generator = np.random.default_rng(0)
    seen = {
        user: generator.choice(np.arange(1, 40), size=12, replace=False).tolist() for user in range(1, 30)
    }
    users = generator.integers(1, 30, size=500)
    drawn = sampler(seen, 40).sample(np.random.default_rng(1), users, 20)
    assert drawn.shape == (500, 20)
    for user, row in zip(users, drawn, strict=True):
        assert len(set(row)) == 20
        assert not set(row) & {0, *seen[user]}


def test_the_last_free_items_are_all_found():
    drawn = sampler({1: [1, 2, 3]}, 6).sample(np.random.default_rng(0), np.array([1, 1, 1]), 2)
    assert [sorted(row) for row in drawn.tolist()] == [[4, 5]] * 3


def test_the_same_seed_draws_the_same():
    users = np.array([1, 2, 3])
    one, other, third = (
        sampler({1: [5]}, 100).sample(np.random.default_rng(seed), users, 10) for seed in (7, 7, 8)
    )
    assert (one == other).all() and (one != third).any()


def test_free_items_are_drawn_equally_often():
    drawn = sampler({1: [1, 2]}, 12).sample(np.random.default_rng(0), np.ones(4000, int), 3)
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert counts[:3].tolist() == [0, 0, 0]
    assert abs(counts[3:] / counts.sum() - 1 / 9).max() < 0.01


def test_too_few_free_items_name_the_user():
    with pytest.raises(ValueError, match="user 2 has only 1 items without interaction, 2 negatives"):
        sampler({1: [1], 2: [1, 2, 3]}, 5).sample(np.random.default_rng(0), np.array([1, 2]), 2)
    with pytest.raises(ValueError, match="there are 4 items, 9 negatives"):
        sampler({}, 5).sample(np.random.default_rng(0), np.array([1]), 9)
