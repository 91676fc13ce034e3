"""TALLRec on lists: LoRA teaches an LLM to answer A-LLMRec's prompt, without its vectors, with the next item's title.

Bao et al., TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with Recommendation,
RecSys 2023, in the form in which Kim et al., Large Language Models meet Collaborative Filtering, KDD 2024 (section
5.1, appendix C), compare with it. On labelled pairs the method of this name is in `tallrec.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.model import evaluation, genres, ranking, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.list_scorer import ListScorer, add_titles, list_size
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build


@dataclass(frozen=True)
class ChoiceTuning:
    """Training on prompts with titles of a history and of candidates.

    Attributes:
        history: Titles of the history, the newest ones.
        candidates: Titles to choose from, the right one among them.
        positions: Training positions per user, the last ones; 0 takes all.
        learning_rate: Of Adam, the first one.
        schedule: `linear` lets it fall to 0.
        batch_size: Prompts of a step.
        epochs: Passes over the positions, with fresh candidates in each.
    """

    history: int
    candidates: int
    positions: int
    learning_rate: float
    schedule: Literal["constant", "linear"]
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        ranking.check_training(asdict(self))


@register_model("TALLRec", task="ranking")
class RankingTALLRec(LLMRecommender):
    """A frozen LLM with LoRA updates that names one of the titles it is shown.

    Args:
        choice: The prompt and the LLM that answers it with a title.
        adapter: The LLM's updates.
        history: Titles of the history in the prompt.
    """

    protocols = ("loo_rank20", "unified_rank")
    settings_class = ranking.checks(
        genres.problems, tune=ChoiceTuning, lora=LoraSettings, genres=genres.GenreSettings
    )
    goals = ("genres", "scores")

    data = stages.prepare_data
    split = stages.freeze_split
    retrieved = stages.retrieve_candidates

    def __init__(self, choice: TitleChoice, adapter: Adapter, history: int) -> None:
        super().__init__()
        self.choice, self.adapter, self.history, self.users = choice, adapter, history, None
        self.register_buffer("tokens_read", torch.zeros((), dtype=torch.long))
        self.to(choice.lm.device)

    @stage(
        makes="lora",
        needs=("data", "split"),
        uses=("tune", "lora", "prompt", "llm", "dataset", "protocol", "seed"),
    )
    def tune(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Train the updates so that the LLM answers with the next item's title."""
        settings = build(ChoiceTuning, run["tune"], "tune")
        training.seed_everything(run.seed)
        model = RankingTALLRec.assemble(run, data, split)
        rows = training.text_rows(
            split, settings, run.seed, history=max(1, settings.history), negatives=settings.candidates - 1
        )
        summary = training.fit(run, model, rows, data, settings)
        model.adapter.save(run.folder)
        return summary

    @stage(
        makes="scores",
        needs=("data", "split", "lora", "retrieved"),
        uses=("tune", "lora", "prompt", "llm", "scoring", "dataset", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun, data: Artifact, split: Artifact, lora: Artifact, retrieved: Artifact | None
    ) -> Mapping[str, Any]:
        """Rank the candidates of every user of the test, or of validation."""
        model = RankingTALLRec.assemble(run, data, split)
        model.adapter.load(lora.folder)
        return evaluation.score_choices(run, model, data, split, retrieved)

    @stage(
        makes="genres",
        needs=("data", "split", "lora"),
        uses=("genres", "tune", "lora", "prompt", "llm", "dataset", "protocol", "seed"),
        when=("genres.ask", True),
        phased=True,
    )
    def ask_genres(run: StageRun, data: Artifact, split: Artifact, lora: Artifact) -> Mapping[str, Any]:
        """Ask every user for favourite genres, in A-LLMRec's comparison (its Figure 4)."""
        model = RankingTALLRec.assemble(run, data, split)
        model.adapter.load(lora.folder)
        return genres.ask_genres(run, model, data, split)

    @staticmethod
    def assemble(run: StageRun, data: Artifact, split: Artifact) -> RankingTALLRec:
        """The model with updates that change nothing yet."""
        choice = stages.title_choice(run, data, split, user=False, item=False)
        adapter = Adapter(choice.lm, build(LoraSettings, run["lora"], "lora"))
        return RankingTALLRec(choice, adapter, run["tune"]["history"])

    def soft_vectors(self, prompt: ChoicePrompt, users: Tensor | None) -> dict[str, Tensor]:
        """None: the prompt is text alone."""
        return {}

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Cross-entropy of the next item's title under the LLM.

        Args:
            interaction: `history [B, L]`, `length [B]`, `candidates [B, C]`, `item [B]`.

        Returns:
            A scalar.
        """
        history = ranking.newest(interaction["history"], interaction["length"], self.history)
        prompt = self.choice.prompt(history, interaction["candidates"])
        result = self.choice.loss(prompt, {}, interaction["item"])
        self.tokens_read += result.tokens_processed
        return result.loss

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Score rows of whole candidate lists, as the evaluation loader gives them. Shape `[rows]`."""
        return ranking.log_likelihoods(self, interaction)


@opens(
    RankingTALLRec,
    needs=("data", "split", "lora"),
    uses=("tune", "lora", "prompt", "llm", "dataset", "protocol"),
    reads_new=True,
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, lora: Artifact
) -> ListScorer:
    """The tuned LLM over lists that somebody gives; it has no backbone to make them."""
    model = RankingTALLRec.assemble(run, data, split)
    model.adapter.load(lora.folder)
    add_titles(run, model.choice, new)
    return ListScorer(model, None, list_size(run))


# Departures from TALLRec's paper, as in A-LLMRec's comparison: one prompt over candidates in place of a question about
# one item, not in Alpaca's frame and not begun with updates tuned on Alpaca's instructions; the loss is that of the
# answer's text; the last positions of all users are learned, not 16 to 256 samples. Departure from that comparison: the
# answer is the candidate whose title is most likely; `scoring: generation` is its way. Its number of epochs is "at most
# 5", with no word on who stops it: all of them are run here.
