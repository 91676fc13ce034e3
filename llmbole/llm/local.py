"""Greedy answers of a language model on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.engine import Answer
from llmbole.llm.generate import greedy
from llmbole.llm.prompt import Encoded, collate
from llmbole.llm.score import position_limit
from llmbole.llm.texts import batches
from llmbole.llm.tokens import TextTokenizer

PLACE = "\u2063prompt\u2063"  # stands in for the prompt while a chat template is filled


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
        self._before, self._after = frame(lm.tokens)
        self.identity: Mapping[str, Any] = {
            "engine": "local",
            "model": dict(model),
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
        }

    def answers(self, prompts: Sequence[str], batch_size: int) -> Iterator[Mapping[int, Answer]]:
        """Answers by their prompts' places, batch by batch.

        Args:
            prompts: What is asked.
            batch_size: Prompts that the model reads together.

        Yields:
            A batch's answers.
        """
        lengths = self.check(prompts)
        for places in batches(lengths, batch_size):
            texts = self.answer([prompts[place] for place in places])
            yield {place: Answer(text) for place, text in zip(places, texts, strict=True)}

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

    def check(self, prompts: Sequence[str]) -> list[int]:
        """Refuse prompts that are too long, before any is answered.

        Args:
            prompts: What is asked.

        Returns:
            Tokens of each prompt.

        Raises:
            ValueError: One is longer than the model takes with its answer.
        """
        lengths = [len(ids) for ids in self.lm.tokens.ids_many(list(prompts))]
        limit = position_limit(self.lm)
        frame = len(self._before) + len(self._after) + self.max_new_tokens
        if limit is not None and lengths and max(lengths) + frame > limit:
            longest = max(range(len(lengths)), key=lengths.__getitem__)
            raise ValueError(
                f"a prompt takes {lengths[longest]} tokens and {frame} more with its frame and answer, but "
                f"{type(self.lm.model).__name__} takes {limit}: show fewer or shorter titles, or lower max_new_tokens; "
                f"the prompt begins {prompts[longest][:80]!r}"
            )
        return lengths


def frame(tokens: TextTokenizer) -> tuple[list[int], list[int]]:
    """Token ids before and after a prompt: those of the model's chat template, or the begin token alone.

    Args:
        tokens: The language model's tokenizer.

    Returns:
        Both.

    Raises:
        ValueError: The template leaves out what the user says.
    """
    if not tokens.tokenizer.chat_template:
        return ([] if tokens.bos_id is None else [tokens.bos_id]), []
    chat = [{"role": "user", "content": PLACE}]
    filled = str(tokens.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    before, found, after = filled.partition(PLACE)
    if not found:
        raise ValueError(
            f"the chat template of {type(tokens.tokenizer).__name__} leaves out what the user says"
        )
    ids: list[Any] = [
        tokens.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)
    ]
    return list(ids[0]), list(ids[1])
