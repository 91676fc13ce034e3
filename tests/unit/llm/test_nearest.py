"""Nearest earlier neighbours: the same as a plain search, for every index, size, count and filter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbole.llm import nearest
from llmbole.llm.nearest import EarlierNeighbours, IndexSettings

KINDS = ("exact", "hnsw", "ivf")


def plain(vectors, times, queries, before, count):
    """The definition: sort everything that is earlier by cosine, one query at a time."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = []
    for query, moment in zip(queries, before, strict=True):
        earlier = [number for number in range(len(vectors)) if times[number] < moment]
        order = sorted(earlier, key=lambda number: -float(unit[number] @ query))[:count]
        rows.append(order + [-1] * (count - len(order)))
    return np.array(rows).reshape(len(queries), count)


def made(size, queries, seed, moments):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(size, 6)),
        random.integers(0, moments, size).astype(float),
        random.normal(size=(queries, 6)),
        random.integers(-1, moments + 1, queries).astype(float),
    )


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 400),
    count=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    moments=st.integers(1, 50),
    kind=st.sampled_from(KINDS),
)
def test_what_is_shown_is_earlier_distinct_and_as_many_as_there_are(size, count, seed, moments, kind):
    vectors, times, queries, before = made(size, 12, seed, moments)
    found = EarlierNeighbours(vectors, times, IndexSettings(kind, 0)).search(queries, before, count)
    assert found.shape == (12, count)
    for row, moment in zip(found, before, strict=True):
        shown = row[row >= 0]
        assert (times[shown] < moment).all()
        assert len(set(shown)) == len(shown) == min(count, int((times < moment).sum()))
        assert (row[len(shown) :] == -1).all()  # what is missing stands behind what is there


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 600), count=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_the_exact_index_equals_a_plain_search(size, count, seed):
    vectors, times, queries, before = made(size, 8, seed, 30)
    found = EarlierNeighbours(vectors, times, IndexSettings("exact", 0)).search(queries, before, count)
    np.testing.assert_array_equal(found, plain(vectors, times, queries, before, count))


@pytest.mark.parametrize("kind", KINDS)
def test_an_early_query_finds_its_few_whatever_lies_nearer_later(kind):
    """Ten vectors opposite to the query are early, five thousand that point its way are late."""
    random = np.random.default_rng(1)
    late = np.array([1.0, 0, 0, 0]) + 0.01 * random.normal(size=(5000, 4))
    early = np.array([-1.0, 0, 0, 0]) + 0.1 * random.normal(size=(10, 4))
    vectors, times = np.concatenate([late, early]), np.repeat([2.0, 1.0], [5000, 10])
    query, index = np.array([[1.0, 0, 0, 0]]), EarlierNeighbours(vectors, times, IndexSettings(kind, 0))
    found = index.search(query, np.array([2.0]), 4)
    np.testing.assert_array_equal(found, plain(vectors, times, query, [2.0], 4))
    assert index.search(query, np.array([1.0]), 4).tolist() == [[-1] * 4]


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_finds_nearly_all(kind):
    vectors, times, queries, before = made(3000, 50, 3, 100)
    before[:] = 60
    found = EarlierNeighbours(vectors, times, IndexSettings(kind, 0)).search(queries, before, 5)
    wanted = plain(vectors, times, queries, before, 5)
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, wanted, strict=True)])
    assert recall > 0.9


def test_automatic_choice_goes_by_size():
    vectors, times, *_ = made(20, 1, 0, 5)
    assert EarlierNeighbours(vectors, times, IndexSettings("auto", 20)).kind == "exact"
    assert EarlierNeighbours(vectors, times, IndexSettings("auto", 19)).kind == "hnsw"


def test_length_of_vectors_does_not_matter_and_none_are_found_among_none():
    vectors, times, queries, before = made(50, 5, 7, 9)
    index = EarlierNeighbours(vectors, times, IndexSettings("exact", 0))
    longer = EarlierNeighbours(vectors * 40, times, IndexSettings("exact", 0))
    np.testing.assert_array_equal(index.search(queries, before, 3), longer.search(queries / 9, before, 3))
    none = EarlierNeighbours(np.zeros((0, 6)), np.zeros(0), IndexSettings("auto", 10))
    assert (none.search(queries, before, 2) == -1).all()


def test_one_query_at_a_time_is_the_same_in_small_chunks(monkeypatch):
    vectors, times, queries, before = made(300, 40, 11, 20)
    monkeypatch.setattr(nearest, "WIDEST", 0)
    monkeypatch.setattr(nearest, "SCORES_PER_CHUNK", 700)
    found = EarlierNeighbours(vectors, times, IndexSettings("hnsw", 0)).search(queries, before, 6)
    np.testing.assert_array_equal(found, plain(vectors, times, queries, before, 6))


@pytest.mark.parametrize(
    ("vectors", "times", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), "don't go together"),
        (np.array([[1.0, 2], [np.nan, 1]]), np.zeros(2), "vector 1 holds"),
    ],
)
def test_wrong_input_is_refused(vectors, times, message):
    with pytest.raises(ValueError, match=message):
        EarlierNeighbours(vectors, times, IndexSettings("exact", 0))
    with pytest.raises(ValueError, match="exact_up_to = -1"):
        IndexSettings("auto", -1)
