"""Instruction tuning: files of instructions, and the loss of answers to prompts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import Encoded, collate
from llmbole.llm.texts import frame


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
    before, after = frame(lm)
    end = [] if lm.tokens.eos_id is None else [lm.tokens.eos_id]
    found = []
    for row in rows:
        prompt = [*before, *lm.tokens.ids(row.prompt), *after]
        ids = [*prompt, *lm.tokens.ids(row.answer if after else f" {row.answer}"), *end]
        if len(prompt) < max_tokens:
            found.append(Lesson(ids[:max_tokens], len(prompt)))
    return found


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
    batch = collate([Encoded(row.ids) for row in rows], lm.tokens.pad_id, "right").to(lm.device)
    embeddings = lm.embed(batch.ids)  # [B, T, H]
    if noise:
        lengths = batch.mask.sum(1)[:, None, None]  # [B, 1, 1]
        scale = noise / (lengths * embeddings.shape[2]) ** 0.5
        embeddings = embeddings + (2 * torch.rand_like(embeddings) - 1) * scale
    starts = torch.tensor([row.start for row in rows], device=lm.device)[:, None]
    places = torch.arange(batch.ids.shape[1], device=lm.device)
    answers = batch.mask.bool() & (places >= starts)  # [B, T]
    hidden = lm.hidden(embeddings)[:, :-1][answers[:, 1:]]  # [n, H] states that predict an answer's token
    return functional.cross_entropy(lm.head(hidden), batch.ids[answers]), int(batch.mask.sum())
