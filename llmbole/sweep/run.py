"""A sweep from its request to its record, and the best settings from there to the leaderboard."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from llmbole import provenance, sweep_record
from llmbole.pipeline.run import execute
from llmbole.pipeline.store import Store
from llmbole.record import ProtocolVersion
from llmbole.sweep import space as spaces
from llmbole.sweep.cluster import Share, connected
from llmbole.sweep.ledger import Ledger
from llmbole.sweep.progress import Progress, report
from llmbole.sweep.request import Request, trial_steps
from llmbole.sweep.trial import run_test
from llmbole.sweep_record import SweepRecord, Trial

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a sweep went.

    Attributes:
        trials: Rows of all trials that were begun.
        metric: Name of the validation metric.
        complete: Whether every trial ended, in whatever way.
        record: The sweep as it is on record; `None` if it is not complete or no trial finished.
        path: Its file.
        tested: Files of the records of the best settings, by seed.
        failures: Why a seed's test failed.
    """

    trials: list[Trial]
    metric: str
    complete: bool
    record: SweepRecord | None = None
    path: Path | None = None
    tested: dict[int, Path] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """The table of its trials in markdown."""
        return report(self.trials, self.metric)


def sweep(request: Request, test_seeds: Sequence[int] = (), *, live: bool | None = None) -> Outcome:
    """Run a sweep, or go on with it; then, if seeds are given, test the best settings with each.

    Trials see training and validation data only. The split is made before them, by this process.

    Args:
        request: The sweep.
        test_seeds: Seeds to test the best settings with; none tests nothing.
        live: Whether to draw a table that lives; `None` does on a terminal, unless progress is off.

    Returns:
        How it went.

    Raises:
        SettingsError: Another process runs this sweep, or there is no room for a trial.
    """
    from llmbole.sweep import tuner

    ledger, base = Ledger(request.folder), request.resolve({})
    live = bool(base.options["progress"]) and sys.stderr.isatty() if live is None else live
    with ledger.lock(), ExitStack() as stack:
        logger.info("sweep %s in %s", request.key[:16], request.folder)
        before = [step for step in trial_steps(base) if step.stage.makes in ("data", "split")]
        made = execute(before, base.settings, Store(Path(base.options["store"])), base.options)
        count = tuner.total(request)
        share = None
        if len(ledger.done()) < count:
            share = stack.enter_context(connected(request.resources))
            progress = Progress(request.metric, count, share.concurrent, live=live)
            tuner.run_trials(request, ledger, share, progress)
        trials = ledger.trials()
        ended = [trial for trial in trials if trial.status != sweep_record.RUNNING]
        outcome = Outcome(trials, request.metric, complete=len(ended) == count)
        if not outcome.complete or sweep_record.best(trials, request.metric) is None:
            return outcome
        split = str(made["split"].summary["hash"])
        folder = Path(base.options["leaderboard"]) / "sweeps"
        outcome.record, outcome.path = sweep_record.append(_record(request, trials, split), folder)
        if test_seeds:
            _test(request, outcome, test_seeds, share or stack.enter_context(connected(request.resources)))
        return outcome


def _record(request: Request, trials: Sequence[Trial], split: str) -> SweepRecord:
    base = request.resolve({})
    config = dict(base.settings)
    protocol = ProtocolVersion(
        name=config["protocol"]["name"], version=config["protocol"]["version"], split=split
    )
    return SweepRecord(
        key=request.key,
        method=request.model,
        dataset=config["dataset"]["name"],
        protocol=protocol,
        metric=request.metric,
        config=config,
        space=spaces.describe(request.space),
        search=request.search.search,
        scheduler=request.search.scheduler_name,
        trials=list(trials),
        seconds=sum(trial.seconds for trial in trials),
        environment=provenance.environment(),
        commit=provenance.commit(),
        created=provenance.utc_now(),
    )


def _test(request: Request, outcome: Outcome, seeds: Sequence[int], share: Share) -> None:
    """Run the best settings with each seed, as many at a time as there is room for."""
    import ray

    assert outcome.record is not None  # a best trial is there
    best, selection = outcome.record.best, outcome.record.selection()
    logger.info("testing %s with seeds %s", spaces.shown(best.settings), ", ".join(map(str, seeds)))
    remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(run_test)
    waiting = {remote.remote(request, best.settings, seed, share.device, selection): seed for seed in seeds}
    while waiting:
        [ready], _ = ray.wait(list(waiting), num_returns=1)
        seed = waiting.pop(ready)
        try:
            outcome.tested[seed] = Path(ray.get(ready))
        except ray.exceptions.RayError as error:
            outcome.failures[seed] = str(error).strip().splitlines()[-1]
