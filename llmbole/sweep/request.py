"""What a sweep is asked for, checked before any work; the same request is resumed in the same folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole.data.own import own_folder
from llmbole.defaults import Layer, read_layers, search_space
from llmbole.pipeline.run import Step, plan
from llmbole.pipeline.stage import VALID
from llmbole.pipeline.store import Store
from llmbole.record import content_hash
from llmbole.resolve import Resolved, resolve_layers
from llmbole.settings import SettingsError, close_name, nest
from llmbole.sweep import space as spaces
from llmbole.sweep.loggers import check_loggers

SEARCHES = ("grid", "random", "optuna")
SCHEDULERS = ("none", "asha")
FOLDER_OPTIONS = ("store", "leaderboard", "raw")


@dataclass(frozen=True)
class Resources:
    """What trials of a sweep, or cells of a table, may use, and where.

    Attributes:
        cpus: CPUs of a trial; below 1 several share one.
        gpus: GPUs of a trial; `None` takes one if there are any. Below 1 several share one.
        concurrent: Trials at the same time; `None` takes as many as fit.
        address: Address of a running Ray cluster; `None` starts Ray on this machine for the time of the command.
        each: What a trial is called in options: `trial`, or `cell`.
    """

    cpus: float = 1.0
    gpus: float | None = None
    concurrent: int | None = None
    address: str | None = None
    each: str = "trial"

    def __post_init__(self) -> None:
        problems = []
        if not self.cpus > 0:
            problems.append(f"--cpus-per-{self.each}={self.cpus}: must be above 0")
        if self.gpus is not None and self.gpus < 0:
            problems.append(f"--gpus-per-{self.each}={self.gpus}: must be at least 0")
        if self.concurrent is not None and self.concurrent < 1:
            problems.append(f"--max-concurrent={self.concurrent}: must be at least 1")
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus or 0.0)):
            if value > 1 and value != int(value):
                problems.append(f"--{name}-per-{self.each}={value}: must be whole above 1")
        if problems:
            raise SettingsError("\n".join(problems))

    @property
    def threads(self) -> int:
        """Threads of a trial: its CPUs, at least one."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Search:
    """How a space is searched.

    Attributes:
        search: `grid`, `random`, or `optuna` (tree-structured Parzen estimators).
        trials: How many; `None` for a grid, which has its own number.
        scheduler: `none`, or `asha`, which ends trials that are behind after as many validations.
        grace: Validations before a trial may be ended.
        reduction: ASHA goes on with one in so many trials at each rung.
    """

    search: str = "grid"
    trials: int | None = None
    scheduler: str = "none"
    grace: int = 1
    reduction: int = 3

    def __post_init__(self) -> None:
        problems = [
            f"--{name}={value}: unknown; {close_name(value, known)}"
            for name, value, known in (
                ("search", self.search, SEARCHES),
                ("scheduler", self.scheduler, SCHEDULERS),
            )
            if value not in known
        ]
        if self.search == "grid" and self.trials is not None:
            problems.append(
                f"--trials={self.trials}: a grid has as many trials as combinations; use --search=random"
            )
        elif self.search in SEARCHES and self.search != "grid" and (self.trials is None or self.trials < 1):
            problems.append(f"--search={self.search} needs --trials=N, at least 1")
        if self.grace < 1:
            problems.append(f"--grace={self.grace}: must be at least 1")
        if self.reduction < 2:
            problems.append(f"--reduction={self.reduction}: must be at least 2")
        if problems:
            raise SettingsError("\n".join(problems))

    @property
    def scheduler_name(self) -> str:
        """The scheduler with its numbers, for records."""
        return "none" if self.scheduler == "none" else f"asha grace={self.grace} reduction={self.reduction}"


@dataclass(frozen=True)
class Request:
    """A sweep, checked. It is sent to the processes of trials, so it holds plain values only.

    Attributes:
        model: Name of a method or of a RecBole model.
        dataset: Name of a data set, or the whole path of a folder.
        layers: Settings over the defaults that all trials have in common.
        space: What is searched.
        search: How.
        resources: With what.
        loggers: Where trials are shown besides: `tensorboard`, `wandb`, `mlflow`.
        folder: The sweep's folder: rows of trials, logs.
        key: Hash of all that decides about results: settings, space, search, code of the stages.
        metric: The protocol's selection metric.
        working_folder: Where the command was given; relative paths in settings begin there.
    """

    model: str
    dataset: str
    layers: tuple[Layer, ...]
    space: Mapping[str, spaces.Choice | spaces.Range]
    search: Search
    resources: Resources
    loggers: tuple[str, ...]
    folder: Path
    key: str
    metric: str
    working_folder: str

    def resolve(self, settings: Mapping[str, Any], **options: Any) -> Resolved:  # noqa: ANN401
        """The run of some settings.

        Args:
            settings: By dotted name, over those that all trials have in common.
            **options: Over all of them, such as `seed` or `device`.

        Returns:
            The run.
        """
        tried = ("sweep", nest({**settings, **options}))
        return resolve_layers(self.model, self.dataset, [*self.layers, tried])


