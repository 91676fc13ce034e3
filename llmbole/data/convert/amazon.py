"""What the three Amazon formats share: a file of reviews, and a file of items whose name begins with `meta_`."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmbole.data.convert import assemble
from llmbole.data.convert.assemble import BROKEN, WRONG, Add, Item
from llmbole.data.convert.lines import read_lines
from llmbole.data.convert.report import Counts, Report
from llmbole.data.raw import find

if TYPE_CHECKING:
    from llmbole.data.cards import DatasetCard

ITEM_FIELDS = ("item_id:token", "brand:token", "categories:token_seq")
USER_FIELDS = ("user_id:token",)
# Some titles of the 2018 files are pieces of the page they were read from.
PAGE_CODE = ("var aPageStart", "getTime()")

Progress = Callable[[int], None] | None
# From a review to user, item, rating and seconds since 1970.
Review = Callable[[Any], tuple[str, str, float, float]]
Meta = Callable[[Path, dict[str, None], Report], Iterator[Item]]


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Progress, review: Review, meta: Meta
) -> Counts:
    """Convert one Amazon set.

    Args:
        card: The data set.
        raw: Folder of the raw files.
        folder: Where to write.
        report: Takes broken lines and odd values.
        progress: Called with the number of lines read since the last call.
        review: Takes a parsed line of reviews apart.
        meta: Reads the wanted rows of the file of items.

    Returns:
        Counts of what was written.
    """
    reviews, about = (_file(card, raw, meta=each) for each in (False, True))
    assert reviews is not None  # the data set's files were looked for

    def read(add: Add) -> None:
        loads = orjson.loads
        for number, line in read_lines(reviews, progress):
            try:
                problem = add(*review(loads(line)), number)
            except WRONG as error:
                problem = _why(error)
            if problem:
                report.add(BROKEN, reviews, number, problem)

    kept = assemble.interactions(card, reviews, folder, report, read)
    rows = meta(about, kept.items, report) if about else iter(())
    assemble.items(card, folder, about, kept.items, rows, ITEM_FIELDS, report)
    assemble.users(card, folder, None, kept.users, (), USER_FIELDS, report)
    return kept.counts


def _file(card: DatasetCard, raw: Path, *, meta: bool) -> Path | None:
    names = [name for name in card.source.files if name.startswith("meta_") == meta]
    return find(raw, names[0]) if names else None


def _why(error: Exception) -> str:
    return f"no {error.args[0]!r}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def json_items(
    about: Path, wanted: dict[str, None], report: Report, key: str, item: Callable[[int, Any], Item]
) -> Iterator[Item]:
    """Wanted rows of a file of items in JSON lines.

    Args:
        about: The file.
        wanted: Ids of the items that have interactions.
        report: Takes broken lines.
        key: Where the id stands.
        item: Makes an item of a line number and a parsed line.

    Yields:
        Items.
    """
    for number, line in read_lines(about):
        try:
            row = orjson.loads(line)
            if row[key] not in wanted:
                continue
            made = item(number, row)
        except WRONG as error:
            report.add(BROKEN, about, number, _why(error))
            continue
        yield made


def make_item(
    line: int, id: str, title: object, description: object, brand: object, categories: object
) -> Item:
    """An item of cleaned values, whatever their types are.

    Args:
        line: Line in the raw file.
        id: Raw id.
        title: A text.
        description: A text or a list of them.
        brand: A text.
        categories: A list of texts, or of lists of them.

    Returns:
        The item, with its row of the atomic file.
    """
    shown = clean(title)
    shown = "" if any(code in shown for code in PAGE_CODE) else shown
    name, kinds = clean(brand), list(dict.fromkeys(filter(None, map(clean, _flat(categories)))))
    about = " ".join(filter(None, map(clean, _flat(description))))
    features = (name, " ".join(map(assemble.token, kinds)))
    return Item(line, id, shown, about, name, kinds, None, features)


def clean(value: object) -> str:
    """A text with HTML entities resolved and white space made single spaces; empty if it is no text."""
    return " ".join(html.unescape(value).split()) if isinstance(value, str) else ""


def _flat(value: object) -> Iterator[object]:
    """Texts of a list of lists; of one text, itself."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    else:
        yield value
