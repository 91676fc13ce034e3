"""Item text by internal id, raw as the source has it."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmbole.data.convert.report import DataError
from llmbole.settings import close_name


@dataclass(frozen=True)
class ItemText:
    """Text of every item; index 0 is the padding item, whose text is empty.

    Attributes:
        title: Titles.
        description: Descriptions, empty where there is none.
        brand: Who made it: a brand, an author, a shop; empty where there is none.
        categories: Categories, such as genres.
        year: Years, `None` where there is none.
    """

    title: tuple[str, ...]
    description: tuple[str, ...]
    brand: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    year: tuple[int | None, ...]

    @classmethod
    def load(cls, folder: Path, item_tokens: Iterable[str]) -> ItemText:
        """Read the text of items from prepared data.

        Args:
            folder: Folder of `items.parquet`.
            item_tokens: Raw id of each internal id, `[PAD]` at 0.

        Returns:
            Texts in the order of the internal ids.

        Raises:
            DataError: The table lacks an item.
        """
        import pyarrow.parquet

        file, tokens = folder / "items.parquet", [str(token) for token in item_tokens][1:]
        table = pyarrow.parquet.read_table(file).to_pydict()
        place = {token: row for row, token in enumerate(table["item_id"])}
        lacking = [token for token in tokens if token not in place]
        if lacking:
            raise DataError(
                f"{file} lacks {len(lacking)} items, the first is {lacking[0]!r}; prepare the data again"
            )
        rows = [place[token] for token in tokens]
        return cls(
            title=("", *(table["title"][row] or "" for row in rows)),
            description=("", *(table["description"][row] or "" for row in rows)),
            brand=("", *(table["brand"][row] or "" for row in rows)),
            categories=((), *(tuple(table["categories"][row] or ()) for row in rows)),
            year=(None, *(table["year"][row] for row in rows)),
        )

    def __len__(self) -> int:
        return len(self.title)

    def format(self, template: str, missing: Mapping[str, str] | None = None) -> list[str]:
        """Fill a template for every item.

        Args:
            template: Text with `{title}`, `{description}`, `{brand}`, `{categories}` (comma-separated) or `{year}`.
            missing: Field to what stands in for an empty value; without it that is the empty string.

        Returns:
            One text per internal id; the padding item's is empty.

        Raises:
            ValueError: The template or `missing` names a field that items do not have.
        """
        fields = ("title", "description", "brand", "categories", "year")
        used = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        for name in [*used, *(missing or {})]:
            if name not in fields:
                raise ValueError(f"template {template!r}: items have no {name!r}; {close_name(name, fields)}")
        texts = [""]
        for item in range(1, len(self)):
            values = {
                "title": self.title[item],
                "description": self.description[item],
                "brand": self.brand[item],
                "categories": ", ".join(self.categories[item]),
                "year": "" if self.year[item] is None else str(self.year[item]),
            }
            filled = {name: value or (missing or {}).get(name, "") for name, value in values.items()}
            texts.append(template.format(**filled))
        return texts
