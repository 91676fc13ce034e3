"""Recommendations as a file: parquet, CSV, JSON or JSON lines, written row by row and put in place whole."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from llmbole.inference.recommender import Recommendation
from llmbole.settings import SettingsError, close_name

COLUMNS = ("user_id", "rank", "item_id", "title", "score")
SUFFIXES: Mapping[str, str] = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "jsonl"}
FORMATS = tuple(SUFFIXES.values())
ROWS_PER_GROUP = 10_000
Row = dict[str, Any]
Write = Callable[[IO[Any], Iterator[Row]], int]
T = TypeVar("T")


def output_format(file: Path, given: str | None) -> str:
    """The format of a file.

    Args:
        file: Where recommendations go.
        given: The format asked for; `None` goes by the suffix.

    Returns:
        One of `FORMATS`.

    Raises:
        SettingsError: There is no such format, or the suffix names none.
    """
    if given is not None:
        if given not in FORMATS:
            raise SettingsError(f"unknown format {given!r}; {close_name(given, FORMATS)}")
        return given
    if file.suffix not in SUFFIXES:
        raise SettingsError(
            f"{file}: the suffix {file.suffix!r} names no format; end it in {', '.join(SUFFIXES)}, or give --format"
        )
    return SUFFIXES[file.suffix]


def check_place(file: Path) -> None:
    """Refuse, before any work, a file that could not be written.

    Args:
        file: Where recommendations go.

    Raises:
        SettingsError: Its folder is not there or can't be written, or it is a folder.
    """
    if file.is_dir():
        raise SettingsError(f"{file} is a folder; name a file")
    if not file.parent.is_dir():
        raise SettingsError(f"{file.parent}: there is no such folder; make it, or name another file")
    if not os.access(file.parent, os.W_OK):
        raise SettingsError(f"{file.parent} can't be written; name another file")


def write(file: Path, form: str, recommended: Iterable[tuple[str, list[Recommendation]]]) -> int:
    """Write recommendations; the file is there whole or, after an error or a kill, as it was before.

    Args:
        file: Where they go; a file that is there is replaced.
        form: One of `FORMATS`.
        recommended: Users and their recommendations, taken as they come: a stream of any length takes no memory.

    Returns:
        How many rows were written.
    """
    with _put_in_place(file, text=form != "parquet") as stream:
        return WRITERS[form](stream, _rows(recommended))


def _rows(recommended: Iterable[tuple[str, list[Recommendation]]]) -> Iterator[Row]:
    for user, found in recommended:
        for each in found:
            yield {"user_id": user, **{name: getattr(each, name) for name in COLUMNS[1:]}}


@contextmanager
def _put_in_place(file: Path, *, text: bool) -> Iterator[IO[Any]]:
    """A file beside the one wanted, which takes its place once all is written."""
    aside = file.with_name(f".{file.name}.{os.urandom(6).hex()}.tmp")
    try:
        with aside.open("x", encoding="utf-8", newline="") if text else aside.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _csv(stream: IO[str], rows: Iterator[Row]) -> int:
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    return _counted(rows, writer.writerow)


def _json_lines(stream: IO[str], rows: Iterator[Row]) -> int:
    return _counted(rows, lambda row: stream.write(_json_text(row) + "\n"))


def _json(stream: IO[str], rows: Iterator[Row]) -> int:
    """A list of objects, one on a line."""
    stream.write("[")
    count = _counted(_marked(rows), lambda each: stream.write(each[0] + _json_text(each[1])))
    stream.write("\n]\n" if count else "]\n")
    return count


def _marked(rows: Iterator[Row]) -> Iterator[tuple[str, Row]]:
    """Rows with what stands before each in a list."""
    for place, row in enumerate(rows):
        yield (",\n" if place else "\n"), row


def _json_text(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _counted(rows: Iterator[T], write_one: Callable[[T], object]) -> int:
    count = 0
    for row in rows:
        write_one(row)
        count += 1
    return count


def _parquet(stream: IO[bytes], rows: Iterator[Row]) -> int:
    import pyarrow
    import pyarrow.parquet

    kinds = (pyarrow.string(), pyarrow.int32(), pyarrow.string(), pyarrow.string(), pyarrow.float64())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    count = 0
    with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                count, group = count + len(group), []
        if group:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
    return count + len(group)


WRITERS: Mapping[str, Write] = {"parquet": _parquet, "csv": _csv, "json": _json, "jsonl": _json_lines}
