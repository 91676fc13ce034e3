"""Rows of tensors as the batches of RecBole Interactions that RecBole's Trainer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import llmbole.config  # noqa: F401 - RecBole is imported only after its patches
from recbole.data.interaction import Interaction


class Batches:
    """Training rows, shuffled each epoch by a generator of their own.

    Args:
        columns: Named tensors with one row per training sample. Shapes `[N, ...]`.
        batch_size: Rows per batch; the last batch of an epoch may be smaller.
        seed: Seed of the shuffling and of what `draw` draws.
        draw: Called at the start of each epoch with the generator; gives further columns, negatives for example.
        dataset: The dataset RecBole's trainer asks for item counts, if it evaluates what lists show of the catalogue.
    """

    shuffle = True

    def __init__(
        self,
        columns: Mapping[str, Tensor],
        batch_size: int,
        seed: int,
        draw: Callable[[torch.Generator], Mapping[str, Tensor]] | None = None,
        dataset: Any = None,  # noqa: ANN401 - a RecBole dataset
    ) -> None:
        self.dataset = dataset
        self.columns = dict(columns)
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.draw = draw
        self.rows = len(next(iter(self.columns.values())))

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Interaction]:
        columns = {**self.columns, **(self.draw(self.generator) if self.draw else {})}
        order = torch.randperm(self.rows, generator=self.generator)
        for rows in order.split(self.batch_size):
            yield Interaction({name: column[rows] for name, column in columns.items()})
