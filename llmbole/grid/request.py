"""What a table is asked for, and its cells, checked before any work."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbole import experiment, provenance, registry, results
from llmbole.data.convert.report import DataError
from llmbole.data.own import own_folder
from llmbole.defaults import has_setting, read_layers
from llmbole.experiment import Experiment, TableRow
from llmbole.pipeline.run import Step, plan
from llmbole.pipeline.store import Store
from llmbole.recording import recorded
from llmbole.resolve import Resolved, identified_dataset, resolve
from llmbole.settings import SettingsError, flatten, load_yaml, properties_folder
from llmbole.table_run import CellRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """A row on a data set with a seed. It is sent to other processes, so it holds plain values only.

    Attributes:
        row: The row's name.
        dataset: The table's name of the data set, or the name of the one that stands in.
        seed: Of the run.
        model: Method or conventional model.
        source: Name of the data set, or the whole path of a folder.
        settings: All settings over the model's defaults, by dotted name.
        working_folder: Where the command was given; relative paths in settings begin there.
    """

    row: str
    dataset: str
    seed: int
    model: str
    source: str
    settings: Mapping[str, Any]
    working_folder: str

    def resolve(self, **options: Any) -> Resolved:  # noqa: ANN401
        """The cell's run.

        Args:
            **options: Over its settings, such as `device`.

        Returns:
            The run.
        """
        return resolve(self.model, self.source, {**self.settings, **options})

    def ended(self, record: str | None, error: str | None = None) -> CellRun:
        """What the table's run says of it."""
        return CellRun(row=self.row, dataset=self.dataset, seed=self.seed, record=record, error=error)

    def __str__(self) -> str:
        return f"{self.row} on {self.dataset}, seed {self.seed}"


@dataclass(frozen=True)
class TableRequest:
    """A table, checked by name.

    Attributes:
        experiment: The table.
        cells: Those to be run, rows that are missing left out.
        stand_in: Name of the data set that stands in for the table's own.
        protocol: Name of the protocol that does.
        settings: Settings over the experiment's, by dotted name, but those that change no result.
        store: Folder of artifacts.
        leaderboard: Folder of records and tables.
    """

    experiment: Experiment
    cells: tuple[Cell, ...]
    stand_in: str | None
    protocol: str | None
    settings: Mapping[str, Any]
    store: Path
    leaderboard: Path

    @property
    def folder(self) -> Path:
        """Where logs of its cells lie."""
        return self.store.parent / "tables" / self.experiment.name


@dataclass
class Prepared:
    """A cell that is known to run, or known not to.

    Attributes:
        cell: The cell.
        steps: Its stages; none if its data can't be had.
        record: Id of the record that it would repeat.
        error: Why it can't be run.
        estimates: Seconds of the same settings' stages in earlier records, by stage.
    """

    cell: Cell
    steps: list[Step] = field(default_factory=list)
    record: str | None = None
    error: str | None = None
    estimates: Mapping[str, float] = field(default_factory=dict)


def make_request(
    name: str,
    *,
    dataset: str | None = None,
    protocol: str | None = None,
    seeds: Sequence[int] = (),
    rows: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    store: Path | str | None = None,
    leaderboard: Path | str | None = None,
    raw: Path | str | None = None,
) -> TableRequest:
    """Check a table by name.

    Args:
        name: Of the experiment.
        dataset: A data set, or a folder of the user's own, that stands in for the table's.
        protocol: One that stands in for the table's.
        seeds: Of each cell; none takes the experiment's.
        rows: Names of rows; none takes all.
        settings: Settings over the experiment's, of all rows that have them; nested or with dotted keys.
        store: Folder of artifacts; `None` takes that of overall.yaml.
        leaderboard: Folder of records and tables; `None` takes that of overall.yaml.
        raw: Folder of raw files, with a folder for each data set in it if the table has several.

    Returns:
        The table and its cells.

    Raises:
        SettingsError: There is no such experiment, row, data set or protocol, or that protocol can't stand in.
    """
    published = experiment.load(name)
    found = experiment.under(published, protocol)
    defaults = load_yaml(properties_folder() / "overall.yaml")
    named = {"store": store, "leaderboard": leaderboard}
    folders = {key: Path(path or defaults[key]).expanduser().resolve() for key, path in named.items()}
    over = flatten(settings or {})
    _check_settings(over)
    chosen = [found.row(row) for row in rows] or list(found.rows)
    sources = {name: str(source) for name, source in found.datasets.items()}
    taken = _taken(found, chosen, over)
    stand_in = None
    if dataset is not None:
        folder = own_folder(dataset)
        source = dataset if folder is None else str(folder.resolve())
        stand_in = str(_name_of(source, {**defaults, **folders, "raw": _raw(raw, source, 1)}))
        sources = {stand_in: source}
    raws = {source: _raw(raw, source, len(sources)) for source in sources.values()}
    cells = [
        _cell(found, row, column, source, seed, taken[row.name], {**folders, "raw": raws[source]})
        for column, source in sources.items()
        for row in chosen
        if row.missing is None
        for seed in seeds or found.seeds
    ]
    kept = {key: value for key, value in over.items() if key not in _run_only(found.rows)}
    other = None if found is published else found.protocol
    return TableRequest(found, tuple(cells), stand_in, other, kept, folders["store"], folders["leaderboard"])


