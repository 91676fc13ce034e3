"""Frozen splits of any task: which kind a protocol makes, and which kind a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmbole.data import arrays, hold_out, label_rows
from llmbole.data.pairs import PairSplit
from llmbole.data.protocol import Protocol
from llmbole.data.source import DatasetCard
from llmbole.data.split import Split


def freeze(protocol: Protocol, card: DatasetCard, data_folder: Path, folder: Path) -> dict[str, Any]:
    """Split prepared data as the protocol's task wants it; see `hold_out.freeze` and `label_rows.freeze`."""
    kind = hold_out if protocol.task == "ranking" else label_rows
    return kind.freeze(protocol, card, data_folder, folder)


def load(folder: Path) -> Split | PairSplit:
    """Open a frozen split; a folder without one is a DataError."""
    return Split.load(folder) if arrays.describe(folder)["task"] == "ranking" else PairSplit.load(folder)
