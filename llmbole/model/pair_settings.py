"""Settings of the methods that ask an LLM about a user and an item, which check themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmbole.llm.pair_prompt import Answer, Wording
from llmbole.llm.tune import TuneSettings
from llmbole.settings import Rule, part_checks


@dataclass(frozen=True)
class PairTuning(TuneSettings):
    """Training on rows, chosen by the AUC of validation rows.

    Attributes:
        rows: Training rows, drawn at random; 0 takes all.
        valid_rows: Validation rows, drawn at random; 0 takes all.
    """

    rows: int
    valid_rows: int

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 0, which takes all"
            for name in ("rows", "valid_rows")
            if getattr(self, name) < 0
        ]
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class PromptSettings(Wording):
    """The prompt of titles.

    Attributes:
        text: The template.
        history: Titles shown, the newest ones.
        shown: `likes`, or `all` of the protocol's history.
    """

    text: str
    history: int
    shown: Literal["likes", "all"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.history < 0:
            raise ValueError(f"history = {self.history}: must be at least 0")


def checks(*rules: Rule, **parts: type) -> type:
    """A settings class that builds the prompt, the answer and each named part of the settings, and so checks them.

    Args:
        *rules: As `llmbole.settings.part_checks` takes them.
        **parts: Setting name to frozen dataclass.

    Returns:
        A class with `check(settings)`.
    """
    return part_checks(*rules, prompt=PromptSettings, answer=Answer, **parts)
