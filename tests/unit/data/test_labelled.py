"""A ranking as labelled rows: interactions, items drawn beside them, and the numbers of RecBole's rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.data import arrays
from llmbole.data.labelled import labelled
from llmbole.data.numbered import ROW, NumberedRows


@pytest.fixture(scope="module")
def rows(full_split):
    return NumberedRows(labelled(full_split))


def test_training_has_each_interaction_and_one_unknown_item_beside_it(rows, full_split):
    train = rows.numbers("train")
    liked, drawn = np.split(train, 2)
    np.testing.assert_array_equal(rows.items[liked], full_split.items[full_split.trained])
    assert (rows.labels[liked] == 1).all() and (rows.labels[drawn] == 0).all()
    np.testing.assert_array_equal(rows.positions[liked], rows.positions[drawn])
    known = set(zip(rows.users[liked].tolist(), rows.items[liked].tolist(), strict=True))
    assert not known & set(zip(rows.users[drawn].tolist(), rows.items[drawn].tolist(), strict=True))
    assert rows.items[drawn].min() >= 1
    np.testing.assert_array_equal(rows.asked("train"), liked)
    again = labelled(full_split).parts["train"]["items"]
    np.testing.assert_array_equal(again, rows.items[train])


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_targets_are_rows_whose_history_is_all_before_them(rows, full_split, phase):
    numbers, held = rows.asked(phase), full_split.phase(phase)
    np.testing.assert_array_equal(rows.items[numbers], held.targets)
    np.testing.assert_array_equal(rows.users[numbers], held.users)
    np.testing.assert_array_equal(rows.histories(numbers, 9), held.histories(9)[0])


def test_times_never_run_back_within_a_user(rows):
    """The protocol orders by rounded times, which raw times may contradict."""
    split = rows.split
    same = split.users[1:] == split.users[:-1]
    assert (np.diff(split.timestamps)[same] >= 0).all()


def test_batches_of_a_ranking_know_the_numbers_of_their_rows(rows, prepared, full_split):
    from llmbole.config import Config
    from llmbole.data import protocol as protocols
    from llmbole.model.session import open_split, recbole_settings

    rules = protocols.protocol("loo_full")
    settings = {**recbole_settings(rules), "train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 9}
    config = Config("SASRec", "ml-100k", prepared, settings, device="cpu", seed=1)
    found = open_split(config, full_split, rules).numbered_loaders(rows)
    assert list(found) == ["train", "valid", "test"]
    for name, loader in found.items():
        batch = next(iter(loader))
        interaction = batch if name == "train" else batch[0]
        numbers = interaction[ROW].numpy()
        assert np.isin(numbers, rows.asked(name)).all()
        np.testing.assert_array_equal(rows.users[numbers], interaction["user_id"].numpy())
        np.testing.assert_array_equal(rows.items[numbers], interaction["item_id"].numpy())
        np.testing.assert_array_equal(rows.histories(numbers, 9), interaction["item_id_list"].numpy())
    shuffled = next(iter(found["train"]))[ROW]
    assert not torch.equal(shuffled, shuffled.sort().values)


def test_a_sealed_test_is_left_out(full_split):
    with arrays.sealed_test():
        rows = NumberedRows(labelled(full_split))
    assert list(rows.firsts) == ["train", "valid"]
