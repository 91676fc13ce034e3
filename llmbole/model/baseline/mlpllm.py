"""MLP-LLM: A-LLMRec's second stage on the backbone's own vectors, without stage 1.

Baseline of Kim et al., Large Language Models meet Collaborative Filtering, KDD 2024, section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.model import evaluation, ranking, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.list_scorer import ListScorer, list_size
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build


@register_model("MLPLLM")
class MLPLLM(LLMRecommender):
    """User and item vectors of the frozen backbone go through two MLPs into the frozen LLM.

    Args:
        choice: The prompt and the frozen LLM that answers it with a title.
        items: The backbone's item embeddings. Shape `[n_items, D]`.
        settings: Of the training.
        users: Gives user representations when scoring; training rows carry their own.
    """

    protocols = ("loo_rank20", "unified_rank")
    settings_class = ranking.checks(project=ranking.PromptTraining)

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone
    vectors = stages.backbone_vectors
    retrieved = stages.retrieve_candidates
    goals = ("backbone_scores", "scores")

    def __init__(
        self,
        choice: TitleChoice,
        items: Tensor,
        settings: ranking.PromptTraining,
        users: ranking.Users | None = None,
    ) -> None:
        super().__init__()
        self.choice, self.settings, self.users, self.history = choice, settings, users, settings.history
        self.register_buffer("tokens_read", torch.zeros((), dtype=torch.long))
        self.register_buffer("items", items, persistent=False)  # [n_items, D]
        hidden_size = choice.lm.hidden_size
        self.project_user = ranking.projection(items.shape[1], hidden_size, nn.LeakyReLU())
        self.project_item = ranking.projection(items.shape[1], hidden_size, nn.GELU())
        self.to(choice.lm.device)

    @stage(
        makes="projection",
        needs=("data", "split", "vectors"),
        uses=("project", "prompt", "llm", "dataset", "seed"),
    )
    def tune_projection(
        run: StageRun, data: Artifact, split: Artifact, vectors: Artifact
    ) -> Mapping[str, Any]:
        """Train the two MLPs so that the frozen LLM answers with the next item's title."""
        settings = build(ranking.PromptTraining, run["project"], "project")
        training.seed_everything(run.seed)
        model = MLPLLM.assemble(run, data, split, vectors)
        rows = training.rows(split, vectors, settings, run.seed, negatives=settings.candidates - 1)
        return training.fit(run, model, rows, data, settings)

    @stage(
        makes="scores",
        needs=("data", "split", "backbone", "vectors", "projection", "retrieved"),
        uses=("project", "prompt", "llm", "scoring", "dataset", "protocol", "backbone", "seed"),
        phased=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        backbone: Artifact,
        vectors: Artifact,
        projection: Artifact,
        retrieved: Artifact | None,
    ) -> Mapping[str, Any]:
        """Rank the candidates of every user of the test, or of validation."""
        model = MLPLLM.assemble(run, data, split, vectors, stages.open_backbone(run, data, split, backbone))
        training.load_weights(model, projection)
        return evaluation.score_choices(run, model, data, split, retrieved)

    @staticmethod
    def assemble(
        run: StageRun, data: Artifact, split: Artifact, vectors: Artifact, users: ranking.Users | None = None
    ) -> MLPLLM:
        """The model with untrained projections."""
        settings = build(ranking.PromptTraining, run["project"], "project")
        choice = stages.title_choice(run, data, split, user=settings.user, item=True)
        return MLPLLM(choice, training.load_tensors(vectors, "vectors")["items"], settings, users)

    def soft_vectors(self, prompt: ChoicePrompt, users: Tensor) -> dict[str, Tensor]:
        """The projected user and items of a batch's prompts, by slot. Shapes `[n, H]`."""
        vectors = {"user": self.project_user(users)} if self.settings.user else {}  # [B, H]
        for slot, ids in prompt.items.items():
            vectors[slot] = self.project_item(self.items[ids.to(self.items.device)])  # [n, H]
        return vectors

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Cross-entropy of the next item's title under the frozen LLM.

        Args:
            interaction: `user_vector [B, D]`, `history [B, L]`, `length [B]`, `candidates [B, C]`, `item [B]`.

        Returns:
            A scalar.
        """
        history = ranking.newest(interaction["history"], interaction["length"], self.history)
        prompt = self.choice.prompt(history, interaction["candidates"])
        result = self.choice.loss(
            prompt, self.soft_vectors(prompt, interaction["user_vector"]), interaction["item"]
        )
        self.tokens_read += result.tokens_processed
        return result.loss

    def predict(self, interaction: Any) -> torch.Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Score rows of whole candidate lists, as the evaluation loader gives them. Shape `[rows]`."""
        return ranking.log_likelihoods(self, interaction)


@opens(
    MLPLLM,
    needs=("data", "split", "backbone", "vectors", "projection"),
    uses=("project", "prompt", "llm", "dataset", "protocol", "backbone", "seed"),
)
def open_recommender(
    run: StageRun,
    new: NewItems | None,
    data: Artifact,
    split: Artifact,
    backbone: Artifact,
    vectors: Artifact,
    projection: Artifact,
) -> ListScorer:
    """The trained model over lists of its backbone's best items."""
    users = stages.open_backbone(run, data, split, backbone)
    model = MLPLLM.assemble(run, data, split, vectors, users)
    training.load_weights(model, projection)
    return ListScorer(model, ConventionalScorer(users.model, users.session), list_size(run))
