"""Retrieval of in-context examples: for each row the most similar rows of the past, as many liked as not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmbole.data.numbered import NumberedRows
from llmbole.llm.nearest import EarlierNeighbours, IndexSettings, normalized

ROWS_PER_CHUNK = 2048


@dataclass(frozen=True)
class ExampleSettings(IndexSettings):
    """Which examples a row is shown.

    Attributes:
        count: K, at most so many.
        balanced: Whether as many have label 1 as label 0.
        history: Items of a history that similarity goes by, the newest ones.
    """

    count: int
    balanced: bool
    history: int

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [] if self.count >= 0 else [f"count = {self.count}: must be at least 0"]
        if self.balanced and self.count % 2:
            problems.append(f"count = {self.count}: must be even, for as many of label 1 as of label 0")
        if self.history < 1:
            problems.append(f"history = {self.history}: must be at least 1")
        if problems:
            raise ValueError("\n".join(problems))


def row_vectors(
    rows: NumberedRows, numbers: np.ndarray, text: np.ndarray, history: int, *, masked: bool = False
) -> np.ndarray:
    """Vectors of rows whose inner product is half the cosine of their histories and half that of their items.

    Args:
        rows: All rows.
        numbers: Which rows. Shape `[n]`.
        text: Vectors of item text, those of the padding item first. Shape `[n_items, T]`.
        history: Newest items of a history.
        masked: Leave the rows' items out.

    Returns:
        The mean vector of the history beside the vector of the item, each of length 1 (0 for an empty history or a
        masked item) before both are divided by the root of 2. Shape `[n, 2 * T]`.
    """
    items = rows.histories(numbers, history)  # [n, L]
    known = items > 0
    pooled = np.einsum("nl,nlt->nt", known.astype(np.float32), text[items])
    pooled /= np.maximum(known.sum(1), 1)[:, None]
    items_text = np.zeros_like(pooled) if masked else text[rows.items[numbers]]
    both = [normalized(pooled), normalized(items_text)]
    found: np.ndarray = np.concatenate(both, axis=1) / np.float32(2**0.5)
    return found


def retrieve(
    rows: NumberedRows,
    chosen: np.ndarray,
    text: np.ndarray,
    settings: ExampleSettings,
    seed: int,
    progress: Callable[[int], None] | None = None,
    *,
    asked: np.ndarray | None = None,
    masked: bool = False,
) -> np.ndarray:
    """The examples of rows: of the chosen rows before its time the most similar ones, in random order.

    With `balanced`, a row for which there are too few examples of one label is shown as few of the other.

    Args:
        rows: All rows.
        chosen: Numbers of the rows that may be examples. Shape `[N]`.
        text: Vectors of item text. Shape `[n_items, T]`.
        settings: How many, and which.
        seed: Of their order.
        progress: Told how many rows are done.
        asked: Numbers of the rows that get examples; `None` for all. Shape `[A]`.
        masked: Whether they are found by their histories alone, as where a row's item is what is asked for.

    Returns:
        Places among the chosen rows, -1 behind the last, and everywhere in rows that are not asked for. Shape
        `[R, K]`.
    """
    vectors = row_vectors(rows, chosen, text, settings.history)
    labels = rows.labels[chosen]
    groups = (
        [np.flatnonzero(labels == label) for label in (1, 0)]
        if settings.balanced
        else [np.arange(len(chosen))]
    )
    indexes = [
        EarlierNeighbours(vectors[group], rows.timestamps[chosen[group]], settings) for group in groups
    ]
    count = settings.count // len(groups)
    found = np.full((len(rows), settings.count), -1, dtype=np.int64)
    random = np.random.default_rng(seed)
    asked = np.arange(len(rows)) if asked is None else asked
    for start in range(0, len(asked) if settings.count else 0, ROWS_PER_CHUNK):
        numbers = asked[start : start + ROWS_PER_CHUNK]
        queries = row_vectors(rows, numbers, text, settings.history, masked=masked)
        before = rows.timestamps[numbers]
        near = [index.search(queries, before, count) for index in indexes]  # each [n, count]
        both = np.logical_and.reduce(
            [each >= 0 for each in near]
        )  # [n, count] the rank is there for each label
        named = [
            np.where(both, group[each] if len(group) else -1, -1)
            for group, each in zip(groups, near, strict=True)
        ]
        found[numbers] = _shuffled(np.concatenate(named, axis=1), random)
        if progress is not None:
            progress(len(numbers))
    return found


def _shuffled(places: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each row's places in random order, those of nothing last. Shape `[n, K]`."""
    order = np.argsort(np.where(places >= 0, random.random(places.shape), 2.0), axis=1)
    return np.take_along_axis(places, order, axis=1)
