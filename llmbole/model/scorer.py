"""Scores of any items for anybody: what a finished run is opened as.

A method says how in its file, with a function under `@opens(Method, needs=..., uses=...)` behind its class. Such a
function is like a stage, but makes no artifact: it reads those of a run and gives a `Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmbole.data.text import ItemText
from llmbole.settings import SettingsError


@dataclass(frozen=True)
class Context:
    """Whose scores are wanted.

    Attributes:
        user: Internal id; 0 for somebody of whom the history alone is known.
        history: What the protocol's histories show of the user, oldest first. Shape `[L]`.
        ratings: Of the history; `None` where they are unknown. Shape `[L]`.
    """

    user: int
    history: np.ndarray
    ratings: np.ndarray | None = None


@dataclass(frozen=True)
class NewItems:
    """Items that the data set does not have; their internal ids follow on its own.

    Attributes:
        first: Internal id of the first one: the data set's `n_items`.
        text: Their text, that of a padding item first.
    """

    first: int
    text: ItemText

    def __len__(self) -> int:
        return len(self.text) - 1


class Scorer(Protocol):
    """What scores items for users.

    Attributes:
        shortlist: How many items it ranks together if nobody says which; `None` where each item is scored by itself.
        retriever: A conventional model of the run that can choose those items.
        history_alone: Why it can't score for somebody of whom only the history is known; `None` if it can.
    """

    shortlist: int | None
    retriever: Scorer | None
    history_alone: str | None

    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """Scores, the higher the better, `[B, C]`, of items `[B, C]` by internal id."""


@dataclass(frozen=True)
class Opener:
    """How the finished runs of a method are opened.

    Attributes:
        needs: Names of the artifacts it is given, as keyword arguments; those that a run has not are `None`.
        uses: Dotted names of the settings it may read.
        function: Called with a `StageRun`, the new items or `None`, and the artifacts; returns a `Scorer`.
        reads_new: Whether it can score items that the data set does not have.
    """

    needs: tuple[str, ...]
    uses: tuple[str, ...]
    function: Callable[..., Scorer]
    reads_new: bool


_openers: dict[type, Opener] = {}
_refusals: dict[type, str] = {}


def opens(
    method: type, *, needs: tuple[str, ...], uses: tuple[str, ...], reads_new: bool = False
) -> Callable[[Callable[..., Scorer]], Callable[..., Scorer]]:
    """Declare a function as what opens the finished runs of a method.

    Args:
        method: The method's class.
        needs: Names of the artifacts it is given.
        uses: Dotted names of the settings it may read.
        reads_new: Whether it can score items that the data set does not have.

    Returns:
        A decorator that gives the function back.
    """

    def declare(function: Callable[..., Scorer]) -> Callable[..., Scorer]:
        _openers[method] = Opener(needs, uses, function, reads_new)
        return function

    return declare


def refuses(method: type, reason: str) -> None:
    """Say why the finished runs of a method can't recommend.

    Args:
        method: The method's class.
        reason: The rest of a sentence that begins with the method's name.
    """
    _refusals[method] = reason


def opener(method: type) -> Opener:
    """How the finished runs of a method are opened.

    Args:
        method: The method's class.

    Returns:
        What its file declares.

    Raises:
        SettingsError: The method can't recommend; the message says why.
    """
    if method not in _openers:
        missing = "does not say how its runs are opened; declare it with llmbole.model.scorer.opens"
        raise SettingsError(f"{method.__name__} {_refusals.get(method, missing)}")
    return _openers[method]


def no_new(new: NewItems | None, what: str) -> None:
    """Refuse new items where a setting of the run takes away what they would be scored by.

    Args:
        new: The new items.
        what: The rest of the sentence.

    Raises:
        SettingsError: There are new items.
    """
    if new is not None:
        raise SettingsError(f"{len(new)} items are not in the data set, and {what}; leave them out")
