"""CoLLM: user and item vectors of a conventional recommender, mapped into an LLM's input space, beside titles.

Zhang et al., CoLLM: Integrating Collaborative Embeddings into Large Language Models for Recommendation, 2023. The names
of the parts are the paper's: hybrid encoding, the collaborative information encoding module (CIE), two-step tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmbole import registry
from llmbole.llm import tune
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import PairPrompt, repeat_soft
from llmbole.model import cf, evaluation, pair_prompts, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.pair_scorer import PairScorer
from llmbole.model.routed_scorer import MeanScorer
from llmbole.model.scorer import NewItems, Scorer, opens
from llmbole.model.vectors import vectors_of
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build


@dataclass(frozen=True)
class HybridSettings(pair_prompts.PairTuning):
    """Step 2: the prompt with soft tokens, what they are made of, and what is trained."""

    text: str
    encoding: Literal["collaborative", "ui_token", "none"]
    tuning: Literal["mapping", "T1", "T2", "T3"]
    factor: int
    tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("factor", "tokens")
            if getattr(self, name) < 1
        ]
        if self.encoding == "ui_token" and self.learns_backbone:
            problems.append(
                f"tuning = {self.tuning} trains the backbone, which encoding = ui_token does not read"
            )
        if self.encoding == "none" and self.tuning != "mapping":
            problems.append(
                f"encoding = none has nothing to train in step 2; leave tuning = {self.tuning} out"
            )
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def learns_backbone(self) -> bool:
        """Whether step 2 trains the conventional recommender."""
        return self.tuning in ("T1", "T2")


def _fits(settings: Mapping[str, Any]) -> None:
    """Refuse a backbone without vectors to give."""
    vectors_of(settings["backbone"]["name"])


@register_model("CoLLM")
class CoLLM(LLMRecommender):
    """Two steps: LoRA on titles alone; then the mapping of collaborative embeddings, with the LLM as it is.

    Args:
        prompt: The prompt with soft tokens over the LLM.
        adapter: The LLM's updates.
        encoder: Makes the soft tokens of rows.
        settings: Of step 2; they say what is trained.
    """

    protocols = pair_prompts.PROTOCOLS
    settings_class = pair_prompts.checks(
        _fits,
        registry.check_learns_labels,
        tune=pair_prompts.PairTuning,
        lora=LoraSettings,
        hybrid=HybridSettings,
    )
    goals = ("backbone_scores", "scores")
    validates = "mapping"

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone
    lora = pair_prompts.tune_text  # step 1, which is TALLRec's tuning

    def __init__(
        self,
        prompt: PairPrompt,
        adapter: Adapter,
        encoder: Collaborative | FreeTokens,
        settings: HybridSettings,
    ) -> None:
        super().__init__()
        self.prompt, self.adapter, self.encoder, self.settings = prompt, adapter, encoder, settings
        adapter.requires_grad_(settings.tuning == "T3")
        encoder.to(prompt.lm.device)  # the updates lie where their layers do

    @stage(
        makes="mapping",
        needs=("data", "split", "backbone", "lora"),
        uses=("hybrid", "backbone", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
        together=True,
    )
    def tune_mapping(
        run: StageRun, data: Artifact, split: Artifact, backbone: Artifact, lora: Artifact
    ) -> Mapping[str, Any]:
        """Step 2: train the mapping on the prompt with soft tokens."""
        settings = build(HybridSettings, run["hybrid"], "hybrid")
        if settings.encoding == "none":
            return {"did": "nothing: without soft tokens CoLLM is TALLRec"}
        training.seed_everything(run.seed)
        model = CoLLM.assemble(run, data, split, backbone, lora)
        summary = pair_prompts.fit(run, model, split, settings, length=model.encoder.length)
        training.save_tensors(run.folder / f"{training.WEIGHTS}.safetensors", tune.learned(model))
        return summary

    @stage(
        makes="scores",
        needs=("data", "split", "backbone", "backbone_scores", "lora", "mapping"),
        uses=(
            "hybrid",
            "ensemble",
            "backbone",
            "lora",
            "prompt",
            "answer",
            "llm",
            "dataset",
            "protocol",
            "seed",
        ),
        phased=True,
        together=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        backbone: Artifact,
        backbone_scores: Artifact,
        lora: Artifact,
        mapping: Artifact,
    ) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation, or their mean with the backbone's."""
        beside = backbone_scores if run["ensemble"] else None
        if run["hybrid"]["encoding"] == "none":
            prompt, adapter = pair_prompts.open_adapted(run, data, split)
            adapter.load(lora.folder)
            model: Any = pair_prompts.TextAnswers(prompt, adapter)
            rows = pair_prompts.rows(run, split, run.phase)
        else:
            model = CoLLM.assemble(run, data, split, backbone, lora)
            pair_prompts.load_learned(model, mapping)
            rows = pair_prompts.rows(run, split, run.phase, length=model.encoder.length)
        return evaluation.score_pairs(run, model, data, split, rows, beside)

    @staticmethod
    def assemble(run: StageRun, data: Artifact, split: Artifact, backbone: Artifact, lora: Artifact) -> CoLLM:
        """The model as step 2 begins with it: LoRA of step 1 (not for T3), an untrained mapping."""
        settings = build(HybridSettings, run["hybrid"], "hybrid")
        text = repeat_soft(settings.text, settings.tokens)
        prompt, adapter = pair_prompts.open_adapted(run, data, split, text)
        if settings.tuning != "T3":
            adapter.load(lora.folder)
        encoder: Collaborative | FreeTokens
        if settings.encoding == "ui_token":
            opened = stages.open_backbone(run, data, split, backbone).session.split
            encoder = FreeTokens(opened.n_users, opened.n_items, prompt.lm.input_weight, settings)
        else:
            conventional = stages.open_backbone(run, data, split, backbone)
            if settings.tuning == "T2":
                conventional = cf.untrained(conventional.session)
            encoder = Collaborative(conventional, prompt.lm.hidden_size, settings)
        return CoLLM(prompt, adapter, encoder, settings)

    def train(self, mode: bool = True) -> CoLLM:
        """Set the mode of what is trained; frozen parts stay in evaluation mode."""
        super().train(mode)
        self.adapter.train(mode and self.settings.tuning == "T3")
        return self

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Binary cross-entropy of the answers to the prompt with soft tokens.

        Args:
            interaction: `user_id [B]`, `item_id [B]`, `item_id_list [B, L]`, `item_length [B]`, `shown [B, N]`,
                `label [B]`.

        Returns:
            A scalar.
        """
        prompts = pair_prompts.encoded(self, interaction)
        logits = self.prompt.logits(prompts, self.encoder(interaction))  # h(E), [B]
        return pair_prompts.like_loss(logits, interaction)

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Probabilities that rows are liked. Shape `[B]`."""

        def vectors(places: Sequence[int]) -> Mapping[str, Tensor]:
            return self.encoder(interaction[list(places)])

        return self.prompt.probabilities(pair_prompts.encoded(self, interaction), vectors)


