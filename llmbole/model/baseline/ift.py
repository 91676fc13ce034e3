"""IFT: an LLM tuned on instructions ranks the conventional model's list, or predicts the rating, by itself.

Baseline of Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive
Aggregation, 2024: no augmented prompts and no aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmbole.model import (
    attributes,
    data_augmentation,
    instruction_tuning,
    instructions,
    llm_ranking,
    llm_rating,
    reranking,
    stages,
)
from llmbole.model.aggregation import aggregate_lists
from llmbole.model.base import LLMRecommender
from llmbole.model.scorer import refuses
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model


def _plain(settings: Mapping[str, Any]) -> list[str]:
    """What would make it Llama4Rec."""
    if not settings["augment"]["prompt"]:
        return []
    return ["augment.prompt = true: IFT's prompts are plain; run Llama4Rec for augmented ones"]


@register_model("IFT")
class IFT(LLMRecommender):
    """The tuned LLM's own order of the conventional model's list, and its own ratings."""

    protocols = ("loo_full", "loo_rating")
    settings_class = llm_ranking.checks(_plain)
    goals = ("backbone_scores", "scores")

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone
    instructions = instructions.make_instructions
    tuned = instruction_tuning.tune_instructions
    augmentation = data_augmentation.augment_data
    augmented_backbone = data_augmentation.train_augmented
    lists = reranking.list_best
    listwise = llm_ranking.rank_lists
    pointwise = llm_ranking.rank_items
    attributed_backbone = attributes.train_with_attributes
    attributes = attributes.fill_attributes
    ratings = reranking.rate_rows
    predicted = llm_rating.predict_ratings

    @stage(
        makes="scores",
        needs=("data", "split", "lists", "listwise", "pointwise", "predicted"),
        uses=("dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        lists: Artifact | None,
        listwise: Artifact | None,
        pointwise: Artifact | None,
        predicted: Artifact | None,
    ) -> Mapping[str, Any]:
        """Scores of what the LLM said."""
        if lists is None:
            assert predicted is not None  # the stage of the other task
            return reranking.score_ratings(run, IFT, data, split, predicted, lambda part, users, llm: llm)

        def ranked(users: np.ndarray, positions: np.ndarray) -> np.ndarray:
            return aggregate_lists(positions, np.ones(len(users)))

        ways = reranking.answered(listwise=listwise, pointwise=pointwise)
        return reranking.score_lists(run, IFT, data, split, lists, ways, ranked)


refuses(
    IFT,
    "asks its LLM about lists that its stages make for the users of the protocol's test; it has no scores for others. "
    "Recommend with its backbone, or with a method that scores items",
)


# Departures from the paper: those of Llama4Rec that are not about augmentation and aggregation.
