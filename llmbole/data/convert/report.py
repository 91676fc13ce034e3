"""What a converter met on its way: broken lines and odd values, counted, and shown with file and line."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

SHOWN = 5


@dataclass(frozen=True)
class Counts:
    """Users with interactions, items with interactions, and interactions."""

    users: int
    items: int
    interactions: int


class DataError(ValueError):
    """Raw data that can't be used; the message says which file, what is wrong, and what to do."""


@dataclass
class Report:
    """Counts every problem by its kind and keeps the first few with their place.

    Attributes:
        counts: Kind of problem to how often it was met.
        places: Kind of problem to its first places, `file:line: what`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, file: Path, line: int, what: str) -> None:
        """Count one problem; the first few of a kind are logged with their place.

        Args:
            kind: What sort of problem, as it stands in the summary.
            file: Raw file.
            line: Line in it, from 1.
            what: The offending value and what was done with it.
        """
        self.counts[kind] += 1
        shown = self.places.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(f"{file.name}:{line}: {what}")
            logger.warning("%s:%d: %s: %s", file, line, kind, what)

    def warnings(self) -> list[str]:
        """One line per kind of problem: how often, and the first places."""
        return [f"{kind}: {self.counts[kind]} ({'; '.join(places)})" for kind, places in self.places.items()]
