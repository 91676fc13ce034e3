"""A-LLMRec: item embeddings aligned with item text, then projected into a frozen LLM.

Kim et al., Large Language Models meet Collaborative Filtering: An Efficient All-round LLM-based Recommender System,
KDD 2024. Section and equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.model import cf, evaluation, genres, ranking, stages, training
from llmbole.model.alignment import Alignment, AlignSettings
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.list_scorer import ListScorer, add_titles, list_size
from llmbole.model.new_text import new_text_vectors
from llmbole.model.scorer import NewItems, no_new, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build

Interaction = Mapping[str, Tensor]  # RecBole's Interaction, of which only the columns are read


@dataclass(frozen=True)
class ProjectSettings(ranking.PromptTraining):
    """Stage 2, section 4.2."""

    item: Literal["joint", "text", "none", "random"]
    standardize: bool


@dataclass(frozen=True)
class InferenceSettings:
    """Whose embeddings come from item text when scoring: items without a training interaction, all, or none."""

    text_branch: Literal["unseen", "all", "none"]


@register_model("ALLMRec")
class ALLMRec(LLMRecommender):
    """Two stages: align collaborative and textual item knowledge; project it, and the user, into a frozen LLM.

    Args:
        choice: The prompt and the frozen LLM that answers it with a title.
        items: Item embeddings the prompt carries: joint ones e, or the text branch's q. Shape `[n_items, hidden]`.
        user_size: Width of the backbone's user representation.
        settings: Of stage 2.
        users: Gives user representations when scoring; training rows carry their own.
    """

    protocols = ("loo_rank20", "unified_rank")
    settings_class = ranking.checks(
        genres.problems,
        align=AlignSettings,
        project=ProjectSettings,
        inference=InferenceSettings,
        genres=genres.GenreSettings,
    )

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone
    vectors = stages.backbone_vectors
    text = stages.encode_text
    retrieved = stages.retrieve_candidates
    goals = ("backbone_scores", "genres", "scores")

    items: Tensor

    def __init__(
        self,
        choice: TitleChoice,
        items: Tensor,
        user_size: int,
        settings: ProjectSettings,
        users: ranking.Users | None = None,
    ) -> None:
        super().__init__()
        self.choice, self.settings, self.users, self.history = choice, settings, users, settings.history
        self.register_buffer("tokens_read", torch.zeros((), dtype=torch.long))
        self.center, self.spread = items[1:].mean(0), items[1:].std(0).clamp(min=1e-6)  # [hidden]
        self.register_buffer("items", self.standardized(items), persistent=False)  # [n_items, hidden]
        self.project_user = ranking.projection(user_size, choice.lm.hidden_size, nn.LeakyReLU())  # F_U
        self.project_item = ranking.projection(items.shape[1], choice.lm.hidden_size, nn.GELU())  # F_I
        self.to(choice.lm.device)

    @stage(
        makes="alignment",
        needs=("data", "split", "vectors", "text"),
        uses=("align", "text_encoder", "dataset.name", "seed"),
    )
    def align(
        run: StageRun, data: Artifact, split: Artifact, vectors: Artifact, text: Artifact | None
    ) -> Mapping[str, Any]:
        """Stage 1: match each item's collaborative embedding with its text's (section 4.1)."""
        settings = build(AlignSettings, run["align"], "align")
        training.seed_everything(run.seed)
        source = stages.text_vectors(run, data, split, text, settings.text)
        model = Alignment(training.load_tensors(vectors, "vectors")["items"], source, settings)
        rows = training.rows(split, vectors, settings, run.seed, negatives=1)
        summary = training.fit(run, model, rows, data, settings)
        training.save_tensors(run.folder / "items.safetensors", model.embeddings())
        return {
            **summary,
            "did": f"{settings.hidden}-d item embeddings, {settings.encoder} text encoder, {summary['did']}",
        }

    @stage(
        makes="projection",
        needs=("data", "split", "vectors", "alignment"),
        uses=("project", "prompt", "llm", "dataset", "seed"),
    )
    def tune_projection(
        run: StageRun, data: Artifact, split: Artifact, vectors: Artifact, alignment: Artifact
    ) -> Mapping[str, Any]:
        """Stage 2: train F_U and F_I so that the frozen LLM answers with the next item's title (section 4.2)."""
        settings = build(ProjectSettings, run["project"], "project")
        training.seed_everything(run.seed)
        model = ALLMRec.assemble(run, data, split, vectors, alignment)
        rows = training.rows(split, vectors, settings, run.seed, negatives=settings.candidates - 1)
        return training.fit(run, model, rows, data, settings)

    @stage(
        makes="scores",
        needs=("data", "split", "backbone", "vectors", "alignment", "projection", "retrieved"),
        uses=("project", "inference", "prompt", "llm", "scoring", "dataset", "protocol", "backbone", "seed"),
        phased=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        backbone: Artifact,
        vectors: Artifact,
        alignment: Artifact,
        projection: Artifact,
        retrieved: Artifact | None,
    ) -> Mapping[str, Any]:
        """Rank the candidates of every user of the test, or of validation."""
        users = stages.open_backbone(run, data, split, backbone)
        model = ALLMRec.trained(run, data, split, vectors, alignment, projection, users)
        return evaluation.score_choices(run, model, data, split, retrieved)

    @stage(
        makes="genres",
        needs=("data", "split", "backbone", "vectors", "alignment", "projection"),
        uses=("genres", "project", "inference", "prompt", "llm", "dataset", "protocol", "backbone", "seed"),
        when=("genres.ask", True),
        phased=True,
    )
    def ask_genres(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        backbone: Artifact,
        vectors: Artifact,
        alignment: Artifact,
        projection: Artifact,
    ) -> Mapping[str, Any]:
        """Ask every user for favourite genres (Figure 4)."""
        users = stages.open_backbone(run, data, split, backbone)
        model = ALLMRec.trained(run, data, split, vectors, alignment, projection, users)
        return genres.ask_genres(run, model, data, split)

    @staticmethod
    def trained(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        vectors: Artifact,
        alignment: Artifact,
        projection: Artifact,
        users: cf.Backbone,
    ) -> ALLMRec:
        """The trained model as it scores: with the text branch where `inference.text_branch` wants it."""
        model = ALLMRec.assemble(run, data, split, vectors, alignment, users)
        training.load_weights(model, projection)
        branch = build(InferenceSettings, run["inference"], "inference").text_branch
        if branch != "none":
            embeddings, unseen = training.load_tensors(alignment, "items"), stages.unseen_items(split)
            users.replace_items(unseen, embeddings["decoded"][unseen])  # histories hold them too
            model.use_text(
                embeddings["text"], unseen if branch == "unseen" else torch.arange(1, len(model.items))
            )
        return model

    @staticmethod
    def assemble(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        vectors: Artifact,
        alignment: Artifact,
        users: ranking.Users | None = None,
    ) -> ALLMRec:
        """The model with untrained projections, on the artifacts of stage 1."""
        settings = build(ProjectSettings, run["project"], "project")
        embeddings = training.load_tensors(alignment, "items")
        items = embeddings["text" if settings.item == "text" else "joint"]  # [n_items, hidden]
        if settings.item == "random":
            items = torch.rand(
                items.shape, generator=torch.Generator().manual_seed(run.seed)
            )  # in (0, 1) as sigmoids are
        choice = stages.title_choice(run, data, split, user=settings.user, item=settings.item != "none")
        user_size = training.load_tensors(vectors, "vectors")["user_vectors"].shape[1]
        return ALLMRec(choice, items, user_size, settings, users)

    def standardized(self, items: Tensor) -> Tensor:
        """Item embeddings as F_I reads them. Shapes `[n, hidden]`."""
        return (items - self.center) / self.spread if self.settings.standardize else items

    def use_text(self, text: Tensor, rows: Tensor) -> None:
        """Put text embeddings q in place of the joint ones e of some items; the ablations of items stay as they are.

        Args:
            text: Of all items. Shape `[n_items, hidden]`.
            rows: Ids of the items. Shape `[n]`.
        """
        if self.settings.item == "joint":
            self.items[rows] = self.standardized(text[rows]).to(self.items.device)

    def add_items(self, text: Tensor) -> None:
        """Items behind the data set's own, by their text embeddings q. Shape `[n, hidden]`."""
        self.items = torch.cat([self.items, self.standardized(text).to(self.items.device)])

    def soft_vectors(self, prompt: ChoicePrompt, users: Tensor) -> dict[str, Tensor]:
        """The projected user and items of a batch's prompts, by slot. Shapes `[n, H]`."""
        vectors = {"user": self.project_user(users)} if self.settings.user else {}  # O_u = F_U(x_u), [B, H]
        if self.settings.item != "none":
            for slot, ids in prompt.items.items():
                vectors[slot] = self.project_item(
                    self.items[ids.to(self.items.device)]
                )  # O_i = F_I(e_i), [n, H]
        return vectors

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Eq. 10: cross-entropy of the next item's title under the frozen LLM.

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

    def predict(self, interaction: Interaction) -> Tensor:
        """Score rows of whole candidate lists, as the evaluation loader gives them. Shape `[rows]`."""
        return ranking.log_likelihoods(self, interaction)


