"""What an LLM prefers among training data: every pair once an epoch, every item once in its user's sequence."""

from __future__ import annotations

import numpy as np
import torch

from llmbole.model.data_augmentation import Augmented
from recbole.data.interaction import Interaction

CONFIG = {"ITEM_ID_FIELD": "item_id", "USER_ID_FIELD": "user_id", "NEG_PREFIX": "neg_"}


class Loader:
    """Three batches of two rows, with a column that BPR does not read."""

    shuffle = True

    def __len__(self):
        return 3

    def __iter__(self):
        for number in range(3):
            rows = torch.tensor([number, number]) + 100
            columns = {name: rows for name in ("user_id", "item_id", "neg_item_id", "rating")}
            yield Interaction(columns)


def augmented(seed=1):
    numbers = np.arange(7)
    return Augmented(numbers, numbers + 10, numbers + 20, np.array([1, 1, 3]), np.array([8, 9, 8]), seed)


def test_every_pair_is_learned_once_an_epoch_beside_the_interactions():
    loader = augmented().loader(Loader(), CONFIG)
    assert len(loader) == 3 and loader.shuffle
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert [len(batch) for batch in batches] == [5, 4, 4]
        users = torch.cat([batch["user_id"][2:] for batch in batches])
        for batch in batches:
            assert (batch["item_id"][2:] - batch["user_id"][2:] == 10).all()
            assert (batch["neg_item_id"][2:] - batch["user_id"][2:] == 20).all()
        assert sorted(users.tolist()) == list(range(7))
        assert torch.cat([batch["user_id"][:2] for batch in batches]).tolist() == [
            100,
            100,
            101,
            101,
            102,
            102,
        ]
        epochs.append(users.tolist())
    assert epochs[0] != epochs[1]
    again = augmented().loader(Loader(), CONFIG)
    assert [batch["user_id"].tolist() for batch in again] == [
        batch["user_id"].tolist() for batch in augmented().loader(Loader(), CONFIG)
    ]


def test_items_are_inserted_somewhere_and_the_others_keep_their_order():
    sequences = [np.array([], int), np.array([1, 2, 3]), np.array([4]), np.array([], int)]
    places = set()
    for seed in range(30):
        found = augmented(seed).sequences(sequences)
        assert [len(each) for each in found] == [0, 5, 1, 1]
        assert [item for item in found[1] if item < 8] == [1, 2, 3]
        assert sorted(found[1])[-2:] == [8, 9] and found[3].tolist() == [8]
        places.add(int(np.argmax(found[1] == 8)))
    assert len(places) == 5 or places >= {0, 1, 2, 3}
    assert sequences[1].tolist() == [1, 2, 3]
