"""Loaders: frozen candidates in the form of RecBole's sampled evaluation; full rankings and training as RecBole's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.config import Config
from llmbole.data import protocol as protocols
from llmbole.data.convert.report import DataError
from llmbole.data.dataset import make_dataset
from llmbole.data.loader import FrozenCandidateLoader, evaluation_loader, train_loader
from recbole.data import utils as recbole_data
from recbole.data.dataloader import NegSampleEvalDataLoader

FROZEN, FULL = protocols.protocol("loo_rank20"), protocols.protocol("loo_full")
POINTWISE = {"threshold": None, "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
MODELS = [("BPR", {}), ("SASRec", {"MAX_ITEM_LIST_LENGTH": 20}), ("DeepFM", POINTWISE)]


def built(model, settings, ranking, prepared, order, **more):
    config = Config(model, "ml-100k", prepared, {**ranking, **settings, **more}, device="cpu", seed=1)
    dataset = make_dataset(config, order)
    return config, dataset, dataset.build()


@pytest.mark.parametrize(("model", "settings"), MODELS)
def test_frozen_candidates(split, prepared, ranking, model, settings):
    config, dataset, parts = built(model, settings, ranking, prepared, "time", eval_batch_size=1000)
    phase = split.phase("test")
    loader = evaluation_loader(config, dataset, parts[2], phase, FROZEN)
    batches = list(loader)
    assert len(loader) == len(batches) == 19 and loader._dataset is parts[2]  # 50 users a batch
    users = np.concatenate([batch["user_id"].numpy() for batch, *_ in batches]).reshape(-1, 20)
    items = np.concatenate([batch["item_id"].numpy() for batch, *_ in batches]).reshape(-1, 20)
    labels = np.concatenate([batch["label"].numpy() for batch, *_ in batches]).reshape(-1, 20)
    lists = np.concatenate([batch["candidate_list"].numpy() for batch, *_ in batches]).reshape(-1, 20, 20)
    assert np.array_equal(users, np.repeat(phase.users[:, None], 20, axis=1))
    assert np.array_equal(items, phase.candidates)
    assert np.array_equal(labels, phase.candidates == phase.targets[:, None])
    assert np.array_equal(lists, np.repeat(phase.candidates[:, None], 20, axis=1))
    for interaction, row_idx, positive_u, positive_i in batches:
        count = len(positive_i)
        assert torch.equal(row_idx, torch.arange(count).repeat_interleave(20))
        assert torch.equal(positive_u, torch.arange(count))
        assert torch.equal(interaction["item_id"][interaction["label"] == 1], positive_i)
    if model == "SASRec":
        histories = np.concatenate([batch["item_id_list"].numpy() for batch, *_ in batches])
        assert np.array_equal(histories, np.repeat(phase.histories(20)[0], 20, axis=0))
    if model == "DeepFM":
        years = np.concatenate([batch["release_year"].numpy() for batch, *_ in batches]).reshape(-1, 20)
        assert np.array_equal(years, dataset.item_feat["release_year"].numpy()[phase.candidates])


@pytest.mark.parametrize(("model", "settings"), MODELS)
def test_interactions_have_the_fields_of_recboles_sampled_evaluation(
    split, prepared, ranking, model, settings
):
    """Same fields, types and values as RecBole's for a user's target and a candidate, but for the order of rows."""
    config, dataset, parts = built(
        model, settings, ranking, prepared, "time",
        eval_args={**ranking["eval_args"], "mode": "uni19"}, eval_batch_size=200,
    )  # fmt: skip
    ours = next(iter(evaluation_loader(config, dataset, parts[1], split.phase("valid"), FROZEN)))[0]
    sampler = recbole_data.create_samplers(config, dataset, parts)[1]
    theirs = next(iter(NegSampleEvalDataLoader(config, parts[1], sampler)))[0]
    assert set(ours.interaction) == set(theirs.interaction) | {"candidate_list"}
    positives = [rows[torch.nonzero(rows["label"]).flatten()] for rows in (ours, theirs)]
    for field in theirs.interaction:
        assert ours[field].dtype == theirs[field].dtype, field
        assert torch.equal(positives[0][field], positives[1][field]), field


def test_batches_hold_at_least_one_user(split, prepared, ranking):
    config, dataset, parts = built("BPR", {}, ranking, prepared, "time", eval_batch_size=7)
    assert len(evaluation_loader(config, dataset, parts[2], split.phase("test"), FROZEN)) == 943


def test_two_passes_and_training_between_change_nothing(split, prepared, ranking):
    config, dataset, parts = built("BPR", {}, ranking, prepared, "time")
    loader = evaluation_loader(config, dataset, parts[1], split.phase("valid"), FROZEN)
    first = [batch["item_id"].clone() for batch, *_ in loader]
    for _ in train_loader(config, parts[0]):
        break
    assert all(torch.equal(one, batch["item_id"]) for one, (batch, *_) in zip(first, loader, strict=True))


@pytest.mark.parametrize(("model", "settings"), [("BPR", {}), ("SASRec", {"MAX_ITEM_LIST_LENGTH": 20})])
@pytest.mark.parametrize("name", ["valid", "test"])
def test_full_ranking_equals_recbole(full_split, prepared, ranking, model, settings, name):
    config, dataset, parts = built(model, settings, ranking, prepared, "recbole_time", eval_batch_size=50_000)
    place = {"valid": 1, "test": 2}[name]
    ours = list(evaluation_loader(config, dataset, parts[place], full_split.phase(name), FULL))
    config, dataset, parts = built(model, settings, ranking, prepared, "recbole_time", eval_batch_size=50_000)
    theirs = list(recbole_data.data_preparation(config, make_dataset(config, "recbole_time"))[place])
    assert len(ours) == len(theirs) > 0
    for left, right in zip(ours, theirs, strict=True):
        for field in right[0].interaction:
            assert torch.equal(left[0][field], right[0][field])
        assert torch.equal(left[2], right[2]) and torch.equal(left[3], right[3])
        if model == "BPR":
            assert excluded(left) == excluded(right)
        else:
            assert left[1] is right[1] is None


def excluded(batch):
    return sorted(zip(batch[1][0].tolist(), batch[1][1].tolist(), strict=True))


@pytest.mark.parametrize(("model", "settings"), [*MODELS, ("MultiVAE", {})])
def test_training_equals_recbole(prepared, ranking, model, settings):
    """The same seed gives the same first batches, negatives included."""
    batches = []
    for ours in (True, False):
        config, dataset, parts = built(model, settings, ranking, prepared, "recbole_time")
        sampler = recbole_data.create_samplers(config, dataset, parts)[0]
        np.random.seed(5)
        stock = recbole_data.get_dataloader(config, "train")
        loader = (
            train_loader(config, parts[0])
            if ours
            else stock(config, parts[0], sampler, shuffle=config["shuffle"])
        )
        batches.append([batch for batch, _ in zip(loader, range(3), strict=False)])
    for left, right in zip(*batches, strict=True):
        assert list(left.interaction) == list(right.interaction)
        for field in right.interaction:
            assert torch.equal(left[field], right[field]), field


def test_popularity_counts_training_only(prepared, ranking):
    config, dataset, parts = built(
        "BPR",
        {},
        ranking,
        prepared,
        "time",
        train_neg_sample_args={"distribution": "popularity", "sample_num": 1},
    )
    sampler = train_loader(config, parts[0])._sampler
    counted = np.unique(parts[0].inter_feat["item_id"].numpy())
    assert sorted(sampler.prob) == counted.tolist() and len(counted) < dataset.item_num - 1


def test_another_order_is_refused(split, full_split, prepared, ranking):
    config, dataset, parts = built("BPR", {}, ranking, prepared, "time")
    with pytest.raises(
        DataError, match="test rows .* not the split's: 4 users have another .* order='recbole_time'"
    ):
        evaluation_loader(config, dataset, parts[2], full_split.phase("test"), FULL)
    with pytest.raises(
        DataError, match="the test rows of the dataset are not the split's: 943 users have another"
    ):
        evaluation_loader(config, dataset, parts[1], split.phase("test"), FROZEN)
    with pytest.raises(DataError, match="98114 rows for 943 users, the first that differs is user"):
        evaluation_loader(config, dataset, parts[0], split.phase("test"), FROZEN)


def test_frozen_loader_wants_candidates(full_split, prepared, ranking):
    config, _, parts = built("BPR", {}, ranking, prepared, "recbole_time")
    with pytest.raises(DataError, match="loo_full has no candidates, it ranks all items"):
        FrozenCandidateLoader(config, parts[2], full_split.phase("test"))
