"""Amazon reviews of 2018: reviews and items as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbole.data.convert import amazon
from llmbole.data.convert.assemble import Item
from llmbole.data.convert.report import Counts, Report

if TYPE_CHECKING:
    from llmbole.data.cards import DatasetCard

VERSION = 1


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None = None
) -> Counts:
    """Convert one set of 2018, see `amazon.convert`."""
    return amazon.convert(card, raw, folder, report, progress, _review, _items)


def _review(row: Any) -> tuple[str, str, float, float]:  # noqa: ANN401 - parsed JSON
    return row["reviewerID"], row["asin"], row["overall"], row["unixReviewTime"]


def _items(about: Path, wanted: dict[str, None], report: Report) -> Iterator[Item]:
    return amazon.json_items(about, wanted, report, "asin", _item)


def _item(line: int, row: Any) -> Item:  # noqa: ANN401 - parsed JSON
    about = row.get("description")
    return amazon.make_item(line, row["asin"], row.get("title"), about, row.get("brand"), row.get("category"))
