"""One more feature for conventional models: vectors that a method computes, read beside the fields or the history.

A model is not copied. Context-aware models of RecBole embed their fields in one place and size their layers by one
number, so a class between the model and RecBole's base class adds fields to both; DIN's MLP is made wider. Models that
retrieve compare a user's vector, which is what their `forward` gives, with those of items: a class in front adds
the feature to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmbole.config import Config
from llmbole.model.din import ProfileDIN
from llmbole.settings import SettingsError, close_name
from llmbole.trainer import sampled_softmax
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import ContextRecommender, SequentialRecommender
from recbole.model.layers import MLPLayers

if TYPE_CHECKING:
    from llmbole.model.session import Session

EXTRA = "extra_feature"
CONTEXT = ("AutoInt", "DCN", "DCNV2", "DeepFM", "FM", "FNN", "NFM", "PNN", "WideDeep", "xDeepFM")
"""Context-aware models that read all their fields through `concat_embed_input_fields`."""
LEARNERS = (*CONTEXT, "DIN")
RETRIEVERS = ("GRU4Rec", "SASRec", "SRGNN", "YoutubeDNN")
"""Models whose `forward` gives the vectors of users that items' are compared with."""


def check_backbone(name: str, task: str) -> None:
    """Refuse a model that has no place for an extra feature.

    Args:
        name: Of a conventional model.
        task: The protocol's task.

    Raises:
        SettingsError: It is none of `LEARNERS`, or for a ranking of `RETRIEVERS`.
    """
    known, where = (RETRIEVERS, " in a ranking") if task == "ranking" else (LEARNERS, "")
    if name not in known:
        raise SettingsError(
            f"backbone {name} has no place for an extra feature{where}; {close_name(name, known)} "
            f"(one of {', '.join(known)})"
        )


def make(session: Session, width: int, fields: int = 1, weight: float = 1.0) -> Any:  # noqa: ANN401 - a RecBole model
    """An untrained model that reads `interaction["extra_feature"]`, of shape `[B, fields, width]`, as further fields.

    A context-aware model reads each vector as one more embedded field, mapped to the width of its embeddings where
    that is another. DIN's MLP reads them as they are, behind its own input. In a ranking they are mapped to the width
    of a user's vector, where that is another, and added to it.

    Args:
        session: The model's settings and data.
        width: Width of a vector.
        fields: How many vectors a row has.
        weight: Of what is added to a user's vector.

    Returns:
        The model, on the session's device.
    """
    config = session.config
    check_backbone(config["model"], session.protocol.task)
    model_class: Any = config.model_class
    own: dict[str, Any] = {"extra_width": width, "extra_fields": fields, "extra_weight": weight}
    bases: tuple[type, ...]
    if session.protocol.task == "ranking":
        bases = (UserFeature, model_class)
    else:
        bases = (FeatureDIN,) if config["model"] == "DIN" else (model_class, ExtraFields, ContextRecommender)
    extended = type(model_class.__name__, bases, own)
    return extended(config, session.parts[0]).to(config["device"])


class ExtraFields(ContextRecommender):
    """Between a context-aware model and RecBole's base class: more fields than the data set has.

    Args:
        config: Settings.
        dataset: The training part.
    """

    extra_width: int
    extra_fields: int

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        self.num_feature_field += self.extra_fields  # the model's own layers are made after this
        same = self.extra_width == self.embedding_size
        self.extra_mapping: nn.Module = (
            nn.Identity() if same else nn.Linear(self.extra_width, self.embedding_size)
        )

    def concat_embed_input_fields(self, interaction: Interaction) -> Tensor:
        """Embedded fields, the extra ones last. Shape `[B, F + fields, E]`."""
        fields = super().concat_embed_input_fields(interaction)  # [B, F, E]
        extra = _extra(interaction, (self.extra_fields, self.extra_width))
        return torch.cat([fields, self.extra_mapping(extra)], dim=1)


class FeatureDIN(ProfileDIN):
    """DIN whose MLP also reads the extra vectors.

    Args:
        config: Settings.
        dataset: The training part.
    """

    extra_width: int
    extra_fields: int
    _taken: Tensor

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        widths: list[int] = list(self.dnn_mlp_layers.layers)
        widths[0] += self.extra_fields * self.extra_width
        self.dnn_mlp_layers = MLPLayers(widths, activation="Dice", dropout=self.dropout_prob, bn=True)
        self.dnn_mlp_layers.apply(self._init_weights)
        self.dnn_mlp_layers.register_forward_pre_hook(self._append)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """DIN's own loss; a scalar."""
        self._taken = _extra(interaction, (self.extra_fields, self.extra_width))
        loss: Tensor = super().calculate_loss(interaction)
        return loss

    def predict(self, interaction: Interaction) -> Tensor:
        """Probabilities of rows. Shape `[B]`."""
        self._taken = _extra(interaction, (self.extra_fields, self.extra_width))
        found: Tensor = super().predict(interaction)
        return found

    def _append(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return torch.cat([inputs[0], self._taken.flatten(1)], dim=1)


class UserFeature(SequentialRecommender):
    """In front of a model that retrieves: its users' vectors with the extra ones added.

    Args:
        config: Settings; with `sampled_negatives` it learns among drawn items, as the model does by itself.
        dataset: The training part.
    """

    extra_width: int
    extra_fields: int
    extra_weight: float
    _taken: Tensor

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        given, width = self.extra_fields * self.extra_width, self.item_embedding.embedding_dim
        self.extra_mapping: nn.Module = nn.Identity() if given == width else nn.Linear(given, width)
        self._sampled_loss = sampled_softmax.loss_function(config, self)

    def forward(self, *arguments: Tensor) -> Tensor:
        """Vectors of users, the extra ones added. Shape `[B, D]`."""
        vectors: Tensor = super().forward(*arguments)
        return vectors + self.extra_weight * self.extra_mapping(self._taken.flatten(1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The model's own loss, or that among drawn items; a scalar."""
        self._take(interaction)
        loss: Tensor = (self._sampled_loss or super().calculate_loss)(interaction)
        return loss

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of rows. Shape `[B]`."""
        self._take(interaction)
        scores: Tensor = super().predict(interaction)
        return scores

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items. Shape `[B, n_items]`."""
        self._take(interaction)
        scores: Tensor = super().full_sort_predict(interaction)
        return scores

    def _take(self, interaction: Interaction) -> None:
        self._taken = _extra(interaction, (self.extra_fields, self.extra_width))


def _extra(interaction: Interaction, shape: tuple[int, int]) -> Tensor:
    """The extra vectors of rows. Shape `[B, fields, width]`."""
    columns: Mapping[str, Tensor] = interaction.interaction
    if EXTRA not in columns or columns[EXTRA].shape[1:] != shape:
        found = tuple(columns[EXTRA].shape) if EXTRA in columns else "nothing"
        raise ValueError(
            f"a batch must hold {EXTRA!r} of shape [B, {shape[0]}, {shape[1]}], and it holds {found}"
        )
    return columns[EXTRA]
