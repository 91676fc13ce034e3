"""Instructions made of training interactions: what an LLM is tuned on, whatever conventional model it works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbole.data import leak, pair_leak, splits
from llmbole.data.negatives import NegativeSampler
from llmbole.data.pairs import PairSplit
from llmbole.data.sequences import Sequences
from llmbole.model.ranking_prompts import TASKS, Task
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import build

FILE = "instructions.npz"


@dataclass(frozen=True)
class InstructionSettings:
    """How many instructions of which kind.

    Attributes:
        tasks: of `listwise`, `pointwise`, `pairwise` and `rating`.
        per_task: rows of a task at most.
        min_history: training interactions a user must have before what is asked about.
        candidates: items of a list to rank.
        positives: of those, the user's own next ones, which the answer names; the others are random.
    """

    tasks: tuple[Task, ...]
    per_task: int
    min_history: int
    candidates: int
    positives: int

    def __post_init__(self) -> None:
        least = {"per_task": 1, "min_history": 1, "candidates": 2, "positives": 1}
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            problems.append(f"tasks = {list(self.tasks)}: name at least one, and each once")
        if self.positives >= self.candidates:
            problems.append(
                f"positives = {self.positives}: must be fewer than candidates = {self.candidates}"
            )
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class Instructions:
    """Rows of all tasks.

    Attributes:
        task: Place in `TASKS`. Shape `[R]`.
        position: The interaction before which the history ends. Shape `[R]`.
        offered: Items asked about, in the order of the prompt, padded with 0. Shape `[R, C]`.
        answer: Items that the answer names, best first, padded with 0. Shape `[R, P]`.
        label: Of pointwise rows 1 for a like, of ratings the rating, else 0. Shape `[R]`.
    """

    task: np.ndarray
    position: np.ndarray
    offered: np.ndarray
    answer: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.task)

    @classmethod
    def load(cls, artifact: Artifact) -> Instructions:
        """Read what `make_instructions` wrote."""
        with np.load(artifact.folder / FILE, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})


class Sampler:
    """Draws instructions of training interactions.

    Args:
        sequences: The interactions.
        settings: How many.
        liked_from: Ratings from here on are a like; none where every interaction is one.
        seed: Of all draws.
    """

    def __init__(
        self, sequences: Sequences, settings: InstructionSettings, liked_from: float | None, seed: int
    ) -> None:
        self.sequences, self.settings = sequences, settings
        self.liked = np.ones(len(sequences.items), dtype=bool)
        if liked_from is not None:
            self.liked = sequences.ratings >= liked_from
        self.generator = np.random.default_rng(seed)
        places = np.arange(len(sequences.items))
        self.before = places - sequences.offsets[sequences.users]  # interactions before each, [N]
        trained = sequences.trained
        self.negatives = NegativeSampler(
            sequences.users[trained], sequences.items[trained], sequences.n_items
        )

    def sample(self) -> Instructions:
        """Rows of every task, in random order; no two ask about the same interaction in the same way.

        Raises `ValueError`: A task has nothing to ask about.
        """
        parts = [getattr(self, task)() for task in self.settings.tasks]
        together = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        order = self.generator.permutation(len(together[0]))
        return Instructions(*(column[order] for column in together))

    def listwise(self) -> tuple[np.ndarray, ...]:
        """The user's next items among random ones; the answer names them, the best rated first."""
        wanted, count = self.settings.positives, self.settings.candidates
        ends = self.sequences.train_ends[self.sequences.users]
        places = self._draw("listwise", np.arange(len(ends)) + wanted <= ends)  # [R]
        own = places[:, None] + np.arange(wanted)  # [R, P]
        best = np.argsort(-self.sequences.ratings[own], axis=1, kind="stable")
        answer = self.sequences.items[np.take_along_axis(own, best, axis=1)]
        others = self.negatives.sample(self.generator, self.sequences.users[places], count - wanted)
        offered = self.generator.permuted(np.concatenate([answer, others], axis=1), axis=1)
        return self._rows("listwise", places, offered, answer, np.zeros(len(places)))

    def pointwise(self) -> tuple[np.ndarray, ...]:
        """One half items that the user liked, one half random items that the user does not know."""
        places = self._draw("pointwise", self.liked)
        items = self.sequences.items[places].copy()
        no = np.arange(len(places)) % 2 == 1
        if no.any():
            users = self.sequences.users[places[no]]
            items[no] = self.negatives.sample(self.generator, users, 1)[:, 0]
        return self._rows("pointwise", places, items[:, None], np.zeros((len(places), 1)), ~no)

    def pairwise(self) -> tuple[np.ndarray, ...]:
        """An item that the user liked and a random one that the user does not know, in random order."""
        places = self._draw("pairwise", self.liked)
        answer = self.sequences.items[places][:, None]
        other = self.negatives.sample(self.generator, self.sequences.users[places], 1)
        offered = self.generator.permuted(np.concatenate([answer, other], axis=1), axis=1)
        return self._rows("pairwise", places, offered, answer, np.zeros(len(places)))

    def rating(self) -> tuple[np.ndarray, ...]:
        """An item that the user rated, and the rating."""
        places = self._draw("rating", np.ones(len(self.liked), dtype=bool))
        items = self.sequences.items[places][:, None]
        return self._rows("rating", places, items, np.zeros((len(places), 1)), self.sequences.ratings[places])

    def _draw(self, task: str, fits: np.ndarray) -> np.ndarray:
        """Training interactions with enough before them, each at most once. Shape `[R]`."""
        found = np.flatnonzero(fits & self.sequences.trained & (self.before >= self.settings.min_history))
        if not len(found):
            raise ValueError(
                f"no training interaction can be asked about {task} with {self.settings.min_history} before it: "
                "lower instructions.min_history or instructions.positives"
            )
        return self.generator.choice(found, min(self.settings.per_task, len(found)), replace=False)

    def _rows(
        self, task: str, places: np.ndarray, offered: np.ndarray, answer: np.ndarray, label: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        widths = (self.settings.candidates, self.settings.positives)
        columns = []
        for values, width in zip((offered, answer), widths, strict=True):
            padded = np.zeros((len(places), width), dtype=np.int64)
            padded[:, : values.shape[1]] = values
            columns.append(padded)
        number = np.full(len(places), TASKS.index(task))
        return number, places, *columns, np.asarray(label, dtype=np.float64)


@stage(
    makes="instructions",
    needs=("split",),
    uses=("instructions", "prompt.history", "dataset.label", "protocol", "seed"),
)
def make_instructions(run: StageRun, split: Artifact) -> Mapping[str, Any]:
    """Instructions of all tasks, from training interactions alone."""
    settings = build(InstructionSettings, run["instructions"], "instructions")
    opened = splits.load(split.folder)
    sequences = Sequences.of(opened)
    label = run["dataset.label"]
    rows = Sampler(sequences, settings, label["positive_from"] if label else None, run.seed).sample()
    problems = check(opened, sequences, rows, run["prompt.history"])
    if problems:
        raise ValueError("instructions leak:\n" + "\n".join(problems))
    np.savez_compressed(run.folder / FILE, **vars(rows))
    counts = {TASKS[number]: int((rows.task == number).sum()) for number in np.unique(rows.task)}
    short = int((sequences.train_counts[1:] <= settings.min_history).sum())
    told = ", ".join(f"{count} {task}" for task, count in counts.items())
    return {**counts, "users_left_out": short, "did": f"{told}; {short} users have too short a history"}


def check(split: Any, sequences: Sequences, rows: Instructions, length: int) -> list[str]:  # noqa: ANN401 - any split
    """What instructions show or teach that is not of training, one sentence each.

    Args:
        split: The frozen split.
        sequences: Its interactions.
        rows: Instructions.
        length: Titles of a history.

    Returns:
        Problems; empty if there is none.
    """
    history = sequences.before(rows.position, length)  # [R, L]
    if not isinstance(split, PairSplit):
        users, items = sequences.users[rows.position], sequences.items[rows.position]
        problems = leak.check_training(split, users, items, sequences.items_at(history))
        answered = rows.answer > 0
        owners = np.broadcast_to(users[:, None], rows.answer.shape)[answered]
        return problems + leak.check_training(split, owners, rows.answer[answered])
    part = split.part("train")
    order = np.argsort(part.positions)  # rows stand in the order of their times
    found = np.searchsorted(part.positions, rows.position, sorter=order)
    numbers = order[np.minimum(found, len(part) - 1)]
    known = part.positions[numbers] == rows.position
    problems = [] if known.all() else [f"{(~known).sum()} instructions ask about a rating that is held out"]
    shown = history >= 0
    at = np.broadcast_to(numbers[:, None], history.shape)[shown & known[:, None]]
    return problems + pair_leak.check_shown(part, at, history[shown & known[:, None]])
