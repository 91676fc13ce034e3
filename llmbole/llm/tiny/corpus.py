"""The pre-training corpus: an endless, deterministic stream of generated samples that follows a curriculum.

Nothing comes from a data set: titles, attributes and facts are invented (`titles`), and no sample holds an
interaction.
"""

import random
from collections.abc import Callable, Iterator

from . import answers, copying, matching
from .samples import Sample

Task = Callable[[random.Random, int], Sample]
"""Makes a sample from a random state and the greatest number of candidates."""

TASKS: dict[str, Task] = {
    "permuted": lambda rng, most: copying.permuted(rng, 12),
    "lookup": lambda rng, most: copying.lookup(rng, most),
    "lookup_first": lambda rng, most: copying.lookup_first(rng, most),
    "recall": lambda rng, most: copying.recall(rng, most),
    "mark": lambda rng, most: copying.mark(rng, most),
    "echo": lambda rng, most: copying.echo(rng, most),
    "copy": lambda rng, most: copying.copy(rng),
    "place": lambda rng, most: copying.place(rng),
    "following": lambda rng, most: copying.following(rng),
    "free": lambda rng, most: matching.free(rng, most),
    "exact_symbols": lambda rng, most: matching.match(rng, "exact", "symbols", most),
    "exact_words": lambda rng, most: matching.match(rng, "exact", "words", most),
    "frequent_symbols": lambda rng, most: matching.match(rng, "frequent", "symbols", most),
    "frequent_words": lambda rng, most: matching.match(rng, "frequent", "words", most),
    "overlap_symbols": lambda rng, most: matching.match(rng, "overlap", "symbols", most),
    "overlap_blend": lambda rng, most: matching.match(rng, "overlap", "blend", most),
    "nearest_vectors": lambda rng, most: matching.match(rng, "nearest", "vectors", most),
    "overlap_words": lambda rng, most: matching.match(rng, "overlap", "words", most),
    "facts": lambda rng, most: answers.facts(rng),
    "yes_no_symbols": lambda rng, most: answers.yes_no(rng, "symbols"),
    "yes_no_words": lambda rng, most: answers.yes_no(rng, "words"),
    "member": lambda rng, most: answers.member(rng),
    "rank_symbols": lambda rng, most: answers.rank(rng, "symbols"),
    "rank_words": lambda rng, most: answers.rank(rng, "words"),
    "sort": lambda rng, most: answers.sort(rng),
    "repeat": lambda rng, most: answers.repeat(rng),
    "rate_symbols": lambda rng, most: answers.rate(rng, "symbols"),
    "rate_words": lambda rng, most: answers.rate(rng, "words"),
    "explain": lambda rng, most: answers.explain(rng),
}
COPYING: dict[str, float] = {"permuted": 7, "echo": 3, "facts": 1}
RECALL: dict[str, float] = {"permuted": 2, "recall": 6, "echo": 2, "lookup": 2, "facts": 0.5}
LOOKUP: dict[str, float] = {
    "permuted": 1, "recall": 2, "lookup": 4, "lookup_first": 6, "mark": 1, "echo": 1, "copy": 1, "free": 1,
    "exact_symbols": 4, "facts": 1,
}  # fmt: skip
MIXED: dict[str, float] = {
    "permuted": 1, "recall": 1, "lookup": 2, "lookup_first": 4, "mark": 0.5, "echo": 0.5, "copy": 2,
    "place": 1, "following": 1, "free": 12, "exact_symbols": 16, "exact_words": 5, "frequent_symbols": 6,
    "frequent_words": 2, "overlap_symbols": 5, "overlap_blend": 10, "overlap_words": 4, "facts": 3,
    "yes_no_symbols": 3, "yes_no_words": 3, "member": 1, "rank_symbols": 1, "rank_words": 2, "sort": 1.5,
    "repeat": 1, "rate_symbols": 1, "rate_words": 1.5, "explain": 2,
}  # fmt: skip
MATCHING: dict[str, float] = {
    "permuted": 1, "lookup": 2, "lookup_first": 6, "exact_symbols": 7, "exact_words": 2, "free": 1.5,
    "copy": 0.5, "overlap_blend": 1,
}  # fmt: skip
VECTORS: dict[str, float] = {**MATCHING, "overlap_blend": 4, "nearest_vectors": 8}
INSTRUCTIONS: dict[str, float] = {
    **MIXED, "nearest_vectors": 16, "lookup_first": 8, "exact_symbols": 22, "exact_words": 7, "free": 8,
    "copy": 3, "frequent_symbols": 4, "frequent_words": 1, "overlap_symbols": 4, "overlap_words": 3,
}  # fmt: skip
CURRICULUM: tuple[tuple[float, dict[str, float], int], ...] = (
    (0.04, COPYING, 6),
    (0.09, RECALL, 5),
    (0.22, LOOKUP, 5),
    (0.36, MIXED, 8),
    (0.42, MATCHING, 4),
    (0.49, MATCHING, 8),
    (0.55, MATCHING, 20),
    (0.70, VECTORS, 20),
    (1.00, INSTRUCTIONS, 20),
)
"""Until which part of the training, which mixture of tasks, with how many candidates at most."""


def stage(progress: float) -> tuple[dict[str, float], int]:
    """The mixture and the most candidates at a point of the training, 0 to 1."""
    for until, mixture, most in CURRICULUM:
        if progress < until:
            return mixture, most
    return CURRICULUM[-1][1:]


def sample(rng: random.Random, progress: float = 1.0) -> Sample:
    """One sample as the curriculum draws it at this point of the training."""
    mixture, most = stage(progress)
    task = rng.choices(list(mixture), list(mixture.values()))[0]
    return TASKS[task](rng, most)


def stream(seed: int, progress: float = 1.0) -> Iterator[Sample]:
    """Endless samples of one point of the training; the same seed gives the same samples."""
    rng = random.Random(seed)
    while True:
        yield sample(rng, progress)
