"""Plan and run a pipeline's stages: cached ones are found, missing ones made, each with one line of account."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from tqdm.auto import tqdm

from llmbole.pipeline import together
from llmbole.pipeline.stage import TEST, Stage, StageError, stages_of
from llmbole.pipeline.store import Artifact, Store
from llmbole.pipeline.together import Processes

logger = logging.getLogger(__name__)

MEMORY_SAMPLE_SECONDS = 0.05
MEBIBYTE = 1024 * 1024


class Ticker(Protocol):
    """Where a stage reports finished units."""

    def __call__(self, units: int = 1) -> None:
        """Note that so many more units are done."""


class Validated(Protocol):
    """Who hears of validation scores while a stage trains: a sweep, which may end the trial here."""

    def __call__(self, stage: str, step: int, score: float) -> None:
        """Note the score of validation data after so many epochs or steps of a stage."""


@dataclass
class StageRun:
    """What a running stage sees: its folder, its declared settings, and where it reports cost and progress.

    Attributes:
        folder: Empty folder for the artifact's files.
        workspace: Folder for checkpoints; survives a kill, removed when the stage ends.
        settings: The declared settings by dotted name; any other is refused.
        resources: Things that change no result: where raw files lie, the device, whether bars are shown.
        scored: The phase of a phased stage; others have none.
        on_validation: Told of validation scores; `None` if nobody listens.
        counters: Numbers for the record's cost: `llm_tokens`, `trainable_parameters`.
        processes: Those that share the stage's work; `None` if this one is alone.
    """

    stage: str
    folder: Path
    workspace: Path
    settings: Mapping[str, Any]
    resources: Mapping[str, Any]
    scored: str | None = None
    on_validation: Validated | None = None
    counters: dict[str, int] = field(default_factory=dict)
    processes: Any = None  # of a type that the language model's side knows

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a setting is of any type
        """A declared setting.

        Raises `StageError`: The stage did not declare it.
        """
        parent, _, last = name.rpartition(".")
        if name in self.settings:
            return self.settings[name]
        if parent and parent in self.settings:
            return self.settings[parent][last]
        raise StageError(
            f"stage {self.stage!r} reads setting {name!r} but declares only {sorted(self.settings)}; add it to uses"
        )

    @property
    def seed(self) -> int:
        """The run's seed; the stage must declare it."""
        return int(self["seed"])

    @property
    def phase(self) -> str:
        """`test`, or in a sweep's trial `valid`: whose users or rows are to be scored.

        Raises `StageError`: The stage is not declared as `phased`.
        """
        if self.scored is None:
            raise StageError(f"stage {self.stage!r} asks for the phase; declare it with phased=True")
        return self.scored

    def count(self, **counters: int) -> None:
        """Add to the numbers of the record's cost."""
        for name, value in counters.items():
            self.counters[name] = self.counters.get(name, 0) + int(value)

    def validated(self, step: int, score: float) -> None:
        """Say how validation data are scored after a number of epochs or steps, by the protocol's selection metric."""
        if self.on_validation is not None:
            self.on_validation(self.stage, step, score)

    @contextmanager
    def progress(self, total: int | None, unit: str = "it") -> Iterator[Ticker]:
        """A progress bar for this stage.

        Args:
            total: Units of work in all; `None` if that is not known.
            unit: What one unit is, for the rate.

        Yields:
            A function to call with the number of units just finished.
        """
        hidden = not self.resources.get("progress", True)
        with tqdm(
            total=total,
            desc=self.stage,
            unit=unit,
            disable=hidden,
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
        ) as bar:

            def tick(units: int = 1) -> None:
                bar.update(units)

            yield tick


@dataclass(frozen=True)
class Step:
    """One stage of a plan: its key, whether it is cached, why it is or will run, and its phase if it has one."""

    stage: Stage
    key: str
    cached: bool
    reason: str
    phase: str | None = None


def plan(
    pipeline: type, settings: Mapping[str, Any], store: Store, goals: Sequence[str], phase: str = TEST
) -> list[Step]:
    """Say of each stage that the goals need whether it is cached or will run, and why.

    Args:
        pipeline: A class whose body holds stages.
        settings: Resolved settings.
        store: Where artifacts are.
        goals: Names of the artifacts wanted; what they do not need is left out.
        phase: What phased stages score.

    Returns:
        Steps in running order.
    """
    stages = {name: stage for name, stage in stages_of(pipeline).items() if stage.runs(settings)}
    wanted = _needed(stages, goals, stages_of(pipeline))
    keys: dict[str, str] = {}
    steps: list[Step] = []
    waiting: set[str] = set()
    for name, stage in stages.items():
        if name not in wanted:
            continue
        keys[name] = stage.key(
            settings, {needed: keys[needed] for needed in stage.needs if needed in keys}, phase
        )
        scored = phase if stage.phased else None
        damage = store.damaged(keys[name])
        artifact = None if damage else store.find(keys[name])
        if artifact is not None:
            made = f"made {_ago(float(artifact.manifest['created']))}"
            steps.append(Step(stage, keys[name], True, made, scored))
            continue
        waiting.add(name)
        reason = damage or _reason(stage, settings, store, waiting)
        steps.append(Step(stage, keys[name], False, reason, scored))
    return steps


