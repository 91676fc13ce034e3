"""ICL: an untuned LLM is asked whether a user likes an item.

Baseline of Zhang et al., CoLLM: Integrating Collaborative Embeddings into Large Language Models for Recommendation,
2023. It asks with the prompt of titles that TALLRec is tuned on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbole.model import evaluation, pair_prompts, stages
from llmbole.model.pair_scorer import PairScorer, add_titles
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model


@register_model("ICL")
class ICL(pair_prompts.TextAnswers):
    """The LLM as it is; its score is the probability of "Yes" against "No"."""

    protocols = pair_prompts.PROTOCOLS
    settings_class = pair_prompts.checks()

    data = stages.prepare_data
    split = stages.freeze_split

    @stage(
        makes="scores",
        needs=("data", "split"),
        uses=("prompt", "answer", "llm", "dataset", "protocol", "seed"),
        phased=True,
        together=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        model = ICL(pair_prompts.open_prompt(run, data, split))
        return evaluation.score_pairs(run, model, data, split, pair_prompts.rows(run, split, run.phase))


@opens(ICL, needs=("data", "split"), uses=("prompt", "answer", "llm", "dataset", "protocol"), reads_new=True)
def open_recommender(run: StageRun, new: NewItems | None, data: Artifact, split: Artifact) -> PairScorer:
    """The LLM as a scorer; it knows items by their titles."""
    prompt = pair_prompts.open_prompt(run, data, split)
    add_titles(prompt, new)
    return PairScorer(run, ICL(prompt))


# Departures from the paper: the answer's probability is the softmax over both answers; the paper does not say.
