"""LoRA on four architectures: what it trains, what it leaves, and that saved updates are the ones that come back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel

from llmbole.llm import tune, yes_no
from llmbole.llm.backbone import load, save
from llmbole.llm.identity import LLMSpec
from llmbole.llm.lora import WEIGHTS, Adapter, LoraSettings, merge, targets
from llmbole.llm.prompt import Template
from llmbole.llm.yes_no import AnswerIds

SETTINGS = LoraSettings(r=2, alpha=4, dropout=0.2)
IDS = AnswerIds(yes=40, no=41)
RATES = {"warmup_rate": 0.0, "warmup_steps": 2, "least_rate": 1e-3, "weight_decay": 0.1}
STEPS = tune.TuneSettings(
    learning_rate=1e-2, **RATES, batch_size=3, accumulation=2, steps=6, check_every=3, patience=5
)


def prompts_of(lm, titles):
    rows = [{"title": title} for title in titles]
    return Template("{bos}Does this user like {title}? Answer:").encode_many(lm.tokens, rows)


def scores_of(lm, titles):
    return yes_no.score(lm, prompts_of(lm, titles), IDS)


def base(lm):
    """Copies of the model's own weights under the names they have without LoRA."""
    return {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in lm.model.state_dict().items()
        if "lora_" not in name
    }


def train(lm, adapter, titles, workspace, settings=STEPS):
    prompts = prompts_of(lm, titles)
    labels = (torch.arange(len(prompts)) % 2).float()

    def loss(rows):
        embeddings, mask = yes_no.embed(lm, [prompts[row] for row in rows.tolist()], {})
        logits = yes_no.answer_logits(yes_no.yes_no_logits(lm, embeddings, mask, IDS), "difference")
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[rows]), int(mask.sum())

    return tune.tune(adapter, loss, len(prompts), settings, seed=1, workspace=workspace)


def test_training_changes_scores_and_leaves_the_model_bit_for_bit(lm, titles, tmp_path):
    torch.manual_seed(0)
    untouched, before = base(lm), scores_of(lm, titles)
    adapter = Adapter(lm, SETTINGS)
    assert torch.equal(scores_of(lm, titles), before)  # an untrained update is none
    tuned = train(lm, adapter, titles, tmp_path)
    assert (tuned.step, tuned.tokens > 0) == (6, True)
    assert not torch.allclose(scores_of(lm, titles), before, atol=1e-3)
    after = base(lm)
    assert after.keys() == untouched.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in untouched.items())
    trained = {id(parameter) for parameter in adapter.parameters()}
    for name, parameter in lm.model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained) == ("lora_" in name), name


def test_only_the_updates_see_dropout(lm):
    adapter = Adapter(lm, SETTINGS).train()
    assert not lm.model.training
    training = {name for name, module in lm.model.named_modules() if module.training}
    assert training and all("lora_" in name for name in training)
    adapter.eval()
    assert not any(module.training for module in lm.model.modules())


def test_saved_updates_come_back_with_the_same_scores(lm, folders, titles, tmp_path):
    adapter = Adapter(lm, SETTINGS)
    train(lm, adapter, titles, tmp_path)
    expected = scores_of(lm, titles)
    adapter.save(tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size > 1000
    architecture = lm.model.config.model_type
    fresh = load(LLMSpec(name=str(folders[architecture]))).freeze()
    again = Adapter(fresh, SETTINGS)
    assert not torch.allclose(scores_of(fresh, titles), expected, atol=1e-3)
    again.load(tmp_path)
    assert torch.equal(scores_of(fresh, titles), expected)
    assert "base_model_name_or_path" in json.loads((tmp_path / "adapter_config.json").read_text())


def test_peft_itself_reads_the_files(lm, folders, titles, tmp_path):
    adapter = Adapter(lm, SETTINGS)
    train(lm, adapter, titles, tmp_path)
    adapter.save(tmp_path)
    expected = scores_of(lm, titles)
    fresh = load(LLMSpec(name=str(folders[lm.model.config.model_type])))
    fresh.model = PeftModel.from_pretrained(fresh.model, str(tmp_path)).base_model.model
    torch.testing.assert_close(scores_of(fresh, titles), expected)


def test_an_adapter_that_lacks_a_tensor_is_refused(folders, tmp_path):
    adapter = Adapter(load(LLMSpec(name=str(folders["llama"]))).freeze(), SETTINGS)
    adapter.save(tmp_path)
    wider = Adapter(load(LLMSpec(name=str(folders["llama"]))).freeze(), LoraSettings(2, 4, 0.0, ("q_proj",)))
    with pytest.raises(ValueError, match=r"8 tensors and the adapter has 4; 4 differ.*v_proj"):
        wider.load(tmp_path)
    shutil.copy(folders["llama"] / "model.safetensors", tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="another model"):
        adapter.load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("opt", ["q_proj", "v_proj"]), ("qwen2", ["q_proj", "v_proj"]), ("gpt2", ["c_attn"])],
)
def test_targets_are_found_by_architecture(folders, architecture, expected):
    lm = load(LLMSpec(name=str(folders[architecture])))
    assert targets(lm, None) == expected
    with pytest.raises(
        ValueError, match=r"no linear layers named \['queries'\]; set lora.targets to some of"
    ):
        targets(lm, ("queries",))
    assert targets(load(LLMSpec()), ("o_proj",)) == ["o_proj"]


def test_a_model_takes_one_adapter(folders):
    lm = load(LLMSpec(name=str(folders["opt"]))).freeze()
    Adapter(lm, SETTINGS)
    with pytest.raises(ValueError, match="already"):
        Adapter(lm, SETTINGS)


def test_sizes_that_no_update_can_have_are_refused_together():
    with pytest.raises(ValueError, match=r"(?s)r = 0.*alpha = -1.*dropout = 1.0"):
        LoraSettings(r=0, alpha=-1, dropout=1.0)


def test_merged_updates_answer_the_same_as_a_plain_model(lm, titles, tmp_path):
    adapter = Adapter(lm, SETTINGS)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    before = scores_of(lm, titles)
    merge(lm)
    save(lm, tmp_path / "merged")
    again = load(LLMSpec(name=str(tmp_path / "merged")))
    torch.testing.assert_close(scores_of(again, titles), before, rtol=1e-4, atol=1e-4)
    assert again.parameters_total == sum(parameter.numel() for parameter in lm.model.parameters())
    assert not [name for name in again.model.state_dict() if "lora" in name]
