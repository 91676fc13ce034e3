"""Sampled softmax: a case done by hand, the loss of RecBole's models, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor
from torch.nn import functional

from llmbole.settings import SettingsError
from llmbole.trainer import all_positions, sampled_softmax
from llmbole.trainer.sampled_softmax import LEARNERS, sampled_cross_entropy

SMALL = {
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 32,
}
OWN = {"SASRec": {"hidden_size": 8, "inner_size": 8}}


def test_by_hand(monkeypatch):
    """Items 2 and 3 are drawn; the second row's target is among them and counts once."""
    monkeypatch.setattr(torch, "randint", lambda *_, **__: tensor([2, 3]))
    items = tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    vectors, targets = tensor([[2.0, 1.0], [0.0, 1.0]]), tensor([1, 3])
    first = -2 + math.log(math.exp(2) + math.exp(1) + math.exp(3))
    second = -1 + math.log(math.exp(1) + math.exp(1))
    found = sampled_cross_entropy(vectors, targets, items, 2)
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_large_scores_overflow_nothing():
    vectors, items = tensor([[1000.0]]), tensor([[0.0], [1.0], [2.0]])
    assert torch.isfinite(sampled_cross_entropy(vectors, tensor([1]), items, 20))


@pytest.mark.parametrize("name", LEARNERS)
def test_with_every_item_drawn_once_it_is_the_models_own_loss_without_padding(built, name, monkeypatch):
    parts = built(name, sampled_negatives=7, **SMALL, **OWN.get(name, {"embedding_size": 8}))
    model, batch = parts.model.eval(), next(iter(parts.train))
    sampled_softmax.check(parts.config, "ranking")
    loss = sampled_softmax.loss_function(parts.config, model)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.arange(1, model.n_items))
    scores = model.full_sort_predict(batch)[:, 1:]
    own = functional.cross_entropy(scores, batch["item_id"] - 1)
    torch.testing.assert_close(loss(batch), own)


def test_all_positions_learn_among_drawn_items_too(built, monkeypatch):
    parts = built("SASRec", sampled_negatives=7, **SMALL, **OWN["SASRec"])
    sequences = all_positions.training_sequences(parts.train._dataset)
    batch = next(iter(all_positions.AllPositionsLoader(parts.config, parts.dataset, sequences)))
    model, trained = parts.model.eval(), batch["item_id"] != 0
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.arange(1, model.n_items))
    outputs = all_positions.CAUSAL["SASRec"].outputs(model, batch["item_id_list"])[trained]
    own = functional.cross_entropy(outputs @ model.item_embedding.weight[1:].T, batch["item_id"][trained] - 1)
    torch.testing.assert_close(all_positions.loss_function(parts.config, model)(batch), own)


def test_without_the_setting_a_model_keeps_its_loss(built):
    parts = built("SASRec", **SMALL, **OWN["SASRec"])
    sampled_softmax.check(parts.config, "pairs")
    assert sampled_softmax.loss_function(parts.config, parts.model) is None


@pytest.mark.parametrize(
    ("name", "settings", "task", "message"),
    [
        ("NARM", {}, "ranking", r"NARM has no softmax over sampled_negatives.*SRGNN"),
        ("SASRec", {}, "pairs", "labels have no softmax"),
        ("SASRec", {"sampled_negatives": -1}, "ranking", "must be at least 0"),
        ("SASRec", {"loss_type": "BPR"}, "ranking", "loss_type is BPR"),
    ],
)
def test_where_nothing_would_read_it_the_setting_is_refused(built, name, settings, task, message):
    own = OWN.get(name, {"embedding_size": 8, "hidden_size": 8})
    parts = built(name, **{**SMALL, **own, "sampled_negatives": 5, **settings})
    with pytest.raises(SettingsError, match=message):
        sampled_softmax.check(parts.config, task)
