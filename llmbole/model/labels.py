"""Conventional models under protocols of labels: what RecBole trains to rank learns labels, or ratings, here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from llmbole import compat
from llmbole.config import Config
from llmbole.model.din import ProfileDIN
from llmbole.model.last_position import fuse_gelu, last_output
from llmbole.settings import SettingsError, close_name

compat.apply()

from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first
from recbole.model.general_recommender import BPR, LightGCN  # noqa: E402
from recbole.model.sequential_recommender import DIN, SASRec  # noqa: E402


def for_labels(model_class: type, task: str) -> type:
    """The form of a model that learns the labels of a protocol.

    Args:
        model_class: A RecBole model that `registry.learns_labels`.
        task: `pairs` or `rating`.

    Returns:
        The class itself, if RecBole's way of learning labels is the protocol's, else a subclass of it.
    """
    if model_class.__name__ in FORMS:
        return label_model(model_class, task)
    learner = ProfileDIN if model_class is DIN else model_class
    return rating_model(learner) if task == "rating" else learner


@cache
def label_model(model_class: type, task: str = "pairs") -> type:
    """A model that predicts labels, from one whose scores are inner products of user and item vectors.

    For pairs the product is a logit: the loss is binary cross-entropy and `predict` gives its sigmoid (Zhang et al.,
    CoLLM, trains MF, LightGCN and SASRec so). For ratings the product is relative to the mean rating of training,
    which is not learned, the loss is the squared error, and there is no sigmoid.

    Args:
        model_class: BPR, LightGCN or SASRec of RecBole.
        task: `pairs` or `rating`.

    Returns:
        A subclass of it.

    Raises:
        SettingsError: The model has no such form.
    """
    if model_class.__name__ not in FORMS:
        raise SettingsError(
            f"{model_class.__name__} learns to rank and has no form that predicts labels; "
            f"{close_name(model_class.__name__, FORMS)}"
        )
    base: Any = FORMS[model_class.__name__]

    class LabelModel(base):
        def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
            super().__init__(config, dataset)
            self.label_field = config["LABEL_FIELD"]
            self.label_loss = nn.MSELoss() if task == "rating" else nn.BCEWithLogitsLoss()
            if task == "rating":
                self.register_buffer("mean_rating", dataset.inter_feat[self.label_field].mean())

        def calculate_loss(self, interaction: Interaction) -> Tensor:
            penalty = self.penalty(interaction) if hasattr(self, "penalty") else 0.0
            loss: Tensor = self.label_loss(self._outputs(interaction), interaction[self.label_field])
            return loss + penalty

        def predict(self, interaction: Interaction) -> Tensor:
            outputs = self._outputs(interaction)
            return outputs if task == "rating" else outputs.sigmoid()

        def _outputs(self, interaction: Interaction) -> Tensor:
            products: Tensor = super().predict(interaction)  # [B]
            return products + self.mean_rating if task == "rating" else products

    LabelModel.__name__ = model_class.__name__
    return LabelModel


@cache
def rating_model(model_class: type) -> type:
    """A model that predicts ratings, from one that predicts labels: squared error on its output, without a sigmoid.

    The output is relative to the mean rating of training, which is not learned.

    Args:
        model_class: A RecBole model that predicts labels.

    Returns:
        A subclass of it.

    Raises:
        SettingsError: The model does not keep its loss and its sigmoid where RecBole's context-aware models do.
    """

    base: Any = model_class

    class RatingModel(base):
        def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
            super().__init__(config, dataset)
            if not isinstance(getattr(self, "loss", None), nn.Module) or not hasattr(self, "sigmoid"):
                raise SettingsError(
                    f"{model_class.__name__} can't be made to predict ratings; choose DeepFM, NFM, xDeepFM, ..."
                )
            self.loss, self.sigmoid = nn.MSELoss(), nn.Identity()
            self.register_buffer("mean_rating", dataset.inter_feat[dataset.label_field].mean())

        def forward(self, *rows: Any) -> Tensor:  # noqa: ANN401 - the model's own arguments
            output: Tensor = super().forward(*rows)
            return output + self.mean_rating

    RatingModel.__name__ = model_class.__name__
    return RatingModel


class LikesLightGCN(LightGCN):
    """LightGCN whose graph has an edge for each training row that is liked; for ratings, for each row.

    Rows with label 0 are no edges: a dislike, or a random item, would make user and item neighbours.

    Args:
        config: Settings.
        dataset: The training part.
    """

    restore_user_e: Tensor | None
    restore_item_e: Tensor | None

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        liked = dataset.inter_feat[dataset.inter_feat[config["LABEL_FIELD"]] > 0]
        super().__init__(config, dataset.copy(liked))

    def predict(self, interaction: Interaction) -> Tensor:
        """Inner products of propagated user and item vectors, which evaluation makes once. Shape `[B]`."""
        users, items = self.forward() if self.training else self._kept()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=1)

    def penalty(self, interaction: Interaction) -> Tensor:
        """RecBole's L2 penalty, on the vectors before propagation; what evaluation kept is dropped."""
        self.restore_user_e = self.restore_item_e = None
        users = self.user_embedding(interaction[self.USER_ID])
        items = self.item_embedding(interaction[self.ITEM_ID])
        penalty: Tensor = self.reg_loss(users, items, require_pow=self.require_pow)
        return self.reg_weight * penalty.squeeze()

    def _kept(self) -> tuple[Tensor, Tensor]:
        if self.restore_user_e is None or self.restore_item_e is None:
            users, items = self.forward()
            self.restore_user_e, self.restore_item_e = users, items
            return users, items
        return self.restore_user_e, self.restore_item_e


class EmptySASRec(SASRec):
    """SASRec that also takes empty histories: their output is that of a padding item at the first position.

    Each labelled row has a history of its own, of which only the last output is used: the rest of the last layer is
    not computed.

    Args:
        config: Settings.
        dataset: The training part.
    """

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        fuse_gelu(self.trm_encoder)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The output at the last item of each history, `[B, L]` to `[B, D]`."""
        positions = torch.arange(item_seq.shape[1], device=item_seq.device)  # [L]
        embedded = self.item_embedding(item_seq) + self.position_embedding(positions)
        hidden = self.dropout(self.LayerNorm(embedded))
        places = item_seq_len.clamp(min=1) - 1
        return last_output(self.trm_encoder, hidden, self.get_attention_mask(item_seq), places)

    def get_attention_mask(self, item_seq: Tensor, bidirectional: bool = False) -> Tensor:
        """RecBole's mask, where the first position always sees itself, so that no width of padding matters."""
        first = torch.arange(item_seq.shape[1], device=item_seq.device) == 0  # [L]
        mask: Tensor = super().get_attention_mask(item_seq + first * (item_seq == 0), bidirectional)
        return mask


FORMS: Mapping[str, type] = {"BPR": BPR, "LightGCN": LikesLightGCN, "SASRec": EmptySASRec}
"""RecBole's models whose scores are inner products, as `label_model` starts from them."""
