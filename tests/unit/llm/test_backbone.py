"""Loading language models, adding tokens, staying frozen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, GraniteConfig, GraniteForCausalLM

from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.score import answer_loss


def output_weight(lm: LanguageModel) -> torch.Tensor:
    return lm.model.get_output_embeddings().weight


def test_loads_every_architecture(lm: LanguageModel) -> None:
    assert lm.hidden_size == 32
    assert lm.max_length == 256
    assert lm.device == torch.device("cpu")
    assert lm.model.dtype == torch.float32
    assert lm.parameters_total == sum(p.numel() for p in lm.model.parameters())
    ids = torch.tensor([[3, 4, 5]])
    logits = lm.head(lm.hidden(lm.embed(ids), torch.ones_like(ids)))
    torch.testing.assert_close(logits, lm.model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_padding_does_not_change_hidden_states(lm: LanguageModel) -> None:
    ids = torch.tensor([[3, 4, 5]])
    expected = lm.hidden(lm.embed(ids), torch.ones_like(ids))
    padded = torch.tensor([[7, 9, 3, 4, 5, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]])
    torch.testing.assert_close(lm.hidden(lm.embed(padded), mask)[:, 2:5], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "pad"), [("llama", "</s>"), ("gpt2", "<|endoftext|>"), ("opt", "<pad>")]
)
def test_missing_pad_token_keeps_the_vocabulary(
    folders: dict[str, Path], architecture: str, pad: str
) -> None:
    lm = load(LLMSpec(name=str(folders[architecture])))
    assert lm.tokens.pad_id == lm.tokenizer.convert_tokens_to_ids(pad)
    assert lm.model.get_input_embeddings().weight.shape[0] == len(lm.tokenizer)


def test_tokenizer_without_any_usable_pad_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "bare"
    shutil.copytree(folders["gpt2"], path)
    config = path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("eos_token", "x_token").replace("bos_token", "y_token"))
    with pytest.raises(ValueError, match="names no pad, eos or unk token"):
        load(LLMSpec(name=str(path)))


@pytest.mark.parametrize(
    ("architecture", "tied"), [("opt", True), ("qwen2", True), ("gpt2", True), ("llama", False)]
)
def test_added_tokens(folders: dict[str, Path], architecture: str, tied: bool) -> None:
    spec = LLMSpec(name=str(folders[architecture]))
    plain, lm = load(spec), load(spec, extra_tokens=["[UserRep]", "[HistoryEmb]", "[UserRep]"])
    rows = plain.model.get_input_embeddings().weight.shape[0]
    weight = lm.model.get_input_embeddings().weight
    assert weight.shape[0] == output_weight(lm).shape[0] == len(lm.tokenizer) == rows + 2
    assert (
        (weight is output_weight(lm))
        == tied
        == (plain.model.get_input_embeddings().weight is output_weight(plain))
    )
    torch.testing.assert_close(weight[:rows], plain.model.get_input_embeddings().weight)
    torch.testing.assert_close(weight[rows], weight[:rows].mean(0))
    torch.testing.assert_close(output_weight(lm)[rows + 1], output_weight(lm)[:rows].mean(0))
    again = load(spec, extra_tokens=["[UserRep]", "[HistoryEmb]"])
    assert again.checksum() == lm.checksum()
    ids = torch.tensor([[3, 4]])
    new, old = (m.head(m.hidden(m.embed(ids), torch.ones_like(ids))) for m in (lm, plain))
    torch.testing.assert_close(new[..., :rows], old)
    assert lm.tokenizer.convert_tokens_to_ids("[HistoryEmb]") not in lm.tokens.ids("[HistoryEmb]")


def test_known_tokens_and_spare_rows_do_not_grow_the_vocabulary(build: Callable[..., Path]) -> None:
    path = build("llama", vocab_size=512)
    lm = load(LLMSpec(name=str(path)), extra_tokens=["</s>", "[UserRep]"])
    assert lm.model.get_input_embeddings().weight.shape[0] == 512
    assert len(lm.tokenizer) == 461


def test_freeze_survives_a_parent_that_trains(folders: dict[str, Path]) -> None:
    lm = load(LLMSpec(name=str(folders["opt"])))
    lm.freeze()
    parent = nn.ModuleDict({"llm": lm.model, "projection": nn.Linear(2, 2)})
    parent.train()
    assert parent.projection.training
    assert not any(module.training for module in lm.model.modules())
    assert [name for name, p in parent.named_parameters() if p.requires_grad] == [
        "projection.weight",
        "projection.bias",
    ]


def test_a_module_that_holds_a_language_model_does_not_own_its_weights(lm: LanguageModel) -> None:
    class Recommender(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm = lm
            self.projection = nn.Linear(2, 2)

    assert set(Recommender().state_dict()) == {"projection.weight", "projection.bias"}


def test_training_around_a_frozen_model_leaves_it_as_it_was(lm: LanguageModel) -> None:
    before = lm.checksum()
    vectors = nn.Parameter(torch.randn(2, 3, lm.hidden_size))
    optimizer = torch.optim.Adam([vectors])
    losses = []
    for _ in range(3):
        loss = answer_loss(lm, vectors, torch.ones(2, 3), [[5, 6], [7]]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert lm.checksum() == before
    assert all(p.grad is None for p in lm.model.parameters())
    with torch.no_grad():
        next(lm.model.parameters()).add_(1)
    assert lm.checksum() != before


@pytest.mark.parametrize("architecture", ["opt", "llama", "qwen2", "gpt2"])
def test_gradient_checkpointing_in_evaluation_mode(folders: dict[str, Path], architecture: str) -> None:
    """Same gradients, fewer kept activations, though the model is frozen."""
    gradients, kept = [], []
    for checkpointing in (False, True):
        lm = load(LLMSpec(name=str(folders[architecture]), gradient_checkpointing=checkpointing)).freeze()
        torch.manual_seed(0)
        vectors = torch.randn(2, 9, lm.hidden_size, requires_grad=True)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t
        ):
            loss = answer_loss(lm, vectors, torch.ones(2, 9), [[5, 6], [7]]).loss
        loss.backward()
        gradients.append(vectors.grad)
        kept.append(sum(sizes))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < kept[0] / 2


def test_precision(folders: dict[str, Path]) -> None:
    lm = load(LLMSpec(name=str(folders["llama"]), precision="bfloat16"))
    assert lm.model.dtype == torch.bfloat16
    assert lm.head(torch.zeros(1, 32, dtype=torch.bfloat16)).dtype == torch.float32
    loss = answer_loss(lm, torch.randn(1, 3, 32, dtype=torch.bfloat16), torch.ones(1, 3), [[4, 5]])
    assert torch.isfinite(loss.loss)
    assert len(lm.checksum()) == 64


def test_device_map(folders: dict[str, Path]) -> None:
    lm = load(LLMSpec(name=str(folders["llama"]), device_map="auto"))
    assert lm.embed(torch.tensor([1])).shape == (1, 32)


def test_four_bit_says_what_it_needs(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LLMSpec(name=str(folders["llama"]), quantization="4bit")
    with pytest.raises(ValueError, match="needs a CUDA GPU, and the device is cpu"):
        load(spec)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install llmbole\[quantization\]"):
        load(spec, "cuda")


@pytest.mark.parametrize(
    "change", [{"logits_scaling": 2.0}, {"embedding_multiplier": 3.0, "logits_scaling": 1.5}]
)
def test_an_architecture_that_changes_logits_is_refused(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, float]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        **change,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="outside its decoder and head"):
        load(LLMSpec(name=str(tmp_path)))


def test_loading_shows_no_progress_bar(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load(LLMSpec(name=str(folders["llama"])))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
