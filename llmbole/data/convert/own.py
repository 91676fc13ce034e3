"""Data of your own: `interactions`, `items` and, if you like, `users`, each as parquet, csv or tsv.

Interactions have the columns user_id and item_id, and may have rating and timestamp (seconds since 1970, or an ISO
date); without ratings every interaction counts 1, without timestamps rows are in time order. Items have item_id and
title, and may have description, brand, categories (a list, or text with `|` between them) and year.
"""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llmbole.data.convert import assemble
from llmbole.data.convert.assemble import BROKEN, WRONG, Add, Item
from llmbole.data.convert.lines import LINES_PER_REPORT
from llmbole.data.convert.report import Counts, DataError, Report
from llmbole.data.own import OWN_FORMATS, OWN_PREFIX, OWN_YAML
from llmbole.settings import close_name, load_yaml

if TYPE_CHECKING:
    from llmbole.data.cards import DatasetCard

VERSION = 1

COLUMNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # table: needed, and those it may have
    "interactions": (("user_id", "item_id"), ("rating", "timestamp")),
    "items": (("item_id", "title"), ("description", "brand", "categories", "year")),
}
ITEM_FIELDS = ("item_id:token", "brand:token", "categories:token_seq", "release_year:token")
SEPARATORS = {".csv": ",", ".tsv": "\t"}

Row = Mapping[str, Any]


def convert(
    card: DatasetCard, raw: Path, folder: Path, report: Report, progress: Callable[[int], None] | None = None
) -> Counts:
    """Convert a folder of own data; a table that is missing or lacks a column is a DataError.

    Args:
        card: The data set.
        raw: The folder.
        folder: Where to write.
        report: Takes broken rows.
        progress: Called with the number of rows read since the last call.

    Returns:
        Counts of what was written.
    """
    tables = {name: _file(raw, name) for name in ("interactions", "items", "users")}
    events, things, people = tables["interactions"], tables["items"], tables["users"]
    assert events and things  # both were looked for before
    rows = _rows(events, *COLUMNS["interactions"], report)

    def read(add: Add) -> None:
        for number, row in rows:
            try:
                problem = _add(add, row, number)
            except WRONG as error:
                problem = str(error)
            if problem:
                report.add(BROKEN, events, number, problem)
            if progress is not None and number % LINES_PER_REPORT == 0:
                progress(LINES_PER_REPORT)

    low = min(card.rating.low, 1.0)
    kept = assemble.interactions(card, events, folder, report, read, low=low)
    assemble.items(card, folder, things, kept.items, _items(things, report), ITEM_FIELDS, report)
    fields = _user_fields(people) if people else ("user_id:token",)
    found = _users(people, fields, report) if people else iter(())
    assemble.users(card, folder, people, kept.users, found, fields, report)
    given = load_yaml(raw / OWN_YAML) if (raw / OWN_YAML).is_file() else {}
    content = {**given, "name": card.name.removeprefix(OWN_PREFIX)}
    (folder / OWN_YAML).write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return kept.counts


def write_folder(folder: Path, frames: Mapping[str, Any], card: Mapping[str, Any]) -> Path:
    """Write DataFrames as a folder of own data.

    Args:
        folder: Where to write; made if it is not there.
        frames: Table name to DataFrame, `None` for a table that is left out.
        card: What stands in `dataset.yaml`; nothing is written for an empty one.

    Returns:
        The folder, resolved.

    Raises:
        DataError: A table lacks a column.
    """
    given = {name: frame for name, frame in frames.items() if frame is not None}
    for name, frame in given.items():
        needed = COLUMNS[name][0] if name in COLUMNS else ("user_id",)
        lacking = [column for column in needed if column not in frame.columns]
        if lacking:
            raise DataError(
                f"{name} lacks the columns {', '.join(lacking)}; it has {', '.join(map(str, frame.columns))}"
            )
    folder = folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in given.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    if card:
        (folder / OWN_YAML).write_text(yaml.safe_dump(dict(card), allow_unicode=True), encoding="utf-8")
    return folder


def _file(raw: Path, table: str) -> Path | None:
    return next(
        (raw / f"{table}.{form}" for form in OWN_FORMATS if (raw / f"{table}.{form}").is_file()), None
    )


def _add(add: Add, row: Row, number: int) -> str | None:
    rating, time = row.get("rating", 1.0), row.get("timestamp", number)
    return add(_text(row["user_id"]), _text(row["item_id"]), float(rating), _seconds(time), number)


def _seconds(value: object) -> float:
    """A time as seconds since 1970; a date without a zone is UTC."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).timestamp()
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.timezone.utc).timestamp()
    return float(value)  # type: ignore[arg-type]


def _text(value: object) -> str:
    """A cell as text: a number that is whole without a point, nothing for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split())


def _items(file: Path, report: Report) -> Iterator[Item]:
    for number, row in _rows(file, *COLUMNS["items"], report):
        brand, year = _text(row.get("brand")), _text(row.get("year"))
        kinds = _categories(row.get("categories"))
        if year and not year.isdigit():
            report.add("years that are no number", file, number, f"{year!r}, no year is kept")
        known = year if year.isdigit() else ""
        features = (brand, " ".join(map(assemble.token, kinds)), known)
        about = _text(row.get("description"))
        whole = int(known) if known else None
        yield Item(number, _text(row["item_id"]), _text(row["title"]), about, brand, kinds, whole, features)


def _categories(value: object) -> list[str]:
    parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    return list(dict.fromkeys(filter(None, map(_text, parts))))


def _user_fields(file: Path) -> tuple[str, ...]:
    names = [name for name in _head(file) if name != "user_id"]
    return ("user_id:token", *(f"{name}:token" for name in names))


def _users(file: Path, fields: tuple[str, ...], report: Report) -> Iterator[Item]:
    names = [field.partition(":")[0] for field in fields[1:]]
    for number, row in _rows(file, ("user_id",), tuple(names), report):
        yield Item(number, _text(row["user_id"]), features=tuple(_text(row[name]) for name in names))


def _head(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_schema(file).names)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return next(csv.reader(lines, delimiter=SEPARATORS[file.suffix]), [])


def _rows(
    file: Path, needed: tuple[str, ...], more: tuple[str, ...], report: Report
) -> Iterator[tuple[int, Row]]:
    """Row number (in text, the line it ends on) and the known columns."""
    head = _head(file)
    lacking = [name for name in needed if name not in head]
    if lacking:
        hints = "; ".join(f"{name!r}: {close_name(name, head)}" for name in lacking)
        raise DataError(f"{file} lacks the columns {', '.join(lacking)} ({hints})")
    wanted = [name for name in (*needed, *more) if name in head]
    if file.suffix == ".parquet":
        import pyarrow.parquet

        number = 0
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        return
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=SEPARATORS[file.suffix])
        next(reader)
        places = [(name, head.index(name)) for name in wanted]
        for values in reader:
            if len(values) != len(head):
                if values:
                    what = f"{len(values)} columns, expected {len(head)}"
                    report.add(BROKEN, file, reader.line_num, what)
                continue
            yield reader.line_num, {name: values[place] for name, place in places}
