"""How a sweep goes: one live table on a terminal, plain lines elsewhere, and the table of what is done."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from llmbole.markdown import ABSENT, table
from llmbole.sweep.space import shown
from llmbole.sweep_record import FAILED, FINISHED, RUNNING, Trial, best, lower_is_better

logger = logging.getLogger(__name__)

ROWS_SHOWN = 15
UNFINISHED = "unfinished"
SECONDS_PER_MINUTE = 60


class Progress:
    """Tells what trials do.

    Args:
        metric: Name of the validation metric.
        total: Trials of the whole sweep.
        concurrent: Trials at the same time.
        live: Whether to draw a table; else each trial that ends is a line of the log.
        stream: Where the table is drawn.
    """

    def __init__(
        self, metric: str, total: int, concurrent: int, *, live: bool, stream: TextIO | None = None
    ) -> None:
        self.metric, self.total, self.concurrent = metric, total, concurrent
        self._live = (
            Live(console=Console(file=stream or sys.stderr), refresh_per_second=2, transient=True)
            if live
            else None
        )
        self._started = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the table within, if it is to be drawn.

        Yields:
            Nothing.
        """
        if self._live is None:
            yield
            return
        with self._live:
            yield

    def update(self, trials: Sequence[Trial], ended: Trial | None = None) -> None:
        """Tell how trials stand.

        Args:
            trials: All that were begun.
            ended: The one that ended just now.
        """
        if self._live is not None:
            self._live.update(self._table(trials))
        elif ended is not None:
            logger.info("%s; %s", _line(ended, self.metric), self.summary(trials))

    def summary(self, trials: Sequence[Trial]) -> str:
        """`3 of 12 trials, best HIT@1 0.4213 (align.alpha=0.5), about 4 min left`."""
        ended = [trial for trial in trials if trial.status != RUNNING]
        found = best(trials, self.metric)
        parts = [f"{len(ended)} of {self.total} trials"]
        if found is not None:
            parts.append(f"best {self.metric} {found.score:.4f} ({shown(found.settings)})")
        left = self.seconds_left(trials)
        return ", ".join([*parts, f"about {_duration(left)} left"] if left else parts)

    def seconds_left(self, trials: Sequence[Trial]) -> float | None:
        """Estimated from the mean of the trials that finished; `None` before the first one did, and after the last."""
        durations = [trial.seconds for trial in trials if trial.status == FINISHED]
        ended = sum(trial.status != RUNNING for trial in trials)
        if not durations or ended >= self.total:
            return None
        running = sum(trial.seconds for trial in trials if trial.status == RUNNING)
        work = sum(durations) / len(durations) * (self.total - ended) - running
        return max(work, 0.0) / self.concurrent

    def _table(self, trials: Sequence[Trial]) -> Table:
        drawn = Table(title=self.summary(trials), title_justify="left")
        for name in ("trial", "settings", "status", f"valid {self.metric}", "seconds"):
            drawn.add_column(name)
        recent = [trial for trial in trials if trial.status == RUNNING]
        ended = [trial for trial in trials if trial.status != RUNNING]
        for trial in [*ended[-max(1, ROWS_SHOWN - len(recent)) :], *recent]:
            drawn.add_row(*_cells(trial))
        return drawn


def report(trials: Sequence[Trial], metric: str) -> str:
    """The table of all trials when none runs any more, the best one first, those without a score last.

    Args:
        trials: Rows.
        metric: Name of the validation metric.

    Returns:
        Markdown that reads well on a terminal too.
    """
    sign = 1 if lower_is_better(metric) else -1

    def rank(trial: Trial) -> tuple[bool, bool, float, int]:
        return (
            trial.status != FINISHED,
            trial.score is None,
            sign * (trial.score or 0.0),
            trial.number,
        )

    ended = [replace(trial, status=UNFINISHED) if trial.status == RUNNING else trial for trial in trials]
    rows = [_cells(trial) for trial in sorted(ended, key=rank)]
    header = ["trial", "settings", "status", f"validation {metric}", "seconds"]
    return table(header, rows, left=3)


def _cells(trial: Trial) -> list[str]:
    status = f"{trial.status}: {trial.error}" if trial.status == FAILED else trial.status
    status = status.replace("\n", " ")
    score = ABSENT if trial.score is None else f"{trial.score:.4f}"
    return [str(trial.number), shown(trial.settings), status, score, f"{trial.seconds:.1f}"]


def _line(trial: Trial, metric: str) -> str:
    what = f"trial {trial.number} {trial.status} after {_duration(trial.seconds)}: {shown(trial.settings)}"
    if trial.status == FAILED:
        return f"{what}: {trial.error}"
    return what if trial.score is None else f"{what}: {metric} {trial.score:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 2 * SECONDS_PER_MINUTE:
        return f"{seconds:.0f} s"
    minutes = seconds / SECONDS_PER_MINUTE
    return (
        f"{minutes:.0f} min" if minutes < 2 * SECONDS_PER_MINUTE else f"{minutes / SECONDS_PER_MINUTE:.1f} h"
    )
