"""One numbering of all labelled rows: columns, histories and batches agree with the parts; the future is refused."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.data import label_rows
from llmbole.data import protocol as protocols
from llmbole.data.numbered import ROW, NumberedRows, loaders
from llmbole.data.pairs import PARTS, PairSplit


@pytest.fixture(scope="module")
def rows(card, prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loo_ctr")
    label_rows.freeze(protocols.protocol("loo_ctr"), card, prepared, folder)
    return NumberedRows(PairSplit.load(folder))


def test_rows_of_all_parts_stand_behind_one_another(rows):
    assert len(rows) == sum(len(rows.split.part(name)) for name in PARTS)
    for name in PARTS:
        part, numbers = rows.split.part(name), rows.numbers(name)
        np.testing.assert_array_equal(rows.items[numbers], part.items)
        np.testing.assert_array_equal(rows.labels[numbers], part.labels)
        np.testing.assert_array_equal(rows.users[numbers], part.users)
        np.testing.assert_array_equal(rows.timestamps[numbers], part.timestamps)
        np.testing.assert_array_equal(rows.histories(numbers[:50], 7), part.histories(np.arange(50), 7)[0])


def test_batches_know_the_numbers_of_their_rows(rows, prepared):
    from llmbole.config import Config
    from llmbole.data.split_dataset import make_split_dataset
    from llmbole.model.session import recbole_settings

    settings = recbole_settings(protocols.protocol("loo_ctr"))
    config = Config("DeepFM", "ml-100k", prepared, settings, device="cpu", seed=1)
    found = loaders(config, tuple(make_split_dataset(config, rows.split).build()), rows)
    batch = next(iter(found["train"]))
    for interaction in (batch, next(iter(found["test"]))[0]):
        numbers = interaction[ROW].numpy()
        np.testing.assert_array_equal(rows.users[numbers], interaction["user_id"].numpy())
        np.testing.assert_array_equal(rows.items[numbers], interaction["item_id"].numpy())
        np.testing.assert_array_equal(rows.labels[numbers], interaction["label"].numpy())
    assert not np.array_equal(batch[ROW].numpy(), np.sort(batch[ROW].numpy()))  # training is shuffled


def test_what_is_not_of_the_past_is_named(rows):
    times = rows.timestamps
    test = rows.numbers("test")
    row = test[np.argsort(times[test])[len(test) // 2]]
    train = rows.numbers("train")
    earlier, later = train[times[train] < times[row]][:1], train[times[train] > times[row]][:1]
    own = np.array([row])
    assert rows.check_shown(own, earlier) == []
    (problem,) = rows.check_shown(own, later)
    assert problem.startswith("test: 1 rows are shown with something later")
    itself = rows.check_shown(own, own)
    assert any("shown themselves" in each for each in itself)
    assert any("held out" in each for each in itself) and any("their own time" in each for each in itself)
