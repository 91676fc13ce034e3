"""The command `llmbole serve`: its options. FastAPI, uvicorn and models are loaded only when it runs."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmbole import recommend_command
from llmbole.settings import SettingsError

EPILOG = f"""{recommend_command.EPILOG.partition("docs/")[0]}
requests:
  curl http://127.0.0.1:8000/recommend -H 'content-type: application/json' -d '{{"user": "196", "k": 5}}'
  a "history" of raw item ids in place of "user"; "candidates" to recommend among; "exclude_seen": false

docs/recommend.md tells more."""
FORM = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    recommend_command.add_run(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; default this machine alone"
    )
    parser.add_argument("--port", type=int, default=8000, help="port; default 8000, 0 takes a free one")
    parser.add_argument(
        "--max-in-flight", type=int, default=64, help="requests under way at once; more get 429; default 64"
    )
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests a second; 0, the default, sets no limit"
    )
    parser.add_argument("--burst", type=int, default=64, help="with --rate: requests at once; default 64")
    parser.add_argument("--max-body", type=int, default=262_144, help="bytes of a request; default 262144")


def command(
    parsed: argparse.Namespace,
    settings: Mapping[str, Any],
    config_files: Sequence[str],
    say: Callable[[str], None],
) -> int:
    """Serve a finished run until it is stopped.

    Args:
        parsed: The command's options.
        settings: `--key=value` words.
        config_files: Files of settings.
        say: Writes to standard output.

    Returns:
        Exit status 0.

    Raises:
        SettingsError: An option is wrong, or the extra `serve` is not installed.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise SettingsError(f"{package} is not installed; run pip install 'llmbole[serve]'")
    from llmbole.serve.limits import Limits
    from llmbole.serve.server import serve

    try:
        limits = Limits(
            in_flight=parsed.max_in_flight, rate=parsed.rate, burst=parsed.burst, body=parsed.max_body
        )
    except ValueError as error:
        raise SettingsError(str(error)) from None
    recommender = recommend_command.opened(parsed, settings, config_files)
    serve(recommender, parsed.host, parsed.port, limits, say)
    return 0
