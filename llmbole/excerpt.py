"""The ranked rows of a leaderboard in few columns, for a document."""

from __future__ import annotations

from collections.abc import Sequence

from llmbole.markdown import MarkdownError, table
from llmbole.record import Record
from llmbole.tables import ALONE, DEFAULT, Row, rows_of, sections


def excerpt(records: Sequence[Record], metrics: Sequence[str]) -> str:
    """The ranked rows of the newest protocol version.

    A model that was trained as a method's backbone is left out if it stands there as a run of its own. Of rows that
    differ in defaults alone, which change with time, the one that was run last is shown.

    Args:
        records: Records of one protocol and data set, at least one.
        metrics: Names of the metrics to show.

    Returns:
        Markdown.

    Raises:
        MarkdownError: No row is ranked, or none has one of the metrics.
    """
    entries = next(iter(sections(records).values()))
    order = min(entry.record.selection.metric for entry in entries)
    rows = [row for row in rows_of(entries, order)[0] if not row.unranked]
    if not rows:
        raise MarkdownError("no row of this leaderboard is ranked")
    missing = [name for name in metrics if all(row.mean(name) is None for row in rows)]
    if missing:
        raise MarkdownError(f"no ranked row has the metric {missing[0]}")
    own = {row.names[0] for row in rows if _settings(row) != ALONE}
    newest = {_names(row): row for row in sorted(rows, key=_age)}
    shown = [
        row
        for row in rows
        if row is newest[_names(row)] and (_settings(row) != ALONE or row.names[0] not in own)
    ]
    cells = [
        [
            *row.names[:2],
            row.names[2].partition("@")[0],
            _settings(row),
            *(row.cell(name) for name in metrics),
            str(len(row.entries)),
        ]
        for row in shown
    ]
    return table(["method", "backbone", "LLM", "settings", *metrics, "seeds"], cells, left=4)


def _age(row: Row) -> tuple[str, str]:
    return max(entry.age for entry in row.entries)


def _names(row: Row) -> tuple[str, ...]:
    return *row.names[:-1], _settings(row)


def _settings(row: Row) -> str:
    """What a row says of its settings, without the hash that tells rows of several defaults apart."""
    alone = row.names[-1].startswith(ALONE)
    return ALONE if alone else row.entries[0].record.label or DEFAULT
