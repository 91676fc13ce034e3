"""LLM-Only: the LLM answers A-LLMRec's prompt without any collaborative knowledge and without training.

Baseline of Kim et al., Large Language Models meet Collaborative Filtering, KDD 2024, section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.model import evaluation, genres, ranking, stages
from llmbole.model.base import LLMRecommender
from llmbole.model.list_scorer import ListScorer, add_titles, list_size
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model


@dataclass(frozen=True)
class AskSettings:
    """What stands in the prompt."""

    history: int

    def __post_init__(self) -> None:
        ranking.check_training({"history": self.history})


@register_model("LLMOnly")
class LLMOnly(LLMRecommender):
    """An untuned LLM that is shown titles only.

    Args:
        choice: The prompt and the LLM that answers it with a title.
        history: Titles of the history in the prompt.
    """

    protocols = ("loo_rank20", "unified_rank")
    settings_class = ranking.checks(genres.problems, ask=AskSettings, genres=genres.GenreSettings)
    goals = ("genres", "scores")

    data = stages.prepare_data
    split = stages.freeze_split
    retrieved = stages.retrieve_candidates

    def __init__(self, choice: TitleChoice, history: int) -> None:
        super().__init__()
        self.choice, self.history, self.users = choice, history, None
        self.register_buffer("tokens_read", torch.zeros((), dtype=torch.long))

    @stage(
        makes="scores",
        needs=("data", "split", "retrieved"),
        uses=("ask", "prompt", "llm", "scoring", "dataset", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun, data: Artifact, split: Artifact, retrieved: Artifact | None
    ) -> Mapping[str, Any]:
        """Rank the candidates of every user of the test, or of validation."""
        choice = stages.title_choice(run, data, split, user=False, item=False)
        return evaluation.score_choices(run, LLMOnly(choice, run["ask"]["history"]), data, split, retrieved)

    @stage(
        makes="genres",
        needs=("data", "split"),
        uses=("genres", "ask", "prompt", "llm", "dataset", "protocol", "seed"),
        when=("genres.ask", True),
        phased=True,
    )
    def ask_genres(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Ask every user for favourite genres (Figure 4)."""
        choice = stages.title_choice(run, data, split, user=False, item=False)
        return genres.ask_genres(run, LLMOnly(choice, run["ask"]["history"]), data, split)

    def soft_vectors(self, prompt: ChoicePrompt, users: Tensor | None) -> dict[str, Tensor]:
        """None: the prompt is text alone."""
        return {}

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Score rows of whole candidate lists, as the evaluation loader gives them. Shape `[rows]`."""
        return ranking.log_likelihoods(self, interaction)


@opens(LLMOnly, needs=("data", "split"), uses=("ask", "prompt", "llm", "dataset", "protocol"), reads_new=True)
def open_recommender(run: StageRun, new: NewItems | None, data: Artifact, split: Artifact) -> ListScorer:
    """The LLM over lists that somebody gives; it has no backbone to make them."""
    choice = stages.title_choice(run, data, split, user=False, item=False)
    add_titles(run, choice, new)
    return ListScorer(LLMOnly(choice, run["ask"]["history"]), None, list_size(run))
