"""CoReLLa's parts: the alignment and the total loss by hand, what learns, disjoint samples, refused settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from llmbole import registry
from llmbole.data.pair_rows import PairRows
from llmbole.llm import tune
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import Answer, PairPrompt, Wording
from llmbole.model import cf, two_models
from llmbole.settings import SettingsError, build, load_yaml, properties_folder
from recbole.data.interaction import Interaction
from recbole.model.layers import MLPLayers

METHOD = registry.method("CoReLLa")
MODULE = __import__("sys").modules[METHOD.__module__]
TITLES = ["", "Toy Story (1995)", "Heat (1995)", "GoldenEye (1995)"]
DEFAULTS = load_yaml(properties_folder() / "model" / "CoReLLa.yaml")
JOINT = {**DEFAULTS["joint"], **DEFAULTS["by_llm"]["tiny"]["joint"], "width": 4, "crm_layers": [1, 2]}


class Mlp(nn.Module):
    """A CRM with two hidden layers of different widths, in RecBole's form."""

    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(5, 6)
        self.mlp = MLPLayers([6, 5, 3], dropout=0.2, bn=True)
        self.out = nn.Linear(3, 1)

    def predict(self, interaction):
        return self.out(self.mlp(self.users(interaction["user_id"]))).squeeze(1).sigmoid()

    def calculate_loss(self, interaction):
        return functional.binary_cross_entropy(self.predict(interaction), interaction["label"])


@pytest.fixture
def rows():
    shown = torch.tensor([[0, 0], [1, 0], [3, 2]])
    ratings = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.5, 5.0]])
    columns = {"user_id": torch.tensor([1, 2, 4]), "item_id": torch.tensor([1, 3, 2])}
    return Interaction(
        {**columns, "shown": shown, "shown_ratings": ratings, "label": torch.tensor([1.0, 0.0, 1.0])}
    )


@pytest.fixture
def make(rows):
    """A CoReLLa on the embedded LLM: `make(gamma=0.0)`."""

    def made(**changes):
        torch.manual_seed(1)
        settings = build(MODULE.JointSettings, {**JOINT, **changes}, "joint")
        lm = load(LLMSpec()).freeze()
        wording = Wording('"{title}" ({rating} stars)', ", ", "none", "untitled", 8)
        answer = Answer(("Yes", "No"), False, "difference")
        prompt = PairPrompt(lm, "{bos}Rated: {history}. Likes {title}? Answer: ", wording, answer, TITLES, {})
        session = SimpleNamespace(
            config={"device": torch.device("cpu")}, labelled=lambda part, places: rows[places]
        )
        return METHOD(prompt, Adapter(lm, LoraSettings(2, 4, 0.1)), cf.Backbone(Mlp(), session), settings)

    return made


def test_the_alignment_is_the_power_of_distances_summed_over_pairs():
    pairs = [
        (torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)),  # distances 5 and 0
        (torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])),  # 1 and 2
    ]
    assert MODULE.alignment(pairs, 1.0).item() == pytest.approx((5 + 0 + 1 + 2) / 2)
    assert MODULE.alignment(pairs, 2.0).item() == pytest.approx((25 + 0 + 1 + 4) / 2)
    assert MODULE.alignment(pairs[:1], 3.0).item() == pytest.approx(125 / 2)


def test_equal_states_align_with_a_finite_gradient():
    state = torch.ones(2, 3, requires_grad=True)
    MODULE.alignment([(state, torch.ones(2, 3))], 1.0).backward()
    assert state.grad is not None and torch.isfinite(state.grad).all()


def test_the_loss_is_the_weighted_sum_of_its_three_parts(make, rows):
    def part(**weights):
        model = make(**{"alpha": 0.0, "beta": 0.0, "gamma": 0.0, **weights}).eval()
        return model.calculate_loss(rows).item(), model

    (of_llm, model), (of_crm, _), (aligned, _) = part(alpha=1.0), part(beta=1.0), part(gamma=1.0)
    plain = functional.binary_cross_entropy(model.predict(rows), rows["label"].double())
    assert of_llm == pytest.approx(plain.item(), abs=1e-5)
    assert of_crm == pytest.approx(model.crm.calculate_loss(rows).item())
    whole = make(alpha=0.5, beta=2.0, gamma=0.3).eval().calculate_loss(rows).item()
    assert whole == pytest.approx(0.5 * of_llm + 2.0 * of_crm + 0.3 * aligned, rel=1e-5)


