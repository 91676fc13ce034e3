"""Llama4Rec: an LLM and a conventional recommender tell each other what they know, then their results are aggregated.

Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive Aggregation,
2024. Equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from llmbole.model import (
    attribute_check,
    attributes,
    data_augmentation,
    generation,
    instruction_tuning,
    instructions,
    judge,
    list_duel,
    llm_ranking,
    llm_rating,
    reranking,
    stages,
)
from llmbole.model.aggregation import AggregateSettings, aggregate_lists, aggregate_ratings
from llmbole.model.base import LLMRecommender
from llmbole.model.judge import CheckSettings
from llmbole.model.reranking import Ratings
from llmbole.model.scorer import refuses
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build


@register_model("Llama4Rec")
class Llama4Rec(LLMRecommender):
    """Prompts hold a similar user's history and the conventional model's prediction; users have weights of their own.

    Its score is no forward pass: the stages make lists, the LLM's positions in them, and aggregate both.
    """

    protocols = ("loo_full", "loo_rating")
    run_only = generation.RUN_ONLY
    settings_class = llm_ranking.checks(
        judge.problems,
        aggregate=AggregateSettings,
        check=CheckSettings,
        generate=generation.GenerateSettings,
    )
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
    judged_attributes = attribute_check.judge_attributes
    judged_lists = list_duel.judge_lists

    @stage(
        makes="scores",
        needs=(
            "data",
            "split",
            "lists",
            "listwise",
            "pointwise",
            "ratings",
            "predicted",
            "attributes",
            "judged_attributes",
            "judged_lists",
        ),
        uses=("aggregate", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def aggregate(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        lists: Artifact | None,
        listwise: Artifact | None,
        pointwise: Artifact | None,
        ratings: Artifact | None,
        predicted: Artifact | None,
        attributes: Artifact | None,
        judged_attributes: Artifact | None,
        judged_lists: Artifact | None,
    ) -> Mapping[str, Any]:
        """Adaptive aggregation, Eq. 4 to 6; what the LLM said is read, the LLM itself is not asked."""
        settings = build(AggregateSettings, run["aggregate"], "aggregate")
        counts = reranking.training_counts(split)
        if lists is None:
            assert ratings is not None and predicted is not None  # the stages of the other task
            known = {name: Ratings.load(ratings, name).values for name in reranking.phases_of(run)}

            def mixed(part: str, users: np.ndarray, llm: np.ndarray) -> np.ndarray:
                return aggregate_ratings(llm, known[part], settings.weights(counts, users))

            scored = reranking.score_ratings(run, Llama4Rec, data, split, predicted, mixed, attributes)
            return judge.told(scored, judged_attributes)

        def ranked(users: np.ndarray, positions: np.ndarray) -> np.ndarray:
            return aggregate_lists(positions, settings.weights(counts, users), settings.constant)

        ways = reranking.answered(listwise=listwise, pointwise=pointwise)
        compare = None if judged_lists is None else partial(list_duel.against_judge, judged_lists)
        scored = reranking.score_lists(run, Llama4Rec, data, split, lists, ways, ranked, compare)
        return judge.told(scored, judged_attributes)


refuses(
    Llama4Rec,
    "asks its LLM about lists that its stages make for the users of the protocol's test; it has no scores for others. "
    "Recommend with its backbone, or with a method that scores items",
)


# Departures from the paper
# - Eq. 6 is its most likely reading: alpha_u = alpha1 * max((l_max - l_u) / (l_max - l_min), alpha2).
# - N(u) counts training interactions. Where all users have as many, the cut-off alone counts.
# - An answer's order comes from each title's log-likelihood as its first one; `rank.listwise: generation` is the
#   paper's way. Items that a generated answer leaves out share the position behind the last, and the backbone's order.
# - Candidates stand shuffled in the prompt, so that their order does not tell the backbone's.
# - Listwise or pointwise is chosen on validation users; the paper reports the better of both on the test.
# - A similar user's list holds training interactions only, none later than the target, and the similar user is one who
#   has such interactions.
# - The LLM is tuned without augmented prompts, so that one serves every backbone, and IFT.
# - LoRA by default; `tune.updates: full` trains all parameters, as in the paper.
# - A rating is the mean over the scale's values under their probabilities, not one generated number.
# - Data augmentation is off by default, the paper's w/o DA: `data.augment` for rankings, `attributes.fill` for ratings.
#   BERT4Rec, which is trained on masked prefixes, has none.
# - Attributes are those of items that the paper's Table 3 names; the examples in the questions are this project's own.
#   A book's genre and page length come from its title alone, and an answer counts by rules (`llm/attribute.py`).
# - The LLM's pair joins the batches as a triple; the graph of LightGCN, SGL and MixGCF is that of the interactions.
# - Against another LLM the place of the target decides who wins, over users whose list holds it and is not refused; the
#   paper has no rule.
# - The judge of attributes sees what is known. Only attributes that the data have can be checked: genres of movies and
#   authors of books, not directors, stars, books' genres and page lengths.
# - Similar users are found among all by one exact product per block: who may be shown depends on the row's time, which
#   an index of vectors can't ask.
