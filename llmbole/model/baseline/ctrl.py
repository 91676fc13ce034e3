"""CTRL: a conventional recommender that first learns to see a row as a text encoder sees its sentences.

Li et al., CTRL: Connect Collaborative and Language Model for CTR Prediction, 2023. Baseline of Zhang et al., CoLLM,
2023 (over DIN), and of CoReLLa. Two stages: contrastive alignment of the tabular model's representation of a row with
the text vector of the same row, then fine-tuning of the tabular model alone. No text and no language model are left at
serving. Under protocols that rank the method of this name is in `ctrl_ranking.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmbole import registry
from llmbole.data import splits
from llmbole.data.pair_rows import SHOWN, PairRows
from llmbole.data.pairs import PairSplit
from llmbole.data.sentences import RowSentences
from llmbole.model import cf, evaluation, representation, stages, text_alignment, training
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.scorer import NewItems, opens
from llmbole.model.text_alignment import AlignSettings, RowTextSettings, contrastive_loss
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, part_checks
from recbole.data.interaction import Interaction

ROWS_PER_BATCH = 4096  # whose sentences are written at once
TEXT = "text"


@dataclass(frozen=True)
class RowAlignSettings(AlignSettings):
    """Stage 1 of a model of rows.

    Attributes:
        layer: The tabular model's layer whose input is the row's representation; None finds its prediction layer.
    """

    layer: str | None = None


def _fits(settings: Mapping[str, Any]) -> list[str]:
    """Why a backbone learns no labels, or has no representation of a row."""
    name = settings["backbone"]["name"]
    if name not in registry.LABEL_FORMS and registry.learns_labels(name):
        return []
    return [
        f"backbone {name} has no prediction layer, so it represents users and items, not rows; choose a model "
        "of rows, such as DIN, DCNV2 or DeepFM, or a protocol that ranks, where sequential models are aligned"
    ]


@register_model("CTRL")
class CTRL(LLMRecommender):
    """The tabular model, and what stage 1 needs beside it: a projection of each side.

    Args:
        model: A conventional model that predicts labels.
        text_width: Width of the text vectors.
        settings: Of stage 1.
    """

    protocols = ("temporal_collm", "temporal_ratio", "unified_ctr", "loo_ctr")
    settings_class = part_checks(_fits, sentences=RowTextSettings, align=RowAlignSettings)
    goals = ("backbone_scores", "scores")
    validates = "tuned"

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone  # by itself, to compare with
    backbone_scores = stages.score_backbone

    def __init__(self, model: Any, text_width: int, settings: RowAlignSettings) -> None:  # noqa: ANN401 - a RecBole model
        super().__init__()
        self.model, self.settings = model, settings
        width, size = self._layer.in_features, settings.parts * settings.width
        self.tabular, self.textual = nn.Linear(width, size), nn.Linear(text_width, size)

    @stage(
        makes="text",
        needs=("data", "split"),
        uses=("sentences", "text_encoder", "dataset", "protocol", "seed"),
    )
    def encode_rows(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Training rows as sentences -> vectors of the frozen text encoder, once for all runs."""
        settings = build(RowTextSettings, run["sentences"], "sentences")
        opened = splits.load(split.folder)
        assert isinstance(opened, PairSplit)  # the protocols of this method label pairs
        rows = PairRows(opened, "train", shown=settings.history, sample=settings.rows, seed=run.seed)
        sentences = RowSentences(data.folder, opened, settings, run["dataset"]["words"])
        texts: list[str] = []
        for numbers in torch.arange(len(rows)).split(ROWS_PER_BATCH):
            taken = rows.interaction(numbers)
            columns = [taken[name].tolist() for name in ("user_id", SHOWN, "item_id")]
            texts += sentences.write(*columns)
        vectors = stages.encode_texts(run, texts)
        tensors = {"rows": torch.from_numpy(rows.places), TEXT: torch.from_numpy(vectors)}
        training.save_tensors(run.folder / f"{TEXT}.safetensors", tensors)
        return {"example": texts[0], "did": f"{len(texts)} rows, width {vectors.shape[1]}"}

    @stage(
        makes="aligned",
        needs=("data", "split", "text"),
        uses=("align", "backbone", "dataset.name", "protocol", "seed"),
    )
    def align(run: StageRun, data: Artifact, split: Artifact, text: Artifact) -> Mapping[str, Any]:
        """Stage 1: the tabular model, from scratch, learns which text is its row's."""
        settings = build(RowAlignSettings, run["align"], "align")
        training.seed_everything(run.seed)
        opened = cf.untrained(stages.backbone_session(run, data, split))
        stored = training.load_tensors(text, TEXT)
        rows, vectors = stored["rows"], stored[TEXT]  # [R], [R, D]
        model = CTRL(opened.model.requires_grad_(True), vectors.shape[1], settings).to(stages.device(run))
        loader = opened.session.train_loader()

        def batch(numbers: Tensor) -> Interaction:
            taken = loader.take(rows[numbers])
            taken.update(Interaction({TEXT: vectors[numbers]}))
            return taken

        return text_alignment.align(run, model, settings, len(rows), batch)

    @stage(
        makes="tuned",
        needs=("data", "split", "aligned"),
        uses=("backbone", "dataset.name", "protocol", "seed"),
    )
    def fine_tune(run: StageRun, data: Artifact, split: Artifact, aligned: Artifact) -> Mapping[str, Any]:
        """Stage 2: the tabular model alone, on labels, as it is trained by itself but from aligned weights."""
        initial = training.load_tensors(aligned, training.WEIGHTS)
        return stages.fit_backbone(run, data, split, initial=initial)

    @stage(
        makes="scores",
        needs=("data", "split", "tuned"),
        uses=("backbone", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
        """Scores of the tabular model on the test, or on validation; no text is read."""
        opened = stages.open_backbone(run, data, split, tuned)
        return evaluation.score_conventional(run, opened.model, opened.session)

    @property
    def _layer(self) -> nn.Linear:
        return representation.prediction_layer(self.model, self.settings.layer)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The contrastive loss of a batch.

        Args:
            interaction: Rows as the tabular model reads them, and `text [B, D]`.

        Returns:
            A scalar.
        """
        rows = self.tabular(representation.represent(self.model, self._layer, interaction))  # [B, M * W]
        texts = self.textual(interaction[TEXT])  # [B, M * W]
        return contrastive_loss(rows, texts, self.settings)

    def predict(self, interaction: Interaction) -> Tensor:
        """Probabilities of the tabular model. Shape `[B]`."""
        scores: Tensor = self.model.predict(interaction)
        return scores


@opens(CTRL, needs=("data", "split", "tuned"), uses=("backbone", "dataset.name", "protocol", "seed"))
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, tuned: Artifact
) -> ConventionalScorer:
    """The tuned tabular model as a scorer."""
    opened = stages.open_backbone(run, data, split, tuned)
    return ConventionalScorer(opened.model, opened.session)


# Departures from the paper, which has no official code:
# - the text encoder is frozen and its vectors are computed once; the paper tunes it together with the tabular model;
# - sub-representations are compared by cosine; a row's representation is the input of its model's last layer;
# - a user's features are those the data set has, and the history is the protocol's;
# - a draw of the training rows can be aligned (sentences.rows), and stage 2 sees all of them.
