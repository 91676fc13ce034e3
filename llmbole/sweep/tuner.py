"""Trials through Ray Tune: its searchers, schedulers and loggers; the rows of trials are the sweep's own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import tune

from llmbole.sweep import space as spaces
from llmbole.sweep.cluster import Share
from llmbole.sweep.ledger import Ledger
from llmbole.sweep.loggers import make_loggers
from llmbole.sweep.progress import Progress
from llmbole.sweep.request import Request
from llmbole.sweep.trial import error_file, run_trial
from llmbole.sweep_record import FAILED, FINISHED, RUNNING, STOPPED, Trial, lower_is_better

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as RayTrial

LARGEST_RUNG = 100_000
STUDY = "sweep"


def run_trials(request: Request, ledger: Ledger, share: Share, progress: Progress) -> None:
    """Run the trials that are not done; an interruption (Ctrl-C) ends those that run and returns.

    Args:
        request: The sweep.
        ledger: Rows of trials; those that are done are not run again.
        share: What each trial has.
        progress: Told how they go.
    """
    device = share.device

    def trainable(config: dict[str, Any]) -> None:
        name = _name(config["trial"], tune.get_context().get_trial_id())
        run_trial(request, name, config["trial"]["settings"], device, tune.report)

    mode = "min" if lower_is_better(request.metric) else "max"
    space, searcher, samples = _searched(request, ledger, mode)
    sessions = request.folder / "ray"
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": share.cpus, "gpu": share.gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode=mode,
            search_alg=searcher,
            scheduler=_scheduler(request),
            num_samples=samples,
            max_concurrent_trials=share.concurrent,
            reuse_actors=True,  # importing torch and RecBole takes longer than a short trial
            trial_dirname_creator=lambda trial: _name(trial.config.get("trial", {}), trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(sessions),
            callbacks=[_Watch(ledger, progress), *make_loggers(request.loggers, request.folder, request.key)],
            verbose=0,
        ),
    )
    quiet = logging.getLogger("ray.tune")
    before = quiet.level
    quiet.setLevel(logging.CRITICAL)  # failed trials are rows, and Tune says nothing that the rows do not
    try:
        with progress.shown():
            tuner.fit()
    finally:
        quiet.setLevel(before)


def proposed(request: Request) -> list[dict[str, Any]]:
    """Settings of all trials of a grid or of a random search, by number.

    Args:
        request: The sweep.

    Returns:
        Settings by dotted name.
    """
    if request.search.search == "grid":
        return spaces.grid(request.space)
    return spaces.sample(request.space, request.search.trials or 0, _seed(request))


def total(request: Request) -> int:
    """How many trials the sweep has."""
    return request.search.trials if request.search.trials is not None else len(proposed(request))


def _seed(request: Request) -> int:
    """Of the search: the run's seed."""
    return int(request.resolve({}).settings["seed"])


def _name(config: Mapping[str, Any], trial_id: str) -> str:
    """The number of a trial that was proposed with one, or else Ray's id."""
    return f"{config['number']:05d}" if "number" in config else trial_id


def _searched(request: Request, ledger: Ledger, mode: str) -> tuple[dict[str, Any], Any, int]:
    """Ray's space, searcher and number of samples for the trials that are not done."""
    if request.search.search == "optuna":
        remaining = total(request) - len(ledger.done())
        return {}, _optuna(request, ledger, mode), remaining
    done = {row.number for row in ledger.done()}
    trials = [
        {"number": number, "settings": settings}
        for number, settings in enumerate(proposed(request))
        if number not in done
    ]
    return {"trial": tune.grid_search(trials)}, None, 1


