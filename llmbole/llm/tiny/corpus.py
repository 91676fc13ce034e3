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
    "fit_recall": lambda rng, most: copying.fit_recall(rng, most),
    "fit_lookup": lambda rng, most: copying.fit_lookup(rng, most),
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
COPYING: dict[str, float] = {
    "permuted": 5, "echo": 1, "recall": 1, "fit_recall": 4, "fit_lookup": 6, "facts": 0.5,
}  # fmt: skip
LOOKUP: dict[str, float] = {
    "permuted": 2, "recall": 1, "fit_recall": 3, "lookup": 2, "lookup_first": 5, "fit_lookup": 4, "echo": 0.5,
    "copy": 2, "free": 1, "exact_symbols": 3, "nearest_vectors": 4, "facts": 1,
}  # fmt: skip
MATCHING: dict[str, float] = {
    "permuted": 1, "fit_recall": 2, "lookup": 1, "lookup_first": 3, "fit_lookup": 4, "exact_symbols": 4,
    "exact_words": 2, "free": 1.5, "copy": 1, "overlap_blend": 1, "nearest_vectors": 12,
}  # fmt: skip
INSTRUCTIONS: dict[str, float] = {
    "permuted": 1, "recall": 0.5, "fit_recall": 1, "lookup": 1, "lookup_first": 3, "fit_lookup": 2, "mark": 0.5,
    "echo": 0.5, "copy": 3, "place": 1, "following": 1, "free": 8, "exact_symbols": 10, "exact_words": 6,
    "frequent_symbols": 3, "frequent_words": 1, "overlap_symbols": 3, "overlap_blend": 3, "overlap_words": 3,
    "nearest_vectors": 30, "facts": 3, "yes_no_symbols": 3, "yes_no_words": 3, "member": 1, "rank_symbols": 1,
    "rank_words": 2, "sort": 1.5, "repeat": 1, "rate_symbols": 1, "rate_words": 1.5, "explain": 2,
}  # fmt: skip
CHOICES: dict[str, float] = {**INSTRUCTIONS, "fit_lookup": 4, "nearest_vectors": 60}
CURRICULUM: tuple[tuple[float, dict[str, float], int], ...] = (
    (0.10, COPYING, 8),
    (0.22, LOOKUP, 8),
    (0.32, MATCHING, 10),
    (0.55, MATCHING, 20),
    (1.00, INSTRUCTIONS, 20),
    (2.00, CHOICES, 20),
)
"""Until which part of the curriculum, which mixture of tasks, with how many candidates at most; above 1 is what follows
the curriculum."""


def stage(progress: float) -> tuple[dict[str, float], int]:
    """The mixture and the most candidates at a point of the training, 0 to 1."""
    for until, mixture, most in CURRICULUM:
        if progress <= until:
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
