"""Memory on paper against what autograd keeps and what transformers counts."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from llmbole.llm.memory import (
    LLAMA_7B,
    OPT_6_7B,
    Shape,
    layer_activations,
    projection_parameters,
    training_memory,
)


def test_parameters_of_published_models() -> None:
    assert LLAMA_7B.parameters == 6_738_415_616
    assert OPT_6_7B.parameters == 6_658_473_984


def small(gated: bool, layers: int) -> tuple[PreTrainedModel, Shape]:
    shape = Shape(64, layers, 4, 4, 160, 100, gated=gated, tied=True, positions=0 if gated else 130)
    common = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4,
              "max_position_embeddings": 128, "tie_word_embeddings": True}  # fmt: skip
    if gated:
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**common, intermediate_size=160))
    else:
        model = OPTForCausalLM(OPTConfig(**common, ffn_dim=160, word_embed_proj_dim=64))
    return model.eval().requires_grad_(False), shape


@pytest.mark.parametrize("gated", [True, False])
def test_parameters_of_small_models(gated: bool) -> None:
    model, shape = small(gated, 3)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def kept_bytes(model: PreTrainedModel, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of distinct tensors, weights aside, that autograd saves in a forward pass."""
    model = model.to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    embeddings = torch.randn(1, tokens, 64, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("gated", [True, False])
def test_activations_are_those_autograd_keeps(gated: bool, dtype: torch.dtype, width: int) -> None:
    tokens = 96
    measured = [kept_bytes(small(gated, layers)[0], tokens, dtype) for layers in (2, 5)]
    per_token = (measured[1] - measured[0]) / 3 / tokens
    assert layer_activations(small(gated, 2)[1], width) == pytest.approx(per_token, rel=0.05)


def test_parts_and_what_moves_them() -> None:
    usual = {"batch": 4, "length": 700, "answer_tokens": 16, "trainable_parameters": 1000}
    plain = training_memory(LLAMA_7B, **usual)
    assert plain.total == plain.weights + plain.activations + plain.logits + plain.trainable
    assert plain.weights == 2 * LLAMA_7B.parameters
    assert plain.trainable == 16_000  # no gradient and no optimizer state for the model itself
    assert plain.logits == 4 * 16 * 32000 * 10
    thrifty = training_memory(LLAMA_7B, **usual, checkpointing=True)
    assert thrifty.activations < plain.activations / 8
    assert training_memory(LLAMA_7B, **{**usual, "batch": 8}).activations == 2 * plain.activations
    assert training_memory(LLAMA_7B, **usual, weight_width=0.5).weights == plain.weights // 4


def test_projections() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(50, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 16))
    assert projection_parameters((50,), 16) == sum(parameter.numel() for parameter in layers.parameters())
