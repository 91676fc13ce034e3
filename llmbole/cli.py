"""The command `llmbole`; `run_benchmark.py` is its subcommand `run`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbole import (
    ability_command,
    leaderboard_command,
    recommend_command,
    reproduce_command,
    serve_command,
    sweep_command,
    table_command,
)
from llmbole.llm.processes import is_first
from llmbole.settings import SettingsError, close_name, parse_value

logger = logging.getLogger(__name__)

LISTS = ("models", "backbones", "datasets", "protocols", "experiments")
SUBCOMMANDS = (
    "run plan sweep table data check list store verify render reproduce report recommend serve ability"
).split()
RUN_EPILOG = """settings:
  --backbone=NAME, --llm=NAME, --text_encoder=NAME, --protocol=NAME, --seed=N, --config_files=A.yaml,B.yaml
  and any setting of the model's yaml, nested with dots: --align.learning_rate=1e-3 --backbone.training=per_prefix
  llmbole list models|backbones|datasets|protocols|experiments shows the names"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name; by default the process's own.

    Returns:
        Exit status: 0, 1 if something was found wrong, 2 if the request itself was.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("--") and words[0] != "--help":
        words.insert(0, "run")
    if words and not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        _say_error(f"unknown command {words[0]!r}; {close_name(words[0], SUBCOMMANDS)}")
        return 2
    parsed, rest = _parser().parse_known_args(words)
    _log_to_stderr(parsed.quiet or not is_first())
    try:
        return int(parsed.command(parsed, _settings(rest, parsed)))
    except KeyboardInterrupt:
        _say_error("interrupted; run the same command again to go on")
        return 130
    except _expected_errors() as error:
        _say_error(str(error))
        return 2


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors that say themselves what to do; anything else shows its traceback."""
    from llmbole.data.convert.report import DataError
    from llmbole.llm.engine import EngineError
    from llmbole.pipeline.store import StoreError
    from llmbole.results import RecordError

    return (SettingsError, DataError, StoreError, RecordError, EngineError, FileNotFoundError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llmbole", description=_package_sentence())
    parser.set_defaults(command=_help(parser), takes_settings=False)
    parser.add_argument("--quiet", action="store_true", help="only warnings and the result")
    commands = parser.add_subparsers(metavar="command")

    def add(name: str, command: Callable[..., int], text: str, **more: Any) -> argparse.ArgumentParser:  # noqa: ANN401
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **more)
        sub.add_argument(
            "--quiet", action="store_true", default=argparse.SUPPRESS, help="only warnings and the result"
        )
        sub.set_defaults(command=command)
        return sub

    form = {"epilog": RUN_EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    for name, command, text in (
        ("run", _run, "run one model on one data set and record the result"),
        ("plan", _plan, "say which stages of a run are cached and which would run, and why"),
    ):
        _add_request(add(name, command, text, **form))
    sub = add(
        "sweep", _sweep, "search settings on validation data, then test the best ones", **sweep_command.FORM
    )
    _add_request(sub)
    sweep_command.add_options(sub)
    sub = add(
        "table", _table, "run a published table's cells, and set ours beside the print", **table_command.FORM
    )
    table_command.add_options(sub)
    sub = add("data", _data, "fetch and convert a data set, as every run of it would")
    sub.add_argument("what", choices=("prepare",))
    sub.add_argument("dataset", help="a data set's name, or ./FOLDER of your own data")
    _add_folders(sub)
    sub = add(
        "check", _check, "split a data set under a protocol and look for leaks; exit status 1 if there is one"
    )
    sub.add_argument("--dataset", required=True, help="a data set's name, or ./FOLDER of your own data")
    sub.add_argument("--protocol", required=True, help="a protocol's name")
    _add_folders(sub)
    sub = add("list", _list, "list names")
    sub.add_argument("what", choices=LISTS)
    sub = add("store", _store, "look at or clean the folder of artifacts")
    sub.add_argument("what", choices=("list", "size", "prune"))
    sub.add_argument("--store", default=None, help="the folder; by default as in overall.yaml")
    sub.add_argument(
        "--unused-days", type=float, default=None, help="prune also artifacts not used for so many days"
    )
    _add_users_of_runs(add)
    return parser


def _add_users_of_runs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what reads records, tables and finished runs, or a language model by itself."""
    reproduce_command.add_options(
        add("reproduce", _reproduce, "run a record again from its own content, and say whether it agrees")
    )
    ability_command.add_options(
        add("ability", _ability, "ask a language model MMLU's questions: accuracy by subject and overall")
    )
    for name, (work, text) in leaderboard_command.COMMANDS.items():
        leaderboard_command.add_options(add(name, _leaderboard, text), work)
    for name, text, module in (
        ("recommend", "write top-k items for users from a finished run", recommend_command),
        ("serve", "serve a finished run over HTTP", serve_command),
    ):
        sub = add(name, _finished, text, **module.FORM)
        sub.set_defaults(work=module.command)
        module.add_options(sub)


def _add_folders(sub: argparse.ArgumentParser) -> None:
    """Add where raw files and artifacts lie."""
    sub.add_argument("--raw", default=None, help="folder of the raw files; by default they are downloaded")
    sub.add_argument("--store", default=None, help="folder of artifacts; by default as in overall.yaml")


