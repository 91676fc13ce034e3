"""Short real runs, on ml-100k rows, of the baselines that A-LLMRec is compared with."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from llmbole import registry
from llmbole.llm import tiny
from llmbole.model import training
from llmbole.pipeline.stage import stages_of
from llmbole.resolve import resolve
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.verify import verify

REPORTED = {"HIT@1", "HIT@5", "NDCG@5", "MRR@20"}
CTRL = {"sentences.rows": 65, "align.batch_size": 32, "align.epochs": 2, "align.learning_rate": 0.02}
TALLREC = {"tune.positions": 1, "tune.candidates": 5}
RECFORMER = {"items.tokens": 24, "items.history": 3, "tune.epochs": 2, "tune.frozen_epochs": 1}


def checked(result, method):
    record = load(result.path)
    assert (record.method, set(record.metrics)) == (method, REPORTED)
    assert record.protocol.name == "loo_rank20" and record.extra["users"] == 40
    assert not verify(result.path.parents[2])
    return record


def test_tallrec_ranks_candidates_under_protocols_that_rank(run):
    result = run("TALLRec", TALLREC, protocol="loo_rank20")
    record = checked(result, "TALLRec")
    assert record.llm.name == "tiny" and record.cost["lora"].llm_tokens > 0
    folder = result.artifacts["lora"].folder
    weights = load_file(folder / "adapter_model.safetensors")
    assert any("lora_B" in name and weight.abs().sum() > 0 for name, weight in weights.items())
    from transformers import AutoModelForCausalLM

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.FOLDER), folder)
    found = loaded.state_dict()
    name = next(iter(weights))
    assert torch.equal(found[name.replace(".weight", ".default.weight")], weights[name])
    untuned = run("LLMOnly", {"ask.history": 5})
    assert untuned.metrics != result.metrics  # the same prompt, so what differs is the updates


def test_the_protocol_decides_the_form():
    assert registry.forms("TALLRec") == ["TALLRec", "TALLRec.ranking"]
    assert "TALLRec.ranking" not in registry.method_names()
    pairs, lists = (resolve("TALLRec", "ml-100k", {"protocol": name}) for name in ("loo_ctr", "loo_rank20"))
    assert pairs.model == lists.model == "TALLRec" and pairs.label == lists.label == ""
    assert "answer" in pairs.settings and "scoring" in lists.settings
    assert resolve("TALLRec", "ml-100k").method is pairs.method is not lists.method
    few = resolve("TALLRec", "ml-100k", {"protocol": "loo_rank20@few_shot-20"})
    assert few.method is lists.method
    with pytest.raises(
        SettingsError, match="TALLRec has no protocol 'loo_full'; it runs under .*loo_ctr.*loo_rank20"
    ):
        resolve("TALLRec", "ml-100k", {"protocol": "loo_full"})


@pytest.mark.parametrize("backbone", ["SASRec", "NextItNet"])
def test_ctrl_aligns_a_sequential_model_and_then_trains_it_alone(run, backbone):
    result = run("CTRL", CTRL, protocol="loo_rank20", backbone=backbone)
    record = checked(result, "CTRL")
    assert (record.backbone, record.text_encoder, record.llm) == (backbone, "all-MiniLM-L6-v2", None)
    assert set(record.backbone_metrics) == REPORTED
    text, aligned = result.artifacts["text"], result.artifacts["aligned"]
    assert text.summary["example"].startswith("This is a user, age is ") and "|" in text.summary["example"]
    assert training.load_tensors(text, "text")["text"].shape == (65, 384)
    assert aligned.summary["rows"] == 64  # a last batch of one row is left out
    begun = training.load_tensors(aligned, "weights")["item_embedding.weight"]
    tuned, own = (
        training.load_tensors(result.artifacts[name], "backbone")["model.item_embedding.weight"]
        for name in ("tuned", "backbone")
    )
    assert (tuned - begun).norm() < 0.5 * (own - begun).norm()


def test_ctrl_learns_to_tell_histories_apart(run):
    short = run("CTRL", CTRL, protocol="loo_rank20")
    long = run("CTRL", {**CTRL, "align.epochs": 8}, protocol="loo_rank20")
    losses = [each.artifacts["aligned"].summary["loss"] for each in (short, long)]
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "settings",
    [{}, {"backbone": "GRU4Rec"}, {"items.encoder": "tuned", "items.blocks": 1, "backbone.epochs": 1}],
)
def test_morec_learns_from_text(run, small_encoder, settings):
    folder = small_encoder("bert")
    result = run("MoRec", {**settings, "text_encoder": str(folder)})
    record = checked(result, "MoRec")
    assert record.backbone == settings.get("backbone", "SASRec")
    learned = training.load_tensors(result.artifacts["trained"], "weights")
    assert not [name for name in learned if "item_embedding" in name]
    published = load_file(folder / "model.safetensors")
    kept = {
        name: weight for full, weight in learned.items() for name in published if full.endswith(f".{name}")
    }
    changed = {name for name, weight in kept.items() if not torch.equal(published[name], weight)}
    if "items.encoder" not in settings:
        assert not kept and result.artifacts["text"].summary["did"].endswith("texts, width 16")
        return
    assert changed and all("encoder.layer.1." in name for name in changed)
    assert len(kept) > len(changed) and "text" not in result.record.artifacts


def test_recformer_runs_both_stages_with_a_small_encoder(run, small_encoder):
    result = run("RecFormer", {**RECFORMER, "text_encoder": str(small_encoder("bert"))})
    checked(result, "RecFormer")
    first, second = (
        training.load_tensors(result.artifacts[name], "weights") for name in ("encoder", "tuned")
    )
    assert torch.equal(first["table"], second["table"])  # stage 2 leaves it
    norms = second["table"][1:].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    name = "encoder.places.weight"
    assert not torch.equal(first[name], second[name])


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (
            "CTRL",
            {"backbone": "LightGCN", "protocol": "loo_rank20"},
            "LightGCN has no representation of a history",
        ),
        (
            "CTRL",
            {"backbone": "SASRec", "protocol": "loo_ctr"},
            "SASRec has no prediction layer.*a protocol that ranks",
        ),
        ("MoRec", {"backbone": "NextItNet"}, "choose SASRec or GRU4Rec"),
        ("MoRec", {"backbone.training": "per_prefix"}, "per_prefix.*set auto"),
        ("TALLRec", {"protocol": "loo_rank20", "tune.candidates": 1}, "candidates = 1: must be at least 2"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(model, settings, message):
    with pytest.raises(SettingsError, match=message):
        resolve(model, "ml-100k", settings)


@pytest.mark.parametrize("form", ["TALLRec.ranking", "CTRL.ranking", "MoRec", "RecFormer"])
def test_every_setting_of_a_stage_is_there(form):
    name, _, task = form.partition(".")
    settings = resolve(name, "ml-100k", {"protocol": "loo_rank20"} if task else {}).settings
    for stage in stages_of(registry.method(form)).values():
        assert set(stage.declared(settings)) == set(stage.uses)


@pytest.mark.parametrize(
    ("model", "settings"), [("MoRec", {}), ("RecFormer", {**RECFORMER, "tune.epochs": 1})]
)
def test_models_of_text_rank_all_items(run, small_encoder, model, settings):
    result = run(model, {**settings, "text_encoder": str(small_encoder("bert"))}, protocol="unified_rank")
    assert {"HIT@10", "NDCG@10", "MRR@20"} <= result.metrics.keys()
    assert 0 < result.record.extra["Coverage@10"] <= 1
