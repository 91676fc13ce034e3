"""Contrastive alignment with text: its settings, how alike representations are, the loss of a batch, the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmbole.data.sentences import SentenceSettings
from llmbole.llm import tune
from llmbole.llm.tune import TuneSettings
from llmbole.model import stages, training
from llmbole.pipeline.run import StageRun
from recbole.data.interaction import Interaction


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


def contrastive_loss(rows: Tensor, texts: Tensor, settings: AlignSettings) -> Tensor:
    """InfoNCE of a batch over sub-representations.

    Args:
        rows: Projected representations; row b belongs to text b. Shape `[B, M * W]`.
        texts: Projected text vectors. Shape `[B, M * W]`.
        settings: M and W, and the temperature.

    Returns:
        A scalar.
    """
    shape = (len(rows), settings.parts, settings.width)
    return info_nce(similarities(rows.view(shape), texts.view(shape)), settings.temperature)


def align(
    run: StageRun,
    model: Any,  # noqa: ANN401 - a CTRL
    settings: AlignSettings,
    count: int,
    batch: Callable[[Tensor], Interaction],
) -> Mapping[str, Any]:
    """Stage 1's training; the conventional model inside, without the projections, is what the stage keeps.

    Args:
        run: The stage.
        model: The method, with its conventional `model`.
        settings: Of stage 1.
        count: Aligned rows.
        batch: Rows with their text vectors, by number.

    Returns:
        The stage's summary.
    """
    # A last batch of one row has nothing to tell it from, and batch normalisation refuses it.
    count -= count % settings.batch_size == 1
    schedule = settings.steps(count)

    def loss(numbers: Tensor) -> tuple[Tensor, int]:
        return model.calculate_loss(batch(numbers).to(stages.device(run))), 0

    with run.progress(schedule.steps, "step") as ticker:
        tuned = tune.tune(
            model, loss, count, schedule, seed=run.seed, workspace=run.workspace, progress=ticker
        )
    training.save_tensors(run.folder / f"{training.WEIGHTS}.safetensors", model.model.state_dict())
    run.count(trainable_parameters=sum(parameter.numel() for parameter in model.parameters()))
    return {
        "rows": count,
        "steps": tuned.step,
        "loss": tuned.loss,
        "did": f"{count} rows in {tuned.step} steps, contrastive loss {tuned.loss:.4f} in the last epoch",
    }
