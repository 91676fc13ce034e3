"""FiBiNET, YoutubeDNN, MixGCF and CL4SRec: cases done by hand, learning, seeds, and their names."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import tensor

from llmbole import registry
from llmbole.config import check_keys, model_class_of
from llmbole.pipeline import stage
from llmbole.recommender import cl4srec, fibinet, mixgcf
from llmbole.resolve import resolve
from llmbole.settings import SettingsError
from llmbole.trainer.choice import trainer_class

RANKING = {"metrics": ["Hit", "NDCG"], "topk": [1, 10], "valid_metric": "NDCG@10", "train_batch_size": 256}
NAMES = {
    "CL4SRec": {**RANKING, "MAX_ITEM_LIST_LENGTH": 10, "hidden_size": 8, "inner_size": 8},
    "FiBiNET": {"embedding_size": 4, "mlp_hidden_size": [16], "dropout_prob": 0.0},
    "MixGCF": {**RANKING, "embedding_size": 8, "n_negs": 4},
    "YoutubeDNN": {**RANKING, "MAX_ITEM_LIST_LENGTH": 10, "embedding_size": 8, "mlp_hidden_size": [8]},
}


def test_names_and_keys_are_known_without_recbole():
    assert sorted(registry.own_recommenders()) == sorted(NAMES)
    assert set(NAMES) < set(registry.conventional_names()) > set(registry.recbole_names())
    assert [name for name in NAMES if registry.learns_labels(name)] == ["FiBiNET"]
    for name in NAMES:
        assert model_class_of(name).__name__ == name
        assert resolve(name, "ml-100k").settings["backbone"]["name"] == name
    reached: set[str] = set()
    stage._reach("llmbole.model.session", reached, {"llmbole"})
    assert {f"llmbole.recommender.{name.lower()}" for name in NAMES} < reached  # their code is in the keys
    with pytest.raises(SettingsError, match="n_neg'; did you mean 'n_negs'"):
        check_keys("MixGCF", ["n_neg", "n_layers"])
    with pytest.raises(SettingsError, match="FiBiNET"):
        model_class_of("FiBiNet")
    with pytest.raises(SettingsError, match="bilinear_type"):
        resolve("FiBiNET", "ml-100k", {"bilinear_tpye": "all"})
    ranked = resolve("ALLMRec", "ml-100k", {"backbone": "CL4SRec"}).settings["backbone"]
    assert ranked["contrastive_weight"] == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_learned_by_heart_and_the_seed_decides(built, name):
    def losses(seed):
        parts = built(name, seed=seed, learning_rate=0.01, **NAMES[name])
        batch = next(iter(parts.train))
        optimizer = torch.optim.Adam(parts.model.parameters(), lr=0.01)
        found = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = parts.model.calculate_loss(batch)
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    one = losses(1)
    assert all(value == value and value < 100 for value in one)
    assert one[-1] < 0.9 * one[0]
    assert losses(1) == one != losses(2)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "FiBiNET"])
def test_scores_of_all_items_are_those_of_rows(built, name):
    parts = built(name, **NAMES[name])
    model, rows = parts.model.eval(), parts.test._dataset[torch.arange(3)]
    with torch.no_grad():
        scores = model.full_sort_predict(rows).view(3, -1)
        assert scores.shape == (3, parts.dataset.item_num)
        expected = scores[torch.arange(3), rows["item_id"]]
        torch.testing.assert_close(model.predict(rows), expected)


@pytest.mark.parametrize("changes", [{"sampled_negatives": 5}, {"user_embedding": False}])
def test_variants_of_youtube_train(built, changes, tmp_path):
    parts = built("YoutubeDNN", epochs=1, **{**NAMES["YoutubeDNN"], **changes})
    trainer = trainer_class(parts.config)(parts.config, parts.model, workspace=tmp_path)
    trainer.fit(parts.train, parts.valid)
    assert trainer.train_loss_dict[0] > 0
    assert (parts.model.user_embedding is None) == ("user_embedding" in changes)


def test_youtube_averages_the_history_and_leaves_padding_out(built):
    model = built("YoutubeDNN", **{**NAMES["YoutubeDNN"], "user_embedding": False}).model.eval()
    short, wide = tensor([[3, 5]]), tensor([[3, 5, 0, 0]])
    with torch.no_grad():
        expected = model.mlp((model.item_embedding.weight[3] + model.item_embedding.weight[5])[None] / 2)
        torch.testing.assert_close(model(short, tensor([2])), expected)
        torch.testing.assert_close(model(wide, tensor([2])), expected)
        assert torch.isfinite(model(tensor([[0, 0]]), tensor([0]))).all()


def test_youtube_learns_next_items_alone(built):
    """Rows of drawn negatives, which models of labels get, would be targets like others."""
    train = built("YoutubeDNN", **NAMES["YoutubeDNN"]).train
    batches = list(train)
    assert sum(len(batch) for batch in batches) == len(train._dataset)
    assert not any("label" in batch for batch in batches)


def test_sampled_softmax_by_hand(built):
    model = built("YoutubeDNN", **{**NAMES["YoutubeDNN"], "sampled_negatives": 3}).model.eval()
    rows = {"item_id_list": tensor([[3, 5], [4, 0]]), "item_length": tensor([2, 1])}
    rows |= {"user_id": tensor([1, 2]), "item_id": tensor([7, 8])}
    with torch.no_grad():
        torch.manual_seed(5)
        drawn = torch.randint(1, model.n_items, (3,)).tolist()
        scores = model.user_vectors(rows) @ model.output_embedding.weight.T
        expected = [
            -(row[target].exp() / sum(row[item].exp() for item in [target, *drawn])).log()
            for row, target in zip(scores, (7, 8), strict=True)
        ]
        torch.manual_seed(5)
        torch.testing.assert_close(model.calculate_loss(rows), torch.stack(expected).mean())


def test_senet_weights_by_hand():
    senet = fibinet.Senet(fields=3, ratio=3)
    with torch.no_grad():
        senet.reduce.weight.copy_(tensor([[1.0, 2.0, -1.0]]))
        senet.expand.weight.copy_(tensor([[1.0], [0.5], [-1.0]]))
    embeddings = tensor([[[1.0, 3.0], [0.0, 1.0], [2.0, 0.0]]])  # means 2, 0.5, 1
    assert torch.equal(senet.weights(embeddings), tensor([[2.0, 1.0, 0.0]]))  # hidden 2 + 1 - 1 = 2
    assert torch.equal(senet(embeddings), tensor([[[2.0, 6.0], [0.0, 1.0], [0.0, 0.0]]]))


def test_a_bilinear_interaction_of_two_fields_by_hand():
    for kind in fibinet.TYPES:
        layer = fibinet.Bilinear(2, 2, kind)
        with torch.no_grad():
            layer.weight.copy_(tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        found = layer(tensor([[[1.0, 1.0], [5.0, -1.0]]]))  # [1 1] W = [4 6]
        assert torch.equal(found, tensor([[[20.0, -6.0]]]))


@pytest.mark.parametrize(("kind", "matrices"), [("all", 1), ("each", 2), ("interaction", 3)])
def test_pairs_of_three_fields_have_the_matrices_of_their_kind(kind, matrices):
    torch.manual_seed(0)
    layer, embeddings = fibinet.Bilinear(3, 4, kind), torch.randn(2, 3, 4)
    assert len(layer.weight) == matrices
    found = layer(embeddings)
    for place, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        matrix = layer.weight[{"all": 0, "each": i, "interaction": place}[kind]]
        torch.testing.assert_close(found[:, place], (embeddings[:, i] @ matrix) * embeddings[:, j])


def test_an_unknown_kind_of_bilinear_layer_is_refused():
    with pytest.raises(SettingsError, match="'al' is unknown; did you mean 'all'"):
        fibinet.Bilinear(2, 2, "al")


def test_a_mixed_negative_takes_each_layer_from_the_hardest_item():
    user = tensor([[1.0, 0.0]])
    positive = tensor([[[2.0, 2.0], [4.0, 0.0]]])  # two layers
    pool = tensor([[[[1.0, 5.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 3.0]]]])  # two items
    share = tensor([[[0.5], [0.25]]])
    found = mixgcf.mixed(user, positive, pool, share)
    # layer 0: items give 1.5 and 1, so the first; layer 1: 1 and 3.25, so the second
    assert torch.equal(found, tensor([[[1.5, 3.5], [3.25, 2.25]]]))


def test_a_pool_holds_items_that_its_user_does_not_know(built, monkeypatch):
    parts = built("MixGCF", **{**NAMES["MixGCF"], "n_negs": 8})
    model, batch = parts.model, next(iter(parts.train))
    rows = parts.train._dataset.inter_feat
    known = set(zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True))
    pool = model._pool(batch)
    assert pool.shape == (len(batch), 8)
    pairs = zip(batch["user_id"].tolist(), pool.tolist(), strict=True)
    assert not any((user, item) in known for user, items in pairs for item in items)
    assert pool.min() >= 1 and pool.max() < model.n_items
    monkeypatch.setattr(mixgcf, "UnknownItems", lambda *_: SimpleNamespace(sizes=np.array([3, 0, 1])))
    with pytest.raises(SettingsError, match="1 users know every item; leave them out"):
        mixgcf.MixGCF(parts.config, parts.train._dataset)


def test_one_negative_of_recbole_is_mixed_with_the_positive_alone(built):
    parts = built("MixGCF", **{**NAMES["MixGCF"], "n_negs": 1, "reg_weight": 0.0})
    model, batch = parts.model, next(iter(parts.train))
    torch.manual_seed(3)
    loss = model.calculate_loss(batch)
    users, items = torch.split(model.layers(), [model.n_users, model.n_items])
    torch.testing.assert_close(users.mean(dim=1), model()[0])
    torch.manual_seed(3)
    torch.rand(len(batch), 0, dtype=torch.float64)
    share = torch.rand(len(batch), model.n_layers + 1, 1)
    positive, negative = items[batch["item_id"]], items[batch["neg_item_id"]]
    mixture = share * positive + (1 - share) * negative
    user = users[batch["user_id"]].mean(dim=1)
    difference = (user * (positive - mixture).mean(dim=1)).sum(dim=1)
    torch.testing.assert_close(loss, -difference.sigmoid().log().mean())


SEQUENCES = tensor([[1, 2, 3, 4, 5, 6, 0], [7, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0, 0]])
LENGTHS = tensor([6, 1, 4])


@pytest.mark.parametrize("seed", range(5))
def test_a_cropped_history_is_a_stretch_of_it(seed):
    torch.manual_seed(seed)
    cropped, lengths = cl4srec.crop(SEQUENCES, LENGTHS, 0.5)
    assert lengths.tolist() == [3, 1, 2]
    for row, (found, length) in enumerate(zip(cropped.tolist(), lengths.tolist(), strict=True)):
        whole = SEQUENCES[row, : LENGTHS[row]].tolist()
        start = whole.index(found[0])
        assert found == whole[start : start + length] + [0] * (7 - length)


@pytest.mark.parametrize("seed", range(5))
def test_masks_stand_for_a_share_of_the_items(seed):
    torch.manual_seed(seed)
    masked = cl4srec.mask(SEQUENCES, LENGTHS, 0.5, 99)
    assert (masked == 99).sum(dim=1).tolist() == [3, 0, 2]
    assert torch.equal(masked[masked != 99], SEQUENCES[masked != 99])
    assert (masked[SEQUENCES == 0] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_reordered_history_differs_in_one_stretch(seed):
    torch.manual_seed(seed)
    found = cl4srec.reorder(SEQUENCES, LENGTHS, 0.5)
    assert torch.equal(found.sort(dim=1).values, SEQUENCES.sort(dim=1).values)
    for row in range(3):
        changed = torch.nonzero(found[row] != SEQUENCES[row]).flatten()
        assert not len(changed) or changed[-1] - changed[0] < LENGTHS[row] // 2
    assert torch.equal(found[SEQUENCES == 0], SEQUENCES[SEQUENCES == 0])


def test_augmentations_vary_and_repeat_with_the_seed():
    def views(seed):
        torch.manual_seed(seed)
        many = SEQUENCES[:1].expand(200, -1), LENGTHS[:1].expand(200)
        return cl4srec.crop(*many, 0.5)[0], cl4srec.mask(*many, 0.5, 9), cl4srec.reorder(*many, 0.5)

    cropped, masked, reordered = views(1)
    assert all(
        torch.equal(one, other) for one, other in zip(views(1), (cropped, masked, reordered), strict=True)
    )
    assert len(cropped.unique(dim=0)) == 4 and len(masked.unique(dim=0)) == 20
    assert len(reordered.unique(dim=0)) > 10


def test_the_contrastive_loss_by_hand():
    one, other = tensor([[1.0, 0.0], [0.0, 1.0]]), tensor([[1.0, 0.0], [0.0, 2.0]])
    similarities = [(1, (0, 0)), (2, (0, 0)), (1, (0, 0)), (2, (0, 0))]  # partner, then the two others
    logs = [
        torch.log(sum(tensor(float(value)).exp() for value in (partner, *others))) - partner
        for partner, others in similarities
    ]
    halved = cl4srec.contrastive_loss(one * 0.5**0.5, other * 0.5**0.5, 0.5)
    torch.testing.assert_close(halved, torch.stack(logs).mean())


def test_the_mask_is_no_item(built):
    model = built("CL4SRec", **NAMES["CL4SRec"]).model
    assert len(model.item_embedding.weight) == model.n_items + 1
    assert len(model.item_vectors()) == model.n_items
    with pytest.raises(SettingsError, match="crop_share = 0: a share is in"):
        built("CL4SRec", **NAMES["CL4SRec"], crop_share=0)
