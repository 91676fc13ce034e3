"""Prompts of Llama4Rec and IFT: rank a list, like or not, which of two, how many stars; with what they may be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmbole.data.sequences import Sequences
from llmbole.llm import yes_no
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.pair_prompt import Answer
from llmbole.llm.prompt import Encoded
from llmbole.llm.title_prompt import ListWording, TitlePrompt, Titles

TASKS = ("listwise", "pointwise", "pairwise", "rating")
LISTS = ("history", "candidates", "similar", "prediction")
AUGMENTATION = "{augmentation}"
Task = Literal["listwise", "pointwise", "pairwise", "rating"]
_SLOTS = {
    "listwise": ("{history}", "{candidates}", "{count}"),
    "pointwise": ("{history}", "{title}"),
    "pairwise": ("{history}", "{candidates}"),
    "rating": ("{history}", "{title}"),
}


@dataclass(frozen=True)
class PromptSettings(ListWording):
    """The texts; `{augmentation}` is where lines about a similar user and the conventional model stand.

    Attributes:
        listwise: asks for a ranking of `{candidates}` that names the best `{count}`.
        pointwise: asks whether the user will like `{title}`.
        pairwise: asks which of two `{candidates}` the user prefers.
        rating: asks for the rating of `{title}`.
        history: titles shown, the newest ones.
    """

    listwise: str
    pointwise: str
    pairwise: str
    rating: str
    history: int

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [] if self.history >= 1 else [f"history = {self.history}: must be at least 1"]
        for task in TASKS:
            slots = (*_SLOTS[task], *(() if task == "pairwise" else (AUGMENTATION,)))
            problems += [
                f"{task} has no {slot}; write it once"
                for slot in slots
                if getattr(self, task).count(slot) != 1
            ]
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class AugmentSettings:
    """Prompt augmentation (PA).

    Attributes:
        prompt: whether it is on.
        history: titles shown of the similar user, the newest ones.
        predicted: titles shown of the conventional model's list, the best ones.
        similar: line about the similar user, with `{similar}`.
        prediction: line about the conventional model's list, with `{prediction}`.
        similar_ratings: line about the similar user's ratings, with `{similar}`.
        predicted_rating: line about the conventional model's rating, with `{predicted}`.
    """

    prompt: bool
    history: int
    predicted: int
    similar: str
    prediction: str
    similar_ratings: str
    predicted_rating: str

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("history", "predicted")
            if getattr(self, name) < 1
        ]
        slots = {
            "similar": "{similar}",
            "prediction": "{prediction}",
            "similar_ratings": "{similar}",
            "predicted_rating": "{predicted}",
        }
        problems += [
            f"{name} has no {slot}; write it once"
            for name, slot in slots.items()
            if getattr(self, name).count(slot) != 1
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def lines(self, task: str) -> str:
        """What stands in place of `{augmentation}`."""
        if not self.prompt:
            return ""
        return (
            self.similar_ratings + self.predicted_rating
            if task == "rating"
            else self.similar + self.prediction
        )


@dataclass(frozen=True)
class Shown:
    """What prompts of rows show beside their question; places are those of `Sequences`, -1 is nothing.

    Attributes:
        history: Shape `[N, L]`.
        similar: Interactions of a similar user, where prompts are augmented. Shape `[N, S]`.
        predicted: Items of the conventional model's list, best first. Shape `[N, P]`.
        ratings: Ratings that the conventional model predicts. Shape `[N]`.
    """

    history: np.ndarray
    similar: np.ndarray | None = None
    predicted: np.ndarray | None = None
    ratings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.history)

    def taken(self, rows: np.ndarray) -> Shown:
        """Some rows, by number."""
        columns = (self.history, self.similar, self.predicted, self.ratings)
        return Shown(*(None if each is None else each[rows] for each in columns))  # type: ignore[arg-type]

    def repeated(self, times: int) -> Shown:
        """Each row so many times, one after the other."""
        columns = (self.history, self.similar, self.predicted, self.ratings)
        return Shown(*(None if each is None else np.repeat(each, times, axis=0) for each in columns))  # type: ignore[arg-type]


class RankingPrompts:
    """The prompts over one language model.

    Args:
        lm: The language model.
        settings: Texts and wording.
        answer: Words of the pointwise answer.
        titles: Title of each item by internal id. Length `n_items`.
        words: What items are called in this data set.
        sequences: The interactions that are shown.
        augment: Lines beside the question; none where nothing is to be told.

    Attributes:
        yes_no: Token ids of the pointwise answers.
    """

    def __init__(
        self,
        lm: LanguageModel,
        settings: PromptSettings,
        answer: Answer,
        titles: Sequence[str],
        words: Mapping[str, str],
        sequences: Sequences,
        augment: AugmentSettings | None = None,
    ) -> None:
        self.lm, self.settings, self.sequences = lm, settings, sequences
        self.titles = Titles(lm, settings, titles)
        texts = {
            task: getattr(settings, task).replace(AUGMENTATION, augment.lines(task) if augment else "")
            for task in TASKS
        }
        self.yes_no = yes_no.answer_ids(
            lm.tokens, texts["pointwise"], answer.words, first_token=answer.first_token
        )
        self.prompts = {task: TitlePrompt(lm, text, settings, LISTS, words) for task, text in texts.items()}

    def listwise(self, shown: Shown, candidates: np.ndarray, count: int, answer_tokens: int) -> list[Encoded]:
        """Prompts that ask for a ranking.

        Args:
            shown: What stands beside the candidates.
            candidates: Items in the order of the prompt. Shape `[N, C]`.
            count: How many the answer names.
            answer_tokens: Positions left for an answer.

        Returns:
            One prompt per row.
        """
        rows = [
            {**row, "candidates": self._listed(offered), "count": str(count)}
            for row, offered in zip(self._rows(shown, "listwise"), candidates, strict=True)
        ]
        return self.prompts["listwise"].encode(rows, answer_tokens)

    def pairwise(self, shown: Shown, candidates: np.ndarray, answer_tokens: int) -> list[Encoded]:
        """Prompts that ask which of two items, `[N, 2]`, is preferred."""
        rows = [
            {"history": row["history"], "candidates": self._listed(offered)}
            for row, offered in zip(self._rows(shown, "pairwise"), candidates, strict=True)
        ]
        return self.prompts["pairwise"].encode(rows, answer_tokens)

    def pointwise(self, shown: Shown, targets: np.ndarray) -> list[Encoded]:
        """Prompts that ask whether targets, `[N]`, are liked."""
        return self._about(shown, targets, "pointwise", 1)

    def rating(self, shown: Shown, targets: np.ndarray, answer_tokens: int) -> list[Encoded]:
        """Prompts that ask for the rating of targets, `[N]`."""
        return self._about(shown, targets, "rating", answer_tokens)

    def _about(self, shown: Shown, targets: np.ndarray, task: str, answer_tokens: int) -> list[Encoded]:
        rows = [
            {**row, "title": self.titles.plain[target]}
            for row, target in zip(self._rows(shown, task), targets.tolist(), strict=True)
        ]
        return self.prompts[task].encode(rows, answer_tokens)

    def _rows(self, shown: Shown, task: str) -> list[dict[str, str | list[str]]]:
        """History and augmentation of each row, as far as the task's prompt has slots for them."""
        slots = self.prompts[task].template.slots
        rows: list[dict[str, str | list[str]]] = [
            {"history": self._written(places, task)} for places in shown.history
        ]
        for name, column in (
            ("similar", shown.similar),
            ("prediction", shown.predicted),
            ("predicted", shown.ratings),
        ):
            if name not in slots:
                continue
            if column is None:
                raise ValueError(f"the {task} prompt has a slot {name!r}, but nothing is given for it")
            for row, value in zip(rows, column, strict=True):
                if name == "similar":
                    row[name] = self._written(value, task)
                else:
                    row[name] = self._listed(value) if name == "prediction" else f"{float(value):.1f}"
        return rows

    def _written(self, places: np.ndarray, task: str) -> list[str]:
        """Titles of interactions; with ratings, where those are asked for."""
        kept = places[places >= 0]
        items = self.sequences.items[kept].tolist()
        if task != "rating":
            return self._listed(items)
        ratings = self.sequences.ratings[kept].tolist()
        return [self.titles.rated(item, rating) for item, rating in zip(items, ratings, strict=True)]

    def _listed(self, items: Sequence[int] | np.ndarray) -> list[str]:
        return [self.titles.listed[int(item)] for item in items if item]
