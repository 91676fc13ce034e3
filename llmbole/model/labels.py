"""Conventional models that predict labels of user-item pairs, made to predict ratings."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from llmbole.config import Config
from llmbole.settings import SettingsError


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