@opens(
    ALLMRec,
    needs=("data", "split", "backbone", "vectors", "text", "alignment", "projection"),
    uses=(
        "align",
        "text_encoder",
        "project",
        "inference",
        "prompt",
        "llm",
        "dataset",
        "protocol",
        "backbone",
        "seed",
    ),
    reads_new=True,
)
def open_recommender(run: StageRun, new: NewItems | None, **made: Any) -> ListScorer:  # noqa: ANN401 - artifacts
    """The trained model over its backbone's best items; new items come in by the text branch, as unseen ones do."""
    data, split, vectors, alignment = (made[name] for name in ("data", "split", "vectors", "alignment"))
    users = stages.open_backbone(run, data, split, made["backbone"])
    model = ALLMRec.trained(run, data, split, vectors, alignment, made["projection"], users)
    add_titles(run, model.choice, new)
    if new is not None and model.settings.item != "none":
        if model.settings.item == "random":
            no_new(new, "project.item = random has no embeddings for them")
        if model.settings.item == "joint" and run["inference"]["text_branch"] == "none":
            no_new(new, "inference.text_branch = none leaves out the text branch, which would embed them")
        settings = build(AlignSettings, run["align"], "align")
        source = stages.text_vectors(run, data, split, made["text"], settings.text)
        branch = Alignment(training.load_tensors(vectors, "vectors")["items"], source, settings)
        training.load_weights(branch, alignment)
        text = new_text_vectors(run, new, settings.text, None if made["text"] else source)  # Q, [n, D_text]
        with torch.no_grad():
            model.add_items(branch.encode_text(text))  # q, [n, hidden]
    return ListScorer(model, ConventionalScorer(users.model, users.session), list_size(run))


# Departures from the paper
# - The text encoder is all-MiniLM-L6-v2 by default (the paper: nq-distilbert-base-v1); both are SBERT models.
# - x_u comes from the backbone in evaluation mode in both stages, as at inference; the official code leaves its
#   dropout on in training.
# - For items without a training interaction the paper puts q in place of e. Histories of such items need a backbone
#   embedding too, of which it says nothing: here it is f_I^dec(q), what the text branch makes of it.
# - Users with a single training item are left out of training: they have no history to represent.
# - The user and item tokens are soft positions of the prompt, not words added to the vocabulary.
# - `project.standardize` gives F_I's inputs mean 0 and deviation 1 over items. The first layer is affine, so this takes
#   nothing away and adds nothing; but codes are sigmoids close to a constant, which hides what differs between items
#   from a training as short as the embedded LLM's.
# - Favourite genres (Figure 4) are asked for in words of ours, and answers are measured; the paper shows some.
# - The default answer is the candidate whose title is most likely; `scoring: generation` is the paper's way.
