"""A-LLMRec: item embeddings aligned with item text, then projected into a frozen LLM.

Kim et al., Large Language Models meet Collaborative Filtering: An Efficient All-round LLM-based Recommender System,
KDD 2024. Section and equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.model import evaluation, ranking, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build

Interaction = Mapping[str, Tensor]  # RecBole's Interaction, of which only the columns are read


@dataclass(frozen=True)
class AlignSettings:
    """Stage 1, section 4.1."""

    text: str
    encoder: Literal["tuned", "frozen"]
    hidden: int
    alpha: float
    beta: float
    matching: bool
    reconstruction: bool
    recommendation: bool
    score: Literal["sum", "mean"]
    positions: int
    learning_rate: float
    schedule: Literal["constant", "linear"]
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        ranking.check_training(asdict(self))
        if not (self.matching or self.reconstruction or self.recommendation):
            raise ValueError("every loss is off; leave matching, reconstruction or recommendation on")


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
    settings_class = ranking.checks(align=AlignSettings, project=ProjectSettings, inference=InferenceSettings)

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone
    vectors = stages.backbone_vectors
    text = stages.encode_text
    retrieved = stages.retrieve_candidates
    goals = ("backbone_scores", "scores")

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
        model = ALLMRec.assemble(run, data, split, vectors, alignment, users)
        training.load_weights(model, projection)
        branch = build(InferenceSettings, run["inference"], "inference").text_branch
        if branch != "none":
            embeddings, unseen = training.load_tensors(alignment, "items"), stages.unseen_items(split)
            users.replace_items(unseen, embeddings["decoded"][unseen])  # histories hold them too
            model.use_text(
                embeddings["text"], unseen if branch == "unseen" else torch.arange(1, len(model.items))
            )
        return evaluation.score_choices(run, model, data, split, retrieved)

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


class Alignment(LLMRecommender):
    """Stage 1: two autoencoders whose codes are pulled together (section 4.1).

    Args:
        items: The backbone's item embeddings E. Shape `[n_items, D]`.
        text: Gives the text vectors Q of item ids, `[n] -> [n, D_text]`; learns if it has trainable parameters.
        settings: Of stage 1.
    """

    def __init__(self, items: Tensor, text: Any, settings: AlignSettings) -> None:  # noqa: ANN401 - a module
        super().__init__()
        self.settings, self.text = settings, text
        self.register_buffer("items", items, persistent=False)  # E, [n_items, D]
        self.encode_item = nn.Sequential(nn.Linear(items.shape[1], settings.hidden), nn.Sigmoid())  # f_I^enc
        self.decode_item = nn.Linear(settings.hidden, items.shape[1])  # f_I^dec
        self.encode_text = nn.Sequential(nn.Linear(text.dimension, settings.hidden), nn.Sigmoid())  # f_T^enc
        self.decode_text = nn.Linear(settings.hidden, text.dimension)  # f_T^dec

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Eq. 4: matching, both reconstructions, and recommendation, for a positive and a negative item per row.

        Args:
            interaction: `user_vector [B, D]`, `item [B]`, `negatives [B, 1]`.

        Returns:
            The weighted losses, scalars.
        """
        positive, negative = interaction["item"], interaction["negatives"][:, 0]
        rows = torch.cat([positive, negative])  # [2B]
        source = self.items[rows]  # E, [2B, D]
        text = self.text(rows)  # Q, [2B, D_text]
        joint, text_code = self.encode_item(source), self.encode_text(text)  # e and q, [2B, hidden]
        decoded = self.decode_item(joint)  # [2B, D]
        scores = (interaction["user_vector"].repeat(2, 1) * decoded).sum(1)  # s(x_u, f_I^dec(e_i)), [2B]
        scores = scores / source.shape[1] if self.settings.score == "mean" else scores
        labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).to(scores.dtype)
        zero, both = scores.new_zeros(()), 2.0  # losses are sums over the positive and the negative item
        on = self.settings
        return (
            both * functional.mse_loss(joint, text_code) if on.matching else zero,  # L_matching, Eq. 1
            on.alpha * both * functional.mse_loss(decoded, source) if on.reconstruction else zero,  # Eq. 2
            on.beta * both * functional.mse_loss(self.decode_text(text_code), text.detach())
            if on.reconstruction
            else zero,  # Eq. 3
            both * functional.binary_cross_entropy_with_logits(scores, labels)
            if on.recommendation
            else zero,  # L_rec
        )

    @torch.inference_mode()
    def embeddings(self) -> dict[str, Tensor]:
        """Of all items `joint` e and `text` q, shapes `[n_items, hidden]`, and `decoded` f_I^dec(q), `[n_items, D]`."""
        self.eval()
        ids = torch.arange(len(self.items), device=self.items.device)
        text = torch.cat([self.text(chunk) for chunk in ids.split(256)])  # [n_items, D_text]
        code = self.encode_text(text)  # q, [n_items, hidden]
        return {"joint": self.encode_item(self.items), "text": code, "decoded": self.decode_item(code)}


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
# - The default answer is the candidate whose title is most likely; `scoring: generation` is the paper's way.
