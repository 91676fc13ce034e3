"""CSV files of items, and the stream of recommendations: what is wrong is named, and nothing is read ahead."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmbole.data.convert.report import DataError
from llmbole.inference.files import read_items, read_users
from llmbole.model.routed_scorer import MeanScorer, RoutedScorer
from llmbole.model.scorer import Context


@pytest.fixture
def items(tmp_path):
    def read(text):
        file = tmp_path / "items.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_items(file, {"1", "2"})

    return read


def test_items_are_known_by_id_and_new_ones_by_their_text(items):
    raw, text = items(
        "item_id,title,brand,categories,year\n2,Other,,,\n"
        '9," A  ""new""\n title ",Shop,War|Drama|War,1998\n\n8,B,,,\n'
    )
    assert raw == ["2", "9", "8"] and len(text) == 3
    assert text.title == ("", 'A "new" title', "B") and text.brand == ("", "Shop", "")
    assert text.categories == ((), ("War", "Drama"), ()) and text.year == (None, 1998, None)
    assert items("item_id\n1\n")[0] == ["1"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "lacks the column 'item_id'; its header is empty"),
        ("title\nA\n", "lacks the column 'item_id'"),
        ("item_id,titel\n1,A\n", "unknown column 'titel'; did you mean 'title'"),
        ("item_id,title,title\n1,A,B\n", "column 'title' stands twice"),
        ("item_id,title\n", "holds no items"),
        ("item_id,title\n,A\n", "items.csv:2: item_id is empty"),
        ("item_id,title\n7,A\n7,B\n", "items.csv:3: item '7' stands on line 2 already"),
        ("item_id,title\n7,\n", "items.csv:2: the data set has no item '7', and it has no title"),
        ("item_id\n7\n", "items.csv:2: the data set has no item '7', and it has no title"),
        ("item_id,title\n7,A,B\n", "items.csv:2: 3 cells, the header has 2"),
        ("item_id,title,year\n7,A,soon\n", "items.csv:2: year 'soon' is no year"),
        ('item_id,title\n7,"A\n', "can't be read as CSV"),
        (b"item_id,title\n7,\xff\n", "can't be read as CSV in UTF-8"),
    ],
)
def test_a_wrong_row_is_named(items, text, problem):
    with pytest.raises(DataError) as raised:
        items(text)
    assert problem in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.csv: there is no such file"):
        list(read_users(tmp_path / "none.csv", {}))


def test_a_stream_takes_one_batch_of_users_at_a_time(recommender):
    taken = itertools.count()

    def endless():
        for user in itertools.cycle(["ann", "ben", "cé"]):
            next(taken)
            yield user

    found = list(itertools.islice(recommender.stream(endless(), 2, batch=4), 10))
    assert [user for user, _ in found] == ["ann", "ben", "cé"] * 3 + ["ann"]
    assert next(taken) == 12 and recommender.scorer.batches == [4, 4, 4]
    whole = dict(recommender.stream(["ann", "ben", "cé"], 2, batch=3))
    assert dict(found) == whole == recommender(["ann", "ben", "cé"], 2)


def test_scores_that_are_no_numbers_are_refused(recommender):
    recommender.scorer.score = lambda contexts, items: np.full(items.shape, np.nan)
    with pytest.raises(ValueError, match="Numbers gives scores that are no finite numbers"):
        recommender("ann")


class Fixed:
    """A scorer that gives every user the same probability of an item."""

    shortlist = retriever = history_alone = None

    def __init__(self, table):
        self.table, self.asked = np.array(table), 0

    def score(self, contexts, items):
        self.asked += items.size
        return self.table[items]


@pytest.mark.parametrize(
    ("share", "threshold", "expected", "asked"),
    [
        (0.5, None, [[0.9, 1.0, 1.0, 0.1]], 2),  # .5 and .6 are the two of highest entropy
        (0.0, None, [[0.9, 0.5, 0.6, 0.1]], 0),
        (1.0, None, [[1.0, 1.0, 1.0, 1.0]], 4),
        (None, 0.69, [[0.9, 1.0, 0.6, 0.1]], 1),  # the entropy of .5 is .6931, that of .6 is .6730
    ],
)
def test_the_llm_scores_what_the_crm_is_least_sure_of(share, threshold, expected, asked):
    crm, llm = Fixed([0, 0.9, 0.5, 0.6, 0.1]), Fixed([1.0] * 5)
    scorer = RoutedScorer(crm, llm, share, threshold)
    contexts = [Context(1, np.array([1])), Context(2, np.array([2]))]
    found = scorer.score(contexts, np.array([[1, 2, 3, 4], [4, 3, 2, 1]]))
    np.testing.assert_allclose(found, [expected[0], expected[0][::-1]])
    assert llm.asked == 2 * asked
    mean = MeanScorer(llm, crm).score(contexts[:1], np.array([[1, 2]]))
    np.testing.assert_allclose(mean, [[0.95, 0.75]])
