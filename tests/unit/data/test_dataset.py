"""RecBole's datasets, ours beside RecBole's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.config import Config
from llmbole.data import leak
from llmbole.data import protocol as protocols
from llmbole.data.convert.report import DataError
from llmbole.data.dataset import SequentialDataset, assert_same_ids, make_dataset
from recbole.data import dataset as recbole_datasets


def assert_same_rows(ours, theirs):
    assert list(ours.inter_feat) == list(theirs.inter_feat)
    for field in theirs.inter_feat:
        expected = theirs.inter_feat[field]
        assert ours.inter_feat[field].dtype == expected.dtype and torch.equal(
            ours.inter_feat[field], expected
        ), field


@pytest.fixture
def sliced(small):
    """40 users of different lengths, their rows mixed, with many equal times."""
    generator = np.random.default_rng(3)
    rows = [f"u{user}\ti{item}\t{1 + item % 5}\t{generator.integers(12)}"
            for user in range(40) for item in generator.permutation(60)[: 4 + user % 23]]  # fmt: skip
    made = small([rows[place] for place in generator.permutation(len(rows))])
    made.prepare()
    return made


def config(made, model, ranking, **more):
    settings = {**ranking, "load_col": {"inter": "*"}, **more}
    return Config(model, made.card.name, made.folder, settings, device="cpu", seed=1)


@pytest.mark.parametrize("length", [1, 5, 50])
def test_sequences_equal_recbole(sliced, ranking, length):
    """Tensor for tensor, in the same order, in all three parts."""
    chosen = config(sliced, "SASRec", ranking, MAX_ITEM_LIST_LENGTH=length)
    stock = recbole_datasets.SequentialDataset(chosen).build()
    for ours, theirs in zip(make_dataset(chosen).build(), stock, strict=True):
        assert_same_rows(ours, theirs)


def test_sequences_of_every_kind_of_field_equal_recbole(sliced, ranking):
    """Features in the interactions that are lists or numbers with a mask keep RecBole's shapes."""
    file = sliced.folder / "tiny.inter"
    head, *rows = file.read_text().splitlines()
    rows = [
        f"{row}\t{' '.join(f'w{n}' for n in range(place % 4))}\t{place % 7}" for place, row in enumerate(rows)
    ]
    file.write_text("\n".join([f"{head}\twords:token_seq\tprice:float", *rows]) + "\n")
    fields = ["user_id", "item_id", "rating", "timestamp", "words", "price"]
    chosen = config(
        sliced,
        "SASRec",
        ranking,
        load_col={"inter": fields},
        numerical_features=["price"],
        MAX_ITEM_LIST_LENGTH=5,
    )
    ours, theirs = make_dataset(chosen).build()[0], recbole_datasets.SequentialDataset(chosen).build()[0]
    assert ours.inter_feat["words_list"].shape[1:] == (5, 3) and ours.inter_feat["price_list"].shape[1:] == (
        5,
        2,
    )
    assert_same_rows(ours, theirs)


def test_general_parts_equal_recbole(sliced, ranking):
    chosen = config(sliced, "BPR", ranking)
    for ours, theirs in zip(
        make_dataset(chosen).build(), recbole_datasets.Dataset(chosen).build(), strict=True
    ):
        assert_same_rows(ours, theirs)


def test_on_ml_100k_the_order_recbole_time_gives_recbole_rows(prepared, ranking):
    chosen = Config("BPR", "ml-100k", prepared, ranking, device="cpu", seed=1)
    theirs = recbole_datasets.Dataset(chosen).build()
    for ours, stock in zip(make_dataset(chosen, "recbole_time").build(), theirs, strict=True):
        assert_same_rows(ours, stock)
    exact = make_dataset(chosen, "time").build()[2]
    assert not torch.equal(exact.inter_feat["item_id"], theirs[2].inter_feat["item_id"])


@pytest.mark.parametrize("unscaled", [{}, {"normalize_all": False}])
@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_rows_equal_the_split_whatever_is_scaled(split, prepared, ranking, model, unscaled):
    chosen = Config(model, "ml-100k", prepared, {**ranking, **unscaled}, device="cpu", seed=1)
    train, valid, test = make_dataset(chosen).build()
    for name, part in (("valid", valid), ("test", test)):
        phase = split.phase(name)
        order = np.argsort(part.inter_feat["user_id"].numpy())
        assert np.array_equal(part.inter_feat["item_id"].numpy()[order], phase.targets)
        if model == "SASRec":
            items, lengths = phase.histories(50)
            assert np.array_equal(part.inter_feat["item_id_list"].numpy()[order], items)
            assert np.array_equal(part.inter_feat["item_length"].numpy()[order], lengths)
    histories = train.inter_feat["item_id_list"].numpy() if model == "SASRec" else None
    rows = train.inter_feat["user_id"].numpy(), train.inter_feat["item_id"].numpy()
    assert leak.check_training(split, *rows, histories) == []
    assert leak.check_training(
        split, valid.inter_feat["user_id"].numpy(), valid.inter_feat["item_id"].numpy()
    )


