"""The frozen split: RecBole's own rows, its candidates, its hash."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbole.config import Config
from llmbole.data import candidates as frozen
from llmbole.data import leak
from llmbole.data import protocol as protocols
from llmbole.data.convert.report import DataError
from llmbole.data.dataset import make_dataset
from llmbole.data.hold_out import freeze
from llmbole.data.interactions import time_keys
from llmbole.data.loader import evaluation_loader
from llmbole.data.split import Split
from recbole.data.dataset import Dataset, SequentialDataset


def by_user(dataset, field):
    return dict(zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat[field].tolist(), strict=True))


@pytest.fixture(scope="module")
def stock(prepared, ranking):
    """RecBole's own leave-one-out parts of a sequential model."""
    return SequentialDataset(Config("SASRec", "ml-100k", prepared, ranking, device="cpu", seed=1)).build()


def test_equals_recbole_row_by_row(full_split, stock):
    train, valid, test = stock
    for name, part in (("valid", valid), ("test", test)):
        phase = full_split.phase(name)
        assert by_user(part, "item_id") == dict(
            zip(phase.users.tolist(), phase.targets.tolist(), strict=True)
        )
        items, lengths = phase.histories(50)
        assert by_user(part, "item_id_list") == dict(zip(phase.users.tolist(), items.tolist(), strict=True))
        assert by_user(part, "item_length") == dict(zip(phase.users.tolist(), lengths.tolist(), strict=True))
    taught = {}
    for user, item in zip(
        train.inter_feat["user_id"].tolist(), train.inter_feat["item_id"].tolist(), strict=True
    ):
        taught.setdefault(user, []).append(item)
    assert taught == {
        user: full_split.train_items(user)[1:].tolist() for user in range(1, full_split.n_users)
    }


def test_ids_and_general_split_equal_recbole(full_split, prepared, ranking):
    dataset = Dataset(Config("BPR", "ml-100k", prepared, ranking, device="cpu", seed=1))
    assert dataset.field2id_token["item_id"].tolist() == full_split.item_tokens.tolist()
    assert dataset.field2id_token["user_id"].tolist() == full_split.user_tokens.tolist()
    train, valid, test = dataset.build()
    for name, part in (("valid", valid), ("test", test)):
        phase = full_split.phase(name)
        assert by_user(part, "item_id") == dict(
            zip(phase.users.tolist(), phase.targets.tolist(), strict=True)
        )
    users = np.repeat(np.arange(full_split.n_users), full_split.train_ends - full_split.offsets[:-1])
    items = np.concatenate([full_split.train_items(user) for user in range(full_split.n_users)])
    ours = np.unique(users * full_split.n_items + items)
    theirs = train.inter_feat["user_id"].numpy() * full_split.n_items + train.inter_feat["item_id"].numpy()
    assert np.array_equal(ours, np.unique(theirs)) and len(theirs) == len(items)


def test_exact_time_is_what_single_precision_rounds(split, full_split):
    """RecBole's order sees times within about a second as one; the exact order is by the raw times."""
    for phase in ("valid", "test"):
        assert 0 < (split.phase(phase).targets != full_split.phase(phase).targets).sum() < 10
    assert (np.diff(split.timestamps)[split.owners[1:] == split.owners[:-1]] >= 0).all()
    assert not np.array_equal(split.timestamps, full_split.timestamps)


def test_counts_and_last_items(split):
    assert (split.n_users, split.n_items, len(split.items)) == (944, 1683, 100_000)
    test, valid = split.phase("test"), split.phase("valid")
    assert len(test) == len(valid) == 943
    for row in (0, 400, 942):
        user = int(test.users[row])
        sequence = split.items[split.offsets[user] : split.offsets[user + 1]]
        assert sequence[-1] == test.targets[row] and sequence[-2] == valid.targets[row]
        assert np.array_equal(split.train_items(user), sequence[:-2])
        assert np.array_equal(test.history(row), sequence[:-1]) and np.array_equal(
            valid.history(row), sequence[:-2]
        )
    assert len(split.train_items(0)) == 0


def test_equal_times_keep_the_order_of_the_rows(small):
    made = small(["u\tc\t5\t7", "u\ta\t5\t7", "u\td\t5\t3", "u\tb\t5\t7", "v\ta\t5\t9"])
    made.prepare()
    split = made.split(candidates=protocols.Candidates("full"))
    assert split.item_tokens[split.items[:4]].tolist() == ["d", "c", "a", "b"]
    assert split.item_tokens[split.phase("test").targets].tolist() == ["b"]


def test_short_sequences(small):
    rows = [f"u{n}\ti{i}\t5\t{i}" for n in (1, 2, 3, 4) for i in range(n)]
    made = small(rows)
    made.prepare()
    split = made.split(candidates=protocols.Candidates("full"))
    assert [len(split.train_items(user)) for user in range(5)] == [0, 1, 1, 1, 2]
    assert split.user_tokens[split.phase("test").users].tolist() == ["u2", "u3", "u4"]
    assert split.user_tokens[split.phase("valid").users].tolist() == ["u3", "u4"]
    items, lengths = split.phase("test").histories(2)
    assert lengths.tolist() == [1, 2, 2]
    assert [split.item_tokens[row[row > 0]].tolist() for row in items] == [["i0"], ["i0", "i1"], ["i1", "i2"]]


def test_without_held_out_users(small):
    made = small(["u\ta\t5\t7", "v\ta\t5\t9"])
    made.prepare()
    split = made.split(candidates=protocols.Candidates("full"))
    assert len(split.phase("valid")) == len(split.phase("test")) == 0
    assert split.phase("valid").histories(3)[0].shape == (0, 3)


