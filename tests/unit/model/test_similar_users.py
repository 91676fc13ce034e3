"""Similar users equal a slow plain search, and nothing later or held out is shown of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmbole.data.sequences import Sequences
from llmbole.model.similar_users import most_similar, shown_places, similar_before


def everyone_else(queries, count):
    def allowed(places):
        mask = np.ones((len(places), count), dtype=bool)
        mask[np.arange(len(places)), queries[places]] = False
        return mask

    return allowed


@pytest.fixture
def sequences():
    """Users 1 to 3; the last interaction of each is held out. Times of 2 lie behind those of 1, those of 3 around."""
    items = np.array([1, 2, 3, 4, 2, 3, 5, 1, 5, 4, 2])
    times = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0, 4.0, 8.0, 9.0])
    offsets = np.array([0, 0, 4, 7, 11])
    ends = np.array([0, 3, 6, 10])
    users = np.repeat(np.arange(4), np.diff(offsets))
    return Sequences(users, items, np.ones(11), times, offsets, ends, 6)


@pytest.mark.parametrize("block", [1, 7, 512])
def test_equals_a_slow_search(block):
    vectors = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    vectors[9] = 3 * vectors[4]
    queries = np.array([4, 9, 0, 59, 4])
    found, cosines = most_similar(vectors, queries, everyone_else(queries, 60), block)
    for query, user, cosine in zip(queries, found, cosines, strict=True):
        others = [v for v in range(60) if v != query]
        slow = [float(torch.cosine_similarity(vectors[query], vectors[v], dim=0)) for v in others]
        assert user == others[int(np.argmax(slow))]
        assert cosine == pytest.approx(max(slow), abs=1e-6)
    assert found[:2].tolist() == [9, 4]


def test_lengths_of_vectors_do_not_matter_and_no_one_is_found_where_no_one_is_allowed():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [100.0, 100.0], [0.1, 0.01]])
    queries = np.array([1])
    assert most_similar(vectors, queries, everyone_else(queries, 4))[0].tolist() == [3]
    found, cosines = most_similar(vectors, queries, lambda places: np.zeros((len(places), 4), dtype=bool))
    assert found.tolist() == [-1] and cosines.tolist() == [0.0]


def test_someone_of_the_future_is_not_found(sequences):
    """User 2 is user 1's twin but begins later; for user 2 the twin is there."""
    vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    held_out = np.array([3, 6, 10])
    found, _ = similar_before(vectors, sequences, held_out)
    assert found.tolist() == [3, 1, 1]
    nobody, _ = similar_before(vectors, sequences, np.array([0]))  # time 1: no other user has begun
    assert nobody.tolist() == [-1]


def test_only_training_interactions_up_to_the_time_are_shown(sequences):
    places = shown_places(np.array([3, 1, -1]), sequences, np.array([3, 6, 10]), 2)
    assert places.tolist() == [
        [7, 8],
        [1, 2],
        [-1, -1],
    ]  # the interaction at time 8 is later, place 3 is held out
    assert sequences.items_at(places).tolist() == [[1, 5], [2, 3], [0, 0]]
    assert shown_places(np.array([1]), sequences, np.array([6]), 9)[0].tolist() == [0, 1, 2] + [-1] * 6


def test_an_earlier_interaction_behind_a_later_one_is_left_out_with_it(sequences):
    times = sequences.times.copy()
    times[7:10] = [2.0, 4.5, 4.0]
    found = dataclasses.replace(sequences, times=times)
    assert found.training(np.array([3]), 9, np.array([4.0]))[0].tolist() == [7] + [-1] * 8
    assert found.training(np.array([3]), 9, np.array([4.5]))[0].tolist() == [7, 8, 9] + [-1] * 6


def test_histories_are_what_came_before(sequences):
    assert sequences.before(np.array([3, 4, 10]), 2).tolist() == [[1, 2], [-1, -1], [8, 9]]
    assert sequences.train_counts.tolist() == [0, 3, 2, 3]
    assert np.flatnonzero(~sequences.trained).tolist() == [3, 6, 10]
