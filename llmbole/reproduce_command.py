"""The command `llmbole reproduce`: its options and what it says."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from llmbole.settings import SettingsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("record", help="a record's id, or its first digits")
    parser.add_argument(
        "--digits", type=int, default=4, help="decimals to which metrics are compared; default 4"
    )
    parser.add_argument(
        "--store", default=None, help="take what it holds as made; by default everything is made anew"
    )
    parser.add_argument("--leaderboard", default=None, help="the folder; by default as in overall.yaml")
    parser.add_argument("--dataset", default=None, help="./FOLDER, if the data were a folder of your own")
    parser.add_argument("--raw", default=None, help="folder of the raw files; by default they are downloaded")
    parser.add_argument("--llm", default=None, help="folder of the LLM, if the record's was one")
    parser.add_argument(
        "--text_encoder", default=None, help="folder of the text encoder, if the record's was one"
    )
    parser.add_argument(
        "--judge", default=None, help="folder of the LLM that judges, if the record's was one"
    )
    parser.add_argument("--device", default="auto", help="torch device; default auto")


def command(parsed: argparse.Namespace, leaderboard: Path, say: Callable[[str], None]) -> int:
    """Run a record again.

    Args:
        parsed: The command's options.
        leaderboard: The folder of records.
        say: Writes to standard output.

    Returns:
        Exit status: 0; 1 if a metric differs.
    """
    if not 0 <= parsed.digits <= 12:
        raise SettingsError(f"--digits={parsed.digits}: from 0 to 12")
    from llmbole.reproduce import find, reproduce

    record = find(parsed.record, leaderboard / "results")
    with tempfile.TemporaryDirectory(prefix="llmbole-reproduce-") as fresh:
        made = reproduce(
            record,
            Path(parsed.store or fresh),
            digits=parsed.digits,
            dataset=parsed.dataset,
            raw=parsed.raw,
            folders={
                name: value for name in ("llm", "text_encoder", "judge") if (value := getattr(parsed, name))
            },
            device=parsed.device,
            progress=not parsed.quiet,
        )
    wrong = made.disagreeing
    for name in dict.fromkeys([*record.metrics, *made.metrics]):
        numbers = [
            f"{side[name]:.{parsed.digits}f}" if name in side else "none"
            for side in (record.metrics, made.metrics)
        ]
        say(f"{name:<12} record {numbers[0]}  now {numbers[1]}  {'DIFFERS' if name in wrong else 'agrees'}")
    for difference in made.differences:
        say(f"differs: {difference}")
    if made.cached:
        say(f"not made anew, the store had them: {', '.join(made.cached)}")
    verdict = f"{len(wrong)} metrics differ" if wrong else "reproduced"
    say(
        f"{verdict}: record {record.id[:12]}, {record.method} on {record.dataset.name}, to {parsed.digits} decimals"
    )
    return 1 if wrong else 0
