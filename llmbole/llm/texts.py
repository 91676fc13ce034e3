"""Texts written by a language model, each once: answers go to a file that outlives the process. Light: no torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole.llm.engine import Answer, Engine

logger = logging.getLogger(__name__)


class TextStore:
    """A file of answers, one line of JSON each, which is only ever appended to.

    A line that a kill cut short is dropped when the file is opened again.

    Args:
        path: The file; it need not exist.

    Raises:
        ValueError: A line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                answer = Answer(entry["text"], bool(entry.get("refused", False)))
                self._answers[entry["key"]] = answer
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(
                    f"{self.path}, line {number}: no answer can be read; delete the line, and it is written again"
                ) from None
        if whole < len(content):
            logger.warning("%s: dropped a last line that was not written to its end", self.path)
            os.truncate(self.path, whole)

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Append answers; they are on the disk when this returns.

        Args:
            answers: Key to answer.
        """
        lines = "".join(json.dumps(_line(*each), ensure_ascii=False) + "\n" for each in answers.items())
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        self._answers.update(answers)


def _line(key: str, answer: Answer) -> dict[str, Any]:
    """An answer as its line in the file."""
    return {"key": key, "text": answer.text, **({"refused": True} if answer.refused else {})}


@dataclass(frozen=True)
class Written:
    """Answers.

    Attributes:
        answers: One for each prompt.
        distinct: Number of different prompts.
        asked: How many of them this process had answered.
        empty: How many of them have an empty answer, refused ones included.
        refused: How many of them were refused.
    """

    answers: list[Answer]
    distinct: int
    asked: int
    empty: int
    refused: int

    @property
    def texts(self) -> list[str]:
        """Their texts."""
        return [each.text for each in self.answers]


def write(
    engine: Engine,
    prompts: Sequence[str],
    store: TextStore,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Have prompts answered, but not those whose answer the store has; equal prompts are asked once.

    Args:
        engine: Answers.
        prompts: What is asked.
        store: Where answers are kept; a group of answers is on the disk before the next is taken.
        batch_size: Prompts that a model reads together.
        progress: Told how many different prompts are done.

    Returns:
        The answers, without white space at their ends; an empty one is an answer like others.
    """
    keys = [key_of(engine.identity, prompt) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    open_keys = [key for key in distinct if key not in store]
    if progress is not None:
        progress(len(distinct) - len(open_keys))
    for group in engine.answers([distinct[key] for key in open_keys], batch_size):
        stripped = {
            open_keys[place]: Answer(each.text.strip(), each.refused) for place, each in group.items()
        }
        store.add(stripped)
        if progress is not None:
            progress(len(group))
    found = [store[key] for key in distinct]
    empty, refused = sum(not each.text for each in found), sum(each.refused for each in found)
    if empty:
        logger.warning("%d of %d answers are empty, %d of them refused", empty, len(distinct), refused)
    return Written([store[key] for key in keys], len(distinct), len(open_keys), empty, refused)


def key_of(identity: Mapping[str, Any], prompt: str) -> str:
    """SHA-256 of a prompt and of all else that its answer depends on."""
    content = json.dumps({"engine": dict(identity), "prompt": prompt}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places of prompts in batches, the longest first: neighbours are nearly equally long, so little is padding.

    Args:
        lengths: Tokens of each prompt.
        batch_size: Prompts of a batch; the last may have fewer.

    Returns:
        The batches.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
