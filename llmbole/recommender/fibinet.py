"""Huang, Zhang and Zhang, FiBiNET: Combining Feature Importance and Bilinear Feature Interaction for Click-Through Rate
Prediction, RecSys 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmbole import compat
from llmbole.settings import SettingsError, close_name

compat.apply()

from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first
from recbole.model.abstract_recommender import ContextRecommender  # noqa: E402
from recbole.model.layers import MLPLayers  # noqa: E402

if TYPE_CHECKING:
    from llmbole.config import Config

TYPES = ("all", "each", "interaction")


class Senet(nn.Module):
    """Weights of fields by what all fields hold: the paper's SENET layer.

    Squeeze z_i = mean_t e_i^(t), excitation A = s(W_2 s(W_1 Z)), re-weight v_i = a_i e_i; s is ReLU.

    Args:
        fields: Number of fields F.
        ratio: Reduction ratio r; the hidden layer is max(1, F // r) wide.
    """

    def __init__(self, fields: int, ratio: int) -> None:
        super().__init__()
        hidden = max(1, fields // ratio)
        self.reduce = nn.Linear(fields, hidden, bias=False)
        self.expand = nn.Linear(hidden, fields, bias=False)

    def weights(self, embeddings: Tensor) -> Tensor:
        """The weight of each field, `[B, F, D]` to `[B, F]`."""
        squeezed = embeddings.mean(dim=2)  # [B, F]
        found: Tensor = self.expand(self.reduce(squeezed).relu()).relu()  # [B, F]
        return found

    def forward(self, embeddings: Tensor) -> Tensor:
        """Weighted embeddings, `[B, F, D]` to `[B, F, D]`."""
        return embeddings * self.weights(embeddings)[:, :, None]


class Bilinear(nn.Module):
    """Interactions of pairs of fields, p_ij = v_i W * v_j with the element-wise product *: its bilinear layer.

    Args:
        fields: Number of fields F.
        width: Width D of an embedding.
        kind: `all`: one W for all pairs; `each`: one for each first field of a pair; `interaction`: one for each pair.
    """

    def __init__(self, fields: int, width: int, kind: str) -> None:
        super().__init__()
        if kind not in TYPES:
            raise SettingsError(f"bilinear_type {kind!r} is unknown; {close_name(kind, TYPES)}")
        self.kind = kind
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1), persistent=False)  # [2, P]
        count = {"all": 1, "each": fields - 1, "interaction": fields * (fields - 1) // 2}[kind]
        self.weight = nn.Parameter(torch.empty(count, width, width))
        for matrix in self.weight:
            nn.init.xavier_normal_(matrix)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Interactions of all pairs i < j, `[B, F, D]` to `[B, P, D]`."""
        first, second = self.pairs  # type: ignore[misc]
        if self.kind == "interaction":
            left = torch.einsum("bpk,pkd->bpd", embeddings[:, first], self.weight)  # [B, P, D]
        else:
            left = torch.matmul(embeddings[:, :-1, None], self.weight).squeeze(2)[:, first]  # [B, P, D]
        return left * embeddings[:, second]


class FiBiNET(ContextRecommender):
    """SENET and bilinear interactions: which fields matter, and how two fields go together.

    p are the interactions of the embeddings, q those of the re-weighted ones, each with matrices of its own. An MLP
    reads [p, q], and its output is added to the first-order terms: y = sigma(w_0 + sum_i w_i x_i + y_d).

    Args:
        config: Settings, with `reduction_ratio`, `bilinear_type`, `mlp_hidden_size` and `dropout_prob`.
        dataset: A RecBole dataset.
    """

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        fields, kind = self.num_feature_field, config["bilinear_type"]
        self.senet = Senet(fields, config["reduction_ratio"])
        widths = [fields * (fields - 1) * self.embedding_size, *config["mlp_hidden_size"]]
        self.mlp = MLPLayers(widths, dropout=config["dropout_prob"])
        self.output = nn.Linear(widths[-1], 1)
        self.sigmoid = nn.Sigmoid()
        self.loss = nn.BCEWithLogitsLoss()
        self.apply(_initialize)
        self.bilinear = Bilinear(fields, self.embedding_size, kind)
        self.senet_bilinear = Bilinear(fields, self.embedding_size, kind)

    def forward(self, interaction: Interaction) -> Tensor:
        """Logits of rows. Shape `[B]`."""
        embeddings = self.concat_embed_input_fields(interaction)  # [B, F, D]
        p = self.bilinear(embeddings)  # [B, P, D]
        q = self.senet_bilinear(self.senet(embeddings))  # [B, P, D]
        deep = self.output(self.mlp(torch.cat([p, q], dim=1).flatten(start_dim=1)))  # [B, 1]
        logits: Tensor = (self.first_order_linear(interaction) + deep).squeeze(1)
        return logits

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Cross-entropy of labels."""
        loss: Tensor = self.loss(self.forward(interaction), interaction[self.LABEL])
        return loss

    def predict(self, interaction: Interaction) -> Tensor:
        """Probabilities of label 1. Shape `[B]`."""
        probability: Tensor = self.sigmoid(self.forward(interaction))
        return probability


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding | nn.Linear):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
