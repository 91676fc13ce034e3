"""Greedy generation in batches that rows leave as soon as their answer is complete, and others join."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.row_cache import RowCache
from llmbole.llm.score import align, position_limit

_STAYING = 0.75  # share of rows that are open, above which closed ones cost less than a copy of the others
_FEWEST = 8  # a pass over fewer rows takes as long as one over these: they stay together

Embedded = tuple[Tensor, Tensor]
"""Prompts as input embeddings and mask, `[B, T, H]` and `[B, T]`."""


@torch.inference_mode()
def greedy(
    lm: LanguageModel,
    embeddings: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    *,
    repetition_penalty: float = 1.0,
    quotes: int | None = 2,
) -> list[str]:
    """Continue each prompt with its most probable tokens.

    A row ends at the end token, or with the token that brings the given number of quotation marks (the closing one of
    a quoted title). All rows are generated together; rows that have ended leave the batch.

    Args:
        lm: the language model.
        embeddings: prompts with their soft vectors spliced in, `[B, T, H]`.
        mask: 1 at tokens and soft positions, padding on either side, `[B, T]`.
        max_new_tokens: longest answer. The longest candidate plus a margin is enough for a title.
        repetition_penalty: divides the logits of tokens that the answer already has (A-LLMRec's code uses 1.5); 1 is
            none.
        quotes: stop after this many quotation marks: 2 plus those inside the longest title; None never stops early.

    Returns:
        Texts of the answers, without special tokens.

    Raises:
        ValueError: prompt and answer together are longer than the model takes.
    """
    rows = len(embeddings)
    limits, room = [max_new_tokens] * rows, embeddings.shape[1] + max_new_tokens
    answers = Generation(lm, limits, room, repetition_penalty=repetition_penalty, quotes=quotes)
    answers.join(range(rows), embeddings, mask)
    while answers.open:
        answers.step()
    return answers.texts()


@torch.inference_mode()
def greedy_stream(
    lm: LanguageModel,
    embed: Callable[[Sequence[int]], Embedded],
    lengths: Sequence[int],
    limits: Sequence[int],
    *,
    batch_size: int,
    quotes: int | None = 2,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Continue any number of prompts as `greedy` does; when half a batch has ended, as many prompts take its place.

    Args:
        lm: the language model.
        embed: gives prompts by their places.
        lengths: tokens of each prompt; prompts of similar length are begun together.
        limits: tokens of the longest answer of each prompt.
        batch_size: prompts that are held at once.
        quotes: as in `greedy`.
        progress: told how many answers are complete.

    Returns:
        Texts of the answers in the order of the prompts.

    Raises:
        ValueError: a prompt and its answer are longer than the model takes.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    room = max((length + limit for length, limit in zip(lengths, limits, strict=True)), default=0)
    answers = Generation(lm, limits, room, quotes=quotes)
    while order or answers.open:
        before = len(answers.open)
        free = batch_size - before
        if order and (2 * free >= batch_size or not before):
            begun, order = order[:free], order[free:]
            answers.join(begun, *embed(begun))
            before += len(begun)
        else:
            answers.step()
        if progress is not None and before > len(answers.open):
            progress(before - len(answers.open))
    return answers.texts()


class Generation:
    """Answers under way, each at a token of its own.

    Args:
        lm: the language model.
        limits: tokens of the longest answer of each prompt.
        room: positions of the longest prompt with its longest answer.
        repetition_penalty: divides the logits of tokens that the answer already has.
        quotes: quotation marks that end an answer; None if they do not.

    Attributes:
        ids: tokens of each prompt's answer.
        open: places of the prompts whose answer is under way.

    Raises:
        ValueError: a prompt and an answer may be longer than the model takes.
    """

    def __init__(
        self,
        lm: LanguageModel,
        limits: Sequence[int],
        room: int,
        *,
        repetition_penalty: float = 1.0,
        quotes: int | None = 2,
    ) -> None:
        self.lm, self.limits, self.penalty, self.quotes = lm, limits, float(repetition_penalty), quotes
        self.room = room
        limit = position_limit(lm)
        if limit is not None and room > limit:
            raise ValueError(
                f"prompt and answer take up to {room} positions, but {type(lm.model).__name__} takes {limit}: "
                "encode prompts with a smaller max_tokens or lower max_new_tokens"
            )
        self.ids: list[list[int]] = [[] for _ in limits]
        self.open: list[int] = []
        self._quotes, self._seen, self._ends = lm.tokens.quotes, [0] * len(limits), set(_end_ids(lm))
        self._held: list[int] = []  # place of the prompt of each row of the batch
        self._lengths = torch.zeros(
            0, dtype=torch.long, device=lm.device
        )  # columns of each row that are taken
        self._last = torch.zeros(0, dtype=torch.long, device=lm.device)  # the last token of each row
        self._cache: RowCache | None = None

    def join(self, places: Sequence[int], embeddings: Tensor, mask: Tensor) -> None:
        """Begin answers: run their prompts and take the first token of each.

        Args:
            places: of the prompts.
            embeddings: the prompts, `[B, T, H]`.
            mask: 1 at tokens and soft positions, padding on either side, `[B, T]`.
        """
        embeddings, mask = align(embeddings, mask, "right")
        lengths = mask.sum(1).to(self._lengths.device)  # [B]
        cache = RowCache(int(self.lm.model.config.get_text_config().num_hidden_layers), self.room)
        hidden = self.lm.hidden(embeddings, cache=cache)  # [B, T, H]
        ends = lengths.to(hidden.device) - 1
        states = hidden[torch.arange(len(hidden), device=hidden.device), ends]  # [B, H]
        self._leave()
        self._cache = cache if self._cache is None or not self._held else self._cache.join(cache)
        self._held, self.open = [*self._held, *places], [*self.open, *places]
        self._lengths = torch.cat([self._lengths, lengths])
        self._last = torch.cat([self._last, self._take(list(places), states)])

    def step(self) -> None:
        """One more token of every open answer."""
        if len(self._held) >= _FEWEST and len(self.open) <= _STAYING * len(self._held):
            self._leave()
        cache = self._cache
        assert cache is not None  # some prompts have joined
        cache.columns, cache.width = self._lengths[:, None], int(self._lengths.max()) + 1
        inputs = self.lm.embed(self._last[:, None])  # [b, 1, H]
        states = self.lm.hidden(inputs, cache.mask(inputs.dtype), cache.columns, cache)[:, 0]  # [b, H]
        self._last = self._take(self._held, states)
        # A closed answer writes its last column again and again.
        still = set(self.open)
        self._lengths += torch.tensor([place in still for place in self._held], device=self._lengths.device)

    def texts(self) -> list[str]:
        """The answers, without special tokens."""
        return [self.lm.tokens.decode(ids) for ids in self.ids]

    def _leave(self) -> None:
        """Drop the rows whose answer is complete."""
        still = set(self.open)
        rows = [row for row, place in enumerate(self._held) if place in still]
        if len(rows) == len(self._held):
            return
        kept = torch.tensor(rows, dtype=torch.long, device=self._lengths.device)
        self._held = [self._held[row] for row in rows]
        self._lengths, self._last = self._lengths[kept], self._last[kept]
        if self._cache is not None:
            self._cache.keep(kept)

    def _take(self, places: Sequence[int], states: Tensor) -> Tensor:
        """The most probable token behind each state, `[b, H]` to `[b]`; answers that it completes are closed."""
        logits = self.lm.head(states[:, None])[:, 0]  # [b, V]
        if self.penalty != 1:
            logits = self._penalised(logits, places)
        chosen = logits.argmax(1).to(self._lengths.device)
        closed, still = set(), set(self.open)
        for place, token in zip(places, chosen.tolist(), strict=True):
            if place not in still:
                continue
            self.ids[place].append(token)
            self._seen[place] += self._quotes.get(token, 0)
            quoted = self.quotes is not None and self._seen[place] >= self.quotes
            if token in self._ends or quoted or len(self.ids[place]) >= self.limits[place]:
                closed.add(place)
        self.open = [place for place in self.open if place not in closed]
        return chosen

    def _penalised(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """Logits with those of tokens that the answers have made less probable, `[b, V]`."""
        logits = logits.clone()
        for row, place in enumerate(places):
            said = torch.tensor(sorted(set(self.ids[place])), dtype=torch.long, device=logits.device)
            values = logits[row, said]
            logits[row, said] = torch.where(values < 0, values * self.penalty, values / self.penalty)
        return logits


def _end_ids(lm: LanguageModel) -> list[int]:
    """Ids that end an answer: the tokenizer's end token and those the model was published with."""
    published = lm.model.generation_config.eos_token_id if lm.model.generation_config is not None else None
    published = [] if published is None else [published] if isinstance(published, int) else list(published)
    return sorted({*published, *([] if lm.tokens.eos_id is None else [lm.tokens.eos_id])})
