"""Tuning a language model on instructions, Eq. 7, and opening it with the prompts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from llmbole.data import splits
from llmbole.data.sequences import Sequences
from llmbole.llm import backbone, score, tune, yes_no
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import Answer
from llmbole.llm.prompt import Encoded
from llmbole.llm.tune import TuneSettings
from llmbole.model import stages, training
from llmbole.model.instructions import Instructions
from llmbole.model.ranking_prompts import TASKS, AugmentSettings, PromptSettings, RankingPrompts, Shown
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import build

USES = ("tune", "lora", "prompt", "answer", "augment", "llm", "dataset", "protocol", "seed")
"""Settings of stages that ask the tuned LLM with augmented prompts."""


@dataclass(frozen=True)
class InstructionTuning(TuneSettings):
    """Training on instructions, chosen by the loss of some that are left out of it.

    Attributes:
        updates: `lora`; `full`, all parameters; or `none`, the language model as it is.
        valid_rows: instructions that are left out of training.
    """

    updates: Literal["lora", "full", "none"]
    valid_rows: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid_rows < 1:
            raise ValueError(f"valid_rows = {self.valid_rows}: must be at least 1")


class Instructed(nn.Module):
    """A language model that learns to answer instructions; its parameters are what is tuned.

    Args:
        prompts: Prompts over the language model.
        rows: Instructions.
        learned: The adapter, or the language model itself.
    """

    def __init__(self, prompts: RankingPrompts, rows: Instructions, learned: nn.Module) -> None:
        super().__init__()
        self.prompts, self.rows, self.learned = prompts, rows, learned

    def loss(self, numbers: Tensor) -> tuple[Tensor, int]:
        """Eq. 7: mean cross-entropy of the answers' tokens, and how many tokens were read.

        Args:
            numbers: Rows. Shape `[B]`.

        Returns:
            A scalar and a count.
        """
        lm = self.prompts.lm
        encoded, answers = self.encoded(numbers.numpy())
        embeddings, mask = yes_no.embed(lm, encoded, {})
        found = score.answer_loss(lm, embeddings, mask, answers)
        return found.loss, found.tokens_processed

    def encoded(self, numbers: np.ndarray) -> tuple[list[Encoded], list[list[int]]]:
        """Prompts and answer tokens of rows; rows of one task stand together."""
        prompts: list[Encoded] = []
        answers: list[list[int]] = []
        for number, task in enumerate(TASKS):
            rows = numbers[self.rows.task[numbers] == number]
            if len(rows):
                right = [self._answer(task, row) for row in rows.tolist()]
                answers += right
                prompts += self._prompts(task, rows, max(map(len, right)))
        return prompts, answers

    def _prompts(self, task: str, rows: np.ndarray, answer_tokens: int) -> list[Encoded]:
        length = self.prompts.settings.history
        shown = Shown(self.prompts.sequences.before(self.rows.position[rows], length))
        offered = self.rows.offered[rows]
        if task == "listwise":
            count = int((self.rows.answer[rows] > 0).sum(axis=1).max())
            return self.prompts.listwise(shown, offered, count, answer_tokens)
        if task == "pairwise":
            return self.prompts.pairwise(shown, offered[:, :2], answer_tokens)
        if task == "pointwise":
            return self.prompts.pointwise(shown, offered[:, 0])
        return self.prompts.rating(shown, offered[:, 0], answer_tokens)

    def _answer(self, task: str, row: int) -> list[int]:
        titles, ids = self.prompts.titles, self.prompts.yes_no
        if task == "pointwise":
            end = titles.answer_ids("")
            return [ids.yes if self.rows.label[row] else ids.no, *end]
        if task == "rating":
            return titles.answer_ids(f"{self.rows.label[row]:g}")
        return titles.answer_ids(titles.quoted([item for item in self.rows.answer[row].tolist() if item]))


@stage(
    makes="tuned",
    needs=("data", "split", "instructions"),
    uses=("tune", "lora", "prompt", "answer", "llm", "dataset", "seed"),
)
def tune_instructions(
    run: StageRun, data: Artifact, split: Artifact, instructions: Artifact
) -> Mapping[str, Any]:
    """Teach the LLM to answer instructions; no conventional model has a part in it."""
    settings = build(InstructionTuning, run["tune"], "tune")
    if settings.updates == "none":
        return {"did": "nothing: tune.updates is none, the LLM answers as it is"}
    training.seed_everything(run.seed)
    prompts = open_prompts(run, data, split)
    learned = _learned_part(run, prompts.lm, settings)
    rows = Instructions.load(instructions)
    model = Instructed(prompts, rows, learned)
    held_out = min(settings.valid_rows, len(rows) // 2)
    valid = torch.arange(held_out)
    with run.progress(settings.steps, "step") as ticker:
        tuned = tune.tune(
            model,
            lambda numbers: model.loss(numbers + held_out),
            len(rows) - held_out,
            settings,
            seed=run.seed,
            workspace=run.workspace,
            validate=lambda: _validate(model, valid, settings.batch_size),
            progress=ticker,
        )
    if isinstance(learned, Adapter):
        learned.save(run.folder)
    else:
        training.save_tensors(run.folder / f"{training.WEIGHTS}.safetensors", learned.state_dict())
    parameters = sum(parameter.numel() for parameter in learned.parameters() if parameter.requires_grad)
    run.count(trainable_parameters=parameters, llm_tokens=tuned.tokens)
    assert tuned.score is not None  # the last step is always validated
    return {
        "rows": len(rows) - held_out,
        "steps": tuned.step,
        "best_step": tuned.best_step,
        "valid_loss": -tuned.score,
        "valid_losses": [-value for value in tuned.scores],
        "loss": tuned.loss,
        "trainable_parameters": parameters,
        "did": f"{parameters:,} parameters ({settings.updates}), step {tuned.best_step} of {tuned.step} is best, loss "
        f"{-tuned.score:.4f} on {held_out} instructions",
    }


@torch.inference_mode()
def _validate(model: Instructed, rows: Tensor, batch_size: int) -> tuple[float, int]:
    """The negative mean loss of rows, and tokens read."""
    total, tokens = 0.0, 0
    for numbers in rows.split(batch_size):
        loss, read = model.loss(numbers)
        total += float(loss) * len(numbers)
        tokens += read
    return -total / len(rows), tokens


def _learned_part(run: StageRun, lm: LanguageModel, settings: InstructionTuning) -> nn.Module:
    if settings.updates == "lora":
        return Adapter(lm, build(LoraSettings, run["lora"], "lora"))
    return lm.model.requires_grad_(True)


def open_prompts(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    tuned: Artifact | None = None,
    augment: AugmentSettings | None = None,
) -> RankingPrompts:
    """The run's prompts over the run's LLM, tuned or as it comes.

    Args:
        run: The stage; it must declare `prompt`, `answer`, `llm`, `dataset`, and with a tuned LLM `tune` and `lora`.
        data: Prepared data.
        split: Frozen split.
        tuned: What `tune_instructions` made.
        augment: What prompts are told beside the question.

    Returns:
        The prompts; the LLM is frozen.
    """
    lm = open_tuned(run, tuned)
    settings = build(PromptSettings, run["prompt"], "prompt")
    answer = build(Answer, run["answer"], "answer")
    titles = stages.item_texts(data, split, "{title}")
    sequences = Sequences.of(splits.load(split.folder))
    return RankingPrompts(lm, settings, answer, titles, run["dataset"]["words"], sequences, augment)


def open_tuned(run: StageRun, tuned: Artifact | None) -> LanguageModel:
    """The run's LLM, tuned or, without an artifact, as it comes; frozen.

    The stage must declare `llm`, and with a tuned LLM `tune` and `lora`.
    """
    lm = backbone.load(stages.llm_spec(run), stages.device(run)).freeze()
    updates = run["tune"]["updates"] if tuned is not None else "none"
    if updates == "lora" and tuned is not None:
        Adapter(lm, build(LoraSettings, run["lora"], "lora")).load(tuned.folder)
    elif updates == "full" and tuned is not None:
        lm.model.load_state_dict(load_file(tuned.folder / f"{training.WEIGHTS}.safetensors"))
    return lm