def _run_only(rows: Sequence[TableRow]) -> set[str]:
    """Settings of the rows' methods that change no result, such as where a file lies."""
    models = {str(row.model) for row in rows if row.missing is None}
    methods = [registry.method(model) for model in models if registry.is_method(model)]
    return {name for method in methods for name in method.run_only}


def _check_settings(over: Mapping[str, Any]) -> None:
    """Refuse settings that are not for `settings`: the experiment or an option of its own decides them."""
    others = {"seed", "protocol", "dataset", "store", "leaderboard", "raw"}
    own = sorted({key.partition(".")[0] for key in over} & others)
    if own:
        raise SettingsError(
            f"--set {own[0]}: not a setting of cells; the experiment or an option of its own decides it"
        )


def _taken(found: Experiment, rows: Sequence[TableRow], over: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each row, the settings that its model has. One that no row has is left with all, which refuse it by name."""
    having: dict[str, list[TableRow]] = {key: [] for key in over}
    for row in (row for row in rows if row.missing is None):
        layers = read_layers({**_row_settings(found, row), **over})
        for key in over:
            if has_setting(str(row.model), key, layers):
                having[key].append(row)
    for key, those in having.items():
        others = [row.name for row in rows if row.missing is None and row not in those]
        if those and others:
            logger.warning("--set %s is no setting of %s: they run without it", key, ", ".join(others))
    return {
        row.name: {key: value for key, value in over.items() if row in having[key] or not having[key]}
        for row in rows
    }


def _row_settings(found: Experiment, row: TableRow) -> dict[str, Any]:
    """What the experiment says of a row, by dotted name."""
    named = {"backbone": row.backbone} if row.backbone else {}
    return {**named, **flatten(row.settings), "protocol": found.protocol_of(row)}


def _name_of(source: str, options: Mapping[str, Any]) -> str:
    """What records call a data set; raw files are fetched if they are not there."""
    return str(identified_dataset(source, options)[0]["name"])


def _raw(raw: Path | str | None, source: str, number: int) -> str | None:
    """The folder of one data set's raw files."""
    if raw is None or own_folder(source) is not None:
        return None
    below = Path(raw).expanduser().resolve() / source
    if below.is_dir():
        return str(below)
    return str(Path(raw).expanduser().resolve()) if number == 1 else None


def _cell(
    found: Experiment,
    row: TableRow,
    column: str,
    source: str,
    seed: int,
    over: Mapping[str, Any],
    folders: Mapping[str, Any],
) -> Cell:
    settings = {**_row_settings(found, row), **over, "seed": seed}
    paths = {key: str(path) for key, path in folders.items() if path is not None}
    return Cell(row.name, column, seed, str(row.model), source, {**settings, **paths}, os.getcwd())


def prepare(request: TableRequest) -> list[Prepared]:
    """Resolve every cell, and find what of it is made already.

    Args:
        request: The table.

    Returns:
        Its cells in the same order; one whose data can't be had says so.

    Raises:
        SettingsError: Settings of some rows are wrong; all mistakes at once.
    """
    known = results.load_all(request.leaderboard / "results")
    commit = provenance.commit()
    prepared: list[Prepared] = []
    problems: list[str] = []
    unavailable: dict[str, str] = {}
    for cell in request.cells:
        if cell.source in unavailable:
            prepared.append(Prepared(cell, error=unavailable[cell.source]))
            continue
        try:
            prepared.append(_prepare(cell, request, known, commit))
        except SettingsError as error:
            problems += [f"row {cell.row!r}: {line}" for line in str(error).splitlines()]
        except DataError as error:
            unavailable[cell.source] = f"DataError: {error}"
            prepared.append(Prepared(cell, error=unavailable[cell.source]))
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
    return prepared


def _prepare(
    cell: Cell, request: TableRequest, known: Sequence[results.Record], commit: results.Commit
) -> Prepared:
    resolved = cell.resolve(progress=False)
    steps = plan(resolved.method, resolved.settings, Store(request.store), resolved.method.goals)
    same = recorded(resolved, {step.stage.makes: step.key for step in steps}, commit)
    without_seed = {key: value for key, value in resolved.settings.items() if key != "seed"}
    identity = results.content_hash(without_seed)
    estimates = {
        stage: cost.full_seconds
        for record in known
        if record.settings_hash == identity
        for stage, cost in record.cost.items()
    }
    return Prepared(cell, steps, same.stem if same else None, None, estimates)
