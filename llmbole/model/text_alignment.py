"""Leaves of contrastive alignment with text: its settings, how alike representations are, and the loss of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from llmbole.data.sentences import SentenceSettings
from llmbole.llm.tune import TuneSettings


@dataclass(frozen=True)
class RowTextSettings(SentenceSettings):
    """The sentences of training rows.

    Attributes:
        rows: Training rows to align, drawn at random; 0 takes all.
    """

    rows: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 0:
            raise ValueError(f"rows = {self.rows}: must be at least 0, which takes all")


@dataclass(frozen=True)
class AlignSettings:
    """Stage 1.

    Attributes:
        parts: Sub-representations M of each side; 1 compares whole representations.
        width: Size of a sub-representation.
        temperature: What similarities are divided by.
        learning_rate: Of AdamW.
        weight_decay: Not applied to biases.
        batch_size: Rows that are told apart.
        epochs: Passes over the rows.
    """

    parts: int
    width: int
    temperature: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        least = {"parts": 1, "width": 1, "batch_size": 2, "epochs": 1}
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        problems += [
            f"{name} = {getattr(self, name)}: must be above 0"
            for name in ("temperature", "learning_rate")
            if getattr(self, name) <= 0
        ]
        if self.weight_decay < 0:
            problems.append(f"weight_decay = {self.weight_decay}: must be at least 0")
        if problems:
            raise ValueError("\n".join(problems))

    def steps(self, rows: int) -> TuneSettings:
        """The training of so many rows: a constant rate, no validation."""
        per_epoch = -(-rows // self.batch_size)
        return TuneSettings(
            learning_rate=self.learning_rate,
            warmup_rate=self.learning_rate,
            warmup_steps=0,
            least_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            accumulation=1,
            steps=per_epoch * self.epochs,
            check_every=per_epoch,
            patience=1,
        )


def similarities(rows: Tensor, texts: Tensor) -> Tensor:
    """How alike rows and texts are: for each part of a row the cosine with the text's most similar part, summed.

    Args:
        rows: Sub-representations of rows. Shape `[B, M, W]`.
        texts: Sub-representations of texts. Shape `[C, M, W]`.

    Returns:
        Shape `[B, C]`.
    """
    rows, texts = functional.normalize(rows, dim=-1), functional.normalize(texts, dim=-1)
    return torch.einsum("bmw,cnw->bcmn", rows, texts).amax(dim=3).sum(dim=2)


def info_nce(scores: Tensor, temperature: float) -> Tensor:
    """InfoNCE both ways: a row has to find its text among the batch's, and a text its row; the mean of both.

    Args:
        scores: Similarities; row b belongs to text b. Shape `[B, B]`.
        temperature: What they are divided by.

    Returns:
        A scalar.
    """
    own = torch.arange(len(scores), device=scores.device)
    scores = scores / temperature
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
