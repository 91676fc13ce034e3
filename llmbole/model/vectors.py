"""Where the user and item vectors of conventional recommenders are, for methods that hand them to an LLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmbole.model.din import ProfileDIN, din_parts
from llmbole.settings import SettingsError, close_name
from recbole.data.interaction import Interaction


@dataclass(frozen=True)
class Vectors:
    """Where a model's vectors are.

    Attributes:
        items: Model to item vectors, `[n_items, D]`.
        users: Model and rows to user vectors, `[B, D]`.
        user_width: Model to the width of user vectors, where it is not the items'.
        reads_items: Whether user vectors are made of the very item vectors, by the model's `item_embedding`.
    """

    items: Callable[[Any], Tensor]
    users: Callable[[Any, Interaction], Tensor]
    user_width: Callable[[Any], int] | None = None
    reads_items: bool = False


def _item_embedding(model: Any) -> Tensor:  # noqa: ANN401 - a RecBole model
    weight: Tensor = model.item_embedding.weight
    return weight


def _sequence_output(model: Any, rows: Interaction) -> Tensor:  # noqa: ANN401 - a RecBole model
    output: Tensor = model(rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN])
    return output


def _convolution_output(model: Any, rows: Interaction) -> Tensor:  # noqa: ANN401 - a RecBole model
    output: Tensor = model(rows[model.ITEM_SEQ])
    return output


def _masked_output(model: Any, rows: Interaction) -> Tensor:  # noqa: ANN401 - RecBole's BERT4Rec
    """BERT4Rec's output at the mask behind each history, as it scores items with it, and a 1 for the items' biases."""
    lengths = rows[model.ITEM_SEQ_LEN]
    items = model.reconstruct_test_data(rows[model.ITEM_SEQ], lengths)  # [B, L]
    output: Tensor = model.gather_indexes(model(items), lengths - 1)  # [B, D - 1]
    return torch.cat([output, output.new_ones(len(output), 1)], dim=1)


def _biased_items(model: Any) -> Tensor:  # noqa: ANN401 - RecBole's BERT4Rec
    weight = model.item_embedding.weight[: model.n_items]  # without that of the mask
    return torch.cat([weight, model.output_bias[:, None]], dim=1)


def _neumf_items(model: Any) -> Tensor:  # noqa: ANN401 - a RecBole model
    return torch.cat([model.item_mf_embedding.weight, model.item_mlp_embedding.weight], dim=1)


def _neumf_users(model: Any, rows: Interaction) -> Tensor:  # noqa: ANN401 - a RecBole model
    users = rows[model.USER_ID]
    return torch.cat([model.user_mf_embedding(users), model.user_mlp_embedding(users)], dim=1)


def _propagated(model: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - a RecBole model
    """User and item embeddings after propagation; RecBole's models keep them for evaluation, and so are they here."""
    if model.restore_user_e is None or model.restore_item_e is None:
        arguments = (model.train_graph,) if hasattr(model, "train_graph") else ()
        model.restore_user_e, model.restore_item_e = model(*arguments)
    return model.restore_user_e, model.restore_item_e


def _din_items(model: Any) -> Tensor:  # noqa: ANN401 - a RecBole model
    """Embeddings of all fields of each item side by side."""
    items = torch.arange(model.n_items, device=model.device)
    sparse, dense = model.embedding_layer(items[:1], items[None])
    fields = [part["item"] for part in (sparse, dense) if part["item"] is not None]
    return torch.cat(fields, dim=-2).flatten(start_dim=-2).squeeze(0)


def _din_users(model: Any, rows: Interaction) -> Tensor:  # noqa: ANN401 - a RecBole model
    """Target item, pooled history, and user where the model reads it."""
    fields = (model.USER_ID, model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.ITEM_ID)
    parts = din_parts(model, *(rows[field] for field in fields))
    return torch.cat(parts if isinstance(model, ProfileDIN) else parts[:2], dim=1)


def _din_user_width(model: Any) -> int:  # noqa: ANN401 - a RecBole model
    fields = model.embedding_layer.num_feature_field
    profile = fields["user"] if isinstance(model, ProfileDIN) else 0
    return int((2 * fields["item"] + profile) * model.embedding_size)


_SEQUENCE = Vectors(_item_embedding, _sequence_output, reads_items=True)
_GRAPH = Vectors(
    lambda model: _propagated(model)[1], lambda model, rows: _propagated(model)[0][rows[model.USER_ID]]
)

# NeuMF's vectors are those of its two parts side by side; NeuMF itself compares them by an MLP, not by a product.
# DIN's user vector depends on the row's item and is wider than an item's: target, history, user. CoLLM repeats the
# item's vector three times to make both equally wide, which is left to the caller.
VECTORS = {
    "BERT4Rec": Vectors(_biased_items, _masked_output),
    "BPR": Vectors(_item_embedding, lambda model, rows: model.user_embedding(rows[model.USER_ID])),
    "CL4SRec": Vectors(lambda model: model.item_vectors(), _sequence_output, reads_items=True),
    "DIN": Vectors(_din_items, _din_users, _din_user_width),
    "GRU4Rec": _SEQUENCE,
    "LightGCN": _GRAPH,
    "MixGCF": _GRAPH,
    "NeuMF": Vectors(_neumf_items, _neumf_users),
    "NextItNet": Vectors(_item_embedding, _convolution_output, reads_items=True),
    "SASRec": _SEQUENCE,
    "SGL": _GRAPH,
    "YoutubeDNN": Vectors(
        lambda model: model.output_embedding.weight, lambda model, rows: model.user_vectors(rows)
    ),
}


def vectors_of(name: str) -> Vectors:
    """Where the vectors of a model are.

    Args:
        name: The model's name.

    Returns:
        How to get them.

    Raises:
        SettingsError: They are not known; the message names models that can be backbones of an LLM.
    """
    if name not in VECTORS:
        raise SettingsError(
            f"{name} has no user and item vectors to give to an LLM; {close_name(name, VECTORS)}"
        )
    return VECTORS[name]
