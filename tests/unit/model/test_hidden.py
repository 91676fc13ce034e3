"""Hidden layers: found in MLPs or named, in the order of the pass, as the model computes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmbole.model.hidden import HiddenLayers, check_model
from llmbole.settings import SettingsError
from recbole.data.interaction import Interaction
from recbole.model.layers import MLPLayers


class Deep(nn.Module):
    """A model with one MLP over rows, and one over the items of each row."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 1)
        self.attention = MLPLayers([4, 6])
        self.mlp = MLPLayers([4, 5, 3], dropout=0.5, bn=True)

    def predict(self, interaction):
        rows = interaction["row"]  # [B, 4]
        weights = self.attention(torch.stack([rows, rows], 1))  # [B, 2, 6]
        return (self.output(self.mlp(rows)).squeeze(1) + weights.mean((1, 2))).sigmoid()


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.field, self.idle = nn.Linear(4, 2), nn.Linear(4, 2)

    def predict(self, interaction):
        return self.field(interaction["row"][:, None]).sum((1, 2))


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return Interaction({"row": torch.randn(3, 4)})


def test_layers_are_the_ends_of_an_mlps_blocks_and_not_of_one_over_items(rows):
    model = Deep().train()
    layers = HiddenLayers(model, rows)
    assert layers.names == ["mlp.mlp_layers.3", "mlp.mlp_layers.7"]  # behind the activation of each block
    assert layers.widths == [5, 3]
    assert model.training


def test_outputs_are_those_of_the_latest_pass_with_gradients(rows):
    model = Deep().eval()
    layers = HiddenLayers(model, rows)
    other = Interaction({"row": rows["row"] * 2})
    model.predict(other)
    first, last = layers.outputs([1, -1])
    assert torch.equal(first, model.mlp.mlp_layers[:4](other["row"]))
    assert torch.equal(last, model.mlp(other["row"]))
    last.sum().backward()
    assert model.mlp.mlp_layers[1].weight.grad is not None


def test_named_modules_are_taken_whatever_their_shape(rows):
    model = Flat()
    layers = HiddenLayers(model, rows, ["field"])
    assert (layers.names, layers.widths) == (["field"], [2])
    model.predict(rows)
    assert layers.outputs([1])[0].shape == (3, 2)


def test_the_order_is_that_of_the_pass(rows):
    layers = HiddenLayers(Deep(), rows, ["mlp.mlp_layers.7", "attention", "mlp.mlp_layers.3"])
    assert layers.names == ["attention", "mlp.mlp_layers.3", "mlp.mlp_layers.7"]
    assert layers.widths == [12, 5, 3]
    assert layers.check([-1, 1, 2]) == [3, 12, 5]


@pytest.mark.parametrize("number", [0, 3, -3])
def test_a_number_of_no_layer_is_refused(rows, number):
    with pytest.raises(SettingsError, match=rf"crm_layers: {number} is no hidden layer; there are 2"):
        HiddenLayers(Deep(), rows).check([1, number])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fields"], "has no module 'fields'; did you mean 'field'"),
        (["field", "idle"], "modules idle of Flat give no output for each row"),
        (None, "Flat has no MLPLayers .* name others in crm_modules, of field, idle"),
    ],
)
def test_a_model_without_such_layers_is_refused_with_the_modules_it_has(rows, names, message):
    with pytest.raises(SettingsError, match=message):
        HiddenLayers(Flat(), rows, names)


@pytest.mark.parametrize("name", ["DCNV2", "DeepFM", "xDeepFM", "FiBiNET", "AutoInt", "DIN", "NeuMF", "PNN"])
def test_models_with_an_mlp_are_known_before_any_work(name):
    check_model(name, None)


@pytest.mark.parametrize("name", ["FM", "LR", "BPR"])
def test_models_without_one_are_refused_unless_modules_are_named(name):
    with pytest.raises(SettingsError, match=f"backbone {name} has no hidden layers"):
        check_model(name, None)
    check_model(name, ["sigmoid"])
