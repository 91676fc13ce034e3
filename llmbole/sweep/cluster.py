"""Ray for the time of a sweep or a table: one of its own on this machine, beside any other, or a running cluster."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import llmbole
from llmbole.settings import SettingsError
from llmbole.sweep.request import Resources
from llmbole.sweep.trial import thread_variables

OBJECT_STORE_BYTES = 100 * 1024 * 1024  # trials exchange settings and numbers only
THREAD_SECONDS = 60  # a stopped trial may take so long to put its stage away before its process is given up
CONNECTION_SECONDS = 10
TEMPORARY = "llmbole-ray-"


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
    _set_environment()
    import ray

    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": _worker_variables(resources)},
    }
    temporary = None
    if resources.address is None:
        temporary = _temporary_folder()
        settings |= {
            "address": "local",
            "num_cpus": _cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(temporary),
        }
    else:
        check_address(resources.address)
        settings["address"] = resources.address
    try:
        try:
            ray.init(**settings)
        except ConnectionError as error:
            raise SettingsError(
                f"--ray-address={resources.address}: can't join the Ray cluster there ({error}); its machines and this "
                "command must have the same versions and, if it asks for one, the same token (RAY_AUTH_MODE)"
            ) from None
        yield share(resources, ray.cluster_resources())
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_address(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would wait there for minutes.

    Args:
        address: `HOST:PORT`, or `auto`.

    Raises:
        SettingsError: It is not of that form, or nobody answers.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"--ray-address={address}: give HOST:PORT of the cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTION_SECONDS).close()
    except OSError as error:
        raise SettingsError(f"--ray-address={address}: nobody answers there ({error})") from None


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


def _set_environment() -> None:
    """What Ray reads from the environment of this process: no statistics sent, no loggers or tables of its own."""
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )


def _worker_variables(resources: Resources) -> dict[str, str]:
    """The environment of trials: threads, and where this package lies if it is not installed."""
    package = str(Path(llmbole.__file__).parents[1])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **thread_variables(resources.threads),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(THREAD_SECONDS),
    }


def _cores() -> int:
    """The CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _temporary_folder() -> Path:
    """A folder for Ray's sockets and logs, of this process; those of dead ones are removed.

    It lies under the system's own short path: a socket's path may have about 100 characters.
    """
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{TEMPORARY}*"):
        owner = folder.name.removeprefix(TEMPORARY)
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    folder = root / f"{TEMPORARY}{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
