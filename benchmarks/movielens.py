"""MovieLens-100K as it lies in RecBole's wheel, for benchmarks; and a clock for what they compare."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


def _rows(kind: str) -> list[list[str]]:
    package = find_spec("recbole")
    if package is None or package.origin is None:
        raise FileNotFoundError("recbole is not installed: pip install recbole==1.2.0")
    file = Path(package.origin).parent / "dataset_example" / "ml-100k" / f"ml-100k.{kind}"
    return [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:]]


def titles() -> list[str]:
    """Titles with years in the order of the file, an empty one first; item i of `sequences` has the i-th."""
    return ["", *(f"{row[1]} ({row[2]})" for row in _rows("item"))]


def sequences() -> dict[int, list[int]]:
    """The items of each user in time order."""
    found: dict[int, list[tuple[float, int]]] = {}
    for user, item, _, moment in _rows("inter"):
        found.setdefault(int(user), []).append((float(moment), int(item)))
    return {user: [item for _, item in sorted(seen)] for user, seen in found.items()}


def rate(
    logger: logging.Logger, name: str, users: int, function: Callable[[], object]
) -> tuple[float, object]:
    """Users per second of one call, and what it gave; logged under a name."""
    begin = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - begin
    logger.info("%-30s %3d users in %7.2f s: %8.2f users/s", name, users, seconds, users / seconds)
    return users / seconds, result
