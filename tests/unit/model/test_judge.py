"""Wins against another LLM, and shares of attributes that were said rightly, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.data.text import ItemText
from llmbole.llm.attribute import Attribute
from llmbole.llm.engine import Answer
from llmbole.model.attribute_check import attribute_shares, read_verdict, readable, values_of
from llmbole.model.list_duel import compared, drawn_users, read_answers
from llmbole.settings import SettingsError

GENRE = Attribute("movie", "genre", "name", source="categories")
YEAR = Attribute("movie", "year", "number", source="year")
AUTHOR = Attribute("book", "author", "name", source="brand")


def test_wins_ties_losses_and_the_sign_test():
    found = compared(np.array([1, 2, 3, 1, 5, 1]), np.array([2, 2, 1, 4, 11, 9]))
    assert found == {"win": 4, "tie": 1, "loss": 1, "sign_p": pytest.approx(2 * (1 + 5) / 2**5)}
    assert compared(np.array([3, 3]), np.array([3, 3])) == {"win": 0, "tie": 2, "loss": 0, "sign_p": 1.0}
    swapped = compared(np.array([2, 2, 1, 4, 11, 9]), np.array([1, 2, 3, 1, 5, 1]))
    assert (swapped["win"], swapped["loss"]) == (1, 4) and swapped["sign_p"] == found["sign_p"]


def test_only_users_whose_list_holds_the_target_are_drawn():
    items = np.arange(1, 41).reshape(10, 4)
    targets = np.where(np.arange(10) % 3 == 0, items[:, 2], 99)
    assert drawn_users(np.random.default_rng(0), items, targets, 50).tolist() == [0, 3, 6, 9]
    few = drawn_users(np.random.default_rng(0), items, targets, 2)
    assert len(few) == 2 and set(few.tolist()) < {0, 3, 6, 9} and few[0] < few[1]
    with pytest.raises(SettingsError, match="no list of 4 items holds its user's target"):
        drawn_users(np.random.default_rng(0), items, np.full(10, 99), 2)


def test_a_refusal_is_no_order_and_an_empty_answer_names_nothing():
    titles = ["", "Heat", "Dune", "Big", "Tombstone"]
    answers = [
        Answer("Dune; Big"),
        Answer('"Jaws"; "Heat"; "Heat"'),
        Answer(""),
        Answer("", refused=True),
        Answer("Tombstone; Big"),
    ]
    offered = np.array([[1, 2, 3], [1, 2, 3], [3, 2, 1], [3, 2, 1], [4, 3, 2]])
    positions, shares = read_answers(answers, offered, np.array([3, 1, 3, 3, 2]), titles, named=2)
    assert positions.tolist() == [2, 1, 4, 0, 4]  # left out is behind the last
    assert shares == pytest.approx(
        {"foreign": 1 / 5, "repeated": 1 / 5, "missing": 2 / 5, "renumbered": 0, "rambling": 0}
        | {"empty": 1 / 5, "refused": 1 / 5}
    )


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("Yes.", True), ("no, it does not", False), ("yes or no", None), ("", None), ("Nothing", None)],
)
def test_verdicts_are_read(text, verdict):
    assert read_verdict(text) is verdict


def test_known_values_are_read_as_answers_are():
    items = ItemText(
        title=("", "Heat", "Dune"),
        description=("", "", ""),
        brand=("", "", " "),
        categories=((), ("Action", "Sci-Fi"), ()),
        year=(None, 1995, None),
    )
    assert values_of(items, GENRE, 1) == ("Action", "Sci-Fi") and values_of(items, GENRE, 2) == ()
    assert values_of(items, YEAR, 1) == ("1995",) and values_of(items, YEAR, 2) == ()
    assert values_of(items, AUTHOR, 2) == ()
    assert readable(("Action", "Sci-Fi", "unknown"), GENRE, 6) == {"action", "sci-fi"}


def test_shares_are_of_all_items_or_of_what_was_said():
    def entry(value, right, verdict, refused=False):
        found = {"value": value, "right": right, "verdict": verdict, "refused": refused}
        return {"attribute": "page length", **found}

    entries = [
        entry("a", True, True),
        entry("b", False, True),
        entry("c", False, False),
        entry("d", True, None, refused=True),
        {"attribute": "page length", "value": None, "right": False},
    ]
    assert attribute_shares(entries) == pytest.approx(
        {
            "accuracy_page_length": 2 / 5,
            "judged_page_length": 2 / 5,
            "invalid_page_length": 1 / 5,
            "verdicts_lacking_page_length": 1 / 4,
            "verdicts_refused_page_length": 1 / 4,
            "verdicts_right_page_length": 2 / 3,
        }
    )
