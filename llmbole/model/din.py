"""DIN for labels: with the user's own embeddings, and an attention that computes each item's share once.

Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018. The attention's first layer reads
target q and history item k as [q, k, q - k, q * k]. Of its product with a weight [A, B, C, D] the part (A + C) q is of
a row and (B - C) k of an item, whatever the row; only D (q * k) is of the pair. RecBole computes all of it at each
place of each history, padding included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmbole import compat
from llmbole.config import Config

compat.apply()

from recbole.model.layers import MLPLayers  # noqa: E402 - the patches come first
from recbole.model.sequential_recommender import DIN  # noqa: E402


class ProfileDIN(DIN):
    """DIN whose MLP also sees the user's own embeddings, as in its paper (figure 2).

    RecBole's leaves them out, so that they are never learned.

    Args:
        config: Settings.
        dataset: The training part.
    """

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        profile = self.embedding_layer.num_feature_field["user"] * self.embedding_size
        widths = [self.dnn_list[0] + profile, *self.mlp_hidden_size]
        self.dnn_mlp_layers = MLPLayers(widths, activation="Dice", dropout=self.dropout_prob, bn=True)
        self.dnn_mlp_layers.apply(self._init_weights)

    def forward(self, user: Tensor, item_seq: Tensor, item_seq_len: Tensor, next_items: Tensor) -> Tensor:
        """Logits of rows. Shape `[B]`."""
        target, pooled, profile = din_parts(self, user, item_seq, item_seq_len, next_items)
        hidden = self.dnn_mlp_layers(torch.cat([pooled, target, pooled * target, profile], dim=1))
        logits: Tensor = self.dnn_predict_layers(hidden).squeeze(1)
        return logits


def din_parts(
    model: Any,  # noqa: ANN401 - a DIN
    user: Tensor,
    item_seq: Tensor,
    item_seq_len: Tensor,
    next_items: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What DIN's MLP is given: target item, history pooled with attention to it, and user.

    Args:
        model: RecBole's DIN, or `ProfileDIN`.
        user: Shape `[B]`.
        item_seq: Histories, padded at the right. Shape `[B, L]`.
        item_seq_len: Their lengths. Shape `[B]`.
        next_items: Targets. Shape `[B]`.

    Returns:
        Target `[B, F*E]`, pooled history `[B, F*E]`, user `[B, G*E]`, for F item and G user features, ids included.
    """
    shown = torch.cat([item_seq, next_items[:, None]], dim=1)  # [B, L + 1]
    distinct, places = shown.unique(return_inverse=True)  # [U], [B, L + 1]
    sparse, dense = model.embedding_layer(user, distinct[None])

    def flat(kind: str) -> Tensor:
        fields = [part[kind] for part in (sparse, dense) if part[kind] is not None]
        return torch.cat(fields, dim=-2).flatten(start_dim=-2)

    items = flat("item").squeeze(0)  # [U, F * E]
    target = functional.embedding(places[:, -1], items)
    return target, pooled_history(model.attention, target, items, places[:, :-1], item_seq_len), flat("user")


def pooled_history(attention: Any, target: Tensor, items: Tensor, history: Tensor, lengths: Tensor) -> Tensor:  # noqa: ANN401
    """Histories pooled with attention to their targets: RecBole's `SequenceAttLayer` without a softmax, as DIN has it.

    Args:
        attention: The layer; its weights are used as they are.
        target: Vectors of targets. Shape `[B, D]`.
        items: Vectors of the items that occur. Shape `[U, D]`.
        history: Places in `items`. Shape `[B, L]`.
        lengths: How many of them, from the left, are the history. Shape `[B]`.

    Returns:
        Shape `[B, D]`; zeros where the history is empty.
    """
    _, first, *others = (
        attention.att_mlp_layers.mlp_layers
    )  # a dropout of zero stands before each linear layer
    of_target, of_item, of_difference, of_product = first.weight.chunk(4, dim=1)  # [H, D] each
    places = torch.arange(history.shape[1], device=history.device)
    rows, columns = (places < lengths[:, None]).nonzero(as_tuple=True)  # [P], of all rows' history items
    shown = history[rows, columns]  # [P]
    vectors = functional.embedding(shown, items)  # [P, D]
    by_row = functional.linear(target, of_target + of_difference, first.bias)  # [B, H]
    by_item = functional.linear(items, of_item - of_difference)  # [U, H]
    hidden = functional.linear(functional.embedding(rows, target) * vectors, of_product)  # [P, H]
    hidden = hidden + functional.embedding(rows, by_row) + functional.embedding(shown, by_item)
    for layer in others:
        hidden = layer(hidden)
    weights = attention.dense(hidden) / items.shape[1] ** 0.5  # [P, 1]
    return torch.zeros_like(target).index_add(0, rows, weights * vectors)
