"""Ray for the time of a command: one of its own on this machine, beside any other, or a running cluster."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import llmbole
from llmbole.settings import SettingsError

OBJECT_STORE_BYTES = 100 * 1024 * 1024  # what is exchanged are settings, numbers and short texts
CONNECTION_SECONDS = 10
TEMPORARY = "llmbole-ray-"


@contextmanager
def ray_started(address: str | None, variables: Mapping[str, str], option: str) -> Iterator[dict[str, float]]:
    """Ray, started or joined, and shut down or left at the end.

    Args:
        address: Of a running cluster; `None` starts Ray on this machine.
        variables: The environment of Ray's workers, beside the path of this package.
        option: What the address is given with, for messages.

    Yields:
        CPUs and GPUs, as Ray counts them.

    Raises:
        SettingsError: There is no cluster at the address.
    """
    _set_environment()
    import ray

    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {**variables, "PYTHONPATH": _python_path()}},
    }
    temporary = None
    if address is None:
        temporary = _temporary_folder()
        settings |= {
            "address": "local",
            "num_cpus": _cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(temporary),
        }
    else:
        check_address(address, option)
        settings["address"] = address
    try:
        try:
            ray.init(**settings)
        except ConnectionError as error:
            raise SettingsError(
                f"{option}={address}: can't join the Ray cluster there ({error}); its machines and this command must "
                "have the same versions. A cluster asks for a token if its first machine had one when it was started: "
                "then give this command RAY_AUTH_MODE=token, and the same token"
            ) from None
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_address(address: str, option: str = "--ray-address") -> None:
    """Refuse an address where nothing listens: Ray itself would wait there for minutes.

    Args:
        address: `HOST:PORT`, or `auto`.
        option: What it is given with.

    Raises:
        SettingsError: It is not of that form, or nobody answers.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"{option}={address}: give HOST:PORT of the cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTION_SECONDS).close()
    except OSError as error:
        raise SettingsError(f"{option}={address}: nobody answers there ({error})") from None


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


def _python_path() -> str:
    """Where workers look for modules: where this package lies, if it is not installed, comes first."""
    package = str(Path(llmbole.__file__).parents[1])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(path for path in paths if path))


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
