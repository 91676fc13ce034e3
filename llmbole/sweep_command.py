"""The command `llmbole sweep`: its options and what it says. Ray is imported only when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmbole.settings import SettingsError

EPILOG = """the space:
  the block `sweep` of the model's yaml; --sweep.KEY adds to it, replaces, or with null takes away:
    --sweep.align.alpha='[0.1, 0.5]'                                  these values
    --sweep.project.learning_rate='{low: 1e-4, high: 1e-2, log: true}'  all numbers between (--search=random or optuna)
    --sweep.align.beta=null                                           not searched
settings:
  any setting of `llmbole run`, for all trials: --backbone=GRU4Rec --align.epochs=5 --seed=1

Run the same command again to go on with a sweep that was stopped, in whatever way. docs/sweeps.md tells more."""
FORM = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    search = parser.add_argument_group("search")
    search.add_argument(
        "--search", default="grid", help="grid (the default), random, or optuna (Parzen estimators)"
    )
    search.add_argument("--trials", type=int, default=None, help="number of trials of random and optuna")
    search.add_argument(
        "--scheduler", default="none", help="none (the default), or asha: poor trials end early"
    )
    search.add_argument(
        "--grace", type=int, default=1, help="asha: validations before a trial may end; default 1"
    )
    search.add_argument("--reduction", type=int, default=3, help="asha: one in so many goes on; default 3")
    resources = parser.add_argument_group("resources")
    resources.add_argument(
        "--cpus-per-trial",
        type=float,
        default=1.0,
        help="also its threads; default 1, below 1 trials share one",
    )
    resources.add_argument(
        "--gpus-per-trial", type=float, default=None, help="default 1 if there are any, else 0"
    )
    resources.add_argument(
        "--max-concurrent", type=int, default=None, help="trials at once; default all that fit"
    )
    resources.add_argument(
        "--ray-address", default=None, help="a running Ray cluster, such as HOST:6379 or auto"
    )
    resources.add_argument(
        "--storage", default=None, help="folder of sweeps; default `sweeps` beside the store"
    )
    parser.add_argument(
        "--loggers", default="tensorboard", help="of tensorboard (the default), wandb, mlflow; '' for none"
    )
    parser.add_argument("--test", action="store_true", help="test the best settings, and record them")
    parser.add_argument(
        "--seeds", default=None, help="seeds of the test, such as 2026,2027,2028; default --seed"
    )


def command(
    parsed: argparse.Namespace,
    settings: Mapping[str, Any],
    config_files: Sequence[str],
    say: Callable[[str], None],
) -> int:
    """Run a sweep.

    Args:
        parsed: The command's options.
        settings: Settings of all trials, and those under `sweep`.
        config_files: Yaml files over the model's defaults.
        say: Writes to standard output.

    Returns:
        Exit status: 0; 1 if no trial finished, or a test failed; 130 after Ctrl-C.
    """
    seeds = _seeds(parsed)
    from llmbole.sweep.request import Resources, Search, make_request
    from llmbole.sweep.run import sweep

    search = Search(parsed.search, parsed.trials, parsed.scheduler, parsed.grace, parsed.reduction)
    resources = Resources(
        parsed.cpus_per_trial, parsed.gpus_per_trial, parsed.max_concurrent, parsed.ray_address
    )
    request = make_request(
        parsed.model,
        parsed.dataset,
        config_files=config_files,
        settings=settings,
        search=search,
        resources=resources,
        loggers=[name for name in parsed.loggers.split(",") if name],
        storage=parsed.storage,
    )
    if parsed.test and not seeds:
        seeds = [int(request.resolve({}).settings["seed"])]
    outcome = sweep(request, seeds, live=False if parsed.quiet else None)
    say(outcome.table)
    return _say_end(outcome, say)


def _seeds(parsed: argparse.Namespace) -> list[int]:
    if parsed.seeds is None:
        return []
    if not parsed.test:
        raise SettingsError(
            "--seeds are those of the test; add --test, or choose the trials' seed with --seed"
        )
    try:
        seeds = [int(seed) for seed in parsed.seeds.split(",")]
    except ValueError:
        raise SettingsError(f"--seeds={parsed.seeds}: whole numbers with commas between") from None
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds={parsed.seeds}: a seed stands twice")
    return seeds


def _say_end(outcome: Any, say: Callable[[str], None]) -> int:  # noqa: ANN401 - a sweep's Outcome
    if not outcome.complete:
        say("interrupted; run the same command again to go on")
        return 130
    if outcome.record is None:
        say("no trial finished; run the same command again to try them once more")
        return 1
    best = outcome.record.best
    say(f"best: trial {best.number}, validation {outcome.metric} {best.score:.4f}; sweep {outcome.path}")
    if outcome.tested:
        from llmbole.render import render

        leaderboard = next(iter(outcome.tested.values())).parents[3]
        render(leaderboard / "results", leaderboard)
    for seed, path in sorted(outcome.tested.items()):
        say(f"seed {seed}: {_metrics(path)}; record {path}")
    for seed, reason in sorted(outcome.failures.items()):
        say(f"seed {seed} failed: {reason}")
    return 1 if outcome.failures else 0


def _metrics(path: Any) -> str:  # noqa: ANN401 - a path
    from llmbole.results import load

    record = load(path)
    names = [record.selection.metric, *(name for name in record.metrics if name != record.selection.metric)]
    return ", ".join(f"{name} {record.metrics[name]:.4f}" for name in names)
