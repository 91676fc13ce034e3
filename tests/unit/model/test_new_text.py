"""Which items share a score: a hand-made case."""

from __future__ import annotations

from llmbole.model.new_text import text_columns


def test_a_new_item_has_the_column_of_the_first_item_of_its_text():
    known = ["", "heat", "casino", "heat"]
    found = text_columns(known, ["casino", "alien", "heat", "alien", ""])
    assert found.tolist() == [0, 1, 2, 3, 2, 5, 1, 5, 8]  # nothing to read is not the padding item
