"""All labelled rows of a split under one numbering, so that what was made for a row before is found in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole import compat
from llmbole.config import Config
from llmbole.data import pair_leak, splits
from llmbole.data.arrays import open_parts
from llmbole.data.histories import newest
from llmbole.data.labelled import labelled
from llmbole.data.pairs import PARTS, PairSplit
from llmbole.data.split_dataset import PairDataset, PairLoader

compat.apply()

from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first

ROW = "row_number"


class NumberedRows:
    """The rows of training, validation and test, counted from 0 in this order; a sealed test is left out.

    Attributes:
        split: The frozen split.
        firsts: Number of the first row of each part.
        positions: The interaction of each row, as its place in the split's arrays. Shape `[R]`.
        items: Shape `[R]`.
        labels: Shape `[R]`.

    Args:
        split: The frozen split.
    """

    def __init__(self, split: PairSplit) -> None:
        self.split, names = split, open_parts(PARTS)
        sizes = [len(split.part(name)) for name in names]
        self.firsts = dict(zip(names, np.concatenate([[0], np.cumsum(sizes)]).tolist(), strict=False))
        columns = {
            name: np.concatenate([split.parts[part][name] for part in names])
            for name in ("positions", "items", "labels")
        }
        self.positions, self.items, self.labels = columns["positions"], columns["items"], columns["labels"]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def hides_items(self) -> bool:
        """Whether a row's item is what is asked for, as in a ranking, and not known to whoever scores the row."""
        return self.split.task == "ranking"

    def asked(self, part: str) -> np.ndarray:
        """Numbers of the rows of a part that a model scores: all, but none that was drawn beside a ranking."""
        numbers = self.numbers(part)
        return numbers[self.labels[numbers] == 1] if self.hides_items else numbers

    @cached_property
    def users(self) -> np.ndarray:
        """User of each row. Shape `[R]`."""
        return self.split.users[self.positions]

    @cached_property
    def timestamps(self) -> np.ndarray:
        """Time of each row. Shape `[R]`."""
        return self.split.timestamps[self.positions]

    def numbers(self, part: str) -> np.ndarray:
        """Numbers of the rows of a part. Shape `[R_part]`."""
        return self.firsts[part] + np.arange(len(self.split.part(part)))

    def histories(self, numbers: np.ndarray, max_length: int) -> np.ndarray:
        """The newest items of rows' histories, oldest first, right-padded with 0.

        Args:
            numbers: Which rows. Shape `[B]`.
            max_length: Longest history.

        Returns:
            Shape `[B, max_length]`.
        """
        span = self.split.history_span(self.positions[numbers])
        return newest(self.split.history_items, *span, max_length)[0]

    def check_shown(self, numbers: np.ndarray, shown: np.ndarray) -> list[str]:
        """Rows that are shown with rows and may not be: what is shown must be strictly earlier, and for training.

        Args:
            numbers: The row that something is shown with. Shape `[S]`.
            shown: Number of the row that is shown. Shape `[S]`.

        Returns:
            Problems, one sentence for each kind and part; empty if all that is shown is of the past.
        """
        problems = []
        for part in self.firsts:
            own = self.numbers(part)
            here = (numbers >= own[0]) & (numbers <= own[-1])
            rows = numbers[here] - own[0]
            found = pair_leak.check_shown(self.split.part(part), rows, self.positions[shown[here]])
            problems += [f"{part}: {problem}" for problem in found]
        held_out = shown >= self.firsts["valid"]
        if held_out.any():
            problems.append(f"{held_out.sum()} rows are shown with a row that is held out")
        same = self.timestamps[shown] == self.timestamps[numbers]
        if same.any():
            problems.append(f"{same.sum()} rows are shown with something of their own time")
        return problems


class NumberedLoader(PairLoader):
    """Batches of labelled rows with their numbers in `row_number`.

    Args:
        config: Settings.
        dataset: A built part.
        first: Number of its first row.
        training: Rows are shuffled; else they come in order.
    """

    def __init__(self, config: Config, dataset: PairDataset, first: int, *, training: bool) -> None:
        super().__init__(config, dataset, training=training)
        self.first = first

    def take(self, rows: Tensor) -> Interaction:
        """Rows of the part by number. Shape `[B]`."""
        found = super().take(rows)
        found.update(Interaction({ROW: rows + self.first}))
        return found


def load_rows(folder: Path) -> NumberedRows:
    """The rows of a frozen split under one numbering, those of a ranking as `labelled` gives them.

    Args:
        folder: The split's.

    Returns:
        Its rows.
    """
    opened = splits.load(folder)
    return NumberedRows(opened if isinstance(opened, PairSplit) else labelled(opened))


def loaders(config: Config, parts: tuple[Any, Any, Any], rows: NumberedRows) -> dict[str, NumberedLoader]:
    """A loader of each part by name; only that of training shuffles.

    Args:
        config: Settings.
        parts: RecBole's training, validation and test data sets; without the test if it is sealed.
        rows: Their numbers.

    Returns:
        Part name to loader.
    """
    return {
        name: NumberedLoader(config, part, rows.firsts[name], training=name == "train")
        for name, part in zip(rows.firsts, parts, strict=True)
    }


def number_parts(parts: Sequence[Any], rows: NumberedRows) -> None:
    """Write the numbers of a ranking's rows into RecBole's data sets, so that every loader's batches have them.

    Args:
        parts: RecBole's training, validation and test data sets; without the test if it is sealed. Each gets the column
            `row_number`: of training rows those of label 1.
        rows: Their numbers, of the split that `labelled` gives.
    """
    for name, part in zip(rows.firsts, parts, strict=True):
        own, found = rows.asked(name), np.full(len(rows.split.items), -1)
        found[rows.positions[own]] = own
        part.inter_feat.update(Interaction({ROW: torch.from_numpy(found[part.rows.ends])}))


def as_tensors(*columns: np.ndarray) -> list[Tensor]:
    """Integer columns as tensors of long integers."""
    return [torch.from_numpy(np.array(column, dtype=np.int64)) for column in columns]
