"""Leaves of the methods that read what a language model wrote: settings, prompts of rows, and texts."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data.numbered import NumberedRows
from llmbole.model import stages
from llmbole.pipeline.store import Artifact
from llmbole.settings import close_name

TEXTS = "texts.jsonl"


@dataclass(frozen=True)
class WritingSettings:
    """How texts are decoded.

    Attributes:
        max_new_tokens: Longest answer.
        repetition_penalty: Divides the logits of tokens that the answer already has; 1 is none.
        batch_size: Prompts of one batch.
    """

    max_new_tokens: int
    repetition_penalty: float
    batch_size: int

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("max_new_tokens", "batch_size")
            if getattr(self, name) < 1
        ]
        if not 1 <= self.repetition_penalty < float("inf"):
            problems.append(f"repetition_penalty = {self.repetition_penalty}: must be a number of at least 1")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class ListSettings:
    """How items are listed in a prompt.

    Attributes:
        history: Items listed, the newest ones.
        item: One item: text with the fields of items, such as `{title}` or `{categories}`.
        separator: Between two items.
        empty: Stands in for an empty list.
        characters: Longer items are cut.
    """

    history: int
    item: str
    separator: str
    empty: str
    characters: int

    def __post_init__(self) -> None:
        problems = [] if self.empty.strip() else ["empty is empty: write a word"]
        problems += [
            f"{name} = {getattr(self, name)}: must be at least {least}"
            for name, least in (("history", 0), ("characters", 1))
            if getattr(self, name) < least
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def write(self, items: Iterable[int], names: Sequence[str]) -> str:
        """A list of items; ids of 0 are padding."""
        return self.separator.join(names[item] for item in items if item) or self.empty


@dataclass(frozen=True)
class ReasoningSettings(WritingSettings):
    """Reasoning about training rows: about which, and what the LLM is asked.

    Attributes:
        share: Of the training rows.
        text: The prompt.
        decisions: What the user did, for labels 0 and 1.
        listed: How items are listed in the prompt.
    """

    share: float
    text: str
    decisions: tuple[str, str]
    listed: ListSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share}: must be above 0 and at most 1")
        check_slots(self.text, ("history", "target", "decision"))


def check_slots(template: str, slots: Sequence[str]) -> None:
    """Refuse a prompt with other slots than these and the words of a data set.

    Args:
        template: The prompt.
        slots: Names of its values, all of which must stand in it.

    Raises:
        ValueError: One is missing or unknown, or it is no template.
    """
    words = ("item", "items", "verb", "past")
    found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    for name in sorted(found - {*slots, *words}):
        raise ValueError(
            f"the prompt {template!r} has the slot {name!r}; {close_name(name, (*slots, *words))}"
        )
    lacking = [name for name in slots if name not in found]
    if lacking:
        raise ValueError(f"the prompt {template!r} lacks {{{'}, {'.join(lacking)}}}")


def item_names(data: Artifact, split: Artifact, settings: ListSettings) -> list[str]:
    """Items as prompts name them, by internal id: in one line, cut to the longest."""
    return named(stages.item_texts(data, split, settings.item), settings)


def named(texts: Iterable[str], settings: ListSettings) -> list[str]:
    """Texts of items in one line, cut to the longest."""
    return [" ".join(text.split())[: settings.characters].rstrip() for text in texts]


def row_prompts(
    template: str,
    settings: ListSettings,
    names: Sequence[str],
    rows: NumberedRows,
    numbers: np.ndarray,
    words: Mapping[str, str],
    decisions: tuple[str, str] | None = None,
) -> list[str]:
    """A prompt for each row: its history, its item, and, if it may know, what the user decided.

    Args:
        template: The prompt, with `{history}`, `{target}`, words of the data set, and maybe `{decision}`.
        settings: How items are listed.
        names: Items as prompts name them.
        rows: All rows.
        numbers: Which rows. Shape `[n]`.
        words: What items are called in this data set.
        decisions: Words for labels 0 and 1; `None` keeps the label out of the prompt.

    Returns:
        The prompts.
    """
    histories = rows.histories(numbers, max(1, settings.history))[:, : settings.history]
    return [
        template.format(
            **words,
            history=settings.write(history, names),
            target=names[rows.items[number]],
            **({} if decisions is None else {"decision": decisions[int(rows.labels[number])]}),
        )
        for number, history in zip(numbers, histories, strict=True)
    ]


def save_texts(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write texts with what they are of, one line of JSON each."""
    lines = (json.dumps(entry, sort_keys=True) + "\n" for entry in entries)
    path.write_text("".join(lines), encoding="utf-8")


def load_texts(artifact: Artifact) -> list[dict[str, Any]]:
    """What `save_texts` wrote to an artifact's `texts.jsonl`."""
    lines = (artifact.folder / TEXTS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
