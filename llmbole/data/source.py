"""Data sets: raw files -> atomic files and text tables, and what identifies them.

A data set is one yaml in `properties/dataset/` and one converter in `llmbole/data/convert/`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmbole.data.cards import DatasetCard as DatasetCard
from llmbole.data.cards import Filter as Filter
from llmbole.data.cards import Label as Label
from llmbole.data.cards import Rating as Rating
from llmbole.data.cards import Source as Source
from llmbole.data.cards import Windows as Windows
from llmbole.data.cards import Words as Words
from llmbole.data.cards import card as card
from llmbole.data.cards import names as names
from llmbole.data.convert.report import Counts, DataError, Report
from llmbole.data.raw import file_hashes
from llmbole.data.raw import locate as locate_raw
from llmbole.settings import SettingsError, close_name

logger = logging.getLogger(__name__)

FINGERPRINT_FILE = "fingerprint.json"
CONVERTERS = (
    "amazon2014",
    "amazon2018",
    "amazon2023",
    "bookcrossing",
    "movielens",
    "movielens_dat",
    "own",
)


def fingerprint(card: DatasetCard, raw: Path, cache: Path | None = None) -> str:
    """What identifies prepared data: hash of the raw files, the filter, and the converter's version.

    A raw file that is not the published one is a DataError.

    Args:
        card: The data set.
        raw: Folder of its raw files.
        cache: Folder that remembers hashes of big files; `None` reads all files.

    Returns:
        SHA-256 in hexadecimal.
    """
    return _hash(_identity(card, raw, cache))


def _hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _identity(card: DatasetCard, raw: Path, cache: Path | None) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(card.filter).items() if value is not None}
    return {
        "files": file_hashes(card, raw, cache),
        "filter": kept,
        "converter": card.converter,
        "version": converter(card).VERSION,
    }


def converter(card: DatasetCard) -> Any:  # noqa: ANN401 - a converter module
    """The converter module of a data set.

    Args:
        card: The data set.

    Returns:
        A module with `VERSION` and `convert`.

    Raises:
        SettingsError: There is no converter of the card's name.
    """
    if card.converter not in CONVERTERS:
        raise SettingsError(
            f"{card.name}: unknown converter {card.converter!r}; {close_name(card.converter, CONVERTERS)}"
        )
    return importlib.import_module(f"llmbole.data.convert.{card.converter}")


def prepare(
    card: DatasetCard,
    raw: Path | None,
    folder: Path,
    progress: Callable[[int], None] | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Convert raw files into RecBole's atomic files and text tables.

    Writes `<name>.inter`, `<name>.item`, `<name>.user` where the source knows its users, `items.parquet`,
    `users.parquet` and `fingerprint.json`. Items and users without interactions are left out, so that ids do not
    depend on which files RecBole loads.

    Args:
        card: The data set.
        raw: Folder of the raw files, `None` for the card's own place.
        folder: An existing, empty folder. After an error it holds half-made files; the caller throws it away.
        progress: Called with the number of raw lines read since the last call.
        cache: Folder of downloads and of hashes of big files.

    Returns:
        Users, items, interactions, the expected counts or `None`, the fingerprint, and warnings, one line each.

    Raises:
        DataError: The folder is not empty, raw files are missing or not the published ones, or nothing is left of them.
    """
    if not folder.is_dir() or any(folder.iterdir()):
        raise DataError(f"{card.name}: {folder} must be an existing, empty folder")
    raw = locate_raw(card, raw, cache)
    identity, report = _identity(card, raw, cache), Report()
    counts: Counts = converter(card).convert(card, raw, folder, report, progress)
    if not counts.interactions:
        raise DataError(
            "\n".join([f"{card.name}: no interaction could be read from {raw}", *report.warnings()])
        )
    warnings = _unexpected(card, counts) + report.warnings()
    digest = _hash(identity)
    content = {"dataset": card.name, "fingerprint": digest, **identity}
    (folder / FINGERPRINT_FILE).write_text(
        json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    expected = asdict(card.expected) if card.expected else None
    return {**asdict(counts), "expected": expected, "fingerprint": digest, "warnings": warnings}


def _unexpected(card: DatasetCard, counts: Counts) -> list[str]:
    found: Mapping[str, int] = asdict(counts)
    expected = asdict(card.expected) if card.expected else found
    warnings = [
        f"{found[what]} {what}, expected {expected[what]}" for what in found if found[what] != expected[what]
    ]
    for warning in warnings:
        logger.warning("%s: %s", card.name, warning)
    return warnings
