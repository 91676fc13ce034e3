"""Last hidden states of many prompts, where what prompts begin with alike is run once.

A prefix tree of two levels: what all prompts begin with (a template's words up to its first value), and what groups of
them begin with (the template with one history). Soft positions count as alike where their vectors are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llmbole.llm import packing
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import Encoded
from llmbole.llm.splice import splice

Vectors = Callable[[Sequence[int]], Mapping[str, Tensor]]
LEAST = 16  # positions; to keep and copy the keys and values of fewer costs more than it saves
MEMBERS = 64  # of a group; more would save less than a sixtieth
VECTORS_PER_CALL = 1024  # prompts whose soft vectors are made at once
_Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Group:
    """Prompts that begin alike.

    Attributes:
        places: of the prompts.
        length: positions that they share, those that all prompts share included.
    """

    places: tuple[int, ...]
    length: int


class Inputs:
    """Prompts as sequences of symbols: token ids, and a negative number for each distinct soft vector.

    Args:
        lm: the language model.
        prompts: encoded prompts.
        vectors: gives, for places of prompts in their order, each soft slot's vectors, `[n, H]`.

    Attributes:
        symbols: a sequence per prompt.

    Raises:
        ValueError: a soft slot has more or fewer vectors than positions.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[Encoded], vectors: Vectors | None) -> None:
        self._lm, self._known = lm, dict[bytes, int]()
        self.symbols = [list(prompt.ids) for prompt in prompts]
        rows: list[Tensor] = []
        if vectors is not None:
            for start in range(0, len(prompts), VECTORS_PER_CALL):
                places = list(range(start, min(start + VECTORS_PER_CALL, len(prompts))))
                for name, found in vectors(places).items():
                    positions = [(place, at) for place in places for at in prompts[place].soft[name]]
                    self._write(name, found.detach(), positions, rows)
        self._vectors = torch.stack(rows) if rows else None  # [d, H]

    def _write(
        self, name: str, vectors: Tensor, positions: Sequence[tuple[int, int]], rows: list[Tensor]
    ) -> None:
        """Symbols of a slot's vectors `[n, H]` at their places and positions; new vectors are added to `rows`."""
        if len(vectors) != len(positions):
            raise ValueError(
                f"soft slot {name!r} stands at {len(positions)} positions, but has {len(vectors)} vectors"
            )
        values = vectors.contiguous().view(torch.uint8).cpu().numpy()
        for value, vector, (place, position) in zip(values, vectors, positions, strict=True):
            number = self._known.setdefault(value.tobytes(), len(rows))
            if number == len(rows):
                rows.append(vector.clone())
            self.symbols[place][position] = -1 - number

    def embed(self, parts: Sequence[Sequence[int]]) -> Tensor:
        """Input embeddings of parts of symbols, padded on the right. Shape `[B, T, H]`."""
        width = max(map(len, parts))
        padded = np.zeros((len(parts), width), dtype=np.int64)
        for row, part in enumerate(parts):
            padded[row, : len(part)] = part
        symbols = torch.from_numpy(padded).to(self._lm.device)  # [B, T]
        embeddings = self._lm.embed(symbols.clamp(min=0))  # [B, T, H]
        if self._vectors is None:
            return embeddings
        rows, columns = (symbols < 0).nonzero(as_tuple=True)
        return splice(embeddings, rows, columns, self._vectors[-1 - symbols[rows, columns]])


def common(symbols: Sequence[list[int]]) -> int:
    """Positions that all sequences begin with alike, each one's last not counted."""
    first, last = min(symbols), max(symbols)  # what these two share, all between them do
    end = min(map(len, symbols)) - 1
    return next((place for place in range(end) if first[place] != last[place]), end)


def partition(symbols: Sequence[list[int]], shared: int) -> tuple[list[Group], list[int]]:
    """The groups that save most positions, of prompts which are neighbours in the order of their symbols.

    Args:
        symbols: a sequence per prompt.
        shared: positions that all of them share.

    Returns:
        Groups of two and more, which share at least `LEAST` positions beyond those of all, and the other prompts.
    """
    order = sorted(range(len(symbols)), key=symbols.__getitem__)
    alike = [0] + [common([symbols[a], symbols[b]]) for a, b in zip(order, order[1:], strict=False)]
    saved, starts = (
        [0] * (len(order) + 1),
        list(range(-1, len(order))),
    )  # best of the first n, and its last start
    for stop in range(1, len(order) + 1):
        best, start, length = saved[stop - 1], stop - 1, len(symbols[order[stop - 1]])
        for first in range(stop - 2, max(-1, stop - 1 - MEMBERS), -1):
            length = min(length, alike[first + 1])
            if length - shared < LEAST:
                break
            value = saved[first] + (stop - first - 1) * (length - shared)
            if value > best:
                best, start = value, first
        saved[stop], starts[stop] = best, start
    groups, alone, stop = [], [], len(order)
    while stop:
        start = starts[stop]
        if stop - start > 1:
            groups.append(Group(tuple(order[start:stop]), min(alike[start + 1 : stop])))
        else:
            alone.append(order[start])
        stop = start
    return groups, alone


