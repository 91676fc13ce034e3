"""What each trial of a sweep, or cell of a table, has of Ray's machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmbole import cluster
from llmbole.settings import SettingsError
from llmbole.sweep.request import Resources
from llmbole.sweep.trial import thread_variables

THREAD_SECONDS = 60  # a stopped trial may take so long to put its stage away before its process is given up


@dataclass(frozen=True)
class Share:
    """What each trial has, and how many run at the same time."""

    cpus: float
    gpus: float
    concurrent: int

    @property
    def device(self) -> str:
        """The torch device of a trial."""
        return "auto" if self.gpus else "cpu"


@contextmanager
def connected(resources: Resources) -> Iterator[Share]:
    """Ray, started or joined, and shut down or left at the end.

    Args:
        resources: What each trial is to have.

    Yields:
        What each trial has.

    Raises:
        SettingsError: There is no cluster at the address, or no room for a trial.
    """
    with cluster.ray_started(resources.address, _worker_variables(resources), "--ray-address") as there:
        yield share(resources, there)


def share(resources: Resources, there: dict[str, float]) -> Share:
    """What each trial has of what there is.

    Args:
        resources: What is asked for.
        there: CPUs and GPUs, as Ray counts them.

    Returns:
        The share.

    Raises:
        SettingsError: There is less than one trial asks for.
    """
    gpus_there, cpus_there = there.get("GPU", 0.0), there.get("CPU", 0.0)
    gpus = (1.0 if gpus_there else 0.0) if resources.gpus is None else resources.gpus
    problems = [
        f"--{name}-per-{resources.each}={asked:g}: there are {found:g} {name.upper()}"
        for name, asked, found in (("cpus", resources.cpus, cpus_there), ("gpus", gpus, gpus_there))
        if asked > found
    ]
    if problems:
        raise SettingsError("\n".join(problems))
    fitting = int(cpus_there / resources.cpus + 1e-9)
    if gpus:
        fitting = min(fitting, int(gpus_there / gpus + 1e-9))
    return Share(resources.cpus, gpus, min(fitting, resources.concurrent or fitting))


def _worker_variables(resources: Resources) -> dict[str, str]:
    """The environment of trials: threads, and how Ray Tune treats them."""
    return {
        **thread_variables(resources.threads),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(THREAD_SECONDS),
    }