def test_short_sequences_are_held_out_alike(small, ranking):
    """RecBole's sequential split trains on the validation item of a user with three interactions; here it does not."""
    made = small([f"u{n}\ti{i}\t5\t{i}" for n in (1, 2, 3, 4, 5) for i in range(n)])
    made.prepare()
    split = made.split(candidates=protocols.Candidates("full"))
    for model in ("BPR", "SASRec"):
        parts = make_dataset(config(made, model, ranking)).build()
        for name, part in zip(("valid", "test"), parts[1:], strict=True):
            found = dict(
                zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True)
            )
            phase = split.phase(name)
            assert found == dict(zip(phase.users.tolist(), phase.targets.tolist(), strict=True)), (
                model,
                name,
            )
        rows = parts[0].inter_feat
        taught = sorted(zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True))
        skipped = int(model == "SASRec")  # the first item of a sequence has no history
        expected = [(u, int(i)) for u in range(split.n_users) for i in split.train_items(u)[skipped:]]
        assert taught == sorted(expected), model


@pytest.mark.parametrize(
    ("model", "features"),
    [
        ("BPR", {"inter": ["user_id", "item_id", "rating", "timestamp"]}),
        ("SASRec", {"inter": ["user_id", "item_id", "timestamp"]}),
        ("BPR", {"inter": "*", "item": "*", "user": "*"}),
        ("SASRec", {"inter": "*", "item": ["item_id", "class"], "user": "*"}),
    ],
)
def test_ids_are_the_splits_with_and_without_features(split, prepared, ranking, model, features):
    chosen = Config(model, "ml-100k", prepared, {**ranking, "load_col": features}, device="cpu", seed=1)
    assert_same_ids(make_dataset(chosen), split)


def test_items_without_rows_or_interactions_do_not_move_ids(small, ranking):
    made = small(
        ["u1\ti3\t5\t3", "u1\ti1\t5\t4", "u2\ti2\t5\t1"],
        items=["i9\tNone\t1990\tWar", "i2\tB\t1991\tWar", "i3\tC\t1992\tWar"],
        users=["u7\t1\tF\tx\t0", "u2\t1\tF\tx\t0"],
    )
    made.prepare()
    split = made.split(candidates=protocols.Candidates("full"))
    dataset = make_dataset(config(made, "BPR", ranking, load_col={"inter": "*", "item": "*", "user": "*"}))
    assert_same_ids(dataset, split)
    assert len(dataset.inter_feat) == 3


def test_ids_that_differ_are_named(split, sliced, ranking, prepared):
    with pytest.raises(
        DataError, match=r"user ids of the .* differ: 41 and 944 in all, id 1 is 'u\d+' and '196'"
    ):
        assert_same_ids(make_dataset(config(sliced, "BPR", ranking)), split)
    filtered = {**ranking, "item_inter_num_interval": "[5,inf)"}
    chosen = Config("BPR", "ml-100k", prepared, filtered, device="cpu", seed=1)
    with pytest.raises(DataError, match="ids of the dataset .* without RecBole's filters"):
        assert_same_ids(make_dataset(chosen), split)


def test_rows_taken_by_tensors_equal_recbole(prepared, ranking):
    chosen = Config("DeepFM", "ml-100k", prepared, {**ranking, "threshold": None,
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}, device="cpu", seed=1)  # fmt: skip
    ours = make_dataset(chosen, "recbole_time").build()[0]
    theirs = recbole_datasets.Dataset(chosen).build()[0]
    for index in (np.array([5, 3, 3]), [1, 2], slice(4, 7), 9, torch.tensor([0, 8])):
        assert_equal(ours[index], theirs[index])


def assert_equal(ours, theirs):
    assert list(ours.interaction) == list(theirs.interaction)
    for field in theirs.interaction:
        assert torch.equal(ours[field], theirs[field]), field


def test_dataset_classes(sliced, ranking):
    assert isinstance(make_dataset(config(sliced, "SASRec", ranking)), SequentialDataset)
    dien = make_dataset(config(sliced, "DIEN", ranking, MAX_ITEM_LIST_LENGTH=5))
    assert isinstance(dien, recbole_datasets.DIENDataset)
    assert "neg_item_id_list" in dien.build()[0].inter_feat
    with pytest.raises(DataError, match="KSR needs a knowledge graph"):
        make_dataset(config(sliced, "KSR", ranking))


def test_orders_are_checked(sliced, ranking):
    with pytest.raises(ValueError, match="unknown order 'random'"):
        make_dataset(config(sliced, "BPR", ranking), "random")
    with pytest.raises(ValueError, match="recbole_time needs timestamp scaled; set normalize_all: true"):
        make_dataset(config(sliced, "BPR", ranking, normalize_all=False), "recbole_time").build()
