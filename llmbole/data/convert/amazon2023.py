"""Amazon reviews of 2023: reviews and items as JSON lines; an item is the parent of its variations."""

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
    """Convert one set of 2023, see `amazon.convert`; times are milliseconds there, and seconds here."""
    return amazon.convert(card, raw, folder, report, progress, _review, _items)


def _review(row: Any) -> tuple[str, str, float, float]:  # noqa: ANN401 - parsed JSON
    return row["user_id"], row["parent_asin"], row["rating"], row["timestamp"] / 1000


def _items(about: Path, wanted: dict[str, None], report: Report) -> Iterator[Item]:
    return amazon.json_items(about, wanted, report, "parent_asin", _item)


def _item(line: int, row: Any) -> Item:  # noqa: ANN401 - parsed JSON
    categories = row.get("categories") or [row.get("main_category")]
    about = row.get("description")
    return amazon.make_item(line, row["parent_asin"], row.get("title"), about, row.get("store"), categories)
