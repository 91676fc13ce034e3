"""CTRL over a sequential model: before it learns which item comes next, it learns to see a history as text is seen.

Li et al., CTRL: Connect Collaborative and Language Model for CTR Prediction, 2023, in the form in which Kim et al.,
Large Language Models meet Collaborative Filtering, KDD 2024 (section 5.1), compare with it over SASRec. Two stages:
contrastive alignment of the representation of a history with the text vector of the same history, then fine-tuning of
the sequential model alone. No text and no language model are left at serving. On labelled pairs the method of this name
is in `ctrl.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.data import leak
from llmbole.data.positions import training_positions
from llmbole.data.sentences import RowSentences
from llmbole.data.split import Split
from llmbole.model import cf, evaluation, stages, text_alignment, training
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import no_leaks
from llmbole.model.text_alignment import AlignSettings, RowTextSettings, contrastive_loss
from llmbole.model.vectors import VECTORS, vectors_of
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, part_checks
from recbole.data.interaction import Interaction

TEXT = "text"
SEQUENTIAL = tuple(name for name, vectors in VECTORS.items() if vectors.reads_items)
"""Backbones whose user representation is made of a history."""


def _fits(settings: Mapping[str, Any]) -> list[str]:
    """Why a backbone reads no histories."""
    name = settings["backbone"]["name"]
    if name in SEQUENTIAL:
        return []
    return [
        f"backbone {name} has no representation of a history to align; choose one of {', '.join(SEQUENTIAL)}, "
        "or a protocol of labelled pairs, where models of rows are aligned"
    ]


@register_model("CTRL", task="ranking")
class RankingCTRL(LLMRecommender):
    """The sequential model, and what stage 1 needs beside it: a projection of each side.

    Args:
        model: A sequential model.
        name: RecBole's name of it.
        widths: Of its representation of a history, and of the text vectors.
        settings: Of stage 1.
    """

    protocols = ("loo_rank20", "loo_full", "unified_rank")
    settings_class = part_checks(_fits, sentences=RowTextSettings, align=AlignSettings)
    goals = ("backbone_scores", "scores")
    validates = "tuned"

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone  # by itself, to compare with
    backbone_scores = stages.score_backbone

    def __init__(self, model: Any, name: str, widths: tuple[int, int], settings: AlignSettings) -> None:  # noqa: ANN401 - a RecBole model
        super().__init__()
        self.model, self.settings, self.vectors = model, settings, vectors_of(name)
        size = settings.parts * settings.width
        self.sequential, self.textual = nn.Linear(widths[0], size), nn.Linear(widths[1], size)

    @stage(
        makes="text",
        needs=("data", "split"),
        uses=("sentences", "text_encoder", "dataset", "protocol", "seed"),
    )
    def encode_histories(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Histories at training positions as sentences -> vectors of the frozen text encoder, once for all runs."""
        settings = build(RowTextSettings, run["sentences"], "sentences")
        opened = Split.load(split.folder)
        found = training_positions(opened, 0, max(1, settings.history))
        no_leaks(leak.check_training(opened, found.users, found.targets, found.histories))
        rows = np.arange(len(found.users))
        if 0 < settings.rows < len(rows):
            rows = np.sort(np.random.default_rng(run.seed).choice(rows, settings.rows, replace=False))
        shown = found.histories[rows, : settings.history]
        sentences = RowSentences(data.folder, opened, settings, run["dataset"]["words"])
        texts = sentences.write(found.users[rows].tolist(), shown.tolist(), found.targets[rows].tolist())
        vectors = stages.encode_texts(run, texts)
        tensors = {"rows": torch.from_numpy(rows), TEXT: torch.from_numpy(vectors)}
        training.save_tensors(run.folder / f"{TEXT}.safetensors", tensors)
        return {"example": texts[0], "did": f"{len(texts)} histories, width {vectors.shape[1]}"}

    @stage(
        makes="aligned",
        needs=("data", "split", "text"),
        uses=("align", "backbone", "dataset.name", "protocol", "seed"),
    )
    def align(run: StageRun, data: Artifact, split: Artifact, text: Artifact) -> Mapping[str, Any]:
        """Stage 1: the sequential model, from scratch, learns which text is its history's."""
        settings = build(AlignSettings, run["align"], "align")
        training.seed_everything(run.seed)
        session = stages.backbone_session(run, data, split)
        config = session.config
        opened = cf.untrained(session, cf.resolve_training(run["backbone.training"], config))
        stored = training.load_tensors(text, TEXT)
        rows, vectors = stored["rows"].numpy(), stored[TEXT]  # [R], [R, D]
        found = training_positions(session.ranking_split, 0, int(config["MAX_ITEM_LIST_LENGTH"]))
        histories, lengths = (torch.from_numpy(each[rows]) for each in (found.histories, found.lengths))
        widths = (opened.user_dimension, vectors.shape[1])
        model = RankingCTRL(opened.model.requires_grad_(True), config["model"], widths, settings)
        model = model.to(stages.device(run))

        def batch(numbers: Tensor) -> Interaction:
            columns = {"item_id_list": histories[numbers], "item_length": lengths[numbers]}
            return Interaction({**columns, TEXT: vectors[numbers]})

        return text_alignment.align(run, model, settings, len(rows), batch)

    @stage(
        makes="tuned",
        needs=("data", "split", "aligned"),
        uses=("backbone", "dataset.name", "protocol", "seed"),
    )
    def fine_tune(run: StageRun, data: Artifact, split: Artifact, aligned: Artifact) -> Mapping[str, Any]:
        """Stage 2: the sequential model alone, as it is trained by itself but from aligned weights."""
        initial = training.load_tensors(aligned, training.WEIGHTS)
        return stages.fit_backbone(run, data, split, initial=initial)

    @stage(
        makes="scores",
        needs=("data", "split", "tuned"),
        uses=("backbone", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
        """Scores of the sequential model on the test, or on validation; no text is read."""
        opened = stages.open_backbone(run, data, split, tuned)
        return evaluation.score_conventional(run, opened.model, opened.session)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The contrastive loss of a batch.

        Args:
            interaction: `item_id_list [B, L]`, `item_length [B]`, `text [B, D]`.

        Returns:
            A scalar.
        """
        histories = self.sequential(self.vectors.users(self.model, interaction))  # [B, M * W]
        texts = self.textual(interaction[TEXT])  # [B, M * W]
        return contrastive_loss(histories, texts, self.settings)

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of the sequential model. Shape `[B]`."""
        scores: Tensor = self.model.predict(interaction)
        return scores


@opens(RankingCTRL, needs=("data", "split", "tuned"), uses=("backbone", "dataset.name", "protocol", "seed"))
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, tuned: Artifact
) -> ConventionalScorer:
    """The tuned sequential model as a scorer."""
    opened = stages.open_backbone(run, data, split, tuned)
    return ConventionalScorer(opened.model, opened.session)


# Departures from the paper, which is about labelled rows and has no official code:
# - a row is a history, and its text names the user's features and the history's titles. The next item, which is to be
#   learned in stage 2, stands in neither; `{target}` in `sentences.text` writes it;
# - the text encoder is frozen and its vectors are computed once; the paper tunes it together with the other model;
# - sub-representations are compared by cosine; the loss is InfoNCE both ways, as in the paper. A-LLMRec's code takes a
#   binary cross-entropy of each pair of a batch instead;
# - a draw of the training positions can be aligned (sentences.rows), and stage 2 sees all of them.