@pytest.mark.parametrize("position", ["last", "mean"])
def test_what_is_aligned_are_the_states_of_both_models(make, rows, position):
    model = make(alpha=0.0, beta=0.0, gamma=1.0, position=position, exponent=1.0).eval()
    found = model.calculate_loss(rows).item()
    hidden = model.crm.users(rows["user_id"])
    outputs = [model.crm.mlp.mlp_layers[:4](hidden), model.crm.mlp(hidden)]
    expected = 0.0
    for row in range(3):
        ratings = [[float(each) for each in rows["shown_ratings"][row] if each]]
        items = [[int(each) for each in rows["shown"][row] if each]]
        (prompt,) = model.prompt.encode(items, [int(rows["item_id"][row])], ratings)
        lm = model.prompt.lm
        states = lm.model.base_model(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True)
        for layer, output in zip(model.settings.llm_layers, outputs, strict=True):
            state = states.hidden_states[layer][0]  # [T, H]
            state = state[-1] if position == "last" else state.mean(0)
            crm = model.crm_map[str(output.shape[1])](output[row])
            expected += (model.llm_map(state) - crm).norm().item() / 3
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "learns"),
    [
        ({}, {"adapter", "crm", "llm_map", "crm_map"}),
        ({"beta": 0.0, "gamma": 0.0}, {"adapter"}),
        ({"alpha": 0.0, "gamma": 0.0}, {"crm"}),
    ],
)
def test_gradients_reach_what_the_weights_name_and_never_the_llm(make, rows, weights, learns):
    model = make(**weights).train()
    model.calculate_loss(rows).backward()
    moved = {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert moved == learns
    lora = {id(parameter) for parameter in model.adapter.parameters()}
    base = [each for each in model.prompt.lm.model.parameters() if id(each) not in lora]
    assert base and all(parameter.grad is None for parameter in base)


def test_layers_of_different_widths_have_maps_of_their_own(make):
    assert {name: tuple(each.weight.shape) for name, each in make().crm_map.items()} == {
        "5": (4, 5),
        "3": (4, 3),
    }


def test_layers_that_are_not_there_are_refused(make):
    with pytest.raises(SettingsError, match="crm_layers: 3 is no hidden layer; there are 2"):
        make(crm_layers=[1, 3])
    with pytest.raises(ValueError, match="llm_layers: 5 is no layer of LlamaForCausalLM, which has 4"):
        make(llm_layers=[5, 1])


def test_a_joint_training_that_was_killed_ends_like_one_that_was_not(make, rows, tmp_path):
    """Dropout of both models, and the statistics of batch normalisation, are part of what goes on."""
    own = {name: JOINT[name] for name in tune.TuneSettings.__dataclass_fields__ if name in JOINT}
    settings = tune.TuneSettings(**{**own, "batch_size": 2, "steps": 6, "check_every": 1})

    def train(folder, dies_at=None):
        model, calls = make(), []

        def loss(numbers):
            calls.append(numbers)
            if len(calls) == dies_at:
                raise KeyboardInterrupt
            return model.calculate_loss(rows[[0, 1, 2] if len(numbers) < 2 else numbers]), 0

        torch.manual_seed(2)
        tune.tune(model, loss, 3, settings, seed=1, workspace=folder, snapshot_seconds=0)
        return tune.learned(model)

    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, dies_at=4)
    resumed = train(tmp_path)
    assert {name.split(".")[0] for name in whole} == {"adapter", "crm", "llm_map", "crm_map"}
    assert "crm.mlp.mlp_layers.2.running_mean" in whole
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


class Numbers(PairRows):
    def __init__(self, count):
        self.places = np.arange(count)


def test_samples_have_no_row_in_common_and_the_first_is_the_seeds():
    first, second = two_models.samples(Numbers(50), 20, 30, seed=3)
    assert sorted([*first.places, *second.places]) == list(range(50))
    again, fewer = two_models.samples(Numbers(50), 20, 5, seed=3)
    assert np.array_equal(again.places, first.places) and set(fewer.places) < set(second.places)
    assert not np.array_equal(two_models.samples(Numbers(50), 20, 5, seed=4)[0].places, first.places)
    with pytest.raises(ValueError, match=r"joint.rows = 20 and alone.rows = 31 .* there are 50 training"):
        two_models.samples(Numbers(50), 20, 31, seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm_layers": [1]}, "name as many of each"),
        ({"llm_layers": [], "crm_layers": []}, "at least one"),
        ({"gamma": -0.1}, "gamma = -0.1"),
        ({"exponent": 0.5}, "exponent = 0.5: must be at least 1"),
        ({"rows": 0}, "rows = 0: must be at least 1"),
        ({"rows": 65, "batch_size": 32}, "a batch of one row"),
        ({"rows": 64, "batch_size": 1}, "a batch of one row"),
        ({"position": "first"}, "none of 'last', 'mean'"),
    ],
)
def test_settings_that_can_not_be_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        build(MODULE.JointSettings, {**JOINT, **changes}, "joint")
