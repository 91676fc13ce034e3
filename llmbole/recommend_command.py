"""The command `llmbole recommend`: its options and what it says. Models are loaded only when it runs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbole.settings import SettingsError

if TYPE_CHECKING:
    from llmbole.inference.recommender import Recommender

logger = logging.getLogger(__name__)

EPILOG = """which run:
  a record's id or its first digits: llmbole recommend 20f621930c9c --k=10 --output=top.csv
  or the settings that `llmbole run` took: llmbole recommend --model=BPR --dataset=ml-100k --seed=1 --output=top.csv
  Trained artifacts come from the store (--store=FOLDER); nothing is trained without --train.
  With a record also --leaderboard=FOLDER, and --llm=FOLDER or --text_encoder=FOLDER if it was run with a folder.

docs/recommend.md tells more."""
FORM = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add what names a finished run to a command's parser."""
    parser.add_argument("record", nargs="?", default=None, help="a record's id, or its first digits")
    parser.add_argument("--model", default=None, help="in place of a record: the model of the run")
    parser.add_argument(
        "--dataset", default=None, help="its data set; with a record ./FOLDER, if the data were your own"
    )
    parser.add_argument("--config_files", default="", help="yaml files of settings, separated by commas")
    parser.add_argument(
        "--items", default=None, help="CSV of the items to recommend among; new ones need a title"
    )
    parser.add_argument(
        "--shortlist", type=int, default=None, help="items that the backbone chooses for the method to rank"
    )
    parser.add_argument("--train", action="store_true", help="make artifacts that are missing")
    parser.set_defaults(takes_settings=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    add_run(parser)
    parser.add_argument(
        "--user", action="append", default=None, help="a raw user id; may be repeated; default all users"
    )
    parser.add_argument("--users", default=None, help="CSV with the column user_id")
    parser.add_argument("--k", type=int, default=10, help="items for each user; default 10")
    parser.add_argument(
        "--with-seen", action="store_true", help="also items that the user has interacted with"
    )
    parser.add_argument("--output", required=True, help="file to write: .parquet, .csv, .json or .jsonl")
    parser.add_argument("--format", default=None, help="parquet, csv, json or jsonl; default by the suffix")
    parser.add_argument("--batch", type=int, default=64, help="users scored together; default 64")


def opened(
    parsed: argparse.Namespace, settings: Mapping[str, Any], config_files: Sequence[str]
) -> Recommender:
    """The run that a command names, open.

    Args:
        parsed: The command's options.
        settings: `--key=value` words.
        config_files: Files of settings.

    Returns:
        The recommender.
    """
    from llmbole.inference.open import open_recommender

    quiet = {"progress": False} if parsed.quiet else {}
    return open_recommender(
        parsed.record,
        model=parsed.model,
        dataset=parsed.dataset,
        items=parsed.items,
        shortlist=parsed.shortlist,
        train=parsed.train,
        config_files=config_files,
        settings={**quiet, **settings},
    )


def command(
    parsed: argparse.Namespace,
    settings: Mapping[str, Any],
    config_files: Sequence[str],
    say: Callable[[str], None],
) -> int:
    """Write recommendations to a file.

    Args:
        parsed: The command's options.
        settings: `--key=value` words.
        config_files: Files of settings.
        say: Writes to standard output.

    Returns:
        Exit status 0.

    Raises:
        SettingsError: An option is wrong.
        DataError: A user or item is unknown.
    """
    from llmbole.inference import output

    file = Path(parsed.output)
    form = output.output_format(file, parsed.format)
    output.check_place(file)
    for name in ("k", "batch"):
        if getattr(parsed, name) < 1:
            raise SettingsError(f"--{name}={getattr(parsed, name)}: must be at least 1")
    if parsed.user and parsed.users:
        raise SettingsError("give --user or --users, not both")
    recommender = opened(parsed, settings, config_files)
    users, count = _users(parsed, recommender)
    stream = recommender.stream(users, parsed.k, with_seen=parsed.with_seen, batch=parsed.batch)
    rows = output.write(file, form, _shown(stream, count, hidden=parsed.quiet))
    say(f"{rows:,} rows for {count:,} users in {file}")
    return 0


def _users(parsed: argparse.Namespace, recommender: Recommender) -> tuple[Iterator[str], int]:
    """Users as a stream, all of them known, and how many there are."""
    from llmbole.inference.files import read_users

    known = recommender.people.ids
    if parsed.users:
        file = Path(parsed.users)
        count = sum(1 for _ in read_users(file, known))  # an unknown user is found before any work
        if not count:
            raise SettingsError(f"{file} holds no users")
        return read_users(file, known), count
    if parsed.user:
        asked = list(recommender.users(dict.fromkeys(parsed.user)))
        return iter(asked), len(asked)
    return recommender.all_users(), len(known)


def _shown(stream: Iterator[Any], count: int, *, hidden: bool) -> Iterator[Any]:
    from tqdm.auto import tqdm

    return iter(tqdm(stream, total=count, desc="recommend", unit="user", disable=hidden, leave=False))
