"""MovieLens as GroupLens publishes it: `ratings.dat`, `movies.dat` and `users.dat`, latin-1, `::` between columns.

Titles stay as they stand, articles and years included (`Shawshank Redemption, The (1994)`); years stand in their own
column too.
"""

from __future__ import annotations

import re
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

ITEM_FIELDS = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
USER_FIELDS = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None = None
) -> Counts:
    """Convert one MovieLens set.

    Args:
        card: The data set.
        raw: Folder of the raw files.
        folder: Where to write.
        report: Takes broken lines and odd values.
        progress: Called with the number of lines read since the last call.

    Returns:
        Counts of what was written.
    """
    ratings, movies, people = (_file(raw, name) for name in ("ratings.dat", "movies.dat", "users.dat"))

    def read(add: Add) -> None:
        for number, line in read_lines(ratings, progress):
            try:
                user, item, rating, time = line.decode("latin-1").split("::")
                problem = add(user, item, float(rating), float(time), number)
            except ValueError as error:
                problem = f"{error}: {line[:80]!r}"
            if problem:
                report.add(BROKEN, ratings, number, problem)

    kept = assemble.interactions(card, ratings, folder, report, read)
    assemble.items(card, folder, movies, kept.items, _movies(movies, report), ITEM_FIELDS, report)
    assemble.users(card, folder, people, kept.users, _people(people, report), USER_FIELDS, report)
    return kept.counts


def _file(raw: Path, name: str) -> Path:
    found = find(raw, name)
    if found is None:
        raise DataError(f"{raw} holds no {name}")
    return found


def _movies(file: Path, report: Report) -> Iterator[Item]:
    """Movies; a title may have `::` in it, an id and genres have not."""
    for number, line in read_lines(file):
        item, _, rest = line.decode("latin-1").partition("::")
        title, separator, genres = rest.rpartition("::")
        if not separator:
            report.add(BROKEN, file, number, f"fewer than 3 columns: {line[:80]!r}")
            continue
        found = _YEAR.search(title)
        year, kinds = found[1] if found else "", genres.split("|") if genres else []
        words = " ".join(_YEAR.sub("", title).split())
        features = (words, year, " ".join(map(assemble.token, kinds)))
        yield Item(number, item, title.strip(), "", "", kinds, int(year) if year else None, features)


def _people(file: Path, report: Report) -> Iterator[Item]:
    for number, line in read_lines(file):
        values = line.decode("latin-1").split("::")
        if len(values) != 5:
            report.add(BROKEN, file, number, f"{len(values)} columns, expected 5")
            continue
        user, gender, age, occupation, code = values
        yield Item(number, user, features=(age, gender, occupation, code))
