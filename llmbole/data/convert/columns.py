"""Interactions as compact columns on disk, so that memory does not grow with them; only ids are held."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data.convert.write import MISSING, AtomicFile

ROWS_PER_CHUNK = 1 << 16
# Column: type code of `array`, type of numpy.
TYPES = {
    "user": ("i", "<i4"),
    "item": ("i", "<i4"),
    "rating": ("f", "<f4"),
    "time": ("d", "<f8"),
    "line": ("q", "<i8"),
}
FIELDS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")


class Columns:
    """Interactions in the order they are added.

    Attributes:
        users: User id to its number, by first appearance.
        items: Item id to its number.
        rows: How many interactions there are.

    Args:
        folder: An existing folder for the columns' files.
        low: The least rating.
        high: The highest.
    """

    def __init__(self, folder: Path, low: float, high: float) -> None:
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self.rows = 0
        self._folder, self._low, self._high = folder, low, high
        self._pending: dict[str, array[Any]] = {name: array(code) for name, (code, _) in TYPES.items()}
        self._appends = tuple(values.append for values in self._pending.values())
        self._files = {name: (folder / name).open("wb") for name in TYPES}

    def add(self, user: str, item: str, rating: float, time: float, line: int) -> str | None:
        """Append one interaction.

        Args:
            user: Raw id.
            item: Raw id.
            rating: A number.
            time: Seconds since 1970, or a position where there are no times.
            line: Its line in the raw file.

        Returns:
            Why it can't be used; `None` if it was appended.
        """
        if not self._low <= rating <= self._high:
            return f"rating {rating:g} lies outside {self._low:g} to {self._high:g}"
        if not -1e15 < time < 1e15:
            return f"timestamp {time!r} is no time"
        user_number, item_number = self.users.get(user), self.items.get(item)
        if user_number is None or item_number is None:
            ids: tuple[tuple[str, object], ...] = (
                ("user", user),
                ("item", item),
            )  # parsed JSON may hold numbers
            for name, value in ids:
                if not isinstance(value, str):
                    return f"{name} id {value!r} is no text"
                if value in MISSING:
                    return f"{name} id {value!r} reads as a missing value"
            user_number = self.users.setdefault(user, len(self.users))
            item_number = self.items.setdefault(item, len(self.items))
        add_user, add_item, add_rating, add_time, add_line = self._appends
        add_user(user_number)
        add_item(item_number)
        add_rating(rating)
        add_time(time)
        add_line(line)
        self.rows += 1
        if not self.rows % ROWS_PER_CHUNK:
            self._flush()
        return None

    def _flush(self) -> None:
        for name, values in self._pending.items():
            values.tofile(self._files[name])
            del values[:]

    def close(self) -> dict[str, np.ndarray]:
        """Write what is pending.

        Returns:
            The columns, memory-mapped; each of shape `[rows]`.
        """
        self._flush()
        for file in self._files.values():
            file.close()
        if not self.rows:
            return {name: np.empty(0, kind) for name, (_, kind) in TYPES.items()}
        return {name: np.memmap(self._folder / name, kind, "r") for name, (_, kind) in TYPES.items()}


def write_interactions(
    file: Path, columns: dict[str, np.ndarray], kept: np.ndarray, users: Sequence[str], items: Sequence[str]
) -> None:
    """Write the kept rows as RecBole's `.inter` file, a chunk at a time.

    Args:
        file: The file.
        columns: What `Columns.close` gives.
        kept: Numbers of the rows to write, ascending. Shape `[kept]`.
        users: Raw id of each user number.
        items: Raw id of each item number.
    """
    with AtomicFile(file, FIELDS) as out:
        for start in range(0, len(kept), ROWS_PER_CHUNK):
            rows = kept[start : start + ROWS_PER_CHUNK]
            out.write_all(
                zip(
                    [users[user] for user in columns["user"][rows].tolist()],
                    [items[item] for item in columns["item"][rows].tolist()],
                    _ratings(columns["rating"][rows]),
                    _times(columns["time"][rows]),
                    strict=True,
                )
            )


def _ratings(values: np.ndarray) -> list[str]:
    distinct, places = np.unique(values, return_inverse=True)
    texts = [f"{value:g}" for value in distinct.tolist()]
    return [texts[place] for place in places.tolist()]


def _times(values: np.ndarray) -> list[object]:
    whole = values.astype(np.int64)
    return whole.tolist() if np.array_equal(whole, values) else values.tolist()


def present(numbers: np.ndarray, ids: Sequence[str]) -> dict[str, None]:
    """The raw ids that occur, in the order of their numbers.

    Args:
        numbers: Numbers, each any number of times.
        ids: Raw id of each number.

    Returns:
        The ids as keys.
    """
    return dict.fromkeys(ids[number] for number in np.unique(numbers).tolist())
