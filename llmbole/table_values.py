"""The values of a published table's cells from records, and which of them are significantly the best."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbole.experiment import OF_EXTRA, Experiment, TableRow
from llmbole.record import Record, RecordError
from llmbole.results import load, read_per_user
from llmbole.significance import LEVEL, Comparison, compare, holm
from llmbole.sweep_record import lower_is_better
from llmbole.table_run import CellRun, TableRun

Runs = Sequence[tuple[Record, Path]]
"""The runs of one row on one data set, by seed, and their files."""


@dataclass(frozen=True)
class Claim:
    """That a row is better than all rows of its protocol below it, in one column.

    Attributes:
        dataset: Of the column.
        metric: Of the column.
        row: The row.
        rank: 1 for the best row, 2 for the second best.
        closest: The row against which the claim is weakest.
        comparison: With that one; its t-test's p-value is the claim's.
        adjusted: The p-value after Holm's correction over all claims of the table.
        sure: Whether the adjusted p-value is below the level and no bootstrap interval holds 0.
    """

    dataset: str
    metric: str
    row: str
    rank: int
    closest: str
    comparison: Comparison
    adjusted: float
    sure: bool


@dataclass(frozen=True)
class TableValues:
    """A table with what was run of it.

    Attributes:
        experiment: The table.
        run: What was run.
        runs: Records by row and data set.
        failed: Cells without a record, by row and data set.
    """

    experiment: Experiment
    run: TableRun
    runs: Mapping[tuple[str, str], Runs]
    failed: Mapping[tuple[str, str], Sequence[CellRun]]

    @property
    def datasets(self) -> list[str]:
        """The columns' data sets: the table's names, or the one that stands in."""
        return [self.run.stand_in] if self.run.stand_in else list(self.experiment.datasets)

    def values(self, row: str, dataset: str, metric: str) -> list[float]:
        """A metric of each seed; of those whose record has it."""
        found = [value_of(record, metric) for record, _ in self.runs.get((row, dataset), ())]
        return [value for value in found if value is not None]

    def mean(self, row: str, dataset: str, metric: str) -> float | None:
        """Mean over seeds; `None` without any."""
        found = self.values(row, dataset, metric)
        return statistics.fmean(found) if found else None


def value_of(record: Record, metric: str) -> float | None:
    """A metric of a record, of a group if its name stands behind the metric's; `None` if the record lacks it.

    What a stage measured beside the metrics stands in the record's `extra`.
    """
    name, _, group = metric.partition(" ")
    if not group and name in OF_EXTRA:
        return record.extra.get(name)
    return (record.group_metrics.get(group, {}) if group else record.metrics).get(name)


def known_runs(results: Path) -> dict[str, tuple[Record, Path]]:
    """All records by id; a superseded one's id leads to the record that supersedes it.

    Args:
        results: The folder of all records.

    Returns:
        Record and file by id.
    """
    found = {path.stem: (load(path), path) for path in sorted(results.glob("*/*/*.json"))}
    newer = {record.supersedes: identity for identity, (record, _) in found.items() if record.supersedes}

    def newest(identity: str) -> str:
        return newest(newer[identity]) if identity in newer else identity

    return {identity: found[newest(identity)] for identity in found}


def gather(experiment: Experiment, run: TableRun, known: Mapping[str, tuple[Record, Path]]) -> TableValues:
    """Find the records of a table's cells.

    Args:
        experiment: The table.
        run: What was run of it.
        known: All records, of `known_runs`.

    Returns:
        The table with its records.

    Raises:
        RecordError: A cell belongs to no row or data set of the table, or its record is not there or of another cell.
    """
    runs: dict[tuple[str, str], list[tuple[Record, Path]]] = defaultdict(list)
    failed: dict[tuple[str, str], list[CellRun]] = defaultdict(list)
    datasets = [run.stand_in] if run.stand_in else list(experiment.datasets)
    rows = {row.name: row for row in experiment.rows}
    for number, cell in enumerate(run.cells):
        where = f"tables/{run.stem}.json: cells.{number}"
        if cell.row not in rows or cell.dataset not in datasets:
            what = f"{cell.row!r} on {cell.dataset!r} is no cell of {experiment.name}"
            raise RecordError(f"{where}: {what}; run the table again")
        if cell.record is None:
            failed[cell.row, cell.dataset].append(cell)
            continue
        if cell.record not in known:
            raise RecordError(f"{where}: the leaderboard holds no record {cell.record}")
        record, path = known[cell.record]
        wrong = _another_cell(record, cell, experiment, rows[cell.row], run.stand_in)
        if wrong:
            raise RecordError(f"{where}: record {record.id} is of another cell: {wrong}")
        runs[cell.row, cell.dataset].append((record, path))
    return TableValues(experiment, run, dict(runs), dict(failed))


def _another_cell(
    record: Record, cell: CellRun, experiment: Experiment, row: TableRow, stand_in: str | None
) -> str:
    """What a record says that its cell does not; empty if all is well."""
    wanted = {
        "method": (record.method, row.model),
        "backbone": (record.backbone, row.backbone or record.backbone),
        "dataset": (record.dataset.name, stand_in or experiment.datasets[cell.dataset]),
        "protocol": (record.protocol.name, experiment.protocol_of(row)),
        "seed": (record.seed, cell.seed),
    }
    return ", ".join(
        f"{key} {found!r}, not {asked!r}" for key, (found, asked) in wanted.items() if found != asked
    )


def claims(table: TableValues) -> list[Claim]:
    """What can be claimed of the best and the second best row of each column, among rows of one protocol.

    A claim is that a row is better than every row below it, so its p-value is the largest of theirs; the p-values of
    all claims of the table are one family for Holm's correction.

    Args:
        table: The table with its records.

    Returns:
        Claims in the order of columns.
    """
    found = [
        claim
        for dataset in table.datasets
        for metric in table.experiment.metrics
        for claim in _open(table, dataset, metric)
    ]
    adjusted = holm([comparison.t_test for *_, comparison, _ in found])
    return [
        Claim(dataset, metric, row, rank, closest, comparison, value, bool(value < LEVEL and apart))
        for (dataset, metric, row, rank, closest, comparison, apart), value in zip(
            found, adjusted, strict=True
        )
    ]


_OpenClaim = tuple[str, str, str, int, str, Comparison, bool]


def _open(table: TableValues, dataset: str, metric: str) -> Iterator[_OpenClaim]:
    """Claims of one column before the correction, and whether all their intervals are apart from 0."""
    sign = 1 if lower_is_better(metric) else -1
    by_protocol: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for row in table.experiment.rows:
        mean = table.mean(row.name, dataset, metric)
        if mean is not None:
            by_protocol[table.experiment.protocol_of(row)].append((sign * mean, row.name))
    for ranked in by_protocol.values():
        names = [name for _, name in sorted(ranked)]
        for rank, name in enumerate(names[:2], 1):
            compared = [(_compared(table, dataset, metric, name, other), other) for other in names[rank:]]
            made = [(comparison, other) for comparison, other in compared if comparison is not None]
            if not made or len(made) < len(compared):
                continue
            comparison, closest = max(made, key=lambda pair: pair[0].t_test)
            apart = all(low > 0 or high < 0 for low, high in (each.interval for each, _ in made))
            yield dataset, metric, name, rank, closest, comparison, apart


def _compared(table: TableValues, dataset: str, metric: str, one: str, other: str) -> Comparison | None:
    """Two rows on the seeds that both have; `None` if they have none, or were tested on different data."""
    first = {record.seed: (record, path) for record, path in table.runs[one, dataset]}
    second = {record.seed: (record, path) for record, path in table.runs[other, dataset]}
    seeds = sorted(set(first) & set(second))
    splits = {runs[seed][0].protocol.split for seed in seeds for runs in (first, second)}
    if not seeds or len(splits) > 1:
        return None
    pairs = [(_of_users(*first[seed], metric), _of_users(*second[seed], metric)) for seed in seeds]
    if all(left is not None and right is not None for left, right in pairs):
        return _by_user([(dict(left or {}), dict(right or {})) for left, right in pairs])
    values = [(value_of(first[seed][0], metric), value_of(second[seed][0], metric)) for seed in seeds]
    there = [(left, right) for left, right in values if left is not None and right is not None]
    return compare([[left] for left, _ in there], [[right] for _, right in there]) if there else None


def _by_user(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Comparison | None:
    """The users that have a value in every run of both rows."""
    users = sorted(set.intersection(*(set(column) for pair in pairs for column in pair)))
    if not users:
        return None
    tables = [
        [[column[user] for user in users] for column in columns] for columns in zip(*pairs, strict=True)
    ]
    return compare(tables[0], tables[1])


def _of_users(record: Record, path: Path, metric: str) -> dict[str, float] | None:
    """Values of users, of those that have one; `None` if the metric is not an average over users."""
    if record.per_user is None:
        return None
    users, columns = read_per_user(path.with_name(record.per_user.file))
    if metric not in columns:
        return None
    return {user: value for user, value in zip(users, columns[metric], strict=True) if value is not None}
