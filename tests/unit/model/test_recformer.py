"""RecFormer: cosines and the loss by hand, the table of items, drawn positions, and small real encoders that learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmbole import registry
from llmbole.data.positions import RandomPositions
from llmbole.llm.identity import EncoderSpec
from llmbole.llm.item_sequences import ItemSequences
from llmbole.settings import SettingsError, build, load_yaml, properties_folder
from recbole.data.interaction import Interaction

METHOD = registry.method("RecFormer")
MODULE = __import__("sys").modules[METHOD.__module__]
OWN = load_yaml(properties_folder() / "model" / "RecFormer.yaml")
NEWEST = torch.tensor([[2, 1], [3, 0]])


class Sums(nn.Module):
    """Stands for the encoder: the sum of a sequence's vectors, the newest item twice."""

    width = 2

    def __init__(self):
        super().__init__()
        self.items = [None] * 4
        self.vectors = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]))

    def forward(self, sequences):
        return torch.stack([self.vectors[list(row)].sum(0) + self.vectors[row[0]] for row in sequences])


def test_scores_are_cosines_of_histories_newest_first_and_items():
    model = METHOD(Sums(), 0.5)
    model.refresh()
    torch.testing.assert_close(model.table, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    rows = Interaction(
        {
            "item_id_list": torch.tensor([[1, 2, 0], [3, 0, 0]]),  # oldest first
            "item_length": torch.tensor([2, 1]),
            "item_id": torch.tensor([3, 1]),
        }
    )
    first = torch.tensor([1.0, 4.0]) / 17**0.5  # item 1 and twice item 2
    expected = torch.stack([first, torch.tensor([0.6, 0.8])]) @ model.table[1:].T
    scores = model.full_sort_predict(rows)
    torch.testing.assert_close(scores[:, 1:], expected)
    assert (scores[:, 0] == -torch.inf).all()
    torch.testing.assert_close(model.predict(rows), expected[[0, 1], [2, 0]])
    loss = model.calculate_loss(Interaction({"newest_first": NEWEST, "item": torch.tensor([3, 1])}))
    logs = (expected / 0.5).log_softmax(1)
    assert loss.item() == pytest.approx(-(logs[0, 2] + logs[1, 0]).item() / 2)


def test_the_table_stays_until_it_is_encoded_anew():
    model = METHOD(Sums(), 0.05).train()
    model.refresh()
    assert model.training
    before = model.table.clone()
    model.calculate_loss(Interaction({"newest_first": NEWEST, "item": torch.tensor([3, 1])})).backward()
    assert model.encoder.vectors.grad.abs().sum() > 0 and not model.table.requires_grad
    with torch.no_grad():
        model.encoder.vectors[1] = torch.tensor([0.0, -3.0])
    assert torch.equal(model.table, before)
    model.refresh()
    torch.testing.assert_close(model.table[1], torch.tensor([0.0, -1.0]))
    assert "table" in model.state_dict()  # so that stage 2 and a resumed training have it


@pytest.mark.parametrize("kind", ["bert", "longformer"])
def test_a_small_encoder_learns_which_item_comes_next(small_encoder, kind):
    torch.manual_seed(3)
    items = [[], *([("title", title)] for title in ("a", "b", "c"))]
    encoder = ItemSequences(EncoderSpec(str(small_encoder(kind))), items, 4, (2, 16), "first")
    model = METHOD(encoder, 0.05).train()
    model.refresh()
    assert model.table[1:].norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    model.table[1:] = torch.eye(3, 16)  # as far apart as items that a trained encoder tells apart
    batch = Interaction(
        {"newest_first": torch.tensor([[1, 0], [2, 1], [3, 2]]), "item": torch.tensor([2, 3, 1])}
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model.calculate_loss(batch).item()
    for _ in range(40):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
    assert model.eval().calculate_loss(batch).item() < 0.5 * first


def test_positions_are_drawn_from_all_that_have_a_history(splits_of):
    split = splits_of("loo_rank20")
    positions = RandomPositions(split, 5)
    generator = torch.Generator().manual_seed(4)
    seen = []
    for _ in range(40):
        drawn = positions.draw(generator)
        for user, item, shown in zip(
            positions.users.tolist(), drawn["item"].tolist(), drawn["newest_first"].tolist(), strict=True
        ):
            sequence = split.train_items(user).tolist()
            place = sequence.index(item)
            assert place >= 1
            expected = sequence[:place][::-1][:5]
            assert shown == expected + [0] * (5 - len(expected))
            seen.append(place / (len(sequence) - 1))
    assert min(seen) < 0.1 and max(seen) == 1.0 and 0.45 < sum(seen) / len(seen) < 0.6


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("items", {"attributes": ["titel"]}, "did you mean 'title'"),
        ("items", {"attributes": [], "tokens": 1}, r"(?s)tokens = 1.*attributes: at least one"),
        ("tune", {"temperature": 0.0, "refresh_every": 0}, r"(?s)refresh_every = 0.*temperature = 0.0"),
    ],
)
def test_wrong_settings_are_refused(part, changes, message):
    kind = {"items": MODULE.ItemSettings, "tune": MODULE.FineTuning}[part]
    with pytest.raises(SettingsError, match=message):
        build(kind, {**OWN[part], **changes}, part)
