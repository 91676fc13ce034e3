"""The rows of a sweep's trials on disk, each in a file of its own: whatever is killed, finished trials are kept."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmbole.settings import SettingsError
from llmbole.sweep_record import FINISHED, STOPPED, Trial

DONE = (FINISHED, STOPPED)


class Ledger:
    """The folder of one sweep's trials.

    A row is written aside and renamed when its trial starts, with each of its validations, and when it ends.

    Args:
        folder: The sweep's folder; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[int, Trial] = {}
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / "trials").glob("*.json")):
            row = Trial(**json.loads(path.read_text(encoding="utf-8")))
            self.rows[row.number] = row

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep: another process that runs it is refused; a dead one holds nothing.

        Yields:
            Nothing.

        Raises:
            SettingsError: Another process runs the sweep now.
        """
        lock = FileLock(self.folder / "sweep.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SettingsError(
                f"another process runs this sweep now ({self.folder}); wait for it or end it"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write(self, row: Trial) -> None:
        """Keep a row."""
        self.rows[row.number] = row
        path = self.folder / "trials" / f"{row.number:05d}.json"
        aside = path.with_suffix(".tmp")
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(dataclasses.asdict(row), indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)

    def trials(self) -> list[Trial]:
        """All rows by number."""
        return [self.rows[number] for number in sorted(self.rows)]

    def done(self) -> list[Trial]:
        """Trials that are not run again: finished, or stopped by the scheduler."""
        return [row for row in self.trials() if row.status in DONE]

    def open(self) -> list[Trial]:
        """Trials that were begun and are to be run again: killed ones, which go on, and failed ones."""
        return [row for row in self.trials() if row.status not in DONE]

    def number_of(self, settings: Mapping[str, Any]) -> int:
        """The number of the begun trial of these settings, or else the next free one."""
        same = [row.number for row in self.open() if row.settings == dict(settings)]
        return same[0] if same else max(self.rows, default=-1) + 1
