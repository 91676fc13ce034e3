"""CSV files that a recommendation is asked with: users, and items. A wrong row is an error with its line."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmbole.data.convert.report import DataError
from llmbole.data.text import ItemText
from llmbole.settings import close_name

USER, ITEM = "user_id", "item_id"
ITEM_COLUMNS = (ITEM, "title", "description", "brand", "categories", "year")
LONGEST_CELL = 1_000_000


def read_rows(
    file: Path, needed: tuple[str, ...], known: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, and the line each ends on.

    Args:
        file: UTF-8, with commas between cells.
        needed: Columns it must have.
        known: Columns it may have; others are refused.

    Yields:
        Line and cells by column, white space at their ends taken away.

    Raises:
        DataError: There is no such file, it is no CSV in UTF-8, or a column or a cell is missing.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            head = [name.strip() for name in next(reader, [])]
            _check_head(file, head, needed, known)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(head):
                    raise DataError(
                        f"{file}:{reader.line_num}: {len(cells)} cells, the header has {len(head)}; put quotes around "
                        "a cell with a comma in it"
                    )
                yield reader.line_num, dict(zip(head, (cell.strip() for cell in cells), strict=True))
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} can't be read as CSV in UTF-8: {error}") from error


def _check_head(file: Path, head: list[str], needed: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in needed:
        if name not in head:
            raise DataError(f"{file} lacks the column {name!r}; its header is {','.join(head) or 'empty'}")
    for name in head:
        if name not in known:
            raise DataError(f"{file}: unknown column {name!r}; {close_name(name, known)}")
        if head.count(name) > 1:
            raise DataError(f"{file}: column {name!r} stands twice")


def read_users(file: Path, known: Collection[str]) -> Iterator[str]:
    """Raw user ids of a file with the column `user_id`, row by row, so that a file of any length takes no memory.

    Args:
        file: The file.
        known: Raw ids of the data set.

    Yields:
        Raw ids.

    Raises:
        DataError: A row has no id, or one that the data set lacks.
    """
    for line, row in read_rows(file, (USER,), (USER,)):
        if row[USER] not in known:
            what = f"the data set has no user {row[USER]!r}" if row[USER] else f"{USER} is empty"
            raise DataError(f"{file}:{line}: {what}; give ids as they stand in the raw data")
        yield row[USER]


def read_items(file: Path, known: Collection[str]) -> tuple[list[str], ItemText]:
    """Items to recommend among.

    Args:
        file: With the column `item_id`, and for items that the data set lacks `title`; it may have `description`,
            `brand`, `categories` (with `|` between them) and `year`.
        known: Raw ids of the data set's items, whose text is the data set's own and not read from the file.

    Returns:
        Raw ids in the file's order, and the text of those that the data set lacks, that of a padding item first.

    Raises:
        DataError: The file has no rows, or a row is wrong.
    """
    lines: dict[str, int] = {}
    new: list[dict[str, Any]] = []
    for line, row in read_rows(file, (ITEM,), ITEM_COLUMNS):
        item = row[ITEM]
        if not item:
            raise DataError(f"{file}:{line}: {ITEM} is empty")
        if item in lines:
            raise DataError(f"{file}:{line}: item {item!r} stands on line {lines[item]} already")
        lines[item] = line
        if item not in known:
            new.append(_item(file, line, row))
    if not lines:
        raise DataError(f"{file} holds no items")
    columns = {name: tuple(row[name] for row in new) for name in ITEM_COLUMNS[1:]}
    text = ItemText(
        title=("", *columns["title"]),
        description=("", *columns["description"]),
        brand=("", *columns["brand"]),
        categories=((), *columns["categories"]),
        year=(None, *columns["year"]),
    )
    return list(lines), text


def _item(file: Path, line: int, row: dict[str, str]) -> dict[str, Any]:
    """The text fields of an item that the data set lacks."""
    if not row.get("title"):
        raise DataError(
            f"{file}:{line}: the data set has no item {row[ITEM]!r}, and it has no title here to know it by"
        )
    for name, cell in row.items():
        if len(cell) > LONGEST_CELL or "\0" in cell:
            raise DataError(f"{file}:{line}: {name} is too long, or holds a character that is no text")
    year = row.get("year", "")
    if year and not (year.isascii() and year.isdigit() and len(year) <= 4):
        raise DataError(f"{file}:{line}: year {year!r} is no year")
    kinds = dict.fromkeys(" ".join(kind.split()) for kind in row.get("categories", "").split("|"))
    texts = {name: " ".join(row.get(name, "").split()) for name in ("title", "description", "brand")}
    return {**texts, "categories": tuple(filter(None, kinds)), "year": int(year) if year else None}
