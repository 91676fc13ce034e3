"""Rows as sentences: what is known of user and item, titles of the history, and nothing for what is missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from llmbole.data.sentences import RowSentences, SentenceSettings
from llmbole.settings import SettingsError, build

OWN = {
    "text": "This is a user{user}, who has recently {past} {history}. This is a {item}{target}.",
    "feature": ", {name} is {value}",
    "item_features": ["title", "categories", "brand", "year"],
    "history": 2,
    "separator": "|",
    "empty": "nothing",
}
WORDS = {"item": "movie", "items": "movies", "verb": "watch", "past": "watched"}


def settings(**changes):
    return build(SentenceSettings, {**OWN, **changes}, "sentences")


@pytest.fixture
def folder(tmp_path):
    items = {
        "item_id": ["b", "a", "c"],
        "title": ["{Heat}", "Toy Story", ""],
        "description": ["", "", ""],
        "brand": ["", "Pixar", ""],
        "categories": [["Crime", "Drama"], [], []],
        "year": [1995, None, None],
    }
    users = {"user_id": ["7", "3"], "age": ["24", None], "zip_code": ["", "85711"]}
    pyarrow.parquet.write_table(pyarrow.table(items), tmp_path / "items.parquet")
    pyarrow.parquet.write_table(pyarrow.table(users), tmp_path / "users.parquet")
    return tmp_path


def test_rows_are_written_with_all_that_is_known(folder):
    split = SimpleNamespace(
        item_tokens=np.array(["[PAD]", "a", "b", "c"]), user_tokens=np.array(["[PAD]", "3", "7"])
    )
    found = RowSentences(folder, split, settings(), WORDS).write([1, 2], [[1, 2], [0, 0]], [2, 3])
    assert found == [
        "This is a user, zip code is 85711, who has recently watched Toy Story|{Heat}. "
        "This is a movie, title is {Heat}, categories is Crime, Drama, year is 1995.",
        "This is a user, age is 24, who has recently watched nothing. This is a movie.",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "{histroy}"}, "text: no slot 'histroy'; did you mean 'history'"),
        ({"text": "{"}, "text = '{'"),
        ({"feature": "{key}"}, "feature: no slot 'key'"),
        ({"item_features": ["titel"]}, "items have no 'titel'; did you mean 'title'"),
        ({"history": -1}, "history = -1"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings(**changes)
