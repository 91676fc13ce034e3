"""Short real runs of P5 on ml-100k rows: shuffled numbers, families of sentences, what is learned."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from llmbole import registry
from llmbole.llm import seq2seq
from llmbole.llm.identity import LLMSpec
from llmbole.model import training
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.verify import verify
from recbole.data.interaction import Interaction

METHOD = registry.method("P5")
MODULE = sys.modules[METHOD.__module__]
FEW = {"steps": 4, "check_every": 2, "rows": 60, "valid_rows": 40, "batch_size": 16, "warmup_steps": 0}
SIZES = {"width": 16, "inner": 16, "layers": 1, "heads": 2}


@pytest.fixture
def ask(run):
    def short(settings=None, **more):
        own = {
            **{f"tune.{name}": value for name, value in FEW.items()},
            **{f"sizes.{name}": value for name, value in SIZES.items()},
        }
        return run("P5", {**own, **(settings or {})}, **{"protocol": "unified_ctr", **more})

    return short


def model_of(families, dropout=0.0):
    torch.manual_seed(1)
    known = [*MODULE.TEMPLATES.values(), "yes no", MODULE.RATINGS]
    lm = seq2seq.load(LLMSpec("untrained"), seq2seq.Sizes(32, 64, 1, 2, dropout), known)
    return METHOD(lm, MODULE.Sentences(lm, 30, 30, seed=3), MODULE.TaskSettings(families, 2, "pieces"))


@pytest.fixture
def rows():
    columns = {
        "user_id": [1, 2, 3, 4],
        "item_id": [5, 6, 7, 8],
        "label": [1.0, 0.0, 1.0, 0.0],
        "rating": [5.0, 2.5, 4.0, 1.0],
        "shown": [[3, 4], [3, 0], [0, 0], [9, 5]],
    }
    return Interaction({name: torch.tensor(column) for name, column in columns.items()})


def test_numbers_are_a_shuffling_of_ids_that_the_seed_decides():
    lm = model_of(("direct",)).lm
    made = [MODULE.Sentences(lm, 500, 800, seed) for seed in (1, 1, 2)]
    assert sorted(made[0].users) == list(range(500)) and sorted(made[0].items) == list(range(800))
    assert made[0].users[0] == made[0].items[0] == 0
    assert np.array_equal(made[0].items, made[1].items) and not np.array_equal(made[0].items, made[2].items)
    late = np.arange(700, 800)  # ids that came last are not the highest numbers
    assert abs(np.corrcoef(np.arange(1, 800), made[0].items[1:])[0, 1]) < 0.15
    assert made[0].items[late].min() < 100


def test_sentences_and_answers_of_each_family(rows, monkeypatch):
    for family in MODULE.TEMPLATES:
        model = model_of(("direct",) if family == "direct" else ("direct", family))
        users, items = model.prompt.users, model.prompt.items
        seen = {}
        monkeypatch.setattr(torch, "randint", lambda high, size: torch.full(size, high - 1))
        monkeypatch.setattr(model.lm, "loss", lambda *both, seen=seen: seen.update(zip(*both, strict=True)))
        model.calculate_loss(rows)
        direct = {
            f"Will user_{users[user]} likely to interact with item_{items[user + 4]} ?": answer
            for user, answer in ((1, "yes"), (2, "no"), (3, "yes"), (4, "no"))
        }
        if family == "direct":
            assert seen == direct
        if family == "rating":
            assert list(seen.values()) == ["5", "2.5", "4", "1"]
            assert (
                next(iter(seen))
                == f"What star rating do you think user_{users[1]} will give item_{items[5]} ?"
            )
        if family == "sequential":  # the others are dislikes, or have no history
            first = (
                f"Given the following interactions of user_{users[1]} : item_{items[3]} , item_{items[4]} "
                "predict the next item of the user"
            )
            assert seen == {first: f"item_{items[5]}", **dict(list(direct.items())[1:])}
        monkeypatch.undo()


def test_every_weight_learns_and_rows_are_scored_as_alone(rows):
    model = model_of(("direct", "rating", "sequential"))
    model.calculate_loss(rows).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    model.eval()
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[[place]]) for place in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert ((together > 0) & (together < 1)).all()


def test_it_learns_who_likes_what(rows):
    model = model_of(("direct",)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.calculate_loss(rows).backward()
        optimizer.step()
    model.eval()
    found = model.predict(rows)
    assert found[[0, 2]].min() > 0.8 and found[[1, 3]].max() < 0.2


@pytest.mark.parametrize("families", [["direct"], ["direct", "rating", "sequential"]])
def test_a_run_from_raw_files_to_a_sealed_record(ask, families):
    result = ask({"tasks.families": families})
    record = load(result.path)
    assert set(record.metrics) == {"AUC", "UAUC", "LogLoss", "ACC", "ECE"}
    assert record.llm.name == "untrained"
    assert record.cost["tuned"].trainable_parameters == record.llm.parameters
    assert record.cost["tuned"].llm_tokens > 0 < record.cost["scores"].llm_tokens
    scores = np.load(result.artifacts["scores"].folder / "rows.npz")["scores"]
    assert len(scores) == record.extra["rows"] and scores.min() > 0 and scores.max() < 1
    assert "lm.whole_words.weight" in training.load_tensors(result.artifacts["tuned"], training.WEIGHTS)
    assert not verify(result.path.parents[2])


def test_ids_are_tokens_or_pieces(ask):
    whole, pieces = ask(), ask({"tasks.ids": "pieces"})
    counts = whole.record.dataset.counts
    assert (
        whole.record.llm.parameters - pieces.record.llm.parameters == (counts["users"] + counts["items"]) * 16
    )


def test_it_runs_under_protocols_that_draw_negatives(ask):
    assert 0 <= ask({"tasks.families": ["direct", "sequential"]}, protocol="loo_ctr").metrics["AUC"] <= 1


@pytest.mark.parametrize(
    ("settings", "protocol", "message"),
    [
        ({"tasks.families": ["direct", "reviews"]}, "unified_ctr", "families: 'reviews' is unknown"),
        (
            {"tasks.families": ["rating"], "tune.clip": 0.0},
            "unified_ctr",
            r"(?s)must hold 'direct'.*clip = 0.0",
        ),
        ({"tasks.families": ["direct", "rating"]}, "loo_ctr", "draws negatives, which have no rating"),
        ({"sizes.heads": 3}, "unified_ctr", "heads = 3: must divide width"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(ask, settings, protocol, message):
    with pytest.raises(SettingsError, match=message):
        ask(settings, protocol=protocol)
