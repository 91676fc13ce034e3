"""Conventional models that learn labels: losses and predictions by hand, graphs, empty histories, vectors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from llmbole import registry
from llmbole.data import protocol
from llmbole.model import cf, din, labels
from llmbole.model.session import open_split, recbole_settings
from llmbole.model.vectors import VECTORS
from llmbole.settings import SettingsError
from recbole.model.sequential_recommender import SASRec

SMALL = {
    "BPR": {"embedding_size": 8},
    "LightGCN": {"embedding_size": 8, "reg_weight": 0.1},
    "SASRec": {"hidden_size": 8, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 6},
    "DIN": {"embedding_size": 4, "mlp_hidden_size": [8], "MAX_ITEM_LIST_LENGTH": 6},
}
PRODUCTS = ("BPR", "LightGCN", "SASRec")


@pytest.fixture
def session(prepared, splits_of):
    """A model's settings and data under a protocol: `session("BPR", "temporal_ratio")`."""
    from llmbole.config import Config

    def make(name, rules="temporal_ratio", **changes):
        found = protocol.protocol(rules)
        settings = {**recbole_settings(found), "epochs": 2, "learning_rate": 0.01, **SMALL[name], **changes}
        config = Config(name, "ml-100k", prepared, settings, device="cpu", seed=1)
        return open_split(config, splits_of(rules), found)

    return make


def made(opened):
    """The model of a session, in evaluation mode."""
    torch.manual_seed(0)
    return cf._make(opened, "rows").eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_learns_labels_and_is_saved_and_loaded(session, name, tmp_path):
    opened = session(name)
    summary = cf.train_backbone(opened, "auto", tmp_path, tmp_path / "work")
    assert summary["training"] == "rows" and 0 <= summary["valid"]["auc"] <= 1
    backbone = cf.load_backbone(session(name), tmp_path)
    rows = next(iter(opened.loader("test")))[0]
    scores = backbone.model.predict(rows)
    assert ((scores > 0) & (scores < 1)).all()
    users, items = backbone.user_vectors(rows), backbone.item_vectors()
    assert items.shape[0] == opened.dataset.item_num
    assert (items.shape[1], users.shape[1]) == (backbone.dimension, backbone.user_dimension)
    if name in PRODUCTS:
        products = (users * items[rows["item_id"]]).sum(dim=1)
        torch.testing.assert_close(products.sigmoid(), scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_loss_is_cross_entropy_of_the_inner_product(session, name):
    opened = session(name)
    model = made(opened)
    rows = opened.parts[0][torch.arange(20)]
    with torch.no_grad():
        vectors = VECTORS[name]
        logits = (vectors.users(model, rows) * vectors.items(model)[rows["item_id"]]).sum(dim=1)
        signs = 2 * rows["label"] - 1
        expected = -torch.nn.functional.logsigmoid(signs * logits).mean()
        if name == "LightGCN":
            norms = (
                model.user_embedding(rows["user_id"]).norm() + model.item_embedding(rows["item_id"]).norm()
            )
            expected = expected + 0.1 * norms / len(rows)
        torch.testing.assert_close(model.calculate_loss(rows), expected)
        torch.testing.assert_close(model.predict(rows), logits.sigmoid())


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_rating_is_relative_to_the_mean_and_learned_with_squared_error(session, name):
    opened = session(name, "loo_rating")
    model = made(opened)
    rows = opened.parts[0][torch.arange(20)]
    with torch.no_grad():
        predicted = model.predict(rows)
        mean = opened.parts[0].inter_feat["label"].mean()
        assert abs(predicted.mean() - mean) < 0.5
        penalty = model.penalty(rows) if name == "LightGCN" else 0.0
        expected = ((predicted - rows["label"]) ** 2).mean() + penalty
        torch.testing.assert_close(model.calculate_loss(rows), expected)


def test_the_graph_holds_the_liked_training_rows_and_no_others(session, splits_of):
    model = made(session("LightGCN", "loo_ctr"))  # half of its rows are random items
    train = splits_of("loo_ctr").part("train")
    liked = {
        (int(user), int(item))
        for user, item, label in zip(train.users, train.items, train.labels, strict=True)
        if label
    }
    edges = model.norm_adj_matrix.coalesce().indices().numpy()
    of_users = edges[:, edges[0] < model.n_users]
    found = set(zip(of_users[0].tolist(), (of_users[1] - model.n_users).tolist(), strict=True))
    assert found == liked and len(liked) < len(train)
    assert edges.shape[1] == 2 * len(liked)


def test_what_evaluation_keeps_of_a_graph_is_dropped_by_training(session):
    opened = session("LightGCN")
    model = made(opened)
    rows = opened.parts[0][torch.arange(20)]
    before = model.predict(rows)
    assert model.restore_user_e is not None
    model.train()
    model.calculate_loss(rows).backward()
    assert model.restore_user_e is None
    with torch.no_grad():
        model.user_embedding.weight *= 2
    assert not torch.allclose(model.eval().predict(rows), before)


def test_an_empty_history_has_a_vector_that_no_width_of_padding_changes(session):
    model = made(session("SASRec"))
    with torch.no_grad():
        narrow = model(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long))
        wide = model(torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, dtype=torch.long))
        torch.testing.assert_close(narrow, wide)
        history = torch.tensor([[3, 4, 5, 0, 0, 0], [3, 4, 9, 0, 0, 0]])
        plain = super(type(model), model).forward(history, torch.tensor([3, 3]))
        assert torch.equal(model(history, torch.tensor([3, 3])), plain)
        earlier = model(history, torch.tensor([2, 2]))
        torch.testing.assert_close(earlier[0], earlier[1])  # the third item comes later
    assert not torch.equal(wide[0], plain[0])


