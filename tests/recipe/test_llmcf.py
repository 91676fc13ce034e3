"""Short real runs of LLM-CF on ml-100k rows: generation, retrieval, training with the in-context module, ablations."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from llmbole.api import plan
from llmbole.data.numbered import load_rows
from llmbole.llm import backbone as language_models
from llmbole.llm import encode, local
from llmbole.llm.identity import LLMSpec
from llmbole.model import examples, training
from llmbole.model.in_context import InContext
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
        (local, "greedy"),
        (examples, "retrieve"),
    ):
        monkeypatch.setattr(module, name, refuse)
    again = short({"in_context.reconstruction": 0.5})
    assert again.artifacts["online"].cost["seconds"] > 0


def test_new_users_items_and_interactions_need_no_language_model(short, monkeypatch):
    """After the in-context data set is written, rows that it does not know are searched for, learned and scored."""
    own = {"in_context.pooling": "mean"}
    short(own, protocol="unified_ctr")

    def refuse(*arguments, **keywords):
        raise AssertionError("a language model is loaded or asked")

    for module, name in ((language_models, "load"), (local, "greedy"), (local.LocalEngine, "answer")):
        monkeypatch.setattr(module, name, refuse)
    result = short({**own, "examples.count": 6}, protocol="unified_ctr")
    rows = load_rows(result.artifacts["split"].folder)
    test = rows.numbers("test")
    users, items = rows.split.train_counts
    new = (users[rows.users[test]] == 0) | (items[rows.items[test]] == 0)
    assert new.any() and np.isfinite(scores(result)[new]).all()
    assert (shown(result)[test[new]] >= 0).any()


def test_a_future_example_stops_the_run(short, monkeypatch):
    """The search is made to show every test row the latest training row of the in-context data set."""
    honest = examples.retrieve

    def planted(rows, chosen, text, *others, **more):
        found = honest(rows, chosen, text, *others, **more)
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

    whole, asked = local.LocalEngine.answer, []

    def dying(engine, prompts):
        if len(asked) >= 2:
            raise Killed
        asked.append(list(prompts))
        return whole(engine, prompts)

    settings = {"reasoning.batch_size": 8, "seed": 8}
    monkeypatch.setattr(local.LocalEngine, "answer", dying)
    with pytest.raises(Killed):
        short(settings)
    monkeypatch.setattr(
        local.LocalEngine,
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


WIDTHS = {"backbone.embedding_size": 8, "backbone.mlp_hidden_size": [8]}
RANKED = {
    "backbone.MAX_ITEM_LIST_LENGTH": 5,
    "backbone.train_batch_size": 512,
    "in_context.width": 8,
    "examples.count": 2,
}


@pytest.mark.parametrize(("backbone", "protocol"), [("SASRec", "loo_full"), ("YoutubeDNN", "unified_rank")])
def test_a_ranking_gives_each_prefix_a_feature_that_does_not_know_the_item(
    short, backbone, protocol, monkeypatch
):
    seen = []
    honest = InContext.forward

    def watched(model, users, items, *others, **more):
        seen.append(items)
        return honest(model, users, items, *others, **more)

    monkeypatch.setattr(InContext, "forward", watched)
    own = {"backbone.hidden_size": 8, "backbone.inner_size": 8} if backbone == "SASRec" else WIDTHS
    result = short({**RANKED, **own}, protocol=protocol, backbone=backbone)
    record = load(result.path)
    assert set(record.metrics) == set(record.backbone_metrics) >= {"HIT@5", "HIT@10", "NDCG@5", "NDCG@10"}
    assert result.artifacts["backbone"].summary["training"] == "per_prefix"
    assert (shown(result) >= 0).any(1).sum() > 0
    assert seen and not any(items.any() for items in seen)
    assert not verify(result.path.parents[2])


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
        ({"protocol": "loo_full"}, "DeepFM has no place for an extra feature in a ranking"),
        (
            {"protocol": "loo_full", "backbone": "SASRec", "backbone.training": "auto"},
            "each prefix of a sequence has a feature of its own; use per_prefix",
        ),
        ({"reasoning.share": 0.0, "examples.count": 3}, r"(?s)share = 0.0.*count = 3: must be even"),
        ({"reasoning.text": "{history} {target}"}, "lacks {decision}"),
        ({"reasoning.text": "{history} {target} {decision} {mood}"}, "has the slot 'mood'"),
        ({"generate.engine": "remote"}, "none of 'local'"),
        ({"generate.engine": "openai"}, "needs served_model"),
        ({"generate.served_model": "m"}, "is a server's: set engine=openai"),
        (
            {
                "generate.engine": "openai",
                "generate.served_model": "m",
                "generate.base_url": "http://a:b@c/v1",
            },
            "holds a secret",
        ),
        ({"generate.engine": "vllm"}, r"reasoning.repetition_penalty = 1.2.*set it to 1"),
        ({"recgen.variant": "lora", "llm.quantization": "4bit"}, "writes a whole model"),
        ({"in_context.width": 30}, r"multiple of 2 \* heads"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(short, settings, message):
    own = dict(settings)
    protocol = own.pop("protocol", "loo_ctr")
    with pytest.raises(SettingsError, match=message):
        short(own, protocol=protocol)


TUNING = {
    "recgen.rows": 24,
    "recgen.steps": 2,
    "recgen.batch_size": 4,
    "recgen.check_every": 1,
    "recgen.learning_rate": 0.05,
}
CHEAP = {"in_context.pooling": "mean", "examples.count": 2}


def tuned(result):
    """The folder of a run's tuned LLM."""
    return result.artifacts["recgen"].folder / result.artifacts["recgen"].summary["folder"]


