"""Datasets over a split's arrays hold the rows that RecBole's own have, in the same order."""

from __future__ import annotations

import pytest
import torch

from llmbole.config import Config
from llmbole.data import protocol as protocols
from llmbole.data import splits
from llmbole.data.dataset import make_dataset
from llmbole.data.split_dataset import PairLoader, make_split_dataset, reads_all_rows

LENGTH = 7


@pytest.mark.parametrize("order", ["time", "recbole_time"])
@pytest.mark.parametrize("model", ["BPR", "GRU4Rec", "DeepFM", "DIN"])
def test_rankings_equal_the_dataset_that_reads_all_rows(prepared, split, full_split, ranking, model, order):
    settings = {**ranking, "MAX_ITEM_LIST_LENGTH": LENGTH, "threshold": None}
    config = Config(model, "ml-100k", prepared, settings, seed=1)
    assert not reads_all_rows(config)
    frozen = split if order == "time" else full_split
    assert frozen.order == order
    for ours, theirs in zip(
        make_split_dataset(config, frozen).build(), make_dataset(config, order).build(), strict=True
    ):
        assert len(ours) == len(theirs)
        rows = torch.arange(len(theirs))
        if len(rows) < 2_000:  # held out: one row per user, in the order of users here
            rows = torch.argsort(theirs.inter_feat[theirs.uid_field])
        mine, other = ours[torch.arange(len(ours))], theirs[rows]
        assert set(mine.interaction) == set(other.interaction)
        for field in other.interaction:
            assert torch.equal(mine[field], other[field].to(mine[field].dtype)), field


def test_the_unified_parts_equal_the_dataset_that_reads_all_rows(prepared, card, ranking, tmp_path):
    splits.freeze(protocols.protocol("unified_rank"), card, prepared, tmp_path)
    frozen = splits.load(tmp_path)
    for model in ("BPR", "GRU4Rec"):
        config = Config(model, "ml-100k", prepared, {**ranking, "MAX_ITEM_LIST_LENGTH": LENGTH}, seed=1)
        ours, theirs = make_split_dataset(config, frozen), make_dataset(config, "time", frozen)
        for mine, other in zip(ours.build(), theirs.build(), strict=True):
            sides = [
                set(zip(*(part.inter_feat[field].tolist() for field in ("user_id", "item_id")), strict=True))
                for part in (mine, other)
            ]
            assert sides[0] == sides[1]
            assert len(mine) == len(other)


def test_labelled_rows_come_in_order_and_shuffled_with_their_histories(prepared, card, tmp_path):
    splits.freeze(protocols.protocol("temporal_ratio"), card, prepared, tmp_path)
    frozen = splits.load(tmp_path)
    settings = {
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_neg_sample_args": None,
        "threshold": None,
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"},
        "train_batch_size": 512,
        "eval_batch_size": 300,
    }
    config = Config("DIN", "ml-100k", prepared, settings, seed=1)
    train, _, test = make_split_dataset(config, frozen).build()
    pairs = frozen.part("test")
    start = 0
    for interaction, *nothing in PairLoader(config, test, training=False):
        assert nothing == [None, None, None]
        size = len(interaction)
        assert interaction["item_id"].tolist() == pairs.items[start : start + size].tolist()
        assert interaction["label"].tolist() == pairs.labels[start : start + size].tolist()
        items, lengths = pairs.histories(slice(start, start + size), LENGTH)
        assert interaction["item_id_list"].tolist() == items.tolist()
        assert interaction["item_length"].tolist() == lengths.tolist()
        start += size
    assert start == len(pairs)
    loader = PairLoader(config, train, training=True)
    first, second = ([batch["item_id"] for batch in loader] for _ in range(2))
    assert len(first) == len(loader)
    assert sum(map(len, first)) == 80_000
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(first).sort().values, torch.cat(second).sort().values)


def test_models_with_a_dataset_of_their_own_and_numerical_features_read_all_rows(prepared, ranking):
    assert reads_all_rows(Config("DIEN", "ml-100k", prepared, ranking, seed=1))
    numerical = {**ranking, "numerical_features": ["timestamp"]}
    assert reads_all_rows(Config("DeepFM", "ml-100k", prepared, numerical, seed=1))


def test_more_features_of_items_stand_beside_the_data_sets_own(prepared, ranking, split):
    config = Config("DeepFM", "ml-100k", prepared, {**ranking, "threshold": None}, seed=1)
    said = [None, *(None if place % 3 else f"value {place % 2}" for place in range(1, split.n_items))]
    ours = make_split_dataset(config, split, {"generated_star": said}).build()[0]
    plain = make_split_dataset(config, split).build()[0]
    assert set(ours.item_feat.interaction) == {*plain.item_feat.interaction, "generated_star"}
    for field in plain.item_feat.interaction:
        assert torch.equal(ours.item_feat[field], plain.item_feat[field])
    tokens = ours.field2id_token["generated_star"]
    found = [str(tokens[place]) for place in ours.item_feat["generated_star"].tolist()]
    assert found == [value or "[PAD]" for value in said]
    rows = ours[torch.arange(5)]
    assert torch.equal(rows["generated_star"], ours.item_feat["generated_star"][rows["item_id"]])
    with pytest.raises(ValueError, match="has a column 'release_year' already"):
        make_split_dataset(config, split, {"release_year": said})
