"""MoRec: a sequential recommender whose item vectors are made of item text instead of looked up by id.

Yuan et al., Where to Go Next for Recommender Systems? ID- vs. Modality-based Recommender Models Revisited, SIGIR 2023.
Baseline of Kim et al., Large Language Models meet Collaborative Filtering, KDD 2024, over SASRec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbole.data.split import Split
from llmbole.llm.encode import TrainableEncoder
from llmbole.model import evaluation, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.cf import resolve_training
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.new_text import new_text_vectors, new_texts, text_columns
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import Session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, part_checks
from llmbole.trainer import all_positions

BACKBONES = ("SASRec", "GRU4Rec")
"""Models that learn all positions of a sequence and read item vectors through `item_embedding` alone."""


@dataclass(frozen=True)
class ItemSettings:
    """How items become vectors.

    Attributes:
        text: Text of an item.
        encoder: `frozen`: the encoder's vectors are looked up; `tuned`: its last blocks learn.
        blocks: How many blocks learn, for `tuned`.
        learning_rate: Of those blocks; the rest has the backbone's.
    """

    text: str
    encoder: Literal["frozen", "tuned"]
    blocks: int
    learning_rate: float

    def __post_init__(self) -> None:
        problems = [] if self.blocks >= 1 else [f"blocks = {self.blocks}: must be at least 1"]
        if not 0 < self.learning_rate < float("inf"):
            problems.append(f"learning_rate = {self.learning_rate}: must be a number above 0")
        if problems:
            raise ValueError("\n".join(problems))


def _fits(settings: Mapping[str, Any]) -> list[str]:
    """Why a backbone can't read vectors of text."""
    problems = []
    name, trained = settings["backbone"]["name"], settings["backbone"]["training"]
    if name not in BACKBONES:
        problems.append(
            f"backbone {name} can't read item vectors made of text; choose {' or '.join(BACKBONES)}"
        )
    if trained not in ("auto", "all_positions"):
        problems.append(
            f"backbone.training = {trained!r}: the loss compares all positions of a batch; set auto"
        )
    return problems


