"""From a format's rows to prepared data: what all streaming converters share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbole.data.convert import filters
from llmbole.data.convert.columns import Columns, present, write_interactions
from llmbole.data.convert.report import SHOWN, Counts, Report
from llmbole.data.convert.write import ITEM_COLUMNS, AtomicFile, Table

if TYPE_CHECKING:
    from llmbole.data.cards import DatasetCard

BROKEN = "broken lines left out"
# What a column of JSON or of text is wrong by; anything else is an error of the converter.
WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, MemoryError)

# Adds one interaction; says why it can't be used.
Add = Callable[[str, str, float, float, int], str | None]


@dataclass(frozen=True)
class Kept:
    """What is left after the filter, in the order of first appearance in the raw file."""

    users: dict[str, None]
    items: dict[str, None]
    interactions: int

    @property
    def counts(self) -> Counts:
        """How many of each."""
        return Counts(len(self.users), len(self.items), self.interactions)


class Item(NamedTuple):
    """One item: its text, and its row in the atomic file behind the id."""

    line: int
    id: str
    title: str = ""
    description: str = ""
    brand: str = ""
    categories: Sequence[str] = ()
    year: int | None = None
    features: tuple[str, ...] = ()


def interactions(
    card: DatasetCard,
    source: Path,
    folder: Path,
    report: Report,
    read: Callable[[Add], None],
    *,
    low: float | None = None,
) -> Kept:
    """Collect interactions, filter them and write the `.inter` file.

    Args:
        card: The data set.
        source: The raw file, for reports.
        folder: Where to write.
        report: Takes what is left out.
        read: Called with the function that takes one interaction; it reads the raw file and reports broken lines.
        low: The least rating that may come, if it is under the card's scale.

    Returns:
        Users and items that are left.
    """
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as aside:
        collected = Columns(Path(aside), card.rating.low if low is None else low, card.rating.high)
        read(collected.add)
        columns = collected.close()
        users, items = list(collected.users), list(collected.items)
        del collected
        kept, left = filters.keep(columns, card.filter)
        for why, rows in left.items():
            _tell_left(report, why, rows, columns, source)
        write_interactions(folder / f"{card.name}.inter", columns, kept, users, items)
        user_ids = present(np.asarray(columns["user"])[kept], users)
        item_ids = present(np.asarray(columns["item"])[kept], items)
        columns.clear()
    return Kept(user_ids, item_ids, len(kept))


def _tell_left(
    report: Report, why: str, rows: np.ndarray, columns: dict[str, np.ndarray], source: Path
) -> None:
    """Report what a filter left out, with the first places; it was asked for, so nothing is logged."""
    report.counts[why] += len(rows)
    lines = columns["line"][rows[:SHOWN]].tolist()
    report.places.setdefault(why, []).extend(f"{source.name}:{line}" for line in lines)


def items(
    card: DatasetCard,
    folder: Path,
    source: Path | None,
    wanted: dict[str, None],
    rows: Iterable[Item],
    fields: Sequence[str],
    report: Report,
) -> None:
    """Write the items that have interactions, missing ones at the end: atomic file and text table.

    Args:
        card: The data set.
        folder: Where to write.
        source: The raw file, for reports; `None` if the set has none.
        wanted: Ids of the items that have interactions.
        rows: Rows of the raw file; those that are not wanted are passed over.
        fields: Columns of the atomic file, the id's first.
        report: Takes missing titles and rows.
    """
    place = source or Path("no file of items")
    with (
        AtomicFile(folder / f"{card.name}.item", fields) as out,
        Table(folder / "items.parquet", ITEM_COLUMNS) as table,
    ):
        for item in _each_once("item", rows, wanted, place, report):
            if not item.title:
                report.add("items without a title", place, item.line, f"item {item.id!r}")
            out.write([item.id, *(item.features or [""] * (len(fields) - 1))])
            table.write(
                {
                    "item_id": item.id,
                    "title": item.title,
                    "description": item.description,
                    "brand": item.brand,
                    "categories": list(item.categories),
                    "year": item.year,
                }
            )


def _each_once(
    kind: str, rows: Iterable[Item], wanted: dict[str, None], place: Path, report: Report
) -> Iterator[Item]:
    """Wanted rows, each once, then an empty one for every id that the file lacks."""
    found: set[str] = set()
    line = 0
    for row in rows:
        line = row.line
        if row.id in found:
            report.add(f"repeated {kind} rows left out", place, line, f"{kind} {row.id!r}")
        elif row.id in wanted:
            found.add(row.id)
            yield row
    for missing in wanted:
        if missing not in found:
            report.add(
                f"{kind} rows missing, left empty", place, line, f"no row of {kind} {missing!r} up to here"
            )
            yield Item(line, missing)


def users(
    card: DatasetCard,
    folder: Path,
    source: Path | None,
    wanted: dict[str, None],
    rows: Iterable[Item],
    fields: Sequence[str],
    report: Report,
) -> None:
    """Write the users that have interactions: a table, and an atomic file if anything is known of them.

    Args:
        card: The data set.
        folder: Where to write.
        source: The raw file, for reports; `None` if the set has none.
        wanted: Ids of the users that have interactions.
        rows: Ids and features; those that are not wanted are passed over.
        fields: Columns of the atomic file, the id's first; only the id's if nothing is known.
        report: Takes missing rows.
    """
    columns = {name.partition(":")[0]: "text" for name in fields}
    with ExitStack() as stack:
        table = stack.enter_context(Table(folder / "users.parquet", columns))
        if source is None or len(fields) == 1:
            for user in wanted:
                table.write({"user_id": user})
            return
        out = stack.enter_context(AtomicFile(folder / f"{card.name}.user", fields))
        for user_row in _each_once("user", rows, wanted, source, report):
            values = [user_row.id, *(user_row.features or [""] * (len(fields) - 1))]
            out.write(values)
            table.write(dict(zip(columns, values, strict=True)))


def token(text: str) -> str:
    """A text as one token of a `token_seq` field, whose tokens are separated by spaces."""
    return "_".join(text.split())
