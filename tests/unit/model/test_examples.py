"""Retrieved examples: of the past alone, as many liked as not, and the most similar ones, for every count and index."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbole.llm import nearest
from llmbole.model.examples import ExampleSettings, retrieve, row_vectors
from llmbole.settings import SettingsError, build

KINDS = ("exact", "hnsw", "ivf")


def made(size, moments, seed, items=30):
    """Random rows whose histories are random items."""
    random = np.random.default_rng(seed)
    histories = random.integers(0, items, (size, 3))
    return SimpleNamespace(
        timestamps=random.integers(0, moments, size).astype(float),
        labels=random.integers(0, 2, size).astype(np.float32),
        items=random.integers(1, items, size),
        histories=lambda numbers, length: histories[numbers][:, :length],
        vectors=random.normal(size=(items, 5)).astype(np.float32),
    )


class Rows(SimpleNamespace):
    def __len__(self):
        return len(self.items)


def choose(rows, chosen, more=None, **changes):
    own = {"count": 4, "balanced": True, "history": 2, "kind": "exact", "exact_up_to": 0, **changes}
    return retrieve(Rows(**vars(rows)), chosen, rows.vectors, ExampleSettings(**own), seed=3, **(more or {}))


def plain(rows, chosen, row, count, balanced):
    """The definition, for one row, as a set."""

    def vector(number):
        items = [item for item in rows.histories(np.array([number]), 2)[0] if item]
        parts = [np.mean([rows.vectors[item] for item in items], axis=0) if items else np.zeros(5)]
        parts.append(rows.vectors[rows.items[number]])
        return [part / max(np.linalg.norm(part), 1e-12) for part in parts]

    own = vector(row)
    near = []
    for place, number in enumerate(chosen):
        if rows.timestamps[number] < rows.timestamps[row]:
            halves = vector(number)
            length = np.sqrt(sum(float(half @ half) for half in halves))
            near.append((-sum(float(a @ b) for a, b in zip(own, halves, strict=True)) / length, place))
    near = [place for _, place in sorted(near)]
    if not balanced:
        return set(near[:count])
    liked, not_liked = (
        [place for place in near if rows.labels[chosen[place]] == label][: count // 2] for label in (1, 0)
    )
    each = min(len(liked), len(not_liked))
    return {*liked[:each], *not_liked[:each]}


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(2, 120),
    share=st.floats(0.05, 1),
    moments=st.integers(1, 40),
    count=st.sampled_from([0, 2, 4, 6, 8]),
    balanced=st.booleans(),
    kind=st.sampled_from(KINDS),
    filtered=st.integers(1, 64),
    seed=st.integers(0, 10**6),
)
def test_examples_are_earlier_balanced_and_distinct(
    size, share, moments, count, balanced, kind, filtered, seed
):
    rows = made(size, moments, seed)
    chosen = np.arange(size)[: max(1, int(share * size))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "FIRST_WIDTH", filtered)  # neighbours from which later ones are filtered out
        shown = choose(rows, chosen, count=count, balanced=balanced, kind=kind)
    assert shown.shape == (size, count)
    for row, places in enumerate(shown):
        found = chosen[places[places >= 0]]
        assert (rows.timestamps[found] < rows.timestamps[row]).all()
        assert len(set(found)) == len(found) and row not in found
        if balanced:
            assert rows.labels[found].sum() * 2 == len(found)
        early = chosen[rows.timestamps[chosen] < rows.timestamps[row]]
        liked = int(rows.labels[early].sum())
        most = 2 * min(liked, len(early) - liked, count // 2) if balanced else min(count, len(early))
        assert len(found) == most  # none is given up before it is proven absent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filtered", [1, 8, 64])
@pytest.mark.parametrize("balanced", [True, False])
def test_a_planted_example_of_the_future_is_never_shown(kind, filtered, balanced, monkeypatch):
    """Each row has twins in the in-context data set, one of each label, nearer than anything else and never earlier."""
    monkeypatch.setattr(nearest, "FIRST_WIDTH", filtered)
    real, random = made(150, 40, 6), np.random.default_rng(7)
    twin = np.tile(np.arange(150), 2)
    delay = random.integers(0, 2, 300)  # of its own time, or later
    both = SimpleNamespace(
        timestamps=np.concatenate([real.timestamps, real.timestamps[twin] + delay]),
        labels=np.concatenate([real.labels, np.repeat([0.0, 1.0], 150)]),
        items=np.concatenate([real.items, real.items[twin]]),
        histories=lambda numbers, length: real.histories(np.asarray(numbers) % 150, length),
        vectors=real.vectors,
    )
    chosen = np.arange(450)
    shown = choose(both, chosen, count=4, balanced=balanced, kind=kind)
    places = shown[:150]
    owners, columns = np.nonzero(places >= 0)
    found = chosen[places[owners, columns]]
    assert len(found) > 200
    assert (both.timestamps[found] < both.timestamps[owners]).all()
    planted = found >= 150
    assert planted.any()  # another row's twin may be of the past
    assert not (found[planted] % 150 == owners[planted]).any()


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("count", [2, 6])
def test_the_exact_index_finds_what_a_plain_search_finds(count, balanced):
    rows = made(200, 60, 1)
    chosen = np.arange(0, 200, 2)
    shown = choose(rows, chosen, count=count, balanced=balanced)
    for row, places in enumerate(shown):
        assert set(places[places >= 0]) == plain(rows, chosen, row, count, balanced)


def test_similarity_is_half_of_the_history_and_half_of_the_item():
    rows = made(6, 5, 2)
    vectors = row_vectors(rows, np.arange(6), rows.vectors, 3)
    full = [row for row in range(6) if (rows.histories(np.arange(6), 3)[row] > 0).any()]
    for a in full:
        for b in full:
            means = [
                rows.vectors[[i for i in rows.histories(np.arange(6), 3)[r] if i]].mean(0) for r in (a, b)
            ]
            targets = [rows.vectors[rows.items[r]] for r in (a, b)]
            cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in (means, targets)]
            assert vectors[a] @ vectors[b] == pytest.approx(sum(cosines) / 2, abs=1e-5)


def test_a_masked_item_leaves_the_history_alone_to_decide():
    rows = made(60, 20, 5)
    masked = row_vectors(rows, np.arange(60), rows.vectors, 3, masked=True)
    whole = row_vectors(rows, np.arange(60), rows.vectors, 3)
    np.testing.assert_array_equal(masked[:, :5], whole[:, :5])
    assert not masked[:, 5:].any()
    asked = np.arange(30, 60)
    shown = choose(rows, np.arange(30), more={"asked": asked, "masked": True}, balanced=False, history=3)
    assert (shown[:30] == -1).all()
    for row in asked:
        early = np.flatnonzero(rows.timestamps[:30] < rows.timestamps[row])
        order = early[np.argsort(-whole[early, :5] @ whole[row, :5], kind="stable")][:4]
        assert set(shown[row][shown[row] >= 0]) == set(order)


def test_no_examples_are_no_columns_and_their_order_is_drawn_from_the_seed():
    rows = made(80, 30, 4)
    assert choose(rows, np.arange(40), count=0).shape == (80, 0)
    first, again = choose(rows, np.arange(40)), choose(rows, np.arange(40))
    np.testing.assert_array_equal(first, again)
    full = first[(first >= 0).all(1)]
    labels = rows.labels[full]
    assert len({tuple(each) for each in labels}) > 2  # labels stand in no fixed order
    assert (np.sort(first >= 0, axis=1)[:, ::-1] == (first >= 0)).all()  # what is missing stands last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 3}, "count = 3: must be even"),
        ({"count": -1, "balanced": False}, "must be at least 0"),
        ({"history": 0}, "history = 0"),
        ({"kind": "lsh"}, "none of 'auto', 'exact', 'hnsw', 'ivf'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    own = {"count": 4, "balanced": True, "history": 2, "kind": "auto", "exact_up_to": 10, **changes}
    with pytest.raises(SettingsError, match=message):
        build(ExampleSettings, own, "examples")
