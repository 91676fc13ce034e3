"""Writers of what every converter makes: RecBole's atomic files and parquet tables, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROWS_PER_GROUP = 50_000

# Column to its kind: text, texts (a list), or number.
ITEM_COLUMNS = {
    "item_id": "text",
    "title": "text",
    "description": "text",
    "brand": "text",
    "categories": "texts",
    "year": "number",
}

# pandas, and so RecBole, reads these as missing values even in columns of text.
MISSING = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split(
        "|"
    )
) | {""}


class AtomicFile:
    """One of RecBole's atomic files, written row by row; a field with quotes in it is quoted as RecBole's reader wants.

    Args:
        path: The file.
        columns: Names with types, such as `item_id:token`.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, delimiter="\t", lineterminator="\n")
        self._writer.writerow(columns)

    def write(self, row: Sequence[str]) -> None:
        """Append one row."""
        self._writer.writerow(row)

    def write_all(self, rows: Iterable[Sequence[object]]) -> None:
        """Append many rows."""
        self._writer.writerows(rows)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._file.close()


class Table:
    """A parquet table written row by row, in groups, so that memory does not grow with it.

    Args:
        path: The file.
        columns: Names, each with its kind: `text`, `texts` or `number`.
    """

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        import pyarrow
        import pyarrow.parquet

        kinds = {
            "text": pyarrow.string(),
            "texts": pyarrow.list_(pyarrow.string()),
            "number": pyarrow.int32(),
        }
        self._columns = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._table = pyarrow.Table.from_pylist
        self._writer = pyarrow.parquet.ParquetWriter(path, self._columns)
        self._rows: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._table(self._rows, self._columns))
        self._rows = []

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
