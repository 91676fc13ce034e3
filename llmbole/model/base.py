"""What every method is: a RecBole recommender whose class body holds the stages that make it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

import llmbole.config  # noqa: F401 - RecBole is imported only after its patches
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import InputType, ModelType


class LLMRecommender(AbstractRecommender):
    """A recommender with a large language model in it.

    A subclass declares its pipeline as stages in its class body, and is a RecBole model: `calculate_loss` and
    `predict` take RecBole's `Interaction`, so it trains with RecBole's Trainer and is scored by RecBole's evaluator.

    Attributes:
        protocols: Names of the protocols it runs under.
        goals: The artifacts a run needs, the last one holding its scores, made by a phased stage. Numbers that another
            stage gives as `measured` join the record's `extra`.
        validates: The stage that tells the method's own validation scores while it trains, by the protocol's selection
            metric, so that a sweep can end a poor trial early; `None` if there is none.
        run_only: Dotted names of settings that change no result, such as the address of a server: they are in no
            artifact's key and no record, and stages read them from `run.resources`.
        ranks_all_items: Whether it scores all items at once, by a `full_sort_predict` of its own.
        settings_class: Its `check(settings)` refuses the method's own settings before any work; `None` checks nothing.
    """

    type = ModelType.SEQUENTIAL
    input_type = InputType.POINTWISE
    protocols: ClassVar[tuple[str, ...]] = ()
    goals: ClassVar[tuple[str, ...]] = ("scores",)
    validates: ClassVar[str | None] = None
    run_only: ClassVar[tuple[str, ...]] = ()
    ranks_all_items: ClassVar[bool] = False
    settings_class: ClassVar[Any] = None

    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        """Refuse to rank the whole catalogue: these methods score the candidates of a prompt.

        Raises `TypeError`: Always.
        """
        raise TypeError(
            f"{type(self).__name__} scores the candidates of a prompt, not all items; choose a protocol with candidates"
        )
