"""A prompt that asks whether a user likes one item: history titles, target title, soft slots, a one-word answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from llmbole.llm import yes_no
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import Encoded, Template
from llmbole.llm.score import position_limit
from llmbole.llm.yes_no import Kind, Position, Vectors

_SOFT = re.compile(r"\{\w+:soft\}")


@dataclass(frozen=True)
class Answer:
    """How the prompt is answered.

    Attributes:
        words: the answers for yes and for no.
        first_token: compare the first tokens of answers that are several tokens.
        score: `difference`, logit(yes) - logit(no); or `yes`, logit(yes) alone.
    """

    words: tuple[str, str]
    first_token: bool
    score: Kind


@dataclass(frozen=True)
class Wording:
    """How titles are written in a prompt.

    Attributes:
        listed: one title of the history, with `{title}`, and `{rating}` where the prompt shows it.
        separator: between two titles.
        empty: stands in for an empty history.
        untitled: stands in for the title of an item that has none.
        title_tokens: longer titles are cut.
    """

    listed: str
    separator: str
    empty: str
    untitled: str
    title_tokens: int

    def __post_init__(self) -> None:
        problems = [
            f"{name} is empty: write a word"
            for name in ("empty", "untitled")
            if not getattr(self, name).strip()
        ]
        if self.listed.count("{title}") != 1:
            problems.append(f"listed = {self.listed!r}: must hold {{title}} once")
        if self.listed.count("{rating}") > 1:
            problems.append(f"listed = {self.listed!r}: may hold {{rating}} once")
        if self.title_tokens < 1:
            problems.append(f"title_tokens = {self.title_tokens}: must be at least 1")
        if problems:
            raise ValueError("\n".join(problems))


class PairPrompt:
    """A language model that is asked about one user and one item at a time.

    Args:
        lm: the language model.
        text: the template: the list slot `{history}`, the slot `{title}` of the target, the slots named in `words`, and
            soft slots of the caller's.
        wording: how titles are written.
        answer: how the prompt is answered.
        titles: title of each item by internal id; 0 is the padding item. Length `n_items`.
        words: values of the template's other text slots: what items are called in this data set.

    Attributes:
        rated: whether ratings of the history stand in the prompt.
        tokens_read: tokens and soft positions of all prompts so far.
    """

    def __init__(
        self,
        lm: LanguageModel,
        text: str,
        wording: Wording,
        answer: Answer,
        titles: Sequence[str],
        words: Mapping[str, str],
    ) -> None:
        self.lm, self.wording, self.answer = lm, wording, answer
        self.template = Template(
            text, items={"history": "{title}"}, separator=wording.separator, drop_oldest="history"
        )
        self.words = {name: words[name] for name in self.template.slots if name not in ("history", "title")}
        plain = [" ".join(title.split()) or wording.untitled for title in titles]
        self.titles = [lm.tokens.shorten(title, wording.title_tokens) for title in plain]
        self.rated = "{rating}" in wording.listed
        self._around = wording.listed.split("{title}")
        self._listed = [self._around[0] + title + self._around[1] for title in self.titles]
        self.ids = yes_no.answer_ids(lm.tokens, text, answer.words, first_token=answer.first_token)
        self.tokens_read = 0

    def encode(
        self,
        histories: Sequence[Sequence[int]],
        targets: Sequence[int],
        ratings: Sequence[Sequence[float]] | None = None,
    ) -> list[Encoded]:
        """Prompts of rows.

        A prompt that is too long for the model loses the oldest titles of its history, and nothing else.

        Args:
            histories: for each row the items shown, oldest first.
            targets: the item that each row asks about.
            ratings: of the items shown; needed where `rated`.

        Returns:
            One encoded prompt per row.

        Raises:
            ValueError: the prompt shows ratings and none are given.
        """
        if self.rated and ratings is None:
            raise ValueError(f"listed = {self.wording.listed!r} shows ratings: give those of the histories")
        given = ratings if self.rated and ratings is not None else histories
        rows = [
            {
                **self.words,
                "history": [*map(self._written, history, rated)] or [self.wording.empty],
                "title": self.titles[target],
            }
            for history, rated, target in zip(histories, given, targets, strict=True)
        ]
        limit = position_limit(self.lm)
        encoded = self.template.encode_many(self.lm.tokens, rows, max_tokens=limit, value_tokens=None)
        self.tokens_read += sum(len(prompt.ids) for prompt in encoded)
        return encoded

    def _written(self, item: int, rating: float) -> str:
        """One item of a history."""
        if not self.rated:
            return self._listed[item]
        before, after = (part.replace("{rating}", f"{rating:g}") for part in self._around)
        return f"{before}{self.titles[item]}{after}"

    def logits(self, prompts: Sequence[Encoded], vectors: Mapping[str, Tensor]) -> Tensor:
        """The logit that each row's item is liked, with gradients.

        Args:
            prompts: encoded prompts.
            vectors: for each soft slot its vectors, prompt by prompt, `[n, H]`.

        Returns:
            Logits, `[B]`.
        """
        embeddings, mask = yes_no.embed(self.lm, prompts, vectors)  # [B, T, H]
        both = yes_no.yes_no_logits(self.lm, embeddings, mask, self.ids)  # [B, 2]
        return yes_no.answer_logits(both, self.answer.score)

    def logits_and_states(
        self, prompts: Sequence[Encoded], layers: Sequence[int], position: Position
    ) -> tuple[Tensor, list[Tensor]]:
        """The logits of prompts without soft slots, and hidden states of layers, with gradients.

        Args:
            prompts: encoded prompts.
            layers: numbers of layers; see `yes_no.yes_no_states`.
            position: the state at the `last` token, or the `mean` of all.

        Returns:
            Logits, `[B]`, and a state per layer, `[B, H]`.
        """
        embeddings, mask = yes_no.embed(self.lm, prompts, {})  # [B, T, H]
        both, states = yes_no.yes_no_states(self.lm, embeddings, mask, self.ids, layers, position)
        return yes_no.answer_logits(both, self.answer.score), states

    def probabilities(
        self,
        prompts: Sequence[Encoded],
        vectors: Vectors | None = None,
        *,
        token_budget: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The probability that each row's item is liked; see `yes_no.score`. Shape `[N]`, float64, on the CPU."""
        both = yes_no.score(
            self.lm, prompts, self.ids, vectors, token_budget=token_budget, progress=progress
        )  # [N, 2]
        return yes_no.probabilities(both, self.answer.score)


def repeat_soft(text: str, count: int) -> str:
    """A template in which each soft slot stands so many times, joined by full stops, as CoLLM's prompts have them."""
    return _SOFT.sub(lambda slot: ".".join([slot.group()] * count), text)
