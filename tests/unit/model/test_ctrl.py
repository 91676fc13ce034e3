"""CTRL: the contrastive loss by hand, and representations of rows from models of many shapes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llmbole import registry
from llmbole.model import representation, text_alignment
from llmbole.settings import SettingsError, build, load_yaml, properties_folder
from recbole.data.interaction import Interaction

METHOD = registry.method("CTRL")
MODULE = __import__("sys").modules[METHOD.__module__]


class Tabular(nn.Module):
    """A model of rows with attention before its prediction layer, as DIN has."""

    def __init__(self):
        super().__init__()
        self.attention = nn.Linear(4, 1)
        self.hidden = nn.Linear(4, 3)
        self.out = nn.Linear(3, 1)

    def predict(self, rows):
        features = rows["features"] * self.attention(rows["features"]).sigmoid()
        return self.out(self.hidden(features).relu()).squeeze(1).sigmoid()


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(4)
    columns = {"features": torch.randn(5, 4, generator=generator)}
    return Interaction({**columns, "text": torch.randn(5, 6, generator=generator)})


def settings(**changes):
    own = load_yaml(properties_folder() / "model" / "CTRL.yaml")["align"]
    return build(MODULE.RowAlignSettings, {**own, **changes}, "align")


def test_the_loss_by_hand():
    scores = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    # temperature 2: rows [1, 0] and [0.5, 0.5], columns [1, 0.5] and [0, 0.5]
    rows = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    columns = 2 * math.log(1 + math.exp(-0.5)) / 2
    assert text_alignment.info_nce(scores, 2.0).item() == pytest.approx((rows + columns) / 2)


def test_whole_representations_are_compared_by_cosine():
    rows, texts = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]], [[-6.0, -8.0]]])
    torch.testing.assert_close(text_alignment.similarities(rows, texts), torch.tensor([[0.96, -1.0]]))


def test_parts_take_their_most_similar_ones():
    torch.manual_seed(0)
    rows, texts = torch.randn(3, 2, 5), torch.randn(4, 2, 5)
    found = text_alignment.similarities(rows, texts)
    for row in range(3):
        for text in range(4):
            cosines = [
                [torch.cosine_similarity(part, other, dim=0) for other in texts[text]] for part in rows[row]
            ]
            assert found[row, text] == pytest.approx(float(sum(max(line) for line in cosines)), abs=1e-6)
    swapped = text_alignment.similarities(rows.flip(1), texts.flip(1))
    torch.testing.assert_close(found, swapped)  # the order of parts means nothing


def test_all_but_the_prediction_layer_learns_from_the_texts(rows):
    torch.manual_seed(1)
    model = METHOD(Tabular(), 6, settings(parts=2, width=4))
    model.calculate_loss(rows).backward()
    reached = {
        name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.grad is not None
    }
    assert reached == {"tabular", "textual", "model.attention", "model.hidden"}
    assert model.tabular.weight.shape == (8, 3) and model.textual.weight.shape == (8, 6)


def test_training_on_the_loss_finds_each_rows_text(rows):
    torch.manual_seed(1)
    model = METHOD(Tabular(), 6, settings(parts=2, width=4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = model.calculate_loss(rows).item()
    for _ in range(150):
        optimizer.zero_grad()
        model.calculate_loss(rows).backward()
        optimizer.step()
    assert model.calculate_loss(rows).item() < 0.2 * first


def test_a_representation_is_what_the_last_layer_is_given(rows):
    model = Tabular()
    layer = representation.prediction_layer(model)
    assert layer is model.out
    found = representation.represent(model, layer, rows)
    torch.testing.assert_close(model.out(found).squeeze(1).sigmoid(), model.predict(rows))
    assert found.requires_grad
    named = representation.prediction_layer(model, "hidden")
    assert representation.represent(model, named, rows).shape == (5, 4)
    assert not model.out._forward_pre_hooks and not model.hidden._forward_pre_hooks


def test_models_without_a_representation_are_refused(rows):
    with pytest.raises(SettingsError, match="no linear layer 'hiden'; did you mean 'hidden'"):
        representation.prediction_layer(Tabular(), "hiden")
    with pytest.raises(SettingsError, match="Embedding has no linear layer with one output"):
        representation.prediction_layer(nn.Embedding(3, 2))
    never = SimpleNamespace(predict=lambda rows: None)
    with pytest.raises(SettingsError, match=r"shape \(5, 3\) once, but was given \[\]"):
        representation.represent(never, nn.Linear(3, 1), rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": 0, "batch_size": 1}, r"(?s)parts = 0.*batch_size = 1"),
        ({"temperature": 0.0}, "temperature = 0.0: must be above 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings(**changes)


def test_an_epoch_has_all_rows():
    schedule = settings(batch_size=4, epochs=3).steps(10)
    assert (schedule.steps, schedule.check_every) == (9, 3)
    assert schedule.rate(0) == schedule.rate(8) == settings().learning_rate
