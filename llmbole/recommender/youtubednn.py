"""Covington, Adams and Sargin, Deep Neural Networks for YouTube Recommendations, RecSys 2016: candidate generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmbole import compat

compat.apply()

from llmbole.trainer.sampled_softmax import sampled_cross_entropy  # noqa: E402 - the patches come first
from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first
from recbole.model.abstract_recommender import SequentialRecommender  # noqa: E402
from recbole.model.layers import MLPLayers  # noqa: E402

if TYPE_CHECKING:
    from llmbole.config import Config


class YoutubeDNN(SequentialRecommender):
    """The mean of the history's embeddings, and the user's own, through an MLP: a classifier over all items.

    P(i | u) = exp(v_i u) / sum_j exp(v_j u) (section 3.1), where u is the MLP's output and v_i are vectors of their
    own, not the embeddings that the MLP reads (section 3.2). With `sampled_negatives` the sum is over the target and
    that many uniformly drawn items, shared by a batch.

    The paper also reads searches, geography and the example's age, which the data sets here do not have.

    Args:
        config: Settings, with `embedding_size`, `mlp_hidden_size`, `dropout_prob`, `user_embedding` and
            `sampled_negatives` (0: the sum is over all items).
        dataset: A RecBole dataset.
    """

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        width = config["embedding_size"]
        self.sampled_negatives: int = config["sampled_negatives"]
        self.item_embedding = nn.Embedding(self.n_items, width, padding_idx=0)
        self.user_embedding = (
            nn.Embedding(dataset.num(self.USER_ID), width) if config["user_embedding"] else None
        )
        inputs = width if self.user_embedding is None else 2 * width
        self.mlp = MLPLayers([inputs, *config["mlp_hidden_size"], width], dropout=config["dropout_prob"])
        self.output_embedding = nn.Embedding(self.n_items, width)
        self.apply(_initialize)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """User vectors.

        Args:
            item_seq: Histories, padded with 0. Shape `[B, L]`.
            item_seq_len: Their lengths. Shape `[B]`.
            user: Users, for models with `user_embedding`. Shape `[B]`.

        Returns:
            Shape `[B, D]`.
        """
        total = self.item_embedding(item_seq).sum(dim=1)  # [B, D]; padding is 0
        inputs = total / item_seq_len.clamp(min=1)[:, None]
        if self.user_embedding is not None:
            inputs = torch.cat([inputs, self.user_embedding(user)], dim=1)
        vectors: Tensor = self.mlp(inputs)
        return vectors

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """User vectors of rows. Shape `[B, D]`."""
        rows = (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.USER_ID)
        return self.forward(*(interaction[field] for field in rows if field in interaction))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Cross-entropy of the next item, among all items or drawn ones."""
        vectors, targets = self.user_vectors(interaction), interaction[self.POS_ITEM_ID]
        if not self.sampled_negatives:
            return nn.functional.cross_entropy(vectors @ self.output_embedding.weight.T, targets)
        return sampled_cross_entropy(vectors, targets, self.output_embedding.weight, self.sampled_negatives)

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of rows. Shape `[B]`."""
        return (self.user_vectors(interaction) * self.output_embedding(interaction[self.ITEM_ID])).sum(dim=1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items. Shape `[B, n_items]`."""
        return self.user_vectors(interaction) @ self.output_embedding.weight.T


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
