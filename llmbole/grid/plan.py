"""What a table would do: its cells, the stages that they share, what is made already, and about how long it takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbole.grid.request import Prepared
from llmbole.markdown import ABSENT, table
from llmbole.pipeline.run import Step
from llmbole.pipeline.store import Artifact, Store

UNKNOWN = "unknown"
ON_RECORD, TO_RUN, CAN_NOT_RUN = "on record", "to run", "can't run"
_KEY_DIGITS = 8
_SHOWN = 6


@dataclass(frozen=True)
class Estimate:
    """How long stages take that are not made yet, one after another.

    Attributes:
        seconds: Of those whose seconds are known.
        unknown: Number of those of which nothing is known.
    """

    seconds: float
    unknown: int

    def __str__(self) -> str:
        if self.unknown and not self.seconds:
            return UNKNOWN
        more = f", and {self.unknown} stages of unknown time" if self.unknown else ""
        return f"about {_duration(self.seconds)}{more}"


def describe(prepared: Sequence[Prepared], store: Store) -> str:
    """The plan of a table, for people.

    Args:
        prepared: Its cells.
        store: Where artifacts are.

    Returns:
        Text: cells, shared stages, and a sum.
    """
    waiting = [each for each in prepared if each.error is None and each.record is None]
    seconds = stage_seconds(waiting, store)
    rows = [_cell_row(each, seconds) for each in prepared]
    parts = [table(["method", "data set", "seed", "cell", "stages to run", "cached", "time"], rows, left=7)]
    shared = _shared(waiting)
    if shared:
        parts += [
            "Stages that several cells share, each made once:",
            table(["stage", "key", "state", "cells"], shared, 4),
        ]
    reasons = dict.fromkeys(each.error for each in prepared if each.error is not None)
    if reasons:
        parts.append("\n".join(f"- {CAN_NOT_RUN}: {reason}" for reason in reasons))
    done = sum(each.record is not None for each in prepared)
    broken = sum(each.error is not None for each in prepared)
    missing = {step.key for each in waiting for step in each.steps if not step.cached}
    total = Estimate(
        sum(seconds[key] or 0.0 for key in missing), sum(seconds[key] is None for key in missing)
    )
    parts.append(
        f"{len(prepared)} cells: {done} on record, {len(waiting)} to run, {broken} that can't run; "
        f"{len(missing)} stages to make{f', one after another: {total}' if missing else ''}"
    )
    return "\n\n".join(parts)


def stage_seconds(prepared: Sequence[Prepared], store: Store) -> dict[str, float | None]:
    """Seconds that stages not made yet will take, by key.

    Known is what the same stage took with the same settings but the seed: in the store, or else in a record.

    Args:
        prepared: Cells.
        store: Where artifacts are.

    Returns:
        Seconds; `None` where nothing is known.
    """
    by_stage: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in store.artifacts():
        by_stage[artifact.stage].append(artifact)
    found: dict[str, float | None] = {}
    for each in prepared:
        settings = (
            each.cell.resolve(progress=False).settings if any(not step.cached for step in each.steps) else {}
        )
        for step in each.steps:
            if not step.cached and found.get(step.key) is None:
                alike = _alike(step, settings, by_stage[step.stage.makes])
                found[step.key] = alike if alike is not None else each.estimates.get(step.stage.makes)
    return found


def _alike(step: Step, settings: Mapping[str, object], artifacts: Sequence[Artifact]) -> float | None:
    """Seconds of the newest artifact that differs by no setting but the seed."""
    wanted = {name: value for name, value in step.stage.declared(settings).items() if name != "seed"}
    for artifact in artifacts:
        if {name: value for name, value in artifact.manifest["settings"].items() if name != "seed"} == wanted:
            return float(artifact.cost["seconds"])
    return None


def _cell_row(each: Prepared, seconds: Mapping[str, float | None]) -> list[str]:
    cell = each.cell
    names = [cell.row, cell.dataset, str(cell.seed)]
    if each.error is not None:
        return [*names, CAN_NOT_RUN, ABSENT, ABSENT, ABSENT]
    if each.record is not None:
        return [*names, f"{ON_RECORD} {each.record[:_KEY_DIGITS]}", ABSENT, ABSENT, ABSENT]
    missing = [step for step in each.steps if not step.cached]
    cached = [step.stage.makes for step in each.steps if step.cached]
    known = [seconds[step.key] for step in missing]
    estimate = Estimate(sum(value or 0.0 for value in known), sum(value is None for value in known))
    to_make = ", ".join(step.stage.makes for step in missing)
    return [*names, TO_RUN, to_make or ABSENT, ", ".join(cached) or ABSENT, str(estimate)]


def _shared(waiting: Sequence[Prepared]) -> list[list[str]]:
    """Stages that more than one cell needs."""
    users: dict[str, list[str]] = defaultdict(list)
    steps: dict[str, Step] = {}
    for each in waiting:
        for step in each.steps:
            users[step.key].append(f"{each.cell.row} ({each.cell.seed})")
            steps[step.key] = step
    return [
        [
            steps[key].stage.makes,
            key[:_KEY_DIGITS],
            "cached" if steps[key].cached else "to run",
            _few(list(dict.fromkeys(names))),
        ]
        for key, names in users.items()
        if len(names) > 1
    ]


def _few(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def unmade(steps: Sequence[Step], store: Store) -> set[str]:
    """Keys of a cell's stages that nobody has made by now."""
    return {step.key for step in steps if not Path(store.folder, "artifacts", step.key).is_dir()}
