"""Numbers of unknown items, against a plain version."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmbole.data.candidates import UnknownItems

N_ITEMS = 8


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, N_ITEMS - 1)), max_size=30))
def test_unknown_items_are_numbered_in_order(known):
    owners, items = (np.array([pair[side] for pair in known], dtype=np.int64) for side in (0, 1))
    unknown = UnknownItems(owners, items, 4, N_ITEMS)
    for owner in range(4):
        expected = sorted(set(range(1, N_ITEMS)) - {item for user, item in known if user == owner})
        assert unknown.sizes[owner] == len(expected)
        assert unknown.items(np.full(len(expected), owner), np.arange(len(expected))).tolist() == expected
