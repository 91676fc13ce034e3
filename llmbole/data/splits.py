"""Frozen splits of any task: which kind a protocol makes, and which kind a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmbole.data import arrays, pairs, split
from llmbole.data.pairs import PairSplit
from llmbole.data.protocol import Protocol
from llmbole.data.source import DatasetCard
from llmbole.data.split import Split


def freeze(protocol: Protocol, card: DatasetCard, data_folder: Path, folder: Path) -> dict[str, Any]:
    """Split prepared data as the protocol's task wants it; see `split.freeze` and `pairs.freeze`."""
    kind = split if protocol.task == "ranking" else pairs
    return kind.freeze(protocol, card, data_folder, folder)


def load(folder: Path) -> Split | PairSplit:
    """Open a frozen split; a folder without one is a DataError."""
    return Split.load(folder) if arrays.describe(folder)["task"] == "ranking" else PairSplit.load(folder)
