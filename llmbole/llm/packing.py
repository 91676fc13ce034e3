"""Candidates of a prompt packed into one sequence, which a block mask keeps apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Packed:
    """Candidates of several rows as arrays; `n` rows, `P` packed inputs, `m` scored tokens."""

    inputs: np.ndarray  # [n, P] token ids; a candidate's last token is never read
    segment: np.ndarray  # [n, P] 1, 2, ... by candidate, -1 at padding
    offset: np.ndarray  # [n, P] place of the token in its candidate
    row: np.ndarray  # [m]
    source: np.ndarray  # [m] packed input that predicts the token, -1 for the end of the prompt
    target: np.ndarray  # [m] token id
    owner: np.ndarray  # [m] candidate, counted over all rows


def pack(candidates: Sequence[Sequence[Sequence[int]]]) -> Packed:
    """Lay the candidates of each row behind one another, for `n` rows of any number of candidates."""
    per_row = np.array([len(row) for row in candidates])
    lengths = np.array([len(candidate) for row in candidates for candidate in row])
    target = np.concatenate(
        [np.asarray(candidate, dtype=np.int64) for row in candidates for candidate in row]
    )  # [m]
    owner = np.repeat(np.arange(len(lengths)), lengths)  # [m]
    place = np.arange(len(target)) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )  # [m] place in the candidate
    candidate_row = np.repeat(np.arange(len(candidates)), per_row)
    row = candidate_row[owner]  # [m]
    first = np.repeat(np.cumsum(per_row) - per_row, per_row)  # first candidate of the candidate's row
    reads = lengths - 1
    before = np.cumsum(reads) - reads  # packed inputs before the candidate, over all rows
    start = before - before[first]  # and within its row
    widths = np.bincount(candidate_row, weights=reads, minlength=len(candidates)).astype(int)
    inputs = np.zeros((len(candidates), widths.max()), dtype=np.int64)
    segment, offset = np.full_like(inputs, -1), np.zeros_like(inputs)
    read = place < reads[owner]
    column = start[owner] + place
    inputs[row[read], column[read]] = target[read]
    segment[row[read], column[read]] = (owner - first[owner] + 1)[read]
    offset[row[read], column[read]] = place[read]
    return Packed(inputs, segment, offset, row, np.where(place == 0, -1, column - 1), target, owner)


def block_mask(seen: Tensor, segment: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: a token sees the prompt and its own segment, up to itself.

    Args:
        seen: whether a position of the prompt is no padding, `[n, T]`.
        segment: candidate that each packed position belongs to, -1 at padding, `[n, P]`.
        dtype: data type of the mask.

    Returns:
        0 where attention is allowed, the smallest number elsewhere, `[n, 1, P, T + P]`.
    """
    width = segment.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=segment.device).tril()
    own = causal & (segment[:, :, None] == segment[:, None, :])  # [n, P, P]
    allowed = torch.cat([seen[:, None, :].expand(-1, width, -1), own], 2)[:, None]  # [n, 1, P, T + P]
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)


def batches(
    prefix_lengths: np.ndarray, lengths: np.ndarray, token_budget: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Group rows of similar length into forward passes.

    Args:
        prefix_lengths: tokens of each row's prompt, `[B]`.
        lengths: tokens of each row's candidates, `[B, C]`.
        token_budget: positions of one forward pass. A row that is longer is split between candidates; a single
            candidate with its prompt is never split.

    Yields:
        Units `(row, first candidate, last candidate + 1)` of one forward pass.
    """
    units: list[tuple[int, int, int, int]] = []  # length, row, start, stop
    for row, prefix in enumerate(prefix_lengths.tolist()):
        start, length = 0, prefix
        for index, tokens in enumerate(lengths[row].tolist()):
            if index > start and length + tokens - 1 > token_budget:
                units.append((length, row, start, index))
                start, length = index, prefix
            length += tokens - 1
        units.append((length, row, start, lengths.shape[1]))
    batch: list[tuple[int, int, int]] = []
    longest = 0
    for length, row, start, stop in sorted(units, reverse=True):
        if batch and longest * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        longest = longest if batch else length
        batch.append((row, start, stop))
    if batch:
        yield batch