class Collaborative(nn.Module):
    """CIE: a conventional recommender, and the mapping of its user and item vectors into the LLM's input space.

    Args:
        backbone: The conventional recommender.
        hidden_size: Width H of the LLM's input embeddings.
        settings: Of step 2.

    Attributes:
        length: Longest history the recommender reads.
        items: Item vectors of a frozen recommender. Shape `[n_items, d_item]`.
    """

    items: Tensor

    def __init__(self, backbone: cf.Backbone, hidden_size: int, settings: HybridSettings) -> None:
        super().__init__()
        config = backbone.session.config
        self.length = int(config["MAX_ITEM_LIST_LENGTH"] or 1)
        self.vectors, self.learns = vectors_of(config["model"]), settings.learns_backbone
        self.width = hidden_size
        self.device = config["device"]
        self.backbone = backbone.model.requires_grad_(self.learns)
        items = backbone.item_vectors()  # [n_items, d_item]
        self.register_buffer("items", None if self.learns else items, persistent=False)
        dimension = backbone.user_dimension  # d
        self.repeats = -(
            -dimension // items.shape[1]
        )  # DIN's user vectors are wider: its items' stand repeated
        inner = settings.factor * dimension
        self.mapping = nn.Sequential(  # g, shared by users and items
            nn.Linear(dimension, inner), nn.ReLU(), nn.Linear(inner, hidden_size * settings.tokens)
        )

    def train(self, mode: bool = True) -> Collaborative:
        """Set the mode; a frozen recommender stays in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode and self.learns)
        return self

    def forward(self, rows: Any) -> dict[str, Tensor]:  # noqa: ANN401 - RecBole's Interaction
        """Soft tokens of rows by slot: e_u = g(u), e_i = g(i). Shapes `[B * tokens, H]`."""
        rows = rows.to(self.device)
        if self.learns and hasattr(self.backbone, "restore_user_e"):
            self.backbone.restore_user_e = self.backbone.restore_item_e = None  # kept vectors have grown old
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            users = self.vectors.users(self.backbone, rows)  # [B, d]
            table = self.vectors.items(self.backbone) if self.learns else self.items  # [n_items, d_item]
            items = table[rows["item_id"]].repeat(1, self.repeats)[:, : users.shape[1]]  # [B, d]
        return {
            "user": self.mapping(users).view(-1, self.width),
            "item": self.mapping(items).view(-1, self.width),
        }


class FreeTokens(nn.Module):
    """The ablation with tokens of users and items of the LLM's own: one free vector each, no recommender.

    Args:
        users: Number of users, the padding user included.
        items: Number of items, the padding item included.
        embeddings: The LLM's input embeddings, for the scale of the first vectors. Shape `[V, H]`.
        settings: Of step 2.
    """

    length = 1

    def __init__(self, users: int, items: int, embeddings: Tensor, settings: HybridSettings) -> None:
        super().__init__()
        self.width = embeddings.shape[1]
        self.users, self.items = (
            nn.Embedding(count, self.width * settings.tokens) for count in (users, items)
        )
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=float(embeddings.float().std()))

    def forward(self, rows: Any) -> dict[str, Tensor]:  # noqa: ANN401 - RecBole's Interaction
        """Soft tokens of rows by slot. Shapes `[B * tokens, H]`."""
        rows = rows.to(self.users.weight.device)
        return {
            "user": self.users(rows["user_id"]).view(-1, self.width),
            "item": self.items(rows["item_id"]).view(-1, self.width),
        }


@opens(
    CoLLM,
    needs=("data", "split", "backbone", "lora", "mapping"),
    uses=("hybrid", "ensemble", "backbone", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, **made: Artifact
) -> Scorer:
    """The trained model as a scorer, or its mean with the backbone."""
    opened = stages.open_backbone(run, data, split, made["backbone"])
    retriever = ConventionalScorer(opened.model, opened.session)
    if run["hybrid"]["encoding"] == "none":
        prompt, adapter = pair_prompts.open_adapted(run, data, split)
        adapter.load(made["lora"].folder)
        scorer = PairScorer(run, pair_prompts.TextAnswers(prompt, adapter), retriever)
    else:
        model = CoLLM.assemble(run, data, split, made["backbone"], made["lora"])
        pair_prompts.load_learned(model, made["mapping"])
        scorer = PairScorer(run, model, retriever, model.encoder.length)
    return MeanScorer(scorer, retriever) if run["ensemble"] else scorer


# Departures from the paper and its code:
# - the score is logit(Yes) - logit(No), a probability as two-way softmax; the code trains and ranks by logit(Yes) alone
#   (answer.score: yes does so too);
# - each soft token has a position of its own; the code overwrites the embeddings of the tokenizer's unknown token, also
#   where a title has unknown characters;
# - a prompt too long for the LLM loses its oldest titles; the code cuts its end, the answer slot included;
# - one text per prompt: the code draws from four lines, which are equal;
# - under protocols whose histories hold dislikes too, the prompt still lists likes only, as its words say;
# - the warm-up counts steps over all training; in the code it begins anew four times;
# - DIN's item vectors are repeated to the width of its user vectors, three times if both have as many fields,
#   as in the code; else the last repetition is cut;
# - T3 trains LoRA and mapping together on a trained, frozen backbone; the paper says one step, and not what of the
#   backbone.
