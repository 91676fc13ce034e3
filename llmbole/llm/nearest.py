"""Nearest neighbours among earlier vectors, by cosine, with faiss: exact, or approximate where there are very many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np

_FAISS: Any = faiss  # its types lack some of its names
FIRST_WIDTH = 64
WIDEST = 1024  # neighbours asked of the index before a query's earlier vectors are gone through one by one
SCORES_PER_CHUNK = 4_000_000
NEIGHBOURS_PER_NODE = 32  # of an HNSW graph
LISTS_SEARCHED = 16  # of an inverted file


@dataclass(frozen=True)
class IndexSettings:
    """How vectors are searched.

    Attributes:
        kind: `exact`; `hnsw`, a navigable graph; `ivf`, an inverted file; `auto`: exact up to a size, above it a graph.
        exact_up_to: The size.
    """

    kind: Literal["auto", "exact", "hnsw", "ivf"]
    exact_up_to: int

    def __post_init__(self) -> None:
        if self.exact_up_to < 0:
            raise ValueError(f"exact_up_to = {self.exact_up_to}: must be at least 0")


class EarlierNeighbours:
    """Vectors with times, of which a query is shown the nearest among those before its own time.

    An index knows no times, so more neighbours are asked for until enough of them are early enough. Where that takes
    too many, the query's earlier vectors are compared one by one: fewer than asked for come back only if there are
    no more.

    Args:
        vectors: Shape `[N, D]`; their lengths do not matter.
        times: Shape `[N]`.
        settings: Which index.

    Raises:
        ValueError: Shapes differ, or a vector holds something that is not a number.
    """

    def __init__(self, vectors: np.ndarray, times: np.ndarray, settings: IndexSettings) -> None:
        if vectors.ndim != 2 or times.shape != vectors.shape[:1]:
            raise ValueError(f"vectors {vectors.shape} and times {times.shape} don't go together")
        self._order = np.argsort(times, kind="stable")  # by time: what is early enough is a beginning of it
        self._times = times[self._order]
        self._vectors = normalized(vectors)[self._order]
        self.kind = settings.kind
        if settings.kind == "auto":
            self.kind = "exact" if len(vectors) <= settings.exact_up_to else "hnsw"
        self._index = _build(self._vectors, self.kind) if len(vectors) else None

    def __len__(self) -> int:
        return len(self._order)

    def search(self, queries: np.ndarray, before: np.ndarray, count: int) -> np.ndarray:
        """The nearest vectors that are strictly earlier than each query.

        Args:
            queries: Shape `[Q, D]`.
            before: Time of each query. Shape `[Q]`.
            count: How many are wanted.

        Returns:
            Numbers of the vectors, the nearest first, -1 where there are no more. Shape `[Q, count]`.
        """
        found = np.full((len(queries), count), -1, dtype=np.int64)
        early = np.searchsorted(self._times, before, side="left")  # [Q] the first so many are earlier
        wanted = np.minimum(early, count)
        waiting, queries = np.flatnonzero(wanted), normalized(queries)
        width = max(FIRST_WIDTH, 2 * count)
        while len(waiting) and width <= min(WIDEST, len(self)):
            near = self._nearest(queries[waiting], width)  # [W, width]
            allowed = (near >= 0) & (near < early[waiting, None])
            enough = allowed.sum(1) >= wanted[waiting]
            found[waiting[enough]] = _first(near[enough], allowed[enough], count)
            waiting, width = waiting[~enough], width * 4
        self._one_by_one(queries, early, waiting, found)
        return np.where(found >= 0, self._order[found] if len(self) else -1, -1)

    def _nearest(self, queries: np.ndarray, width: int) -> np.ndarray:
        """Places of the nearest vectors whatever their times. Shape `[W, width]`."""
        index: Any = self._index
        parameters: Any = None
        if self.kind == "hnsw":
            parameters = _FAISS.SearchParametersHNSW()
            parameters.efSearch = width
        elif self.kind == "ivf":
            parameters = faiss.SearchParametersIVF()
            parameters.nprobe = LISTS_SEARCHED
        places: np.ndarray = index.search(queries, width, params=parameters)[1]
        return places

    def _one_by_one(
        self, queries: np.ndarray, early: np.ndarray, waiting: np.ndarray, found: np.ndarray
    ) -> None:
        """Fill in the nearest earlier vectors of some queries, each compared with all that are early enough."""
        waiting = waiting[np.argsort(early[waiting], kind="stable")]
        start = 0
        while start < len(waiting):
            rows = max(1, SCORES_PER_CHUNK // int(early[waiting[-1]]))
            chunk = waiting[start : start + rows]
            start += rows
            scores = queries[chunk] @ self._vectors[: early[chunk[-1]]].T  # [C, E]
            scores[np.arange(scores.shape[1]) >= early[chunk, None]] = -np.inf
            places = np.argsort(-scores, axis=1, kind="stable")
            found[chunk] = _first(places, np.isfinite(np.take_along_axis(scores, places, 1)), found.shape[1])


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in single precision; those of length 0 stay.

    Raises `ValueError`: One holds something that is not a number.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        raise ValueError(f"vector {int(np.argmax(wrong))} holds something that is not a finite number")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _first(places: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """The first allowed places of each row, then -1. Shape `[W, count]`."""
    rank = np.where(allowed, allowed.cumsum(1) - 1, count)
    result = np.full((len(places), count), -1, dtype=np.int64)
    rows, columns = np.nonzero(rank < count)
    result[rows, rank[rows, columns]] = places[rows, columns]
    return result


def _build(vectors: np.ndarray, kind: str) -> Any:  # noqa: ANN401 - faiss has no types
    """An index over vectors of length 1, by inner product."""
    size, width = vectors.shape
    index: Any
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, NEIGHBOURS_PER_NODE, faiss.METRIC_INNER_PRODUCT)
    else:
        lists = max(1, min(int(4 * size**0.5), size // 39))  # k-means wants 39 points a list
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # a graph that several threads build differs from run to run
    try:
        if kind == "ivf":
            index.train(vectors)
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)
    return index
