"""Instruction tuning: files of instructions, and the loss of answers to prompts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.local import frame
from llmbole.llm.prompt import Encoded, PromptBatch, collate
from llmbole.llm.yes_no import AnswerIds, answer_ids


@dataclass(frozen=True)
class Instruction:
    """A prompt and the answer that is to be learned."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Lesson:
    """An instruction as token ids; the first `start` of them are the prompt's."""

    ids: list[int]
    start: int


def read(path: Path) -> list[Instruction]:
    """Read a file of general instructions, a JSON list or one JSON object a line, also compressed as `.gz`.

    Args:
        path: Rows with `instruction`, `input` and `output`, as Alpaca's, or with `conversations`, as LIMA's, of which
            the first two turns are taken.

    Returns:
        The instructions, in the file's order.

    Raises:
        ValueError: The file is not JSON, or a row is neither; the message names it.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as stream:
        content = stream.read()
    lined = not content.lstrip().startswith("[")
    try:
        rows = (
            [json.loads(line) for line in content.split("\n") if line.strip()]
            if lined
            else json.loads(content)
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is neither a JSON list nor one JSON object a line: {error}") from None
    return [_instruction(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def _instruction(row: Any, where: str) -> Instruction:  # noqa: ANN401 - whatever the file holds
    """One row of a file."""
    turns: Any = row.get("conversations") if isinstance(row, dict) else None
    if turns is None and isinstance(row, dict) and {"instruction", "output"} <= row.keys():
        turns = ["\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"]]
    sound = isinstance(turns, list) and len(turns) >= 2 and all(isinstance(turn, str) for turn in turns[:2])
    if not sound or not turns[0].strip() or not turns[1].strip():
        raise ValueError(
            f"{where}: expected texts under instruction, input and output, or under conversations; correct the row"
        )
    return Instruction(turns[0], turns[1])


def lessons(lm: LanguageModel, rows: Sequence[Instruction], max_tokens: int) -> list[Lesson]:
    """Instructions as the model reads them: in its chat frame, with the answer and the end token behind.

    Args:
        lm: The language model.
        rows: Instructions.
        max_tokens: Longer ones are cut at their end; where nothing of the answer is left, the row is left out.

    Returns:
        The lessons that are left.
    """
    before, after = frame(lm.tokens)
    end = [] if lm.tokens.eos_id is None else [lm.tokens.eos_id]
    found = []
    for row in rows:
        prompt = [*before, *lm.tokens.ids(row.prompt), *after]
        ids = [*prompt, *lm.tokens.ids(row.answer if after else f" {row.answer}"), *end]
        if len(prompt) < max_tokens:
            found.append(Lesson(ids[:max_tokens], len(prompt)))
    return found


def question_ids(lm: LanguageModel, prompts: Sequence[str]) -> tuple[list[list[int]], AnswerIds]:
    """Prompts as lessons begin with them, and the ids of Yes and No as lessons go on with them.

    Args:
        lm: The language model.
        prompts: Questions of yes or no.

    Returns:
        Token ids of each prompt, and of the answers.
    """
    before, after = frame(lm.tokens)
    end = "\n" if after else "?"  # a chat frame ends a line; elsewhere a space stands before the answer
    asked = [[*before, *ids, *after] for ids in lm.tokens.ids_many(list(prompts))]
    return asked, answer_ids(lm.tokens, end)


@dataclass(frozen=True)
class Smoothness:
    """R3F: what the model predicts may not change with small noise on its input (Aghajanyan et al., Better Fine-Tuning
    by Reducing Representational Collapse, ICLR 2021, section 3.1).

    Attributes:
        deviation: Standard deviation of normal noise on input embeddings, or half the range of uniform noise.
        weight: Of the divergence between predictions with and without noise.
        noise: `normal` or `uniform`.
    """

    deviation: float
    weight: float
    noise: Literal["normal", "uniform"]

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be a number of at least 0"
            for name in ("deviation", "weight")
            if not 0 <= getattr(self, name) < float("inf")
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def draw(self, embeddings: Tensor) -> Tensor:
        """Embeddings with noise."""
        if self.noise == "normal":
            return embeddings + self.deviation * torch.randn_like(embeddings)
        return embeddings + self.deviation * (2 * torch.rand_like(embeddings) - 1)


def answer_loss(lm: LanguageModel, rows: Sequence[Lesson], noise: float = 0.0) -> tuple[Tensor, int]:
    """Cross-entropy of the tokens of answers, the mean over all of a batch.

    Args:
        lm: The language model.
        rows: Lessons.
        noise: Uniform noise on input embeddings, whose range is this by the root of length times width (Jain et al.,
            NEFTune: Noisy Embeddings Improve Instruction Finetuning, ICLR 2024); 0 is none.

    Returns:
        A scalar, and how many tokens were read.
    """
    batch, answers = _batch(lm, rows)
    embeddings = lm.embed(batch.ids)  # [B, T, H]
    if noise:
        lengths = batch.mask.sum(1)[:, None, None]  # [B, 1, 1]
        scale = noise / (lengths * embeddings.shape[2]) ** 0.5
        embeddings = embeddings + (2 * torch.rand_like(embeddings) - 1) * scale
    logits = _logits(lm, embeddings, answers)
    return functional.cross_entropy(logits, batch.ids[answers]), int(batch.mask.sum())


def smooth_answer_loss(
    lm: LanguageModel, rows: Sequence[Lesson], smoothness: Smoothness
) -> tuple[Tensor, int]:
    """R3F's loss: `answer_loss`, and the weighted symmetric divergence of predictions with and without noise.

    Args:
        lm: The language model.
        rows: Lessons.
        smoothness: Noise and weight.

    Returns:
        A scalar, L + weight * (KL(p | q) + KL(q | p)), where the divergence is the mean over tokens of answers; and how
        many tokens were read, each twice.
    """
    batch, answers = _batch(lm, rows)
    embeddings = lm.embed(batch.ids)  # [B, T, H]
    logits = _logits(lm, embeddings, answers)  # [n, V]
    divergence = symmetric_divergence(logits, _logits(lm, smoothness.draw(embeddings), answers))
    loss = functional.cross_entropy(logits, batch.ids[answers])
    return loss + smoothness.weight * divergence, 2 * int(batch.mask.sum())


def symmetric_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(p | q) + KL(q | p) in nats, the mean over rows.

    Args:
        logits: Of p, `[n, V]`.
        others: Of q, `[n, V]`.

    Returns:
        A scalar.
    """
    p, q = logits.log_softmax(-1), others.log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def _batch(lm: LanguageModel, rows: Sequence[Lesson]) -> tuple[PromptBatch, Tensor]:
    """Lessons padded on the right, and where the tokens of answers stand, `[B, T]`."""
    batch = collate([Encoded(row.ids) for row in rows], lm.tokens.pad_id, "right").to(lm.device)
    starts = torch.tensor([row.start for row in rows], device=lm.device)[:, None]
    places = torch.arange(batch.ids.shape[1], device=lm.device)
    return batch, batch.mask.bool() & (places >= starts)


def _logits(lm: LanguageModel, embeddings: Tensor, answers: Tensor) -> Tensor:
    """Logits that predict the tokens of answers, `[n, V]`."""
    return lm.head(lm.hidden(embeddings)[:, :-1][answers[:, 1:]])