def test_sasrec_computed_at_the_last_item_alone_is_recboles(session):
    opened = session("SASRec", n_heads=2, hidden_act="gelu")
    model = made(opened)
    rows = opened.parts[0][torch.arange(60)]
    histories, lengths = rows["item_id_list"], rows["item_length"]
    assert set(lengths.tolist()) == set(range(7))
    lengths = lengths.clamp(min=1)  # RecBole's takes no empty one
    gradients = []
    for forward in (model, partial(SASRec.forward, model)):
        model.zero_grad()
        outputs = forward(histories, lengths)
        outputs.square().sum().backward()
        gradients.append(
            {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        )
        torch.testing.assert_close(outputs, SASRec.forward(model, histories, lengths), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_vectors_of_din_are_target_history_and_user_side_by_side(session):
    opened = session("DIN")
    model = made(opened)
    backbone = cf.Backbone(model, opened)
    rows = opened.parts[2][torch.arange(5)]
    users, items = backbone.user_vectors(rows), backbone.item_vectors()
    width = items.shape[1]
    torch.testing.assert_close(users[:, :width], items[rows["item_id"]])
    target, pooled, profile = users[:, :width], users[:, width : 2 * width], users[:, 2 * width :]
    with torch.no_grad():
        hidden = model.dnn_mlp_layers(torch.cat([pooled, target, pooled * target, profile], dim=1))
        torch.testing.assert_close(model.dnn_predict_layers(hidden).squeeze(1).sigmoid(), model.predict(rows))


def test_the_attention_of_din_is_recboles_computed_once_per_item(session):
    model = made(session("DIN"))
    generator = torch.Generator().manual_seed(0)
    width = model.att_list[0] // 4
    items = torch.randn(9, width, generator=generator, requires_grad=True)  # [U, D]
    target = torch.randn(7, width, generator=generator, requires_grad=True)  # [B, D]
    history = torch.randint(0, 9, (7, 6), generator=generator)
    lengths = torch.arange(7)  # 0 to 6
    found = []
    for pooled in (
        din.pooled_history(model.attention, target, items, history, lengths),
        model.attention(target, items[history], lengths).squeeze(1),
    ):
        inputs = (items, target, *model.attention.parameters())
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), inputs)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert not found[0][0][0].any() and found[0][0][1:].any(1).all()  # an empty history pools nothing


def test_din_of_ids_alone_has_users_three_times_as_wide_as_items(session):
    opened = session("DIN", load_col={"inter": ["user_id", "item_id"]})
    backbone = cf.Backbone(made(opened), opened)
    assert (backbone.dimension, backbone.user_dimension) == (4, 12)
    assert backbone.user_vectors(opened.parts[2][torch.arange(5)]).shape == (5, 12)


def test_the_user_of_din_learns(session):
    opened = session("DIN")
    model = made(opened).train()
    model.calculate_loss(opened.parts[0][torch.arange(20)]).backward()
    tables = model.embedding_layer.token_embedding_table["user"]
    assert any(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tables.parameters()
    )


def test_other_models_that_rank_are_refused():
    from llmbole.config import model_class_of

    with pytest.raises(SettingsError, match="SGL learns to rank and has no form that predicts labels"):
        labels.label_model(model_class_of("SGL"))
    assert tuple(sorted(labels.FORMS)) == registry.LABEL_FORMS
    assert all(registry.learns_labels(name) for name in (*SMALL, "DeepFM", "NeuMF"))
    assert not any(registry.learns_labels(name) for name in ("SGL", "GRU4Rec", "Pop"))
    assert not any(registry.learns_only_labels(name) for name in PRODUCTS)


def test_the_same_seed_gives_the_same_numbers(session, tmp_path):
    found = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        cf.train_backbone(session("LightGCN"), "auto", tmp_path / str(number), tmp_path / f"work{number}")
        found.append((tmp_path / str(number) / "backbone.safetensors").read_bytes())
    assert found[0] == found[1]


def test_a_tiny_set_of_rows_is_learned_by_heart(session):
    opened = session("BPR")
    model = made(opened).train()
    rows = opened.parts[0][torch.arange(30)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.calculate_loss(rows)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all() and losses[-1] < 0.05 < losses[0]