def _optuna(request: Request, ledger: Ledger, mode: str) -> Any:  # noqa: ANN401 - Ray's searcher
    """A searcher that knows the trials that are done, and proposes first those that were begun and not done."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.InMemoryStorage()
    directions = optuna.study.StudyDirection
    direction = directions.MINIMIZE if mode == "min" else directions.MAXIMIZE
    study = optuna.create_study(storage=storage, study_name=STUDY, direction=direction)
    space = {_path(name): _distribution(dimension) for name, dimension in request.space.items()}
    for row in ledger.done():
        params = {_path(name): value for name, value in row.settings.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=row.score))
    for row in ledger.open():
        study.enqueue_trial({_path(name): value for name, value in row.settings.items()})
    sampler = optuna.samplers.TPESampler(seed=_seed(request) + len(ledger.done()))
    return OptunaSearch(
        space=space, metric="score", mode=mode, sampler=sampler, study_name=STUDY, storage=storage
    )


def _path(name: str) -> str:
    """A setting's place in a trial's config, as Ray flattens it."""
    return f"trial/settings/{name}"


def _distribution(dimension: spaces.Choice | spaces.Range) -> Any:  # noqa: ANN401 - Optuna's
    import optuna

    if isinstance(dimension, spaces.Choice):
        return optuna.distributions.CategoricalDistribution(dimension.values)
    if dimension.whole:
        return optuna.distributions.IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log
        )
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _scheduler(request: Request) -> Any:  # noqa: ANN401 - Ray's
    if request.search.scheduler == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="validations",
        max_t=max(LARGEST_RUNG, request.search.grace),
        grace_period=request.search.grace,
        reduction_factor=request.search.reduction,
        stop_last_trials=False,  # a trial that is not behind trains as long as its settings say
    )


class _Watch(tune.Callback):
    """Keeps a row for each trial, and tells the progress."""

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self._ledger, self._progress = ledger, progress
        self._begun: dict[str, tuple[float, Trial]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray's own state of the sweep is not what it is resumed from."""
        return {}

    def on_trial_start(
        self,
        iteration: int,
        trials: Sequence[RayTrial],
        trial: RayTrial,
        **info: Any,  # noqa: ANN401
    ) -> None:
        """Begin a row, or go on with that of a trial that was not done."""
        config = trial.config["trial"]
        settings = dict(config["settings"])
        number = config["number"] if "number" in config else self._ledger.number_of(settings)
        known = self._ledger.rows.get(number)
        row = Trial(number=number, settings=settings, status=RUNNING, seconds=known.seconds if known else 0.0)
        self._begun[trial.trial_id] = time.monotonic(), row
        self._keep(row)

    def on_trial_result(
        self,
        iteration: int,
        trials: Sequence[RayTrial],
        trial: RayTrial,
        result: Mapping[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """Keep how validation data were scored."""
        self._keep(self._now(trial, result))

    def on_trial_complete(
        self,
        iteration: int,
        trials: Sequence[RayTrial],
        trial: RayTrial,
        **info: Any,  # noqa: ANN401
    ) -> None:
        """A trial came to its end, or the scheduler ended it."""
        result = trial.last_result or {}
        status = FINISHED if result.get("final") else STOPPED
        self._keep(replace(self._now(trial, result), status=status), ended=True)

    def on_trial_error(
        self,
        iteration: int,
        trials: Sequence[RayTrial],
        trial: RayTrial,
        **info: Any,  # noqa: ANN401
    ) -> None:
        """A trial failed, or its process died."""
        said = error_file(self._ledger.folder, _name(trial.config["trial"], trial.trial_id))
        error = (
            said.read_text(encoding="utf-8").strip()
            if said.is_file()
            else "its process ended (killed, or out of memory); run the same command again to go on"
        )
        self._keep(replace(self._now(trial, trial.last_result or {}), status=FAILED, error=error), ended=True)

    def _now(self, trial: RayTrial, result: Mapping[str, Any]) -> Trial:
        started, row = self._begun[trial.trial_id]
        score = result.get("score")
        return replace(
            row,
            score=None if score is None else float(score),
            validations=int(result.get("validations", 0)),
            seconds=row.seconds + time.monotonic() - started,
        )

    def _keep(self, row: Trial, *, ended: bool = False) -> None:
        self._ledger.write(row)
        self._progress.update(self._ledger.trials(), row if ended else None)