@register_model("MoRec")
class MoRec(LLMRecommender):
    """A sequential model over projected text vectors.

    Args:
        sequence: The model of sequences; its table of item embeddings is taken out.
        causal: Gives its outputs at all positions.
        text: Gives the text vectors of item ids, `[n] -> [n, D_text]`; learns if it has trainable parameters.
        popularity: Training interactions of each item. Shape `[n_items]`.
        settings: Of the items.
    """

    added: Tensor
    protocols = ("loo_rank20", "loo_full", "unified_rank")
    settings_class = part_checks(_fits, items=ItemSettings)
    validates = "trained"
    ranks_all_items = True

    data = stages.prepare_data
    split = stages.freeze_split

    def __init__(
        self,
        sequence: Any,  # noqa: ANN401 - a RecBole model
        causal: all_positions.CausalModel,
        text: Any,  # noqa: ANN401 - a module with `dimension`
        popularity: Tensor,
        settings: ItemSettings,
    ) -> None:
        super().__init__()
        width = sequence.item_embedding.embedding_dim
        sequence.item_embedding = GivenVectors()
        self.sequence, self.causal, self.text, self.settings = sequence, causal, text, settings
        self.project = nn.Sequential(nn.Linear(text.dimension, width), nn.GELU())
        share = popularity.clamp(min=1).float() / popularity.sum()  # p_i, [n_items]
        self.register_buffer("log_popularity", share.log(), persistent=False)
        self.register_buffer("added", share.new_zeros(0, text.dimension), persistent=False)
        self._table: Tensor | None = None

    @stage(
        makes="text",
        needs=("data", "split"),
        uses=("dataset.name", "text_encoder", "items.text"),
        when=("items.encoder", "frozen"),
    )
    def encode_text(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Item text -> vectors of the text encoder as it comes."""
        return stages.encode_items(run, data, split, run["items.text"])

    @stage(
        makes="trained",
        needs=("data", "split", "text"),
        uses=("items", "backbone", "text_encoder", "dataset.name", "protocol", "seed"),
    )
    def fit(run: StageRun, data: Artifact, split: Artifact, text: Artifact | None) -> Mapping[str, Any]:
        """Train the model, and the encoder's last blocks if they learn, stopped early on validation data."""
        training.seed_everything(run.seed)
        model, session = MoRec.assemble(run, data, split, text)
        session.check_training()
        opened = session.ranking_split
        sequences = [opened.train_items(user) for user in range(opened.n_users)]
        loader = all_positions.AllPositionsLoader(session.config, session.dataset, sequences)
        return training.fit_rows(run, session, model, {"train": loader, "valid": session.loader("valid")})

    @stage(
        makes="scores",
        needs=("data", "split", "text", "trained"),
        uses=("items", "backbone", "text_encoder", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun, data: Artifact, split: Artifact, text: Artifact | None, trained: Artifact
    ) -> Mapping[str, Any]:
        """Scores on the test, or on validation."""
        model, session = MoRec.assemble(run, data, split, text)
        training.load_weights(model, trained)
        return evaluation.score_conventional(run, model.eval(), session)

    @staticmethod
    def assemble(
        run: StageRun, data: Artifact, split: Artifact, text: Artifact | None
    ) -> tuple[MoRec, Session]:
        """The untrained model, and its data."""
        settings = build(ItemSettings, run["items"], "items")
        session = stages.backbone_session(run, data, split)
        resolve_training(run["backbone.training"], session.config)
        causal = all_positions.causal_model(session.config["model"])
        source = stages.text_vectors(run, data, split, text, settings.text)
        if isinstance(source, TrainableEncoder):
            source.learn_last(settings.blocks)
        _, popularity = Split.load(split.folder).train_counts
        sequence = causal.model_class(session.config, session.parts[0])
        model = MoRec(sequence, causal, source, torch.from_numpy(popularity), settings)
        return model.to(session.config["device"]), session

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, the text encoder's blocks with a learning rate of their own."""
        return training.parameter_groups(self, self.text, self.settings.learning_rate)

    def train(self, mode: bool = True) -> MoRec:
        """Switch between training and evaluation; vectors of all items are made anew after a training."""
        self._table = None
        super().train(mode)
        return self

    def add_items(self, text: Tensor) -> None:
        """Score more items, behind those of the data set.

        Args:
            text: Their text vectors. Shape `[n, D_text]`.
        """
        self.added, self._table = text.to(self.added), None

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """In-batch cross-entropy with the correction for popularity, over all positions (section 3.3).

        Args:
            interaction: `item_id_list [B, L]`, and the next items `item_id [B, L]`, 0 behind the last one.

        Returns:
            A scalar.
        """
        inputs, targets = interaction["item_id_list"], interaction["item_id"]  # [B, L]
        shown = torch.cat([inputs[:, :1], targets], dim=1)  # the whole sequences, [B, L + 1]
        padding = shown.new_zeros(1)  # so that place 0 is the padding's
        items = torch.unique(torch.cat([padding, shown.flatten()]))  # [U], ascending
        vectors = self.project(self.text(items))  # [U, D]
        self.sequence.item_embedding.vectors = vectors
        outputs = self.causal.outputs(
            self.sequence, torch.searchsorted(items, inputs.contiguous())
        )  # [B, L, D]
        places = torch.searchsorted(items, shown)  # [B, L + 1]
        return in_batch_loss(outputs, vectors, places, self.log_popularity[items])

    def full_sort_predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Scores of all items. Shape `[B, n_items]`."""
        if self._table is None:
            ids = torch.arange(len(self.log_popularity), device=self.log_popularity.device)
            known = [self.project(self.text(part)) for part in ids.split(256)]
            self._table = torch.cat([*known, self.project(self.added)])
        self.sequence.item_embedding.vectors = self._table
        output = self.sequence(interaction["item_id_list"], interaction["item_length"])  # [B, D]
        return output @ self._table.T

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Scores of rows. Shape `[B]`."""
        return self.full_sort_predict(interaction).gather(1, interaction["item_id"][:, None]).squeeze(1)


class GivenVectors(nn.Module):
    """Stands where a model looks item embeddings up, and gives those of `vectors`, `[U, D]`, by their places."""

    vectors: Tensor

    def forward(self, places: Tensor) -> Tensor:
        """Vectors at places. Shape `[..., D]`."""
        return functional.embedding(places, self.vectors)


def in_batch_loss(outputs: Tensor, vectors: Tensor, sequences: Tensor, log_popularity: Tensor) -> Tensor:
    """Cross-entropy of next items among all items of a batch's sequences, each as often as it occurs there.

    Scores are y - log p, which takes back that popular items are drawn into a batch more often. Items of a row's own
    sequence are no negatives for it.

    Args:
        outputs: Of the model at all positions. Shape `[B, L, D]`.
        vectors: Of the distinct items of the batch, the padding's first. Shape `[U, D]`.
        sequences: Place in `vectors` of each item of the sequences, 0 behind the last. Shape `[B, L + 1]`.
        log_popularity: log p of those items. Shape `[U]`.

    Returns:
        The mean over positions that have a next item, a scalar.
    """
    targets = sequences[:, 1:]  # [B, L]
    rows, columns = targets.nonzero(as_tuple=True)  # [P]
    scores = outputs[rows, columns] @ vectors.T - log_popularity  # [P, U]
    own = scores.new_zeros(len(sequences), len(vectors), dtype=torch.bool).scatter(
        1, sequences, True
    )  # [B, U]
    counts = torch.bincount(sequences.flatten(), minlength=len(vectors)).to(scores.dtype)  # [U]
    excluded = own.index_fill(1, sequences.new_zeros(1), value=True)  # the padding is no item
    negatives = (scores + counts.log()).masked_fill(excluded[rows], -torch.inf)  # [P, U]
    positives = scores.gather(1, targets[rows, columns][:, None])  # [P, 1]
    return (torch.cat([positives, negatives], dim=1).logsumexp(1) - positives[:, 0]).mean()


@opens(
    MoRec,
    needs=("data", "split", "text", "trained"),
    uses=("items", "backbone", "text_encoder", "dataset.name", "protocol", "seed"),
    reads_new=True,
)
def open_recommender(
    run: StageRun,
    new: NewItems | None,
    data: Artifact,
    split: Artifact,
    text: Artifact | None,
    trained: Artifact,
) -> ConventionalScorer:
    """The trained model, which reads new items as it reads all: by their text."""
    model, session = MoRec.assemble(run, data, split, text)
    training.load_weights(model, trained)
    if new is None:
        return ConventionalScorer(model, session)
    template = model.settings.text
    model.add_items(new_text_vectors(run, new, template, None if text else model.text))
    columns = text_columns(stages.item_texts(data, split, template), new_texts(new, template))
    return ConventionalScorer(model, session, columns)


# Departures from the paper:
# - by default the text encoder is frozen and its vectors are looked up (the paper's two-stage setting); with
#   `items.encoder: tuned` its last blocks learn end to end, as in the paper;
# - the encoder is a sentence encoder with its own pooling, all-MiniLM-L6-v2 by default (the paper: BERT, RoBERTa, OPT);
#   one layer with GELU takes its vectors to the width of the backbone;
# - a batch holds windows of sequences; a user's own items are those of the window;
# - sizes and rates are those of the backbone here, so that both differ in the item table and the loss alone.
