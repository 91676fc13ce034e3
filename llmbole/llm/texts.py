"""Texts written by a language model, each once: answers go to a file that outlives the process, prompt by prompt."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.generate import greedy
from llmbole.llm.prompt import Encoded, collate
from llmbole.llm.score import position_limit

logger = logging.getLogger(__name__)

PLACE = "\u2063prompt\u2063"  # stands in for the prompt while a chat template is filled


class Engine(Protocol):
    """Something that answers prompts.

    Attributes:
        identity: All that an answer depends on beside its prompt: model, revision, decoding.
        tokens: Tokens read and written so far.
    """

    identity: Mapping[str, Any]
    tokens: int

    def order(self, prompts: Sequence[str]) -> list[int]:
        """Places of prompts, in the order in which they are best answered."""

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """Answers of one batch, in its order."""


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
        self._texts: dict[str, str] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._texts[entry["key"]] = entry["text"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self.path}, line {number}: no answer can be read; delete the line, and it is written again"
                ) from None
        if whole < len(content):
            logger.warning("%s: dropped a last line that was not written to its end", self.path)
            os.truncate(self.path, whole)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def add(self, answers: Mapping[str, str]) -> None:
        """Append answers; they are on the disk when this returns.

        Args:
            answers: Key to text.
        """
        lines = "".join(
            json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n" for key, text in answers.items()
        )
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        self._texts.update(answers)


@dataclass(frozen=True)
class Written:
    """Answers.

    Attributes:
        texts: One for each prompt.
        distinct: Number of different prompts.
        asked: How many of them this process had answered.
        empty: How many of them have an empty answer.
    """

    texts: list[str]
    distinct: int
    asked: int
    empty: int


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
        store: Where answers are kept; each batch is on the disk before the next is asked.
        batch_size: Prompts of one call of the engine.
        progress: Told how many different prompts are done.

    Returns:
        The answers, without white space at their ends; an empty one is an answer like others.
    """
    keys = [key_of(engine.identity, prompt) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    open_keys = [key for key in distinct if key not in store]
    if progress is not None:
        progress(len(distinct) - len(open_keys))
    order = engine.order([distinct[key] for key in open_keys])
    for start in range(0, len(order), batch_size):
        batch = [open_keys[place] for place in order[start : start + batch_size]]
        answers = engine.answer([distinct[key] for key in batch])
        store.add({key: text.strip() for key, text in zip(batch, answers, strict=True)})
        if progress is not None:
            progress(len(batch))
    empty = sum(not store[key] for key in distinct)
    if empty:
        logger.warning("%d of %d answers are empty", empty, len(distinct))
    return Written([store[key] for key in keys], len(distinct), len(open_keys), empty)


def key_of(identity: Mapping[str, Any], prompt: str) -> str:
    """SHA-256 of a prompt and of all else that its answer depends on."""
    content = json.dumps({"engine": dict(identity), "prompt": prompt}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


class LocalEngine:
    """Greedy answers of a language model on this machine.

    A model that was published with a chat template is asked in it; others continue the prompt. Text in a prompt that
    spells a control token stays text.

    Args:
        lm: The language model.
        model: What it is: name, revision and updates, for the keys of answers.
        max_new_tokens: Longest answer.
        repetition_penalty: Divides the logits of tokens that the answer already has; 1 is none.
    """

    def __init__(
        self,
        lm: LanguageModel,
        model: Mapping[str, Any],
        max_new_tokens: int,
        repetition_penalty: float,
    ) -> None:
        self.lm, self.max_new_tokens, self.repetition_penalty = lm, max_new_tokens, repetition_penalty
        self.tokens = 0
        self._before, self._after = frame(lm)
        self.identity: Mapping[str, Any] = {
            "engine": "local",
            "model": dict(model),
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
        }

    def order(self, prompts: Sequence[str]) -> list[int]:
        """Places of prompts, the longest first: neighbours are nearly equally long, so little is padding."""
        lengths = [len(ids) for ids in self.lm.tokens.ids_many(list(prompts))]
        self._check(lengths, prompts)
        return sorted(range(len(prompts)), key=lambda place: -lengths[place])

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """Answers of one batch, in its order."""
        ids = [[*self._before, *each, *self._after] for each in self.lm.tokens.ids_many(list(prompts))]
        batch = collate([Encoded(each) for each in ids], self.lm.tokens.pad_id).to(self.lm.device)
        texts = greedy(
            self.lm,
            self.lm.embed(batch.ids),
            batch.mask,
            self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
            quotes=None,
        )
        self.tokens += sum(map(len, ids)) + sum(map(len, self.lm.tokens.ids_many(texts)))
        return texts

    def _check(self, lengths: Sequence[int], prompts: Sequence[str]) -> None:
        """Refuse prompts that are too long before any is answered."""
        limit = position_limit(self.lm)
        frame = len(self._before) + len(self._after) + self.max_new_tokens
        if limit is not None and lengths and max(lengths) + frame > limit:
            longest = max(range(len(lengths)), key=lengths.__getitem__)
            raise ValueError(
                f"a prompt takes {lengths[longest]} tokens and {frame} more with its frame and answer, but "
                f"{type(self.lm.model).__name__} takes {limit}: show fewer or shorter titles, or lower max_new_tokens; "
                f"the prompt begins {prompts[longest][:80]!r}"
            )


def frame(lm: LanguageModel) -> tuple[list[int], list[int]]:
    """Token ids before and after a prompt: those of the model's chat template, or the begin token alone.

    Args:
        lm: The language model.

    Returns:
        Both.

    Raises:
        ValueError: The template leaves out what the user says.
    """
    if not lm.tokenizer.chat_template:
        return ([] if lm.tokens.bos_id is None else [lm.tokens.bos_id]), []
    chat = [{"role": "user", "content": PLACE}]
    filled = str(lm.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    before, found, after = filled.partition(PLACE)
    if not found:
        raise ValueError(f"the chat template of {type(lm.tokenizer).__name__} leaves out what the user says")
    ids: list[Any] = [lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
    return list(ids[0]), list(ids[1])
