"""The command `llmbole table`: its options and what it says. Ray is imported only when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from llmbole.settings import SettingsError, parse_value

EPILOG = """examples:
  llmbole list experiments
  llmbole table allmrec/table1 --plan
  llmbole table example/conventional --set backbone.epochs=3
  llmbole table collm/table2 --set llm=lmsys/vicuna-7b-v1.5
  llmbole table collm/table3 --dataset=ml-100k --protocol=unified_ctr
  llmbole table allmrec/table1 --dataset=ml-100k --rows='SASRec,MLP-LLM,A-LLMRec' --seeds=1,2,3 --serial

Run the same command again to go on with a table that was stopped: cells on record are skipped. docs/experiments.md
tells more."""
FORM = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("experiment", help="a published table, such as allmrec/table1")
    parser.add_argument(
        "--dataset", default=None, help="a data set, or ./FOLDER of your own, that stands in for the table's"
    )
    parser.add_argument("--protocol", default=None, help="one that stands in for the table's own")
    parser.add_argument(
        "--seeds", default=None, help="such as 2026,2027,2028; default those of the experiment"
    )
    parser.add_argument("--rows", default=None, help="names of rows with commas between; default all")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of all rows that have it, such as llm=FOLDER or backbone.epochs=3; may be repeated",
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what would run, what is cached and shared, how long"
    )
    parser.add_argument(
        "--serial", action="store_true", help="one cell after another in this process, without Ray"
    )
    parser.add_argument("--device", default=None, help="torch device of --serial; default auto")
    resources = parser.add_argument_group("resources")
    resources.add_argument("--cpus-per-cell", type=float, default=1.0, help="also its threads; default 1")
    resources.add_argument(
        "--gpus-per-cell",
        type=float,
        default=None,
        help="default 1 if there are any, else 0; below 1 cells share one",
    )
    resources.add_argument(
        "--max-concurrent", type=int, default=None, help="cells at once; default all that fit"
    )
    resources.add_argument(
        "--ray-address", default=None, help="a running Ray cluster, such as HOST:6379 or auto"
    )
    folders = parser.add_argument_group("folders")
    folders.add_argument("--store", default=None, help="of artifacts; by default as in overall.yaml")
    folders.add_argument(
        "--leaderboard", default=None, help="of records and tables; by default as in overall.yaml"
    )
    folders.add_argument(
        "--raw", default=None, help="of raw files, a folder in it for each data set if there are several"
    )


def command(parsed: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Plan or run a table.

    Args:
        parsed: The command's options.
        say: Writes to standard output.

    Returns:
        Exit status: 0; 1 if a cell failed.
    """
    seeds, settings, resources = _seeds(parsed.seeds), _settings(parsed.set), _resources(parsed)
    from llmbole.grid.request import make_request, prepare

    request = make_request(
        parsed.experiment,
        dataset=parsed.dataset,
        protocol=parsed.protocol,
        seeds=seeds,
        rows=[name.strip() for name in (parsed.rows or "").split(",") if name.strip()],
        settings=settings,
        store=parsed.store,
        leaderboard=parsed.leaderboard,
        raw=parsed.raw,
    )
    if parsed.plan:
        from llmbole.grid.plan import describe
        from llmbole.pipeline.store import Store

        say(describe(prepare(request), Store(request.store)))
        for row in request.experiment.rows:
            if row.missing is not None:
                say(f"{row.name}: missing: {row.missing}")
        return 0
    return _run(request, None if parsed.serial else resources, parsed.device or "auto", say)


def _run(request: Any, resources: Any, device: str, say: Callable[[str], None]) -> int:  # noqa: ANN401
    from llmbole.grid.run import run_table
    from llmbole.render import render

    outcome = run_table(request, resources, device)
    render(request.leaderboard / "results", request.leaderboard)
    page = outcome.path.with_name(f"{outcome.path.name.removesuffix('.json')}.md")
    say(page.read_text(encoding="utf-8"))
    say(f"{outcome.made} cells ran, {outcome.skipped} were on record, {len(outcome.failed)} failed; {page}")
    for cell in outcome.failed:
        say(f"failed: {cell.row} on {cell.dataset}, seed {cell.seed}: {cell.error}")
    if outcome.failed:
        say(f"logs in {request.folder / 'logs'}; run the same command again to try them once more")
    return 1 if outcome.failed else 0


def _resources(parsed: argparse.Namespace) -> Any:  # noqa: ANN401 - the sweep's Resources
    if parsed.device is not None and not parsed.serial:
        raise SettingsError(
            f"--device={parsed.device} is for --serial; --gpus-per-cell decides it, 0 is the CPU"
        )
    from llmbole.sweep.request import Resources

    return Resources(
        parsed.cpus_per_cell, parsed.gpus_per_cell, parsed.max_concurrent, parsed.ray_address, each="cell"
    )


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise SettingsError(f"--seeds={text}: whole numbers with commas between") from None
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds={text}: a seed stands twice")
    return seeds


def _settings(words: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise SettingsError(f"--set {word!r} is not of the form KEY=VALUE")
        if key in settings:
            raise SettingsError(f"--set {key} is given twice")
        settings[key] = parse_value(value)
    return settings
