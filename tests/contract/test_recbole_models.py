"""RecBole's models, and those it lacks, through this project's Config and Trainer: one epoch on a slice of ml-100k."""

from __future__ import annotations

import math

import pytest
import torch

from llmbole.trainer.choice import trainer_class

SHORT = {"MAX_ITEM_LIST_LENGTH": 10}
LABELS = {
    "threshold": {"rating": 4},
    "train_neg_sample_args": None,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"},
}
RANKING = {
    "BPR": {},
    "LightGCN": {},
    "SGL": {},
    "NeuMF": {},
    "SASRec": SHORT,
    "GRU4Rec": SHORT,
    "NextItNet": {**SHORT, "block_num": 1},
    "BERT4Rec": SHORT,
    "SRGNN": SHORT,
    "CL4SRec": SHORT,
    "MixGCF": {},
    "YoutubeDNN": SHORT,
}
CLICK = {
    "DIN": {**SHORT, **LABELS},
    "DeepFM": {},
    "xDeepFM": {},
    "AutoInt": {},
    "DCN": {},
    "DCNV2": {},
    "FiGNN": {},
    "AFM": {},
    "NFM": {},
    "FiBiNET": {},
}


def train(built, name, settings, workspace):
    """Metrics of the test part after one epoch; the loss is a number and something was learned."""
    parts = built(name, epochs=1, learning_rate=0.01, **settings)
    before = {
        key: tensor.detach().clone() for key, tensor in parts.model.named_parameters() if tensor.requires_grad
    }
    trainer = trainer_class(parts.config)(parts.config, parts.model, workspace=workspace)
    trainer.fit(parts.train, parts.valid)
    assert math.isfinite(trainer.train_loss_dict[0])
    after = dict(parts.model.named_parameters())
    assert any(not torch.equal(before[key], after[key]) for key in before)
    best = trainer.load_best()
    assert best["result"] == trainer.evaluate(parts.valid)
    return trainer, trainer.evaluate(parts.test)


@pytest.mark.parametrize("name", RANKING)
def test_a_ranking_model_trains_and_evaluates(built, name, tmp_path):
    settings = {"metrics": ["Hit", "NDCG", "MRR"], "topk": [1, 10], "valid_metric": "NDCG@10"}
    trainer, metrics = train(built, name, {**settings, **RANKING[name]}, tmp_path)
    assert all(0 <= value <= 1 for value in metrics.values())
    assert metrics["hit@1"] <= metrics["hit@10"]
    assert {name: values.mean() for name, values in trainer.evaluator.per_user.items()} == pytest.approx(
        metrics
    )


@pytest.mark.parametrize("name", CLICK)
def test_a_click_model_trains_on_labels_and_evaluates(built, name, tmp_path):
    trainer, metrics = train(built, name, CLICK[name], tmp_path)
    assert 0 <= metrics["auc"] <= 1
    assert 0 < metrics["logloss"] < 5
    assert len(trainer.evaluator.users) > 1
