"""Initial weights from which a small transformer finds in-context copying quickly.

In the spirit of mimetic initialization (Trockman and Kolter, "Mimetic Initialization of Self-Attention
Layers", 2023), attention begins near what trained models come to: values are copied (the output projection is
the transpose of the value projection) and equal tokens attend to each other (queries equal keys). Beyond it,
two heads of the first layer begin as the previous-token heads, and half of the second layer's as the matching
heads, of an induction circuit (Olsson et al., "In-context Learning and Induction Heads", 2022). Everything is
trained further.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import init
from transformers import LlamaForCausalLM

EMBEDDING_DEVIATION = 0.5
FINAL_NORM = 0.15
"""Tied embeddings of this deviation would else give logits in the tens."""
MATCH, BACK = 0.6, 6.0


def embeddings(model: LlamaForCausalLM) -> Tensor:
    """The model's table of token embeddings, [V, H]."""
    return cast(Tensor, model.get_input_embeddings().weight)


def orthogonal(rows: int, columns: int) -> Tensor:
    return init.orthogonal_(torch.empty(rows, columns))


@torch.no_grad()
def initialize(model: LlamaForCausalLM) -> None:
    """Sets the embeddings and attention weights of a new model, in place; its attention needs biases."""
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    size = width // heads
    embeddings(model).normal_(0, EMBEDDING_DEVIATION)
    model.model.norm.weight.fill_(FINAL_NORM)
    for layer in model.model.layers:
        attention = layer.self_attn
        values, queries = orthogonal(width, width), orthogonal(width, width)
        attention.v_proj.weight.copy_(values)
        attention.o_proj.weight.copy_(values.T)
        attention.q_proj.weight.copy_(MATCH * queries)
        attention.k_proj.weight.copy_(MATCH * queries)
    first, second = (model.model.layers[place].self_attn for place in (0, 1))
    for head, distance in ((0, 1), (1, 2)):
        own = slice(head * size, (head + 1) * size)
        seen, written = orthogonal(size, width), orthogonal(size, width)
        first.q_proj.weight[own].mul_(0.1)
        first.k_proj.weight[own].mul_(0.1)
        first.k_proj.bias[own], first.q_proj.bias[own] = looking_back(model, size, distance)
        first.v_proj.weight[own] = seen
        first.o_proj.weight[:, own] = 2 * written.T
        if distance > 1:
            continue
        for user in range(0, heads, 2):  # induction: where was the present token the previous one?
            its = slice(user * size, (user + 1) * size)
            second.q_proj.weight[its] = 2 * MATCH * seen
            second.k_proj.weight[its] = 2 * MATCH * written


def looking_back(model: LlamaForCausalLM, size: int, distance: int) -> tuple[Tensor, Tensor]:
    """Biases of keys and queries whose rotated product is greatest at a distance, [size] each."""
    rotation = cast(Tensor, model.model.rotary_emb.inv_freq)[: size // 2].float()  # [size / 2]
    amplitude = BACK * (rotation > 0.02).float()
    keys = torch.cat((amplitude, torch.zeros_like(amplitude)))
    angle = -distance * rotation
    queries = torch.cat((amplitude * angle.cos(), amplitude * angle.sin()))
    return keys, queries
