"""Conventional backbones: training, files, vectors, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from llmbole.data.loader import train_loader
from llmbole.model import cf
from llmbole.settings import SettingsError
from llmbole.trainer.all_positions import training_sequences
from llmbole.trainer.checkpoint import CheckpointError
from llmbole.trainer.trainer import Trainer

LENGTH = 6
SETTINGS = {
    "metrics": ["Hit", "MRR"],
    "topk": [1, 10],
    "valid_metric": "MRR@10",
    "epochs": 2,
    "learning_rate": 0.01,
}
SEQUENTIAL = {"MAX_ITEM_LIST_LENGTH": LENGTH, "train_batch_size": 20 * LENGTH, "loss_type": "CE"}
MODELS = {
    "BERT4Rec": {**SEQUENTIAL, "hidden_size": 8, "inner_size": 8, "n_heads": 1},
    "BPR": {"embedding_size": 8},
    "LightGCN": {"embedding_size": 8},
    "SGL": {"embedding_size": 8},
    "NeuMF": {"mf_embedding_size": 6, "mlp_embedding_size": 4, "mlp_hidden_size": [4]},
    "SASRec": {**SEQUENTIAL, "hidden_size": 8, "inner_size": 8},
    "GRU4Rec": {**SEQUENTIAL, "embedding_size": 8, "hidden_size": 6},
    "NextItNet": {**SEQUENTIAL, "embedding_size": 8, "block_num": 1},
    "MixGCF": {"embedding_size": 8, "n_negs": 4},
    "CL4SRec": {**SEQUENTIAL, "hidden_size": 8, "inner_size": 8},
    "YoutubeDNN": {"MAX_ITEM_LIST_LENGTH": LENGTH, "embedding_size": 8, "mlp_hidden_size": [8]},
}
DIMENSIONS = {name: 8 for name in MODELS} | {"BERT4Rec": 9, "NeuMF": 10}


@pytest.fixture
def session(built):
    """A model's settings and data with RecBole's own split of the slice: `session("BPR")`."""

    def make(name, **changes):
        parts = built(name, **{**SETTINGS, **MODELS.get(name, {}), **changes})
        sequences = (
            training_sequences(parts.train._dataset) if "MAX_ITEM_LIST_LENGTH" in MODELS.get(name, {}) else []
        )
        split = SimpleNamespace(n_users=len(sequences), train_items=lambda user: sequences[user])
        datasets = (parts.train._dataset, parts.valid._dataset, parts.test._dataset)
        loaders = {"valid": parts.valid, "test": parts.test}
        return SimpleNamespace(
            config=parts.config,
            dataset=parts.dataset,
            parts=datasets,
            split=split,
            ranking_split=split,
            protocol=SimpleNamespace(task="ranking"),
            check_training=lambda: None,
            loader=loaders.__getitem__,
            train_loader=lambda: train_loader(parts.config, parts.train._dataset),
        )

    return make


@pytest.mark.parametrize("name", MODELS)
def test_a_backbone_is_trained_saved_and_loaded(session, name, tmp_path):
    told = []
    opened = session(name)
    summary = cf.train_backbone(opened, "auto", tmp_path, tmp_path / "work", told.append)
    causal = name in ("SASRec", "GRU4Rec", "NextItNet", "CL4SRec")
    assert summary["training"] == ("all_positions" if causal else "per_prefix")
    assert told == [1, 1] and summary["epochs"] == 2 and summary["parameters"] > 0
    assert json.loads((tmp_path / "backbone.json").read_text()) == summary

    other = session(name)
    backbone = cf.load_backbone(other, tmp_path)
    metrics = Trainer(other.config, backbone.model, workspace=tmp_path / "other").evaluate(
        other.loader("valid")
    )
    assert metrics == summary["valid"]
    assert backbone.dimension == DIMENSIONS[name]
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_what_the_model_scores_with(session, name, tmp_path):
    opened = session(name)
    cf.train_backbone(opened, "auto", tmp_path, tmp_path / "work")
    backbone = cf.load_backbone(opened, tmp_path)
    rows = opened.parts[2][torch.arange(5)]
    users, items = backbone.user_vectors(rows), backbone.item_vectors()
    assert users.shape == (5, DIMENSIONS[name]) and items.shape == (opened.dataset.item_num, DIMENSIONS[name])
    with torch.no_grad():
        if name == "NeuMF":
            product = users[:, :6] * items[rows["item_id"], :6]
            hidden = backbone.model.mlp_layers(torch.cat([users[:, 6:], items[rows["item_id"], 6:]], dim=1))
            scores = torch.sigmoid(backbone.model.predict_layer(torch.cat([product, hidden], dim=1))).squeeze(
                1
            )
        else:
            scores = (users * items[rows["item_id"]]).sum(dim=1)
        torch.testing.assert_close(scores, backbone.model.predict(rows), rtol=1e-4, atol=1e-6)


def test_users_with_the_same_history_have_the_same_vector_and_padding_does_not_matter(session, tmp_path):
    opened = session("NextItNet")
    cf.train_backbone(opened, "auto", tmp_path, tmp_path / "work")
    backbone = cf.load_backbone(opened, tmp_path)
    from recbole.data.interaction import Interaction

    histories = torch.tensor([[5, 6, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0], [5, 7, 0, 0, 0, 0]])
    vectors = backbone.user_vectors(
        Interaction({"item_id_list": histories, "item_length": torch.tensor([2, 2, 2])})
    )
    short = Interaction({"item_id_list": histories[:1, :2], "item_length": torch.tensor([2])})
    assert torch.equal(vectors[0], vectors[1]) and not torch.equal(vectors[0], vectors[2])
    torch.testing.assert_close(backbone.user_vectors(short)[0], vectors[0])


def test_the_same_seed_gives_the_same_backbone_and_another_seed_does_not(session, tmp_path):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        cf.train_backbone(session("SASRec", seed=seed), "auto", folder, folder / "work")
        weights.append((folder / "backbone.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_model_without_vectors_trains_but_is_no_backbone(session, tmp_path):
    opened = session("Pop", learning_rate=0.001)
    summary = cf.train_backbone(opened, "auto", tmp_path, tmp_path / "work")
    backbone = cf.load_backbone(opened, tmp_path)
    trainer = Trainer(opened.config, backbone.model, workspace=tmp_path / "other")
    assert trainer.evaluate(opened.loader("valid")) == summary["valid"]
    with pytest.raises(SettingsError, match="Pop has no user and item vectors to give to an LLM"):
        backbone.item_vectors()


def test_trainings_that_are_not_possible_are_refused(session, tmp_path):
    with pytest.raises(SettingsError, match="BERT4Rec can't be trained on all positions"):
        cf.train_backbone(session("BERT4Rec"), "all_positions", tmp_path, tmp_path / "work")
    with pytest.raises(SettingsError, match="training 'per_prefx' is unknown; did you mean 'per_prefix'"):
        cf.train_backbone(session("SASRec"), "per_prefx", tmp_path, tmp_path / "work")
    assert cf.resolve_training("per_prefix", session("SASRec").config) == "per_prefix"


def test_files_of_another_model_are_refused(session, tmp_path):
    cf.train_backbone(session("BPR"), "auto", tmp_path, tmp_path / "work")
    with pytest.raises(CheckpointError, match="holds BPR, not LightGCN"):
        cf.load_backbone(session("LightGCN"), tmp_path)
    with pytest.raises(CheckpointError, match="doesn't fit the settings of BPR"):
        cf.load_backbone(session("BPR", embedding_size=16), tmp_path)
