"""Short real runs of LLM-CF on ml-100k rows: generation, retrieval, training with the in-context module, ablations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmbole.api import plan
from llmbole.llm import backbone as language_models
from llmbole.llm import encode, texts
from llmbole.model import examples, training
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.verify import verify

SHORT = {
    "backbone.epochs": 1,
    "reasoning.share": 0.005,
    "reasoning.max_new_tokens": 3,
    "reasoning.listed.history": 2,
    "in_context.hidden": 8,
    "in_context.history": 4,
    "examples.history": 4,
    "text_encoder.max_tokens": 6,
}


@pytest.fixture
def short(run):
    """A short run: `short({"examples.count": 2})`."""

    def go(settings=None, **more):
        own = {"protocol": "loo_ctr", **more}
        return run("LLMCF", {**SHORT, **(settings or {})}, **own)

    return go


def entries(result):
    content = (result.artifacts["reasoning"].folder / "texts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines()]


def scores(result):
    return np.load(result.artifacts["scores"].folder / "rows.npz")["scores"]


def shown(result):
    return training.load_tensors(result.artifacts["shown"], "shown")["shown"].numpy()


def test_a_run_ends_in_a_sealed_record(short):
    result = short()
    record = load(result.path)
    assert set(record.metrics) >= {"AUC", "LogLoss"} and set(record.backbone_metrics) == {"AUC", "LogLoss"}
    base = record.backbone_metrics["AUC"]
    if base > 0.5:
        gain = ((record.metrics["AUC"] - 0.5) / (base - 0.5) - 1) * 100
        assert record.metrics["RelaImpr"] == pytest.approx(gain)
    assert record.llm.name == "tiny" and record.cost["reasoning"].llm_tokens > 0
    assert record.cost["online"].llm_tokens is None and record.cost["scores"].llm_tokens is None
    assert 0 < scores(result).min() and scores(result).max() < 1
    found = entries(result)
    split = result.artifacts["split"].summary
    assert len(found) == round(0.005 * split["train_rows"])
    assert len({entry["row"] for entry in found}) == len(found)
    assert all(entry["row"] < split["train_rows"] for entry in found)
    assert not verify(result.path.parents[2])


def test_online_no_language_model_no_encoder_and_no_search_is_touched(short, monkeypatch):
    short()

    def refuse(*arguments, **keywords):
        raise AssertionError("the online part generates, encodes or searches")

    for module, name in (
        (language_models, "load"),
        (encode, "load_encoder"),
        (texts, "greedy"),
        (examples, "retrieve"),
    ):
        monkeypatch.setattr(module, name, refuse)
    again = short({"in_context.reconstruction": 0.5})
    assert again.artifacts["online"].cost["seconds"] > 0


def test_a_future_example_stops_the_run(short, monkeypatch):
    """The search is made to show every test row the latest training row of the in-context data set."""
    honest = examples.retrieve

    def planted(rows, chosen, text, *others):
        found = honest(rows, chosen, text, *others)
        found[rows.numbers("test"), 0] = int(np.argmax(rows.timestamps[chosen]))
        return found

    monkeypatch.setattr(examples, "retrieve", planted)
    with pytest.raises(
        ValueError, match=r"(?s)the run leaks:\ntest: \d+ rows are shown with something later"
    ):
        short({"seed": 7})


def test_a_killed_generation_goes_on_and_asks_each_prompt_once(short, monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    whole, asked = texts.LocalEngine.answer, []

    def dying(engine, prompts):
        if len(asked) >= 2:
            raise Killed
        asked.append(list(prompts))
        return whole(engine, prompts)

    settings = {"reasoning.batch_size": 8, "seed": 8}
    monkeypatch.setattr(texts.LocalEngine, "answer", dying)
    with pytest.raises(Killed):
        short(settings)
    monkeypatch.setattr(
        texts.LocalEngine,
        "answer",
        lambda engine, prompts: asked.append(list(prompts)) or whole(engine, prompts),
    )
    result = short(settings)
    every = [prompt for batch in asked for prompt in batch]
    assert len(every) == len(set(every)) == result.artifacts["reasoning"].summary["distinct"]


@pytest.mark.parametrize(
    "changes",
    [
        {"in_context.text": False},
        {"in_context.reasoning": False},
        {"in_context.pooling": "mean"},
        {"examples.count": 0},
        {"examples.count": 3, "examples.balanced": False},
    ],
)
def test_ablations_change_the_online_part_alone(short, changes):
    full, ablated = short(), short(changes)
    assert not np.array_equal(scores(full), scores(ablated))
    kept = ("backbone", "item_text", "reasoning", "reasoning_vectors")
    assert all(full.record.artifacts[name] == ablated.record.artifacts[name] for name in kept)
    if "examples.count" in changes:
        table = shown(ablated)
        assert table.shape[1] == changes["examples.count"]
        chosen = training.load_tensors(ablated.artifacts["reasoning_vectors"], "reasoning")["rows"]
        assert len(chosen) == len([entry for entry in entries(ablated) if entry["text"]])
    else:
        assert full.record.artifacts["shown"] == ablated.record.artifacts["shown"]


@pytest.mark.parametrize("backbone", ["DCNV2", "DIN"])
def test_other_backbones_take_the_feature(short, backbone):
    own = {"backbone.embedding_size": 4, "backbone.mlp_hidden_size": [8]}
    assert short({**own, "in_context.pooling": "mean"}, backbone=backbone).record.backbone == backbone


def test_another_protocol_runs(short):
    assert 0 <= short({"in_context.pooling": "mean"}, protocol="unified_ctr").metrics["AUC"] <= 1


def test_a_second_weight_of_the_reconstruction_generates_nothing(short, raw_slice, shared):
    short()
    own = {"raw": str(raw_slice), "store": str(shared / "store"), "progress": False}
    changed = {**SHORT, **own, "in_context.reconstruction": 0.3}
    steps = plan("LLMCF", "ml-slice", settings=changed, protocol="loo_ctr")
    assert {step.stage.makes for step in steps if not step.cached} == {"online", "scores"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "LR"}, "LR has no place for an extra feature"),
        ({"reasoning.share": 0.0, "examples.count": 3}, r"(?s)share = 0.0.*count = 3: must be even"),
        ({"reasoning.text": "{history} {target}"}, "lacks {decision}"),
        ({"reasoning.text": "{history} {target} {decision} {mood}"}, "has the slot 'mood'"),
        ({"reasoning.engine": "remote"}, "none of 'local'"),
        ({"in_context.width": 30}, r"multiple of 2 \* heads"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(short, settings, message):
    with pytest.raises(SettingsError, match=message):
        short(settings)
