"""Book-Crossing: three files of quoted columns, latin-1, `;` between them, `\\"` for a quote inside.

Ratings of 0 are implicit and count as under any least rating. There are no times: the place of a row in the file
stands for them, so that orders are the same everywhere.
"""

from __future__ import annotations

import csv
import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmbole.data.convert import assemble
from llmbole.data.convert.assemble import BROKEN, Add, Item
from llmbole.data.convert.lines import read_lines
from llmbole.data.convert.report import Counts, DataError, Report
from llmbole.data.raw import find

if TYPE_CHECKING:
    from llmbole.data.cards import DatasetCard

VERSION = 1

RATINGS = ("User-ID", "ISBN", "Book-Rating")
BOOKS = ("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication", "Publisher")
USERS = ("User-ID", "Location", "Age")
ITEM_FIELDS = ("item_id:token", "author:token", "release_year:token", "publisher:token")
USER_FIELDS = ("user_id:token", "age:token", "location:token")
IMPLICIT = 0.0


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None = None
) -> Counts:
    """Convert Book-Crossing; a file whose head lacks a column is a DataError.

    Args:
        card: The data set.
        raw: Folder of the raw files.
        folder: Where to write.
        report: Takes broken lines and odd values.
        progress: Called with the number of lines read since the last call.

    Returns:
        Counts of what was written.
    """
    ratings, books, people = (
        find(raw, f"BX-{name}.csv") or raw / name for name in ("Book-Ratings", "Books", "Users")
    )

    def read(add: Add) -> None:
        for number, (user, book, rating) in _rows(ratings, RATINGS, report, progress):
            try:
                problem = add(user, book.strip(), float(rating), float(number), number)
            except ValueError as error:
                problem = str(error)
            if problem:
                report.add(BROKEN, ratings, number, problem)

    kept = assemble.interactions(card, ratings, folder, report, read, low=IMPLICIT)
    assemble.items(card, folder, books, kept.items, _books(books, report), ITEM_FIELDS, report)
    assemble.users(card, folder, people, kept.users, _people(people, report), USER_FIELDS, report)
    return kept.counts


def _books(file: Path, report: Report) -> Iterator[Item]:
    for number, (isbn, *texts) in _rows(file, BOOKS, report):
        title, author, year, publisher = (" ".join(html.unescape(text).split()) for text in texts)
        known = year if year.isdigit() and int(year) else ""  # 0 stands for an unknown year
        features = (author, known, publisher)
        yield Item(number, isbn.strip(), title, "", author, (), int(known) if known else None, features)


def _people(file: Path, report: Report) -> Iterator[Item]:
    for number, (user, location, age) in _rows(file, USERS, report):
        yield Item(number, user, features=("" if age == "NULL" else age, " ".join(location.split())))


def _rows(
    file: Path, wanted: tuple[str, ...], report: Report, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Line number and the wanted columns."""
    head: list[str] | None = None
    for number, line in read_lines(file, progress):
        try:
            values = _split(line.decode("latin-1"))
        except csv.Error as error:
            report.add(BROKEN, file, number, str(error))
            continue
        if head is None:
            head = values
            lacking = [name for name in wanted if name not in head]
            if lacking:
                raise DataError(
                    f"{file}:{number}: the head lacks the columns {', '.join(lacking)}; it has {head}"
                )
            places = [head.index(name) for name in wanted]
        elif len(values) != len(head):
            report.add(BROKEN, file, number, f"{len(values)} columns, expected {len(head)}")
        else:
            yield number, [values[place] for place in places]


def _split(line: str) -> list[str]:
    return next(
        csv.reader([line], delimiter=";", quotechar='"', escapechar="\\", doublequote=False, strict=True)
    )
