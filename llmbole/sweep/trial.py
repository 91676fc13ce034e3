"""What the process of a trial does: make validation scores of its settings, and, for the best ones, test them."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmbole import api
from llmbole.data.arrays import sealed_test
from llmbole.pipeline.run import execute
from llmbole.pipeline.store import Store
from llmbole.results import Selection
from llmbole.sweep.request import Request, trial_steps
from llmbole.sweep_record import lower_is_better

logger = logging.getLogger(__name__)

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)
Report = Callable[[dict[str, Any]], None]


def thread_variables(threads: int) -> dict[str, str]:
    """Environment of a trial's process: libraries that read one of these at their start use so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def use_threads(threads: int) -> None:
    """Let torch use so many threads here; other libraries read `thread_variables` when they start."""
    import torch

    torch.set_num_threads(threads)


def run_trial(request: Request, name: str, settings: Mapping[str, Any], device: str, report: Report) -> None:
    """Run one trial; its process may not open the test part of the split.

    Stages that other trials have made are found in the store, and a stage that was killed goes on from its checkpoint.
    While the method's own stage trains, the best validation score so far is reported after each validation; what
    `report` raises ends the trial. At last the score of the trained method is reported, with `final`.

    Args:
        request: The sweep.
        name: The trial's; names its log, and the file that says why it failed.
        settings: What it tries, by dotted name.
        device: The torch device.
        report: Told a mapping with `score`, `validations` and `final`.

    Raises:
        ValueError: The score is not a number.
    """
    with logged(request.folder, name), sealed_test():
        resolved = _resolve(request, settings, device=device)
        method, store = resolved.method, Store(Path(resolved.options["store"]))
        better = min if lower_is_better(request.metric) else max
        scores: list[float] = []

        def hear(stage: str, step: int, score: float) -> None:
            if stage == method.validates:
                scores.append(better([*scores[-1:], score]))
                report({"score": scores[-1], "validations": len(scores), "final": False, "step": step})

        artifacts = execute(trial_steps(resolved), resolved.settings, store, resolved.options, hear)
        found = artifacts[method.goals[-1]].summary["metrics"]
        score = float(found[request.metric])
        if not math.isfinite(score):
            raise ValueError(f"validation {request.metric} is {score}")
        report({"score": score, "validations": len(scores) + 1, "final": True, **found})


def run_test(
    request: Request, settings: Mapping[str, Any], seed: int, device: str, selection: Selection
) -> str:
    """Run settings with a seed as `llmbole run` would, and record how they were chosen.

    Args:
        request: The sweep.
        settings: The best trial's, by dotted name.
        seed: Of the run.
        device: The torch device.
        selection: What the record says of the sweep.

    Returns:
        The record's file.
    """
    with logged(request.folder, f"test-{seed}"):
        resolved = _resolve(request, settings, device=device, seed=seed)
        return str(api.run_resolved(resolved, selection).path)


def _resolve(request: Request, settings: Mapping[str, Any], **options: Any) -> Any:  # noqa: ANN401 - a Resolved
    """The run of some settings in this process: its threads are set, and relative paths are the command's."""
    threads = request.resources.threads
    use_threads(threads)
    if Path(request.working_folder).is_dir():
        os.chdir(request.working_folder)
    return request.resolve(settings, progress=False, threads=threads, **options)


def error_file(folder: Path, name: str) -> Path:
    """Where a trial says why it failed."""
    return folder / "logs" / f"{name}.error"


def place() -> str:
    """Where this process runs: the machine, the process, and in a task of Ray its node."""
    ray = sys.modules.get("ray")
    node = f", Ray's node {ray.get_runtime_context().get_node_id()}" if ray and ray.is_initialized() else ""
    return f"{socket.gethostname()}, process {os.getpid()}{node}"


@contextmanager
def logged(folder: Path, name: str) -> Iterator[None]:
    """Write the package's log lines of a block, and where it runs, to a file, and the error that ends it to another.

    Args:
        folder: Whose `logs` they go to.
        name: The trial's, or the cell's.

    Yields:
        Nothing.
    """
    error_file(folder, name).parent.mkdir(parents=True, exist_ok=True)
    error_file(folder, name).unlink(missing_ok=True)
    handler = logging.FileHandler(folder / "logs" / f"{name}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger("llmbole")
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logger.info("on %s", place())
    try:
        yield
    except Exception as error:
        logger.exception("failed")
        error_file(folder, name).write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