def last_states(
    lm: LanguageModel, prompts: Sequence[Encoded], vectors: Vectors | None, token_budget: int
) -> Iterator[tuple[list[int], Tensor]]:
    """The hidden state at the last position of each prompt, as each gives alone up to rounding.

    Args:
        lm: the language model.
        prompts: encoded prompts, at least one.
        vectors: gives, for places of prompts in their order, each soft slot's vectors, `[n, H]`; they are made for all
            prompts at first, and equal ones are kept once.
        token_budget: positions of one forward pass, those of kept keys and values and padding included. A group's are
            kept while its prompts are run, no more than the budget at a time.

    Yields:
        Places of prompts, and their states, `[n, H]`.
    """
    inputs = Inputs(lm, prompts, vectors)
    symbols = inputs.symbols
    shared = common(symbols)
    template = _keep(lm, inputs.embed([symbols[0][:shared]]), None, 0) if shared else None
    groups, alone = partition(symbols, shared)
    for places in _batches([len(symbols[place]) for place in alone], token_budget):
        taken = [alone[place] for place in places]
        yield taken, _ends(lm, inputs, taken, [shared] * len(taken), _expand(template, len(taken)))
    for numbers in _batches([group.length for group in groups], token_budget):
        yield from _run_groups(
            lm, inputs, [groups[number] for number in numbers], template, shared, token_budget
        )


def _run_groups(
    lm: LanguageModel,
    inputs: Inputs,
    groups: Sequence[Group],
    template: _Cache | None,
    shared: int,
    budget: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """States of the prompts of groups; each group's prefix is run once."""
    heads = [inputs.symbols[group.places[0]][shared : group.length] for group in groups]
    kept = _keep(
        lm, inputs.embed(heads), _expand(template, len(groups)), shared
    )  # [G, heads, P, width] a layer
    members = [(place, number) for number, group in enumerate(groups) for place in group.places]
    prefix = max(group.length for group in groups)
    rests = [len(inputs.symbols[place]) - groups[number].length for place, number in members]
    for rows in _batches(rests, budget, prefix):
        places, owners = [members[row][0] for row in rows], [members[row][1] for row in rows]
        lengths = [groups[owner].length for owner in owners]
        end = max(lengths)
        own = [(keys[owners, :, :end], values[owners, :, :end]) for keys, values in kept]
        yield places, _ends(lm, inputs, places, lengths, own)


def _ends(
    lm: LanguageModel, inputs: Inputs, places: Sequence[int], starts: Sequence[int], prefix: _Cache | None
) -> Tensor:
    """States at the last positions of prompts whose first positions, `starts`, have kept keys and values. `[B, H]`."""
    parts = [inputs.symbols[place][start:] for place, start in zip(places, starts, strict=True)]
    embeddings = inputs.embed(parts)  # [B, T, H]
    device = embeddings.device
    lengths = torch.tensor([len(part) for part in parts], device=device)  # [B]
    mask = None
    begins = torch.tensor(starts, device=device)  # [B]
    columns = torch.arange(embeddings.shape[1], device=device)  # [T]
    if min(starts) < max(starts):  # prefixes of several lengths are padded, which no prompt may see
        seen = torch.arange(max(starts), device=device) < begins[:, None]  # [B, P]
        segment = torch.where(columns < lengths[:, None], 1, -1)  # [B, T]
        mask = packing.block_mask(seen, segment, embeddings.dtype)
    positions = begins[:, None] + columns  # [B, T]
    cache = _cache(prefix)
    hidden = lm.hidden(embeddings, mask, positions if prefix else None, cache)  # [B, T, H]
    return hidden[torch.arange(len(places), device=hidden.device), (lengths - 1).to(hidden.device)]


def _keep(lm: LanguageModel, embeddings: Tensor, before: _Cache | None, start: int) -> _Cache:
    """Keys and values in each layer of embeddings behind a prefix, its own included, `[B, heads, P, width]`."""
    cache = _cache(before) or DynamicCache()
    positions = torch.arange(start, start + embeddings.shape[1], device=embeddings.device)  # [T]
    lm.hidden(embeddings, positions=positions.expand(len(embeddings), -1), cache=cache)
    layers: Any = cache.layers  # typed as those of any cache
    return [(layer.keys, layer.values) for layer in layers]


def _cache(kept: _Cache | None) -> DynamicCache | None:
    """Kept keys and values as transformers take them."""
    if kept is None:
        return None
    cache = DynamicCache()
    for number, (keys, values) in enumerate(kept):
        cache.update(keys, values, number)
    return cache


def _expand(kept: _Cache | None, rows: int) -> _Cache | None:
    """One prompt's keys and values for so many rows."""
    if kept is None:
        return None
    return [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in kept]


def _batches(lengths: Sequence[int], budget: int, more: int = 0) -> Iterator[list[int]]:
    """Rows of similar length, the longest first; each row also counts so many positions `more`."""
    sizes = np.array(lengths, dtype=int) + more
    for units in packing.batches(sizes, np.ones((len(sizes), 1), dtype=int), budget):
        yield [row for row, _, _ in units]
