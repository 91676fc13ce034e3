"""What `llmbole table` ran: a file that says for each cell of a table which record it is, or why there is none.

It lies in `<leaderboard>/tables/<paper>/<table>.json`, with `@` and the names of data set and protocol where they stood
in for the table's own. Numbers stand in the records alone. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole.markdown import write_files
from llmbole.record import OPTIONAL, RecordError, read
from llmbole.results import parse

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """One cell: a row of the table, a data set and a seed.

    Attributes:
        row: The row's name.
        dataset: The table's name of the data set, or the name of the one that stands in.
        seed: Of the run.
        record: Id of its record; `None` if it failed.
        error: Why it failed.
    """

    row: str
    dataset: str
    seed: int
    record: str | None = None
    error: str | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Which cell of the table it is."""
        return self.row, self.dataset, self.seed


@dataclass(frozen=True, kw_only=True)
class TableRun:
    """The cells of one table that were run with the same settings.

    Attributes:
        schema: Version of this schema.
        experiment: Name of the experiment.
        stand_in: Name of the data set that stood in for the table's own; `None` if none did.
        settings: Settings over those of the experiment, by dotted name.
        cells: What was run, by row, data set and seed.
        protocol: Name of the protocol that stood in for the table's own; `None` if none did.
    """

    schema: int = SCHEMA
    experiment: str
    stand_in: str | None
    settings: dict[str, Any]
    cells: list[CellRun]
    protocol: str | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def stem(self) -> str:
        """Its files' name below `tables`, without the ending."""
        others = ",".join(name for name in (self.stand_in, self.protocol) if name)
        return f"{self.experiment}@{others}" if others else self.experiment

    def with_cells(self, cells: Sequence[CellRun]) -> TableRun:
        """The same run with some cells new or replaced."""
        found = {cell.place: cell for cell in [*self.cells, *cells]}
        return dataclasses.replace(self, cells=[found[place] for place in sorted(found)])


def save(run: TableRun, tables: Path) -> Path:
    """Write a table's run, whole or not at all; an earlier one of the same table is replaced.

    Args:
        run: The run.
        tables: The folder `tables` of the leaderboard.

    Returns:
        Its file.
    """
    path = tables / f"{run.stem}.json"
    write_files({path: json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False) + "\n"})
    return path


def load(path: Path, tables: Path) -> TableRun:
    """Read a table's run.

    Args:
        path: The file.
        tables: The folder `tables` that it lies in.

    Returns:
        The run.

    Raises:
        RecordError: The file is no table's run, or lies where another one's should.
    """
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path}: no table's run: {error}") from None
    mistakes: list[tuple[str, str]] = []
    run: TableRun | None = read(TableRun, content, "", mistakes)
    if run is not None and not mistakes:
        if run.schema != SCHEMA:
            mistakes.append(("schema", f"this llmbole reads version {SCHEMA}, not {run.schema}"))
        if tables / f"{run.stem}.json" != path:
            mistakes.append(("experiment", f"{run.stem} does not lie here"))
        mistakes += [
            (f"cells.{number}", "either a record or an error")
            for number, cell in enumerate(run.cells)
            if (cell.record is None) == (cell.error is None)
        ]
    if run is None or mistakes:
        raise RecordError("\n".join(f"{path}: {key}: {message}" for key, message in mistakes), mistakes)
    return run


def load_all(tables: Path) -> list[TableRun]:
    """All runs of tables, by file name; none if the folder does not exist."""
    return [load(path, tables) for path in sorted(tables.glob("*/*.json"))]