def test_recbole_order_of_equal_times():
    assert time_keys(np.array([5.0, 5.0]), "recbole_time").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["valid", "test"])
def test_candidates(split, name):
    phase = split.phase(name)
    assert phase.candidates.shape == (943, 20)
    for row, user in enumerate(phase.users):
        listed = phase.candidates[row].tolist()
        known = set(split.items[split.offsets[user] : split.offsets[user + 1]].tolist())
        assert len(set(listed)) == 20 and min(listed) > 0 and max(listed) < split.n_items
        assert set(listed) & known == {phase.targets[row]}


def test_phases_draw_apart(split):
    assert not np.array_equal(split.phase("valid").candidates, split.phase("test").candidates)


@given(
    st.integers(1, 8),
    st.integers(0, 2**32),
    st.lists(st.sets(st.integers(1, 14), min_size=1, max_size=6), min_size=1, max_size=6),
)
def test_draw_takes_each_list_from_the_other_items(negatives, seed, known):
    targets = np.array([min(items) for items in known])
    owners = np.repeat(np.arange(len(known)), [len(items) for items in known])
    items = np.concatenate([sorted(items) for items in known])
    lists = frozen.draw(targets, owners, items, 15, negatives, (seed, 0))
    for row, own in enumerate(known):
        assert len(set(lists[row].tolist())) == negatives + 1
        assert (
            set(lists[row].tolist()) & own == {targets[row]}
            and 1 <= lists[row].min()
            and lists[row].max() <= 14
        )


def test_draw_is_uniform():
    """20,000 rows that own items 2 and 5 of 1 to 9: each of the other seven is drawn equally often, at every place."""
    rows = 20_000
    owners, items = np.repeat(np.arange(rows), 2), np.tile([2, 5], rows)
    lists = frozen.draw(np.full(rows, 5), owners, items, 10, 3, (1, 2))
    counts = np.array([np.bincount(column, minlength=10) for column in lists.T])  # [4, 10]
    assert (counts[:, [0, 2]] == 0).all()
    assert np.abs(counts[:, 5] / rows - 1 / 4).max() < 0.015
    others = counts[:, [1, 3, 4, 6, 7, 8, 9]] / rows
    assert np.abs(others - 3 / 4 / 7).max() < 0.015


def test_too_few_items_name_the_user(small):
    rows = [f"u1\ti{i}\t5\t{i}" for i in range(25)] + [f"heavy user\ti{i}\t5\t{i}" for i in range(7)]
    made = small(rows)
    made.prepare()
    with pytest.raises(
        DataError, match="draws 19 .* of 25 items 2 users have fewer left, the first is user 'u1'"
    ):
        made.split()


def test_protocol_seed_decides(small):
    made = small([f"u{u}\ti{(7 * u + i) % 40}\t5\t{i}" for u in range(9) for i in range(5)])
    made.prepare()
    first, again = made.split(), made.split()
    other = made.split(candidates=protocols.Candidates("frozen", 19, 5))
    assert first.hash == again.hash != other.hash
    assert not np.array_equal(first.phase("test").candidates, other.phase("test").candidates)
    assert made.split(version=2).hash != first.hash


SCRIPT = """
import json, pathlib, sys
import numpy, torch
numpy.random.seed(7); torch.manual_seed(7)
from llmbole.config import Config
from llmbole.data import dataset, hold_out, loader, protocol, source
from llmbole.data.split import Split
data, folder = map(pathlib.Path, sys.argv[1:3])
chosen = protocol.protocol("loo_rank20")
config = Config("GRU4Rec", "ml-100k", data, json.loads(sys.argv[3]), device="cpu", seed=7)
hold_out.freeze(chosen, source.card("ml-100k"), data, folder)
frozen = Split.load(folder)
whole = dataset.make_dataset(config, chosen.order)
_, _, test = whole.build()
batches = loader.evaluation_loader(config, whole, test, frozen.phase("test"), chosen)
json.dump([frozen.hash, [row for batch in batches for row in batch[0]["item_id"].tolist()]], sys.stdout)
"""


def test_another_process_and_model_get_the_same_candidates(split, prepared, ranking, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(prepared), str(tmp_path), json.dumps(ranking)]
    there = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    config = Config("BPR", "ml-100k", prepared, ranking, device="cpu", seed=1)
    whole = make_dataset(config)
    _, _, test = whole.build()
    batches = evaluation_loader(config, whole, test, split.phase("test"), protocols.protocol("loo_rank20"))
    assert there == [split.hash, [row for batch in batches for row in batch[0]["item_id"].tolist()]]


def test_hash_is_pinned(split):
    """Changes only with the protocol's version: numpy, Python and this code may not change the candidates."""
    assert split.hash == "94b7ff513ce8b1e019b532798933071f87f110a0be7a7d866d4bffd608e8648a"


def test_arrays_are_memory_mapped_and_read_only(split):
    assert isinstance(split.items, np.memmap) and isinstance(split.phase("test").candidates, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        split.items[0] = 1


def test_mistakes_are_named(split, card, prepared, tmp_path):
    with pytest.raises(ValueError, match="unknown phase 'validation'; did you mean 'valid'"):
        split.phase("validation")
    with pytest.raises(DataError, match=r"holds no split\.json: it is no frozen split"):
        Split.load(tmp_path)
    with pytest.raises(DataError, match=r"ml-100k\.inter is missing; prepare the data first"):
        freeze(protocols.protocol("loo_full"), card, tmp_path, tmp_path)


def test_sound_splits_have_no_leak(split, full_split):
    assert leak.check(split, protocols.protocol("loo_rank20")) == []
    assert leak.check(full_split, protocols.protocol("loo_full")) == []
