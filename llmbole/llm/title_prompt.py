"""Prompts over lists of titles, for any number of rows: likelihoods of answers, generated answers, expected numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmbole.llm import generate, score, yes_no
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.pair_prompt import Wording
from llmbole.llm.prompt import Encoded, Template

Progress = Callable[[int], None]
_QUOTE = str.maketrans({mark: "'" for mark in '"\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02'})
_MARGIN = 8  # tokens that a generated list may take beyond the longest right one


@dataclass(frozen=True)
class ListWording(Wording):
    """How titles are written in a prompt, also with a rating.

    Attributes:
        rated: one title of a history of ratings, with `{title}` and `{rating}`.
        answered: between two titles of an answer.
    """

    rated: str
    answered: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rated.count("{title}") != 1 or self.rated.count("{rating}") != 1:
            raise ValueError(f"rated = {self.rated!r}: must hold {{title}} and {{rating}} once")
        if not self.answered.strip() or '"' in self.answered:
            raise ValueError(f"answered = {self.answered!r}: must be a mark, and no quotation mark")


class Titles:
    """Titles of items as prompts and answers write them; quotation marks inside them become apostrophes.

    Args:
        lm: the language model.
        wording: how titles are written.
        titles: title of each item by internal id; 0 is the padding item. Length `n_items`.

    Attributes:
        plain: titles by internal id, short enough.
        listed: titles as a list in a prompt has them.
    """

    def __init__(self, lm: LanguageModel, wording: ListWording, titles: Sequence[str]) -> None:
        self.lm, self.wording = lm, wording
        marked = [" ".join(title.translate(_QUOTE).split()) or wording.untitled for title in titles]
        self.plain = [lm.tokens.shorten(title, wording.title_tokens) for title in marked]
        self.listed = [wording.listed.replace("{title}", title) for title in self.plain]

    def rated(self, item: int, rating: float) -> str:
        """An item with its rating, `3` for 3.0 and `3.5` for 3.5."""
        return self.wording.rated.replace("{rating}", f"{rating:g}").replace("{title}", self.plain[item])

    def quoted(self, items: Sequence[int]) -> str:
        """An answer that lists items, best first."""
        return self.wording.answered.join(f'"{self.plain[item]}"' for item in items)

    def answer_ids(self, text: str) -> list[int]:
        """Tokens of an answer with the end token behind it."""
        end = [] if self.lm.tokens.eos_id is None else [self.lm.tokens.eos_id]
        return [*self.lm.tokens.ids(text), *end]


class TitlePrompt:
    """A prompt with list slots of titles, text slots, and words of the data set.

    Args:
        lm: the language model.
        text: the template.
        wording: how titles are written.
        lists: which slots are lists; the oldest titles of `history` go first where a prompt is too long.
        words: values of the slots that are the same in each row.
    """

    def __init__(
        self,
        lm: LanguageModel,
        text: str,
        wording: ListWording,
        lists: Sequence[str],
        words: Mapping[str, str],
    ) -> None:
        self.lm, self.wording = lm, wording
        slots = Template(text).slots
        self.lists = tuple(name for name in lists if name in slots)
        self.template = Template(
            text,
            items={name: "{title}" for name in self.lists},
            separator=wording.separator,
            drop_oldest="history",
        )
        self.words = {name: word for name, word in words.items() if name in self.template.slots}

    def encode(self, rows: Sequence[Mapping[str, str | Sequence[str]]], answer_tokens: int) -> list[Encoded]:
        """Prompts of rows.

        Args:
            rows: for each list slot the titles as they are listed, and for each text slot that is no word a text.
            answer_tokens: positions that are left for the answer.

        Returns:
            One encoded prompt per row.
        """
        limit = score.position_limit(self.lm)
        filled = [
            {**self.words, **row, **{name: row[name] or [self.wording.empty] for name in self.lists}}
            for row in rows
        ]
        longest = None if limit is None else limit - answer_tokens
        return self.template.encode_many(self.lm.tokens, filled, max_tokens=longest, value_tokens=None)


def tokens_of(prompts: Sequence[Encoded]) -> int:
    """Tokens of prompts."""
    return sum(len(prompt.ids) for prompt in prompts)


@torch.inference_mode()
def log_likelihoods(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Log-likelihood of each prompt's answers; a prompt is run once for all of its own.

    Args:
        lm: the language model.
        prompts: encoded prompts.
        answers: token ids of the answers of each prompt, the same number `C` for every prompt.
        batch_size: prompts whose embeddings are held at once.
        progress: told how many prompts are done.

    Returns:
        Sums over an answer's tokens. Shape `[N, C]`, on the CPU.
    """
    result = torch.zeros(len(prompts), len(answers[0]) if answers else 0)
    for places in _by_length(prompts, batch_size):
        embeddings, mask = yes_no.embed(lm, [prompts[place] for place in places], {})
        chosen = [answers[place] for place in places]
        result[places] = score.candidate_log_likelihood(lm, embeddings, mask, chosen, normalize=False)
        if progress is not None:
            progress(len(places))
    return result


@torch.inference_mode()
def generated_lists(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    longest: Sequence[int],
    count: int,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> list[str]:
    """Greedy answers that list quoted titles; a row ends as soon as its list has the wanted number of them.

    Args:
        lm: the language model.
        prompts: encoded prompts.
        longest: tokens of the longest right answer of each prompt.
        count: titles that an answer lists.
        batch_size: prompts that are held at once; when half of them have ended, others take their place.
        progress: told how many prompts are done.

    Returns:
        Texts in the order of the prompts.
    """
    room = score.position_limit(lm)
    limits = [
        more + _MARGIN if room is None else min(more + _MARGIN, room - len(prompt.ids))
        for more, prompt in zip(longest, prompts, strict=True)
    ]
    return generate.greedy_stream(
        lm,
        lambda places: yes_no.embed(lm, [prompts[place] for place in places], {}),
        [len(prompt.ids) for prompt in prompts],
        limits,
        batch_size=batch_size,
        quotes=2 * count,
        progress=progress,
    )


def expected_values(logs: Tensor, values: Sequence[float]) -> np.ndarray:
    """Means of values under the probabilities of the answers that say them, as shares of each other.

    Args:
        logs: log-likelihoods of the answers. Shape `[N, C]`.
        values: what each answer says. Length `C`.

    Returns:
        Shape `[N]`.
    """
    means: np.ndarray = (logs.double().softmax(dim=1) @ torch.tensor(values, dtype=torch.float64)).numpy()
    return means


def _by_length(prompts: Sequence[Encoded], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place].ids))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
