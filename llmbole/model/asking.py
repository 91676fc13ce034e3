"""Texts in, texts out: prompts to a language model on this machine, and its answers, each kept as soon as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.local import LocalEngine
from llmbole.llm.texts import TextStore, write
from llmbole.pipeline.run import StageRun

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class AskSettings:
    """How answers are decoded, greedily.

    Attributes:
        max_new_tokens: Longest answer.
        batch_size: Prompts of one batch.
    """

    max_new_tokens: int
    batch_size: int

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("max_new_tokens", "batch_size")
            if getattr(self, name) < 1
        ]
        if problems:
            raise ValueError("\n".join(problems))


def ask(
    run: StageRun,
    lm: LanguageModel,
    identity: Mapping[str, Any],
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Answers of a language model; a stage that was killed goes on where it was.

    Args:
        run: The stage, whose workspace keeps answers while it is under way.
        lm: The language model.
        identity: What it is: name, revision, updates.
        prompts: What is asked; equal ones are asked once.
        max_new_tokens: Longest answer.
        batch_size: Prompts of one batch.

    Returns:
        An answer for each prompt.
    """
    engine = LocalEngine(lm, identity, max_new_tokens, 1.0)
    with run.progress(len(set(prompts)), "text") as ticker:
        written = write(engine, prompts, TextStore(run.workspace / ANSWERS), batch_size, ticker)
    run.count(llm_tokens=engine.tokens)
    return written.texts