def _add_request(sub: argparse.ArgumentParser) -> None:
    """Add what names a run: model, data set, files of settings."""
    sub.add_argument(
        "--model", required=True, help="a method such as ALLMRec, or a RecBole model such as LightGCN"
    )
    sub.add_argument("--dataset", required=True, help="a data set's name, or ./FOLDER of your own data")
    sub.add_argument(
        "--config_files", default="", help="yaml files over the model's defaults, separated by commas"
    )
    sub.set_defaults(takes_settings=True)


def _help(parser: argparse.ArgumentParser) -> Callable[..., int]:
    def show(*_: object) -> int:
        parser.print_help()
        return 0

    return show


def _package_sentence() -> str:
    import llmbole

    return (llmbole.__doc__ or "").splitlines()[0]


def _settings(rest: Sequence[str], parsed: argparse.Namespace) -> dict[str, Any]:
    """`--key=value` words that are no option of the command itself.

    Raises `SettingsError`: A word is not of that form, stands twice, or the command takes no settings.
    """
    settings: dict[str, Any] = {}
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals or not key:
            raise SettingsError(f"{word!r} is not of the form --key=value")
        if not parsed.takes_settings:
            raise SettingsError(f"this command takes no setting {key!r}; see --help")
        if key in settings:
            raise SettingsError(f"setting {key!r} is given twice")
        settings[key] = parse_value(value)
    return settings


def _log_to_stderr(quiet: bool) -> None:
    """Show llmbole's log lines, without breaking progress bars."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    root = logging.getLogger("llmbole")
    if not root.handlers:
        handler = Handler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    root.propagate = False


def _say(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def _say_error(text: str) -> None:
    sys.stderr.write("".join(f"llmbole: {line}\n" for line in text.splitlines()))


def _files(parsed: argparse.Namespace) -> list[str]:
    return [file for file in parsed.config_files.split(",") if file]


def _run(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from llmbole import api

    result = api.run(parsed.model, parsed.dataset, config_files=_files(parsed), settings=settings)
    if not is_first():
        return 0
    from llmbole.render import render

    leaderboard = result.path.parents[3]
    pages = render(leaderboard / "results", leaderboard)
    _say(result.table)
    logger.info(
        "record %s%s", result.path, "" if result.appended else " (the same run was on record already)"
    )
    logger.info(
        "leaderboard %s", ", ".join(str(page) for page in pages if page.stem == result.record.dataset.name)
    )
    return 0


def _plan(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from llmbole import api

    for step in api.plan(parsed.model, parsed.dataset, config_files=_files(parsed), settings=settings):
        state = "cached" if step.cached else "to run"
        _say(f"{step.stage.makes:<16} {step.key[:8]}  {state}  {step.reason}")
    return 0


def _sweep(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    return sweep_command.command(parsed, settings, _files(parsed), _say)


def _table(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    return table_command.command(parsed, _say)


def _data(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from llmbole import api

    made = api.prepare(parsed.dataset, raw=parsed.raw, store=parsed.store, progress=not parsed.quiet)
    found = made.summary
    for what in ("users", "items", "interactions"):
        wanted = f", expected {found['expected'][what]:,}" if found["expected"] else ""
        _say(f"{what:<13}{found[what]:>13,}{wanted}")
    for warning in found["warnings"]:
        _say(f"warning      {warning}")
    _say(f"fingerprint  {found['fingerprint']}")
    _say(f"where        {made.folder}")
    return 0


def _check(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from llmbole import api

    made, problems = api.check(
        parsed.dataset, parsed.protocol, raw=parsed.raw, store=parsed.store, progress=not parsed.quiet
    )
    for name, value in made.summary.items():
        if name not in ("did", "leaks"):
            _say(f"{name:<14}{value}")
    for problem in problems:
        _say(f"leak          {problem}")
    _say(f"{len(problems)} leak{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0


def _list(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from llmbole import registry
    from llmbole.settings import properties_folder

    if parsed.what == "models":
        names = registry.method_names()
    elif parsed.what == "backbones":
        names = registry.conventional_names()
    elif parsed.what == "datasets":
        from llmbole.data import cards

        names = [*cards.names(), *cards.template_names()]
    else:
        folder = properties_folder() / parsed.what.removesuffix("s")
        names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    _say("\n".join(names) if names else f"no {parsed.what} yet")
    return 0


def _folder(given: str | None, name: str) -> Path:
    from llmbole.settings import load_yaml, properties_folder

    return Path(given or load_yaml(properties_folder() / "overall.yaml")[name])


def _store(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    from llmbole.pipeline.store import Store

    store = Store(_folder(parsed.store, "store"))
    if parsed.what == "prune":
        removed, freed = store.prune(parsed.unused_days)
        _say(f"removed {removed} folders, {freed / 1e6:.1f} MB")
        return 0
    artifacts = store.artifacts()
    if parsed.what == "list":
        for artifact in artifacts:
            did = artifact.summary.get("did", "")
            _say(f"{artifact.key[:12]}  {artifact.stage:<16} {artifact.size / 1e6:9.2f} MB  {did}")
    _say(
        f"{len(artifacts)} artifacts, {sum(artifact.size for artifact in artifacts) / 1e6:.1f} MB in {store.folder}"
    )
    return 0


def _reproduce(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    return reproduce_command.command(parsed, _folder(parsed.leaderboard, "leaderboard"), _say)


def _finished(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    return int(parsed.work(parsed, settings, _files(parsed), _say))


def _ability(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    return ability_command.command(parsed, _say)


def _leaderboard(parsed: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    return parsed.work(parsed, _folder(parsed.leaderboard, "leaderboard"), _say)
