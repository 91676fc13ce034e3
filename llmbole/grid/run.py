"""Run a table's cells: those on record are skipped, a failing one is a cell with its error, shared stages run once."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbole import api, table_run
from llmbole.grid.plan import unmade
from llmbole.grid.request import Cell, Prepared, TableRequest, prepare
from llmbole.pipeline.run import execute
from llmbole.pipeline.store import Store
from llmbole.render import TABLES
from llmbole.sweep.cluster import Share, connected
from llmbole.sweep.request import Resources
from llmbole.sweep.trial import logged, use_threads
from llmbole.table_run import CellRun, TableRun

logger = logging.getLogger(__name__)

COMMON = ("data", "split")
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a table went.

    Attributes:
        run: What is known of its cells now, earlier ones included.
        path: Its file.
        skipped: Number of cells that were on record.
        made: Number of cells that ran.
        failed: Cells that failed now.
    """

    run: TableRun
    path: Path
    skipped: int
    made: int
    failed: Sequence[CellRun]


def run_table(request: TableRequest, resources: Resources | None, device: str = "auto") -> Outcome:
    """Run the cells of a table that are not on record, and keep which record each cell is.

    After every cell the table's file is written, so a command that was stopped goes on where it was.

    Args:
        request: The table.
        resources: What each cell has as a task of Ray; `None` runs one after another in this process.
        device: The torch device of cells in this process.

    Returns:
        How it went.

    Raises:
        SettingsError: Settings of a row are wrong, or there is no room for a cell.
    """
    prepared = prepare(request)
    tables = request.leaderboard / TABLES
    run = _earlier(request, tables)
    skipped = [each.cell.ended(each.record) for each in prepared if each.record is not None]
    failed = [
        each.cell.ended(None, _public(each.error, request)) for each in prepared if each.error is not None
    ]
    run = run.with_cells([*skipped, *failed])
    path, made = table_run.save(run, tables), 0
    waiting = [each for each in prepared if each.record is None and each.error is None]
    numbered = list(enumerate(waiting))
    cells = _here(numbered, request, device) if resources is None else _by_ray(numbered, request, resources)
    for number, ended in enumerate(cells, 1) if waiting else ():
        if ended.error is not None:
            ended = dataclasses.replace(ended, error=_public(ended.error, request))
        made += ended.record is not None
        failed += [ended] if ended.error is not None else []
        run = run.with_cells([ended])
        table_run.save(run, tables)
        what = f"failed: {ended.error}" if ended.error is not None else f"record {str(ended.record)[:12]}"
        logger.info("%d of %d cells; %s on %s, seed %d: %s", number, len(waiting), *ended.place, what)
    return Outcome(run, path, len(skipped), made, failed)


def _earlier(request: TableRequest, tables: Path) -> TableRun:
    """What was run of the table before with the same settings; empty if they were others."""
    new = TableRun(
        experiment=request.experiment.name,
        stand_in=request.stand_in,
        settings=dict(sorted(request.settings.items())),
        cells=[],
        protocol=request.protocol,
    )
    path = tables / f"{new.stem}.json"
    if not path.is_file():
        return new
    found = table_run.load(path, tables)
    return found if found.settings == new.settings else new


def _public(error: str, request: TableRequest) -> str:
    """The first line of an error, without folders of this machine, for the leaderboard; the log has the rest."""
    folders = {str(request.store): "STORE", str(request.leaderboard): "LEADERBOARD", str(Path.home()): "~"}
    line = error.splitlines()[0]
    for folder, name in folders.items():
        line = line.replace(f"{folder}{os.sep}", f"{name}{os.sep}")
    return line


def run_cell(cell: Cell, name: str, folder: Path, device: str, threads: int | None) -> CellRun:
    """Run one cell as `llmbole run` would, and record it; whatever fails is said, not raised.

    Args:
        cell: The cell.
        name: Of its log.
        folder: The table's.
        device: The torch device.
        threads: Of torch; `None` leaves its choice.

    Returns:
        Its record, or its error.
    """
    if threads is not None:
        use_threads(threads)
    if Path(cell.working_folder).is_dir():
        os.chdir(cell.working_folder)
    try:
        with logged(folder, name):
            resolved = cell.resolve(progress=False, threads=threads, device=device)
            return cell.ended(api.run_resolved(resolved).record.id)
    except Exception as error:  # any: the other cells go on, and the log has the traceback
        return cell.ended(None, f"{type(error).__name__}: {error}")


def _here(waiting: Sequence[tuple[int, Prepared]], request: TableRequest, device: str) -> Iterator[CellRun]:
    for number, each in waiting:
        yield run_cell(each.cell, f"{number:05d}", request.folder, device, None)


def _by_ray(
    waiting: Sequence[tuple[int, Prepared]], request: TableRequest, resources: Resources
) -> Iterator[CellRun]:
    """Cells as tasks of Ray, as many at a time as there is room for.

    Data and splits are made first, by this process. A cell that would only wait for a stage that a running one makes
    is not started before that stage is there, so that no task holds its CPUs idle.
    """
    store, ready = Store(request.store), []
    for number, each in waiting:
        error = _make_common(each, store)
        if error is None:
            ready.append((number, each))
        else:
            yield each.cell.ended(None, error)
    if ready:
        with connected(resources) as share:
            yield from _scheduled(ready, store, share, _submit(request.folder, share, resources))


def _make_common(each: Prepared, store: Store) -> str | None:
    """Make a cell's data and split; why that can't be done, or `None`."""
    steps = [step for step in each.steps if step.stage.makes in COMMON]
    try:
        resolved = each.cell.resolve(progress=False)
        execute(steps, resolved.settings, store, resolved.options)
    except Exception as error:  # as in `run_cell`
        logger.debug("%s", each.cell, exc_info=True)
        return f"{type(error).__name__}: {error}"
    return None


Submit = Callable[[int, Cell], object]


def _submit(folder: Path, share: Share, resources: Resources) -> Submit:
    import ray

    remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(run_cell)

    def submit(number: int, cell: Cell) -> object:
        return remote.remote(cell, f"{number:05d}", folder, share.device, resources.threads)

    return submit


def _scheduled(
    waiting: Sequence[tuple[int, Prepared]], store: Store, share: Share, submit: Submit
) -> Iterator[CellRun]:
    import ray

    left = list(waiting)
    running: dict[object, tuple[int, Prepared]] = {}
    while left or running:
        for entry in list(left):
            if len(running) == share.concurrent:
                break
            busy = {key for _, other in running.values() for key in unmade(other.steps, store)}
            if not busy & unmade(entry[1].steps, store):
                running[submit(entry[0], entry[1].cell)] = entry
                left.remove(entry)
        done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
        for task in done:
            _, each = running.pop(task)
            try:
                yield ray.get(task)
            except ray.exceptions.RayError as error:
                died = f"its process ended: {str(error).strip().splitlines()[-1]}"
                yield each.cell.ended(None, died)
