"""MovieLens as RecBole's atomic files (`<name>.inter`, `.item`, `.user`), with titles, years and genres as raw text.

Lines are read one at a time. A line that can't be read is left out, counted and reported with its place. Movie titles
stay as they stand, articles included (`Usual Suspects, The`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmbole.data.convert.report import Counts, DataError, Report
from llmbole.data.convert.write import ITEM_COLUMNS, MISSING, AtomicFile, Table

if TYPE_CHECKING:
    from llmbole.data.source import DatasetCard, Rating

VERSION = 1

INTERACTION_FIELDS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
ITEM_FIELDS = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
USER_FIELDS = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")

LINES_PER_REPORT = 10_000


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None = None
) -> Counts:
    """Convert one MovieLens set; a file whose head lacks a needed column is a DataError.

    Args:
        card: The data set; its name is the atomic files' name.
        raw: Folder of the raw files.
        folder: Where to write.
        report: Takes broken lines and odd values.
        progress: Called with the number of lines read since the last call.

    Returns:
        Counts of what was written.
    """
    users, items, interactions = _interactions(card, raw, folder, report, progress)
    _items(raw / f"{card.name}.item", folder, items, report)
    _users(raw / f"{card.name}.user", folder, users, report)
    return Counts(len(users), len(items), interactions)


def _interactions(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None
) -> tuple[dict[str, None], dict[str, None], int]:
    """Write the interactions; users and items come back in the order of their first one."""
    users: dict[str, None] = {}
    items: dict[str, None] = {}
    seen: set[tuple[str, str]] = set()
    written, file = 0, raw / f"{card.name}.inter"
    with AtomicFile(folder / f"{card.name}.inter", INTERACTION_FIELDS) as out:
        for line, row in _rows(file, INTERACTION_FIELDS, report):
            if progress is not None and line % LINES_PER_REPORT == 0:
                progress(LINES_PER_REPORT)
            problem = _problem(row, card.rating)
            if problem:
                report.add("broken lines left out", file, line, problem)
                continue
            user, item = row[:2]
            if card.filter.duplicates == "first":
                if (user, item) in seen:
                    report.add(
                        "repeated interactions left out", file, line, f"user {user!r} and item {item!r} again"
                    )
                    continue
                seen.add((user, item))
            users[user], items[item] = None, None
            out.write(row)
            written += 1
    return users, items, written


def _problem(row: list[str], rating: Rating) -> str | None:
    """Why an interaction can't be used; `None` if it can."""
    for name, value in zip(("user", "item"), row, strict=False):
        if value in MISSING:
            return f"{name} id {value!r} reads as a missing value"
    for name, value in zip(("rating", "timestamp"), row[2:], strict=True):
        try:
            number = float(value)
        except ValueError:
            return f"{name} {value!r} is not a number"
        if not math.isfinite(number):
            return f"{name} {value!r} is not finite"
        if name == "rating" and not rating.low <= number <= rating.high:
            return f"rating {value} lies outside {rating.low:g} to {rating.high:g}"
    return None


def _items(file: Path, folder: Path, items: dict[str, None], report: Report) -> None:
    """Write the items that have interactions in raw order, missing ones at the end: atomic file and text table."""
    with (
        AtomicFile(folder / file.name, ITEM_FIELDS) as out,
        Table(folder / "items.parquet", ITEM_COLUMNS) as table,
    ):
        for line, row in _features(file, ITEM_FIELDS, items, report):
            item, title, year, genres = row
            if not title.strip():
                report.add("items without a title", file, line, f"item {item!r}")
            if year and not year.isdigit():
                report.add(
                    "years that are no number", file, line, f"item {item!r}: {year!r}, no year is kept"
                )
            out.write(row)
            table.write(
                {
                    "item_id": item,
                    "title": title,
                    "description": "",
                    "brand": "",
                    "categories": genres.split(),
                    "year": int(year) if year.isdigit() else None,
                }
            )


def _users(file: Path, folder: Path, users: dict[str, None], report: Report) -> None:
    columns = {name.split(":")[0]: "text" for name in USER_FIELDS}
    with (
        AtomicFile(folder / file.name, USER_FIELDS) as out,
        Table(folder / "users.parquet", columns) as table,
    ):
        for _, row in _features(file, USER_FIELDS, users, report):
            out.write(row)
            table.write(dict(zip(columns, row, strict=True)))


def _features(
    file: Path, fields: tuple[str, ...], wanted: dict[str, None], report: Report
) -> Iterator[tuple[int, list[str]]]:
    """Rows of the wanted ids, each once: those of the file, then an empty one for every id that the file lacks."""
    kind, line = file.suffix[1:], 0
    found: set[str] = set()
    for line, row in _rows(file, fields, report):
        if row[0] in found:
            report.add(f"repeated {kind} rows left out", file, line, f"{kind} {row[0]!r}")
        elif row[0] in wanted:
            found.add(row[0])
            yield line, row
    for missing in wanted:
        if missing not in found:
            report.add(
                f"{kind} rows missing, left empty", file, line, f"no row of {kind} {missing!r} up to here"
            )
            yield line, [missing] + [""] * (len(fields) - 1)


def _rows(file: Path, fields: tuple[str, ...], report: Report) -> Iterator[tuple[int, list[str]]]:
    """Line number and the values of the given fields, line by line; other columns are passed over."""
    with file.open("rb") as lines:
        head = next(lines, b"").decode("utf-8-sig", errors="replace").rstrip("\r\n").split("\t")
        lacking = [name for name in fields if name not in head]
        if lacking:
            raise DataError(
                f"{file}:1: the head lacks the columns {', '.join(lacking)}; it has {', '.join(head)}"
            )
        places = [head.index(name) for name in fields]
        for line, raw in enumerate(lines, start=2):
            try:
                values = raw.decode("utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                report.add("broken lines left out", file, line, f"not UTF-8 at byte {error.start + 1}")
                continue
            if len(values) != len(head):
                report.add(
                    "broken lines left out", file, line, f"{len(values)} columns, expected {len(head)}"
                )
                continue
            yield line, [values[place] for place in places]