def make_request(
    model: str,
    dataset: str,
    *,
    config_files: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    search: Search,
    resources: Resources,
    loggers: Sequence[str] = ("tensorboard",),
    storage: Path | str | None = None,
) -> Request:
    """Check a sweep before any work.

    Args:
        model: Name of a method or of a RecBole model.
        dataset: Name of a data set, or a folder of the user's own data.
        config_files: Yaml files over the model's defaults; each may hold a block `sweep`.
        settings: Settings over those, nested or with dotted keys; those under `sweep` change the space.
        search: How to search.
        resources: What trials may use.
        loggers: Where trials are shown.
        storage: Folder of sweeps; `None` takes `sweeps` beside the store.

    Returns:
        The sweep.

    Raises:
        SettingsError: Names, keys, values or numbers are wrong; the message says which and what to do.
    """
    check_loggers(loggers)
    own = own_folder(dataset)
    dataset = str(own.resolve()) if own is not None else dataset
    given = [
        (where, *spaces.split_layer(layer)) for where, layer in read_layers(settings or {}, config_files)
    ]
    _check_own(given)
    layers = [(where, layer) for where, layer, _ in given]
    base = resolve_layers(model, dataset, layers)
    blocks = [(where, block) for where, _, block in given]
    space = spaces.parse([(f"{model}.yaml", search_space(model, layers)), *blocks])
    _check_space(model, dataset, layers, space)
    folders = _folders(base, layers)
    if search.search == "grid":
        spaces.grid(space)
    _check_scheduler(model, base, search)
    key = _key(base, space, search)
    place = Path(storage) if storage else Path(folders["store"]).parent / "sweeps"
    return Request(
        model=model,
        dataset=dataset,
        layers=(*layers, ("folders", folders)),
        space=space,
        search=search,
        resources=resources,
        loggers=tuple(loggers),
        folder=place.expanduser().resolve() / key[:16],
        key=key,
        metric=base.settings["protocol"]["selection"],
        working_folder=os.getcwd(),
    )


def _folders(base: Resolved, layers: Sequence[Layer]) -> dict[str, str]:
    """Folders that are options of a run, as whole paths; that of raw files only if it was given."""
    given = [name for name in FOLDER_OPTIONS if name != "raw" or any("raw" in layer for _, layer in layers)]
    return {name: str(Path(base.options[name]).expanduser().resolve()) for name in given}


def _check_own(given: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Refuse options of a run that a sweep decides itself."""
    instead = {
        "threads": "a trial has as many threads as --cpus-per-trial",
        "device": "--gpus-per-trial decides it, 0 is the CPU",
    }
    problems = [
        f"{where}: {name} is not for sweeps: {reason}"
        for where, layer, _ in given
        for name, reason in instead.items()
        if name in layer
    ]
    if problems:
        raise SettingsError("\n".join(problems))


def trial_steps(resolved: Resolved) -> list[Step]:
    """The stages of a trial: what its validation scores need."""
    store = Store(Path(resolved.options["store"]))
    steps = plan(resolved.method, resolved.settings, store, resolved.method.goals[-1:], VALID)
    if not steps[-1].stage.phased:
        raise SettingsError(
            f"{resolved.model} can't be swept: its stage {steps[-1].stage.makes!r} scores test users only; declare it "
            "with phased=True and score the users of run.phase"
        )
    return steps


def _check_space(
    model: str, dataset: str, layers: Sequence[Layer], space: Mapping[str, spaces.Choice | spaces.Range]
) -> None:
    """Try every value of a choice and the ends of a range, each by itself; all mistakes at once."""
    if not space:
        raise SettingsError(
            f"there is nothing to search: {model}.yaml has no block sweep; name settings, such as "
            "--sweep.learning_rate='[1e-3, 1e-2]' or --sweep.learning_rate='{low: 1e-4, high: 1e-2, log: true}'"
        )
    problems: list[str] = []
    for name, dimension in space.items():
        for value in dimension.examples:
            try:
                resolve_layers(model, dataset, [*layers, (f"sweep.{name}", nest({name: value}))])
            except SettingsError as error:
                problems += [line for line in str(error).splitlines() if line not in problems]
    if problems:
        raise SettingsError("\n".join(problems))


def _check_scheduler(model: str, base: Resolved, search: Search) -> None:
    if search.scheduler == "asha" and base.method.validates is None:
        raise SettingsError(
            f"--scheduler=asha: no stage of {model} tells its validation scores while it trains, so no trial could be "
            "ended early; use --scheduler=none"
        )


def _key(base: Resolved, space: Mapping[str, spaces.Choice | spaces.Range], search: Search) -> str:
    code = {step.stage.makes: step.stage.code for step in trial_steps(base)}
    asked = {"search": search.search, "trials": search.trials, "scheduler": search.scheduler_name}
    return content_hash(
        {
            "model": base.model,
            "settings": base.settings,
            "space": spaces.describe(space),
            **asked,
            "code": code,
        }
    )
