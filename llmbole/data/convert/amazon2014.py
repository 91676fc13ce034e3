"""Amazon reviews of 2014: reviews as JSON lines, items as lines of Python literals."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbole.data.convert import amazon
from llmbole.data.convert.assemble import BROKEN, WRONG, Item
from llmbole.data.convert.lines import read_lines
from llmbole.data.convert.report import Counts, Report

if TYPE_CHECKING:
    from llmbole.data.cards import DatasetCard

VERSION = 1

_ASIN = re.compile(r"""['"]asin['"]: ['"]([^'"]+)['"]""")


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None = None
) -> Counts:
    """Convert one set of 2014, see `amazon.convert`."""
    return amazon.convert(card, raw, folder, report, progress, _review, _items)


def _review(row: Any) -> tuple[str, str, float, float]:  # noqa: ANN401 - parsed JSON
    return row["reviewerID"], row["asin"], row["overall"], row["unixReviewTime"]


def _items(about: Path, wanted: dict[str, None], report: Report) -> Iterator[Item]:
    """Wanted items; reading a literal is slow, so lines of other items are passed over by a look at their id."""
    for number, line in read_lines(about):
        try:
            text = line.decode("utf-8")
            found = _ASIN.search(text)
            if found and found[1] not in wanted:
                continue
            row = ast.literal_eval(text)
            categories, texts = row.get("categories"), row.get("description")
            item = amazon.make_item(
                number, row["asin"], row.get("title"), texts, row.get("brand"), categories
            )
        except (*WRONG, SyntaxError) as error:
            report.add(BROKEN, about, number, f"{type(error).__name__}: {error}")
            continue
        yield item
