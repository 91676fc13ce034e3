"""MoRec: its loss against a slow plain one, which items are negatives, and what learns at which rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llmbole import registry
from llmbole.llm.encode import TrainableEncoder
from llmbole.llm.identity import EncoderSpec
from llmbole.settings import SettingsError, build
from llmbole.trainer import all_positions
from recbole.data.interaction import Interaction

METHOD = registry.method("MoRec")
MODULE = __import__("sys").modules[METHOD.__module__]
COUNTS = torch.tensor([0, 4, 3, 2, 1, 5, 1])
SEQUENCES = torch.tensor([[1, 2, 5, 1], [5, 3, 0, 0], [2, 4, 6, 0]])  # of items, 0 behind the last


def settings(**changes):
    own = {"text": "{title}", "encoder": "frozen", "blocks": 1, "learning_rate": 1e-5}
    return build(MODULE.ItemSettings, {**own, **changes}, "items")


def plain_loss(outputs, vectors, sequences, popularity):
    """The loss position by position, a negative for every occurrence of an item in the batch."""
    losses = []
    occurrences = [int(item) for row in sequences for item in row if item]
    for row, sequence in enumerate(sequences.tolist()):
        for position, target in enumerate(sequence[1:]):
            if not target:
                continue
            output = outputs[row, position]

            def score(item, output=output):
                return math.exp(float(output @ vectors[item]) - math.log(popularity[item] / popularity.sum()))

            rest = sum(score(item) for item in occurrences if item not in sequence)
            losses.append(-math.log(score(target) / (score(target) + rest)))
    return sum(losses) / len(losses)


def test_the_loss_is_the_plain_ones():
    torch.manual_seed(0)
    outputs, vectors = torch.randn(3, 3, 4), torch.randn(7, 4)
    share = COUNTS.clamp(min=1) / COUNTS.sum()
    found = MODULE.in_batch_loss(outputs, vectors, SEQUENCES, share.log())
    assert found.item() == pytest.approx(plain_loss(outputs, vectors, SEQUENCES, COUNTS.numpy()), rel=1e-5)


def test_the_loss_by_hand():
    outputs, vectors = torch.zeros(2, 1, 2), torch.ones(5, 2)
    sequences = torch.tensor([[1, 2], [3, 3]])
    quarter = torch.full((5,), math.log(0.25))
    # a target against two occurrences of item 3, and against items 1 and 2, all scores being alike
    assert MODULE.in_batch_loss(outputs, vectors, sequences, quarter).item() == pytest.approx(math.log(3))
    rare = torch.tensor([0.0, 0.25, 0.25, 0.5, 0.0]).clamp(min=1e-9).log()
    # 1/p: item 2 counts 4, each occurrence of item 3 counts 2
    expected = (math.log((4 + 2 * 2) / 4) + math.log((2 + 4 + 4) / 2)) / 2
    assert MODULE.in_batch_loss(outputs, vectors, sequences, rare).item() == pytest.approx(expected)


@pytest.fixture
def model(built):
    def make(name="SASRec", text=None):
        sizes = {"SASRec": {"n_heads": 1, "hidden_dropout_prob": 0.0}, "GRU4Rec": {"embedding_size": 8}}
        made = built(name, hidden_size=8, **sizes[name])
        torch.manual_seed(2)
        if text is None:
            text = nn.Embedding.from_pretrained(torch.randn(made.dataset.item_num, 6))
            text.dimension = 6
        counts = torch.ones(made.dataset.item_num, dtype=torch.long)
        return METHOD(made.model, all_positions.CAUSAL[name], text, counts, settings())

    return make


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_scores_are_products_with_projected_texts(model, name):
    method = model(name).eval()
    rows = Interaction(
        {
            "item_id_list": torch.tensor([[3, 7, 0], [5, 0, 0]]),
            "item_length": torch.tensor([2, 1]),
            "item_id": torch.tensor([9, 4]),
        }
    )
    scores = method.full_sort_predict(rows)
    assert scores.shape == (2, len(method.log_popularity))
    torch.testing.assert_close(method.predict(rows), scores[torch.arange(2), rows["item_id"]])
    table = method.project(method.text.weight)
    method.sequence.item_embedding.vectors = table
    outputs = method.causal.outputs(method.sequence, rows["item_id_list"])
    torch.testing.assert_close(scores[0], outputs[0, 1] @ table.T)


def test_no_ids_are_left_and_training_lowers_the_loss(model):
    method = model().train()
    names = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert not [name for name in names if "item_embedding" in name]
    batch = Interaction({"item_id_list": SEQUENCES[:, :-1], "item_id": SEQUENCES[:, 1:]})
    optimizer = torch.optim.Adam(method.parameter_groups(), lr=0.01)
    first = method.calculate_loss(batch).item()
    for _ in range(30):
        optimizer.zero_grad()
        method.calculate_loss(batch).backward()
        optimizer.step()
    assert method.calculate_loss(batch).item() < 0.5 * first
    before = method.eval().full_sort_predict(
        rows := Interaction({**batch.interaction, "item_length": torch.ones(3).long()})
    )
    torch.nn.init.zeros_(method.train().project[0].weight)
    assert not torch.allclose(method.eval().full_sort_predict(rows), before)  # no stale vectors of items


def test_only_the_encoders_last_blocks_learn_at_their_own_rate(model, small_encoder):
    texts = ["", *(f"title {number}" for number in range(3000))]
    encoder = TrainableEncoder(EncoderSpec(str(small_encoder("bert"))), texts)
    encoder.learn_last(1)
    method = model(text=encoder)
    rest, slow = method.parameter_groups()
    assert slow["lr"] == 1e-5 and "lr" not in rest
    learned = {name for name, weight in method.text.named_parameters() if weight.requires_grad}
    assert learned and all(".layer.1." in name for name in learned)
    assert len(slow["params"]) == len(learned)
    method.train().calculate_loss(
        Interaction({"item_id_list": SEQUENCES[:, :-1], "item_id": SEQUENCES[:, 1:]})
    ).backward()
    assert all(weight.grad is not None for weight in slow["params"])
    for blocks in (0, 3):
        with pytest.raises(
            ValueError, match=f"last {blocks} blocks of the text encoder cannot learn: it has 2"
        ):
            encoder.learn_last(blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 0, "learning_rate": 0.0}, r"(?s)blocks = 0.*learning_rate = 0.0"),
        ({"encoder": "x"}, "'x'"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings(**changes)
