"""Genres read from answers, and precision and chance beside them, worked out by hand and by drawing all orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmbole.data.text import ItemText
from llmbole.model.genre_score import drawn, genres_of, measures, plain, precision, read_genres
from llmbole.model.genres import GenreSettings, problems

LABELS = ["Action", "Children's", "Crime", "Crime Drama", "Drama", "Film-Noir", "Sci-Fi", "War"]
NAMES = tuple(plain(label) for label in LABELS)
ASK = {
    "ask": True,
    "text": "{history}: genres?",
    "max_new_tokens": 24,
    "batch_size": 2,
    "users": None,
    "of": ("movie",),
    "left_out": (),
}


def items_of(*categories):
    empty = ("",) * (len(categories) + 1)
    return ItemText(empty, empty, empty, ((), *categories), (None,) * len(empty))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("Drama, Action and War.", ["Drama", "Action", "War"]),
        ("war, DRAMA, war, action", ["War", "Drama", "Action"]),  # again: where it was first
        ('The user likes "sci fi" and film noir', ["Sci-Fi", "Film-Noir"]),
        ("1. Sci\u2011Fi\n2. Children\u2019s", ["Sci-Fi", "Children's"]),
        ("Dramatic reactions, warm crimes, noir", []),  # parts of words, and of names
        ("a crime drama, then a drama", ["Crime Drama", "Drama"]),  # the longer name, and the other by itself
        ("not action", ["Action"]),  # nothing but names is understood
        ("", []),
        ("No", []),
    ],
)
def test_an_answer_names_known_genres_in_order(answer, named):
    assert [LABELS[place] for place in read_genres(answer, NAMES)] == named


def test_genres_are_the_categories_without_those_left_out():
    items = items_of(("Sci-Fi", "unknown", "War"), ("sci fi", " "), (), ("Unknown",))
    found = genres_of(items, ["UNKNOWN"])
    assert found.names == ("sci fi", "war") and found.labels == ("Sci-Fi", "War")
    assert found.of_items.tolist() == [[False] * 2, [True] * 2, [True, False], [False] * 2, [False] * 2]


def test_precision_counts_what_is_named_first_and_lacks_as_wrong():
    truth = np.array([[True, True, False, False], [False, False, True, False], [True, False, False, True]])
    named = [[0, 2, 1, 3], [1], []]
    assert precision(named, truth, 1).tolist() == [1, 0, 0]
    assert precision(named, truth, 3) == pytest.approx([2 / 3, 0, 0])
    assert precision([[3, 2, 1, 0]], truth[:1], 3) == pytest.approx([1 / 3])


@pytest.mark.parametrize("shares", [[0.5, 0.3, 0.2], [0.4, 0.3, 0.15, 0.1, 0.05], [0.7, 0.0, 0.1, 0.1, 0.1]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_chance_is_that_of_all_orders_of_drawing(shares, count):
    expected = np.zeros(len(shares))
    for order in itertools.permutations(np.flatnonzero(shares), count):
        probability, left = 1.0, 1.0
        for genre in order:
            probability, left = probability * shares[genre] / left, left - shares[genre]
        expected[list(order)] += probability
    assert drawn(np.array(shares), count) == pytest.approx(expected)
    assert drawn(np.array(shares), count).sum() == pytest.approx(count)


def test_fewer_genres_than_are_drawn_are_all_drawn():
    assert drawn(np.array([0.5, 0.0, 0.5]), 3).tolist() == [1, 0, 1]


def test_measures_stand_beside_chance_and_the_most_frequent_genres():
    truth = np.array([[True, False, False, False], [False, True, True, False]])
    found = measures([[0, 3], []], truth, np.array([5, 3, 1, 1]))
    assert found["GenreValid"] == 0.5
    assert found["GenrePrecision@1"] == 0.5 and found["GenrePrecision@3"] == pytest.approx(1 / 6)
    assert found["GenreChance@1"] == pytest.approx((0.5 + 0.4) / 2)
    assert found["GenrePopular@1"] == 0.5  # the first genre, right for one of two
    assert found["GenrePopular@3"] == pytest.approx((1 / 3 + 2 / 3) / 2)


def test_a_genre_that_fits_everyone_has_the_precision_of_chance():
    truth = np.ones((3, 5), dtype=bool)
    found = measures([[0, 1, 2]] * 3, truth, np.array([9, 4, 3, 2, 1]))
    assert {round(value, 12) for value in found.values()} == {1.0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": 0}, "users = 0: must be at least 1, or null"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: must be at least 1"),
        ({"text": "Which genres?"}, r"lacks \{history\}"),
        ({"text": "{history} {candidates}"}, "has the slot 'candidates'"),
    ],
)
def test_wrong_settings_are_refused(changed, message):
    GenreSettings(**{**ASK, "text": "{history} of {items}, of {genres}"})
    with pytest.raises(ValueError, match=message):
        GenreSettings(**{**ASK, **changed})


def test_data_whose_categories_are_no_genres_are_refused():
    settings = {"genres": ASK, "dataset": {"name": "beauty", "words": {"item": "product"}}}
    assert len(problems(settings)) == 1
    assert problems(settings)[0].startswith("genres.ask = true: the items of beauty have no genres")
    assert not problems({**settings, "genres": {**ASK, "ask": False}})
    assert not problems({**settings, "genres": {**ASK, "of": ("movie", "product")}})
