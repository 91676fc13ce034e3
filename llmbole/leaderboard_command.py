"""Commands that read records and no model: `llmbole verify`, `llmbole render` and `llmbole report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

Say = Callable[[str], None]
Work = Callable[[argparse.Namespace, Path, Say], int]


def add_options(parser: argparse.ArgumentParser, work: Work) -> None:
    """Add the options of one of the commands to its parser, and what it does."""
    parser.set_defaults(work=work)
    parser.add_argument("--leaderboard", default=None, help="the folder; by default as in overall.yaml")
    if work is report:
        parser.add_argument("--output", default="report.html", help="the file; default report.html")
    else:
        parser.add_argument(
            "--document", action="append", default=[], help="also a document with generated regions"
        )


def verify(parsed: argparse.Namespace, folder: Path, say: Say) -> int:
    """Check records, and tables against them; exit status 1 if something is wrong."""
    from llmbole.render import check, check_document
    from llmbole.verify import verify as check_records

    problems = check_records(folder / "results")
    if not problems:  # tables are made from sound records only
        problems = check(folder / "results", folder)
        for document in parsed.document:
            problems += check_document(Path(document), folder / "results")
    for problem in problems:
        say(str(problem))
    say(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0


def render(parsed: argparse.Namespace, folder: Path, say: Say) -> int:
    """Write tables from records."""
    from llmbole.render import render as write_pages
    from llmbole.render import render_document

    for page in write_pages(folder / "results", folder):
        say(str(page))
    for document in parsed.document:
        say(f"{document}{'' if render_document(Path(document), folder / 'results') else ' is up to date'}")
    return 0


def report(parsed: argparse.Namespace, folder: Path, say: Say) -> int:
    """Write the page of HTML."""
    from llmbole.report import write_report

    say(str(write_report(folder / "results", Path(parsed.output))))
    return 0


COMMANDS: Mapping[str, tuple[Work, str]] = {
    "verify": (verify, "check every record's seal and that tables equal what records render to"),
    "render": (render, "write the leaderboard's tables from its records"),
    "report": (report, "write the leaderboard as one page of HTML that needs no other file"),
}
