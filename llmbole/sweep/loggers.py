"""Where trials are shown besides the sweep's own table: TensorBoard, Weights & Biases, MLflow, by Ray's callbacks."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmbole.settings import SettingsError, close_name

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
PROJECT = "llmbole"
MLFLOW_FILE = "mlflow.db"  # MLflow takes folders of files no longer


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are unknown or not installed.

    Args:
        names: Names of loggers.

    Raises:
        SettingsError: The message says which, and what to install.
    """
    problems = []
    for name in names:
        if name not in PACKAGES:
            problems.append(f"--loggers: unknown {name!r}; {close_name(name, PACKAGES)}")
        elif importlib.util.find_spec(PACKAGES[name]) is None:
            problems.append(
                f"--loggers: {name} needs the package {PACKAGES[name]}; pip install 'llmbole[{name}]'"
            )
    if problems:
        raise SettingsError("\n".join(problems))


def make_loggers(names: Sequence[str], folder: Path, key: str) -> list[Any]:
    """Ray's callbacks of the loggers.

    Args:
        names: Names of loggers, checked.
        folder: The sweep's folder; MLflow's runs go to `mlflow.db` in it unless its own variable names a server.
        key: The sweep's key; groups its runs.

    Returns:
        Callbacks for Ray Tune. TensorBoard's files lie in the folders of trials.
    """
    made: list[Any] = []
    for name in names:
        if name == "tensorboard":
            from ray.tune.logger import TBXLoggerCallback

            made.append(TBXLoggerCallback())
        elif name == "wandb":
            from ray.air.integrations.wandb import WandbLoggerCallback

            made.append(WandbLoggerCallback(project=PROJECT, group=key[:16]))
        else:
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / MLFLOW_FILE).resolve()}"
            made.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=f"{PROJECT}-{key[:16]}"))
    return made
