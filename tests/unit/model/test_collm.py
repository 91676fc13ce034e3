"""CoLLM's parts: one mapping for users and items, what learns under each tuning, and soft tokens in their places."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llmbole import registry
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import Answer, PairPrompt, Wording, repeat_soft
from llmbole.model.cf import Backbone
from llmbole.model.vectors import VECTORS, Vectors
from llmbole.settings import SettingsError, build
from recbole.data.interaction import Interaction

METHOD = registry.method("CoLLM")
MODULE = __import__("sys").modules[METHOD.__module__]
TITLES = ["", "Toy Story (1995)", "Heat (1995)", "GoldenEye (1995)"]
RATES = {"learning_rate": 1e-3, "warmup_rate": 0.0, "warmup_steps": 0, "least_rate": 0.0, "weight_decay": 0.0}
COUNTS = {
    "batch_size": 2,
    "accumulation": 1,
    "steps": 1,
    "check_every": 1,
    "patience": 1,
    "rows": 0,
    "valid_rows": 0,
}
STEP = {**RATES, **COUNTS, "factor": 2, "tokens": 1}
TEXT = "{bos}Liked: {history}. User {user:soft}. Likes {title} {item:soft}? Answer:"


class Factors(nn.Module):
    """A conventional model with user vectors wider than its items'."""

    def __init__(self, user_width=6, item_width=4):
        super().__init__()
        self.user_embedding, self.item_embedding = nn.Embedding(5, user_width), nn.Embedding(4, item_width)
        self.dropout = nn.Dropout(0.5)
        self.restore_user_e = self.restore_item_e = "old"


def settings(**changes):
    own = {"text": TEXT, "encoding": "collaborative", "tuning": "mapping", **STEP, **changes}
    return build(MODULE.HybridSettings, own, "hybrid")


@pytest.fixture
def make(monkeypatch):
    """A CoLLM on the embedded LLM: `make(tuning="T1")`."""
    vectors = Vectors(
        lambda model: model.item_embedding.weight,
        lambda model, rows: model.dropout(model.user_embedding(rows["user_id"])),
        lambda model: model.user_embedding.embedding_dim,
    )
    monkeypatch.setitem(VECTORS, "Factors", vectors)

    def made(widths=(6, 4), **changes):
        torch.manual_seed(1)
        chosen = settings(**changes)
        lm = load(LLMSpec()).freeze()
        wording = Wording('"{title}"', ", ", "none", "untitled", 8)
        answer = Answer(("Yes", "No"), False, "difference")
        prompt = PairPrompt(lm, repeat_soft(TEXT, chosen.tokens), wording, answer, TITLES, {})
        adapter = Adapter(lm, LoraSettings(2, 4, 0.1))
        config = {"model": "Factors", "MAX_ITEM_LIST_LENGTH": None, "device": "cpu"}
        backbone = Backbone(Factors(*widths), SimpleNamespace(config=config))
        if chosen.encoding == "ui_token":
            encoder = MODULE.FreeTokens(5, 4, lm.input_weight, chosen)
        else:
            encoder = MODULE.Collaborative(backbone, lm.hidden_size, chosen)
        return METHOD(prompt, adapter, encoder, chosen)

    return made


@pytest.fixture
def rows():
    numbers = {"user_id": [1, 2, 4], "item_id": [1, 3, 2], "item_length": [0, 1, 2]}
    histories = torch.tensor([[0, 0], [1, 0], [3, 2]])
    columns = {name: torch.tensor(column) for name, column in numbers.items()}
    labels = torch.tensor([1.0, 0.0, 1.0])
    return Interaction({**columns, "item_id_list": histories, "shown": histories, "label": labels})


@pytest.mark.parametrize(
    ("changes", "learns"),
    [
        ({}, {"mapping"}),
        ({"tuning": "T1"}, {"mapping", "backbone"}),
        ({"tuning": "T2"}, {"mapping", "backbone"}),
        ({"tuning": "T3"}, {"mapping", "adapter"}),
        ({"encoding": "ui_token"}, {"users", "items"}),
    ],
)
def test_gradients_reach_what_learns_and_nothing_else(make, rows, changes, learns):
    model = make(**changes).train()
    model.calculate_loss(rows).backward()
    with_gradients = {
        name.removeprefix("encoder.").split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert with_gradients == learns
    lora = {id(parameter) for parameter in model.adapter.parameters()}
    base = [each for each in model.prompt.lm.model.parameters() if id(each) not in lora]
    assert base and all(parameter.grad is None for parameter in base)


@pytest.mark.parametrize(
    ("tuning", "dropouts"), [("mapping", set()), ("T1", {"encoder"}), ("T3", {"adapter"})]
)
def test_frozen_parts_stay_in_evaluation_mode(make, tuning, dropouts):
    model = make(tuning=tuning).train()
    training = {
        name.split(".")[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and module.training
    }
    assert training == dropouts


def test_one_mapping_takes_users_and_repeated_items(make, rows):
    model = make(tokens=2).eval()
    model.encoder.backbone.dropout.p = 0.0
    found = model.encoder(rows)
    hidden = model.prompt.lm.hidden_size
    assert found["user"].shape == found["item"].shape == (6, hidden)
    items = model.encoder.backbone.item_embedding.weight[rows["item_id"]]
    repeated = torch.cat([items, items], 1)[:, :6]
    torch.testing.assert_close(found["item"], model.encoder.mapping(repeated).reshape(6, hidden))
    users = model.encoder.backbone.user_embedding.weight[rows["user_id"]]
    torch.testing.assert_close(found["user"], model.encoder.mapping(users).reshape(6, hidden))
    assert [each.out_features for each in model.encoder.mapping[::2]] == [2 * 6, 2 * hidden]


def test_predictions_are_those_of_each_row_alone(make, rows):
    model = make().eval()
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[[place]]) for place in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    changed = rows[[0, 1, 2]]
    changed["user_id"] = torch.tensor([1, 3, 4])
    assert (model.predict(changed) != together).tolist() == [False, True, False]


def test_a_backbone_that_learns_propagates_anew(make, rows):
    model = make(tuning="T1")
    model.encoder(rows)
    assert model.encoder.backbone.restore_user_e is None
    frozen = make()
    frozen.encoder(rows)
    assert frozen.encoder.backbone.restore_user_e == "old"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "ui_token", "tuning": "T2"}, "does not read"),
        ({"encoding": "none", "tuning": "T3"}, "nothing to train"),
        ({"tokens": 0, "rows": -1}, "must be at least 0"),
        ({"tuning": "T4"}, "none of 'mapping', 'T1', 'T2', 'T3'"),
    ],
)
def test_settings_that_contradict_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings(**changes)