def _needed(stages: Mapping[str, Stage], goals: Sequence[str], known: Mapping[str, Stage]) -> set[str]:
    """Names of the stages that goals need, of those that run under the settings."""
    wanted: set[str] = set()
    open_names = list(goals)
    while open_names:
        name = open_names.pop()
        if name not in known:
            raise StageError(f"no stage makes {name!r}; there are {', '.join(known)}")
        if name in stages and name not in wanted:
            wanted.add(name)
            open_names.extend(stages[name].needs)
    return wanted


def _reason(stage: Stage, settings: Mapping[str, Any], store: Store, waiting: set[str]) -> str:
    """Why a stage must run: what differs from the newest artifact of its kind."""
    needed = sorted(waiting.intersection(stage.needs))
    if needed:
        return f"{' and '.join(needed)} will be made first"
    earlier = next((artifact for artifact in store.artifacts() if artifact.stage == stage.makes), None)
    if earlier is None:
        return "not made yet"
    before, now = earlier.manifest["settings"], stage.declared(settings)
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            difference = _difference(before.get(name), now.get(name))
            return f"{name} differs from the artifact {earlier.key[:12]}: {difference}"
    return (
        "its code changed"
        if earlier.manifest["code"] != stage.code
        else "it stands on other artifacts than the last one"
    )


def _difference(before: object, now: object) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        return ", ".join(f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in keys[:3])
    return f"{before!r} -> {now!r}"


def _ago(created: float) -> str:
    seconds = max(0.0, time.time() - created)
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def execute(
    steps: Sequence[Step],
    settings: Mapping[str, Any],
    store: Store,
    resources: Mapping[str, Any],
    on_validation: Validated | None = None,
    processes: Processes | None = None,
) -> dict[str, Artifact]:
    """Make what a plan lacks, in order; one line per stage says what it made, from what, how long it took.

    Args:
        steps: The plan.
        settings: The settings it was made with.
        store: Where artifacts go.
        resources: Handed to every stage.
        on_validation: Told of validation scores while stages train; it may raise to end the run, which a later run
            continues.
        processes: Those that run this plan together; `None` if this one is alone.

    Returns:
        The artifacts by name.
    """
    several = processes if processes is not None and processes.size > 1 else None
    artifacts: dict[str, Artifact] = {}
    for step in steps:
        stage = step.stage
        needed = {name: artifacts.get(name) for name in stage.needs}
        shared = several if stage.together else None
        maker = _maker(step, settings, resources, needed, on_validation, shared)
        if several is None:
            artifact, made = store.make(step.key, maker)
        else:
            artifact, made = together.make(store, step.key, maker, several, shared is not None)
        artifacts[stage.makes] = artifact
        _tell(stage, artifact, made, needed)
    return artifacts


def _maker(
    step: Step,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
    needed: Mapping[str, Artifact | None],
    on_validation: Validated | None,
    processes: Processes | None,
) -> Callable[[Path, Path], Mapping[str, Any]]:
    stage = step.stage

    def make(folder: Path, workspace: Path) -> Mapping[str, Any]:
        declared = stage.declared(settings)
        run = StageRun(stage.makes, folder, workspace, declared, resources, step.phase, on_validation)
        run.processes = processes
        with measured() as cost:
            summary = stage.function(run, **needed)
        return {
            "stage": stage.makes,
            "summary": dict(summary or {}),
            "settings": dict(run.settings),
            "needs": {name: artifact.key for name, artifact in needed.items() if artifact is not None},
            "code": stage.code,
            "cost": {**cost, **run.counters},
        }

    return make


def _tell(stage: Stage, artifact: Artifact, made: bool, needed: Mapping[str, Artifact | None]) -> None:
    found = [f"{name} {other.key[:8]}" for name, other in needed.items() if other is not None]
    sources = ", ".join(found) or "its settings"
    did = str(artifact.summary.get("did", artifact.stage))
    cost = artifact.cost
    if made:
        time_and_memory = f"{cost['seconds']:.1f} s, {cost['peak_memory_bytes'] / MEBIBYTE:.0f} MiB"
        logger.info(
            "%-10s %s  %s, from %s (%s)", stage.makes, artifact.key[:8], did, sources, time_and_memory
        )
    else:
        logger.info("%-10s %s  cached: %s (took %.1f s)", stage.makes, artifact.key[:8], did, cost["seconds"])


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Seconds and peak memory of a block: resident memory of the process, and of the GPU if one is in use.

    Yields:
        A mapping that holds `seconds` and `peak_memory_bytes` (and `peak_gpu_memory_bytes`) once the block ends.
    """
    cost: dict[str, float] = {}
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss)
            if done.wait(MEMORY_SAMPLE_SECONDS):
                return

    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    if torch is not None and gpu:
        torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    start = time.perf_counter()
    watcher.start()
    try:
        yield cost
    finally:
        cost["seconds"] = time.perf_counter() - start
        done.set()
        watcher.join()
        cost["peak_memory_bytes"] = peak[0]
        if torch is not None and gpu:
            cost["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
