"""Rows as sentences: who the user is, what they had before, and which item is asked about."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmbole.data.pairs import PairSplit
from llmbole.data.split import Split
from llmbole.data.text import ItemText
from llmbole.settings import close_name

SLOTS = ("user", "history", "target", "item", "items", "verb", "past")
ITEM_FEATURES = ("title", "categories", "brand", "year", "description")


@dataclass(frozen=True)
class SentenceSettings:
    """How a row is written.

    Attributes:
        text: The sentences, with `{user}`, `{history}`, `{target}`, and the data set's words `{item}`, `{past}`, ...
        feature: One feature of a user or an item, with `{name}` and `{value}`; those that are known stand in a row.
        item_features: Which features of the target stand in `{target}`; a user's are all that the data set has.
        history: Titles shown, the newest ones.
        separator: Between two titles.
        empty: Stands in for an empty history.
    """

    text: str
    feature: str
    item_features: tuple[str, ...]
    history: int
    separator: str
    empty: str

    def __post_init__(self) -> None:
        problems = []
        for name, template, slots in (
            ("text", self.text, SLOTS),
            ("feature", self.feature, ("name", "value")),
        ):
            try:
                used = [slot for _, slot, _, _ in string.Formatter().parse(template) if slot is not None]
            except ValueError as error:
                problems.append(f"{name} = {template!r}: {error}")
                continue
            problems += [
                f"{name}: no slot {slot!r}; {close_name(slot, slots)}" for slot in used if slot not in slots
            ]
        problems += [
            f"item_features: items have no {name!r}; {close_name(name, ITEM_FEATURES)}"
            for name in self.item_features
            if name not in ITEM_FEATURES
        ]
        if self.history < 0:
            problems.append(f"history = {self.history}: must be at least 0")
        if problems:
            raise ValueError("\n".join(problems))


class RowSentences:
    """Writes rows of a data set.

    Args:
        folder: Prepared data.
        split: The frozen split, whose ids the rows have.
        settings: How a row is written.
        words: How the data set is spoken of: `item`, `items`, `verb`, `past`.
    """

    def __init__(
        self, folder: Path, split: PairSplit | Split, settings: SentenceSettings, words: Mapping[str, str]
    ) -> None:
        self._settings, self._words = settings, dict(words)
        items = ItemText.load(folder, split.item_tokens)
        self._titles = items.title
        columns = {name: items.format(f"{{{name}}}") for name in settings.item_features}
        self._targets = [self._features(columns, item) for item in range(len(items))]
        table = _users(folder, [str(token) for token in split.user_tokens])
        self._users = [self._features(table, user) for user in range(len(split.user_tokens))]

    def write(
        self, users: Sequence[int], histories: Sequence[Sequence[int]], targets: Sequence[int]
    ) -> list[str]:
        """The text of each row.

        Args:
            users: User of each row.
            histories: For each row the items shown, oldest first; 0 is padding.
            targets: The item that each row asks about.

        Returns:
            One text per row.
        """
        return [
            self._settings.text.format(
                **self._words,
                user=self._users[user],
                history=self._settings.separator.join(self._titles[item] for item in history if item)
                or self._settings.empty,
                target=self._targets[target],
            )
            for user, history, target in zip(users, histories, targets, strict=True)
        ]

    def _features(self, columns: Mapping[str, Sequence[str]], place: int) -> str:
        """All features that one user or item has."""
        known = {name: values[place] for name, values in columns.items() if values[place]}
        return "".join(self._settings.feature.format(name=name, value=value) for name, value in known.items())


def _users(folder: Path, tokens: Sequence[str]) -> dict[str, list[str]]:
    """Features of users by internal id, empty for the padding user."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "users.parquet").to_pydict()
    places = {str(token): row for row, token in enumerate(table["user_id"])}
    rows = np.array([places[token] for token in tokens[1:]], dtype=np.int64)
    return {
        name.replace("_", " "): ["", *("" if values[row] is None else str(values[row]) for row in rows)]
        for name, values in table.items()
        if name != "user_id"
    }
