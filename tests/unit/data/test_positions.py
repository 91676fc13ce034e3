"""Training positions of sequences, against a plain loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from llmbole.data.positions import training_positions


@dataclass
class Sequences:
    """Stands for a split: training items per user, user 0 being the padding user."""

    rows: list[list[int]]

    @property
    def n_users(self) -> int:
        return len(self.rows)

    def train_items(self, user: int) -> np.ndarray:
        return np.array(self.rows[user], dtype=np.int64)


def plain(rows, per_user, max_length):
    found = []
    for user, items in enumerate(rows):
        places = list(range(1, len(items)))
        for place in places[-per_user:] if per_user else places:
            history = items[max(0, place - max_length) : place]
            padded = history + [0] * (max_length - len(history))
            found.append((user, items[place], padded, len(history), len(items) - 1 - place))
    return found


@pytest.mark.parametrize("per_user", [0, 1, 3])
@pytest.mark.parametrize("max_length", [1, 4, 50])
def test_positions_equal_a_plain_loop(per_user, max_length):
    generator = np.random.default_rng(3)
    rows = [[]] + [generator.integers(1, 99, size=size).tolist() for size in (0, 1, 2, 3, 7, 60)]
    result = training_positions(Sequences(rows), per_user, max_length)
    found = list(
        zip(
            result.users.tolist(),
            result.targets.tolist(),
            result.histories.tolist(),
            result.lengths.tolist(),
            result.ages.tolist(),
            strict=True,
        )
    )
    assert found == plain(rows, per_user, max_length)


def test_no_position_is_an_empty_result():
    result = training_positions(Sequences([[], [4]]), 1, 5)
    assert result.histories.shape == (0, 5) and len(result.targets) == 0