def learned(result):
    return language_models.load(LLMSpec(str(tuned(result)))).model.state_dict()


@pytest.mark.parametrize("variant", ["lora", "r3f"])
def test_a_tuned_llm_reasons_otherwise_and_is_itself_left_as_it_was(short, variant):
    before = language_models.load(LLMSpec("tiny")).checksum()
    result = short({**TUNING, **CHEAP, "recgen.variant": variant})
    base = short(CHEAP)
    assert "recgen" in result.artifacts and "recgen" not in base.artifacts
    texts_of = [[entry["text"] for entry in entries(each)] for each in (result, base)]
    assert texts_of[0] != texts_of[1]
    updates = 4 * 2 * 8 * (128 + 256)  # layers, projections, rank
    trained = result.record.cost["recgen"].trainable_parameters
    assert trained == (updates if variant == "lora" else 1_581_696)
    assert language_models.load(LLMSpec("tiny")).checksum() == before


def test_an_ensemble_of_weights_lies_between_both(short):
    found = {
        share: learned(short({**TUNING, **CHEAP, "recgen.variant": "wise_ft", "recgen.ensemble": share}))
        for share in (0.0, 0.6)
    }
    full = learned(short({**TUNING, **CHEAP, "recgen.variant": "full"}))
    base = language_models.load(LLMSpec("tiny")).model.state_dict()
    for name, value in found[0.6].items():
        own = base[name]
        torch.testing.assert_close(found[0.0][name], own)
        torch.testing.assert_close(value, own + 0.6 * (full[name] - own), rtol=1e-4, atol=1e-6)


def test_recgen_mixes_in_general_instructions_of_a_pinned_file(short, tmp_path):
    path = tmp_path / "general.json"
    rows = [{"instruction": f"Say {number}.", "input": "", "output": str(number)} for number in range(6)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    own = {**TUNING, **CHEAP, "recgen.variant": "mixed", "recgen.general.files": [str(path)]}
    with pytest.raises(SettingsError, match=r"general\.sha256 must be those of"):
        short(own)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    result = short({**own, "recgen.general.sha256": [digest]})
    summary = result.artifacts["recgen"].summary
    assert (summary["recommendations"], summary["general"], summary["left_out"]) == (24, 6, 0)
    halved = {"recgen.variant": "half_mixed", "recgen.epochs": 1.0, "recgen.learning_rate": 1e-4}
    half = short({**own, **halved, "recgen.general.sha256": [digest]})
    summary = half.artifacts["recgen"].summary
    assert (summary["recommendations"], summary["general"], summary["steps"]) == (
        12,
        6,
        4,
    )  # 18 in batches of 4
    moved = path.rename(tmp_path / "moved.json")
    again = short({**own, "recgen.general.files": [str(moved)], "recgen.general.sha256": [digest]})
    assert again.artifacts["recgen"].key == result.artifacts["recgen"].key
    assert str(tmp_path) not in again.path.read_text(encoding="utf-8")
    moved.rename(path)
    with pytest.raises(SettingsError, match="mixed needs general instructions"):
        short({**TUNING, "recgen.variant": "mixed"})
    with pytest.raises(SettingsError, match="there is no such file"):
        short({**own, "recgen.variant": "full", "recgen.general.files": [str(tmp_path / "gone.json")]})


def test_a_tuned_llm_is_an_llm_that_other_methods_take(short, run):
    folder = tuned(short({**TUNING, **CHEAP, "recgen.variant": "lora"}))
    found = {
        name: run("ICL", {"llm": name, "prompt.history": 2}, protocol="loo_ctr")
        for name in ("tiny", str(folder))
    }
    plain, other = found["tiny"].record, found[str(folder)].record
    assert other.llm.name == "./recgen-lora" and other.llm.parameters == plain.llm.parameters
    assert other.llm.revision != plain.llm.revision and other.metrics["LogLoss"] != plain.metrics["LogLoss"]


def test_a_server_writes_the_reasoning_and_its_address_is_nobodys_concern(short, chat):
    own = {
        **CHEAP,
        "generate.engine": "openai",
        "generate.served_model": "big",
        "reasoning.repetition_penalty": 1.0,
    }

    def behave(prompt, earlier):
        if not earlier and len(prompt) % 3 == 0:
            return 503, {}, {}
        return (
            chat.completion(None, refusal="no")
            if len(prompt) % 4 == 0
            else chat.completion(f"since {prompt[-40:]}")
        )

    with chat.server(behave) as asked:
        result = short({**own, "generate.base_url": asked.url})
    summary, record = result.artifacts["reasoning"].summary, result.record
    assert len(asked.answered) == len(set(asked.prompts)) == summary["distinct"]
    assert (
        summary["refused"] == summary["empty"] == sum(len(each) % 4 == 0 for each in set(asked.prompts)) > 0
    )
    assert (record.llm.name, record.llm.parameters) == ("big", None)
    assert record.config["generate"] == {"served_model": "big"} and "127.0.0.1" not in result.path.read_text()
    assert record.cost["reasoning"].llm_tokens == 10 * len(asked.answered)
    assert short({**own, "generate.base_url": "http://127.0.0.1:9/v1"}).record.artifacts == record.artifacts
    assert not verify(result.path.parents[2])
