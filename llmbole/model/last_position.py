"""A transformer of RecBole, read at one position of each sequence: the last layer is computed there alone.

The output at a position needs the other positions of the last layer as keys and values only. Its query, its
feed-forward part and what is made of them are left out for all others; parameters and result are RecBole's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def fuse_gelu(encoder: nn.Module) -> None:
    """Let the layers of RecBole's `TransformerEncoder` compute GELU in one pass over memory instead of five."""
    layers: Any = encoder.layer
    for layer in layers:
        if layer.feed_forward.intermediate_act_fn.__name__ == "gelu":
            layer.feed_forward.intermediate_act_fn = functional.gelu


def last_output(encoder: nn.Module, hidden: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """The output of RecBole's `TransformerEncoder` at one position of each sequence.

    Args:
        encoder: The encoder.
        hidden: Its input. Shape `[B, L, D]`.
        mask: What is added to attention scores, of each query to each key. Shape `[B, 1, L, L]`.
        places: The position of each sequence. Shape `[B]`.

    Returns:
        Shape `[B, D]`.
    """
    layers: Any = encoder.layer
    for layer in layers[:-1]:
        hidden = layer(hidden, mask)
    rows = torch.arange(len(hidden), device=hidden.device)
    query = hidden[rows, places].unsqueeze(1)  # [B, 1, D]
    seen = mask[rows, :, places].unsqueeze(2)  # [B, 1, 1, L]
    output: Tensor = layers[-1].feed_forward(_attended(layers[-1].multi_head_attention, query, hidden, seen))
    return output.squeeze(1)


def _attended(attention: Any, query: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401 - RecBole's MultiHeadAttention
    """RecBole's `MultiHeadAttention` for queries `[B, 1, D]` that look at other positions `[B, L, D]` than theirs."""

    def heads(vectors: Tensor) -> Tensor:  # [B, positions, H * d] -> [B, H, positions, d]
        return vectors.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    products = heads(attention.query(query)) @ heads(attention.key(hidden)).mT  # [B, H, 1, L]
    weights = attention.softmax(products / attention.sqrt_attention_head_size + mask)
    pooled = attention.attn_dropout(weights) @ heads(attention.value(hidden))  # [B, H, 1, d]
    output = attention.out_dropout(attention.dense(pooled.transpose(1, 2).flatten(2)))
    result: Tensor = attention.LayerNorm(output + query)
    return result
