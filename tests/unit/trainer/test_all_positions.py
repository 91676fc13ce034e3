"""Training on all positions: which positions, which outputs, which loss."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmbole.settings import SettingsError
from llmbole.trainer.all_positions import (
    CAUSAL,
    AllPositionsLoader,
    causal_model,
    loss_function,
    training_sequences,
)
from llmbole.trainer.trainer import Trainer

LENGTH = 7
SMALL = {
    "SASRec": {"hidden_size": 8, "inner_size": 16, "n_layers": 2},
    "CL4SRec": {"hidden_size": 8, "inner_size": 16, "n_layers": 2},
    "GRU4Rec": {"embedding_size": 8, "hidden_size": 12},
    "NextItNet": {"embedding_size": 8, "block_num": 2, "dilations": [1, 2]},
}


def parts_of(built, name, loss="CE", **settings):
    settings = {"MAX_ITEM_LIST_LENGTH": LENGTH, "train_batch_size": 4 * LENGTH, **SMALL[name], **settings}
    parts = built(name, loss_type=loss, **settings)
    parts.model = causal_model(name).model_class(parts.config, parts.train._dataset)
    parts.loader = AllPositionsLoader(parts.config, parts.dataset, training_sequences(parts.train._dataset))
    return parts


def trained_positions(batches):
    """(item, next item) of every trained position, with how often."""
    pairs = Counter()
    for batch in batches:
        items, targets = batch["item_id_list"], batch["item_id"]
        for row, length in enumerate(batch["item_length"].tolist()):
            pairs.update(zip(items[row, :length].tolist(), targets[row, :length].tolist(), strict=True))
            assert not items[row, length:].any() and not targets[row, length:].any()
    return pairs


def test_every_position_recbole_trains_is_trained_once_an_epoch(built):
    parts = parts_of(built, "SASRec")
    rows = parts.train._dataset.inter_feat
    last = rows["item_id_list"].gather(1, rows["item_length"][:, None] - 1).flatten()
    expected = Counter(zip(last.tolist(), rows["item_id"].tolist(), strict=True))
    first_epoch, second_epoch = list(parts.loader), list(parts.loader)
    assert trained_positions(first_epoch) == trained_positions(second_epoch) == expected
    assert len(parts.loader) == len(first_epoch) == len(second_epoch)
    assert all(batch["item_length"].max() <= LENGTH for batch in first_epoch)
    windows = [tuple(row.tolist()) for batch in first_epoch for row in batch["item_id_list"]]
    assert sorted(windows) != sorted(
        tuple(row.tolist()) for batch in second_epoch for row in batch["item_id_list"]
    )


def test_windows_of_one_sequence_follow_each_other_without_overlap(built):
    parts = parts_of(built, "SASRec")
    loader = AllPositionsLoader(
        parts.config, parts.dataset, [np.arange(1, 21), np.array([5]), np.array([3, 4])]
    )
    for _ in range(20):
        windows = {}
        for batch in loader:
            for items, targets, length in zip(
                batch["item_id_list"], batch["item_id"], batch["item_length"], strict=True
            ):
                assert torch.equal(targets[:length], items[:length] + 1)
                windows[int(items[0])] = int(length)
        assert windows.pop(3) == 1 or windows.get(3) is None
        assert sum(windows.values()) in (19, 19 + 1)


def test_too_short_sequences_are_an_error(built):
    parts = parts_of(built, "SASRec")
    with pytest.raises(ValueError, match="no training sequence has two items"):
        AllPositionsLoader(parts.config, parts.dataset, [np.array([1]), np.array([], dtype=int)])


def test_batch_size_counts_positions_unless_it_is_set(built):
    assert parts_of(built, "SASRec", train_batch_size=70).loader.batch_size == 10
    assert parts_of(built, "SASRec", sequence_batch_size=3).loader.batch_size == 3


@pytest.mark.parametrize("name", CAUSAL)
def test_outputs_equal_those_of_every_prefix(built, name):
    parts = parts_of(built, name)
    model = parts.model.eval()
    lengths = torch.tensor([LENGTH, 4])
    items = torch.randint(1, parts.dataset.item_num, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    items[1, 4:] = 0
    with torch.no_grad():
        outputs = causal_model(name).outputs(model, items)  # [B, L, D]
        for row, length in enumerate(lengths):
            for end in range(1, int(length) + 1):
                prefix = torch.zeros(1, LENGTH, dtype=torch.long)
                prefix[0, :end] = items[row, :end]
                arguments = (prefix,) if name == "NextItNet" else (prefix, torch.tensor([end]))
                torch.testing.assert_close(outputs[row, end - 1], model(*arguments)[0], rtol=1e-4, atol=1e-5)
    assert "gather_indexes" not in vars(model)


def test_nextitnet_is_recboles_where_the_history_is_full(built):
    from recbole.model.sequential_recommender import NextItNet

    parts = parts_of(built, "NextItNet")
    stock = NextItNet(parts.config, parts.train._dataset)
    stock.load_state_dict(parts.model.state_dict())
    items = torch.randint(1, parts.dataset.item_num, (3, LENGTH))
    with torch.no_grad():
        torch.testing.assert_close(parts.model.eval()(items), stock.eval()(items))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("loss", ["CE", "BPR"])
def test_the_loss_is_the_mean_over_positions(built, name, loss):
    parts = parts_of(built, name, loss)
    model = parts.model.eval()
    batch = next(iter(parts.loader))
    weight = model.item_embedding.weight[: parts.dataset.item_num]  # without [mask]
    losses = []
    for row, length in enumerate(batch["item_length"].tolist()):
        for place in range(length):
            prefix = torch.zeros(1, LENGTH, dtype=torch.long)
            prefix[0, : place + 1] = batch["item_id_list"][row, : place + 1]
            arguments = (prefix,) if name == "NextItNet" else (prefix, torch.tensor([place + 1]))
            scores = model(*arguments)[0] @ weight.T
            target = batch["item_id"][row, place]
            if loss == "CE":
                losses.append(functional.cross_entropy(scores[None], target[None]))
            else:
                losses.append(
                    -torch.log(
                        1e-10 + torch.sigmoid(scores[target] - scores[batch["neg_item_id"][row, place]])
                    )
                )
    expected = torch.stack(losses).mean()
    if name == "NextItNet":
        convolutions = [
            value for key, value in model.residual_blocks.named_parameters() if key.endswith("weight")
        ]
        norms = [weight, model.final_layer.weight, *convolutions]
        expected = expected + model.reg_weight * sum(torch.norm(value, 2) for value in norms)
    torch.manual_seed(1)
    if name == "CL4SRec":
        expected = expected + model.contrastive_penalty(batch)
    torch.manual_seed(1)
    torch.testing.assert_close(loss_function(parts.config, model)(batch), expected, rtol=1e-4, atol=1e-5)


def test_negatives_are_real_items_other_than_the_target(built):
    parts = parts_of(built, "SASRec", "BPR")
    loader = AllPositionsLoader(parts.config, parts.dataset, [np.arange(1, 200)] * 20)
    loader.n_items = 4
    targets = torch.tensor([[1, 2, 3, 0]]).repeat(500, 1)
    negatives = loader._negatives(targets)
    assert (negatives != targets)[:, :3].all()
    assert set(negatives[:, 0].tolist()) == {2, 3} and set(negatives[:, 1].tolist()) == {1, 3}
    assert set(negatives[:, 2].tolist()) == {1, 2}


@pytest.mark.parametrize("name", CAUSAL)
def test_it_learns_with_the_trainer(built, name, tmp_path):
    parts = parts_of(built, name, learning_rate=0.01, epochs=6, valid_metric="MRR@10")
    trainer = Trainer(
        parts.config, parts.model, workspace=tmp_path, loss_function=loss_function(parts.config, parts.model)
    )
    trainer.fit(parts.loader, parts.valid)
    losses = [trainer.train_loss_dict[epoch] for epoch in range(6)]
    assert losses[-1] < losses[0]
    assert trainer.load_best()["score"] == trainer.evaluate(parts.valid)["mrr@10"]


def test_a_killed_training_on_all_positions_ends_as_an_undisturbed_one(built, tmp_path):
    def run(folder, epochs):
        parts = parts_of(built, "SASRec", epochs=epochs)
        function = loss_function(parts.config, parts.model)
        trainer = Trainer(
            parts.config, parts.model, workspace=folder, loss_function=function, snapshot_seconds=0
        )
        trainer.resume()
        trainer.fit(parts.loader, parts.valid)
        return trainer.model.state_dict()

    run(tmp_path / "stopped", 3)
    again, calm = run(tmp_path / "stopped", 5), run(tmp_path / "calm", 5)
    assert all(torch.equal(again[name], calm[name]) for name in calm)


def test_models_that_look_ahead_are_refused():
    with pytest.raises(
        SettingsError, match=r"BERT4Rec can't be trained on all positions .*GRU4Rec, NextItNet, SASRec"
    ):
        causal_model("BERT4Rec")
