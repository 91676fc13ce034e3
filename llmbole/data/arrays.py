"""Arrays of a split on disk: one memory-mapped file each, and one hash over all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data.convert.report import DataError

SPLIT_FILE = "split.json"


def save(folder: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, and `split.json` that says what they are.

    Args:
        folder: An existing folder.
        content: What stands in `split.json` besides the names of the arrays.
        arrays: Name to array.
    """
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    document = {**content, "arrays": sorted(arrays)}
    (folder / SPLIT_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def describe(folder: Path) -> dict[str, Any]:
    """What `split.json` of a folder says.

    Args:
        folder: Where `save` wrote.

    Returns:
        Its content, the names of the arrays under `arrays`.

    Raises:
        DataError: The folder holds no split.
    """
    file = folder / SPLIT_FILE
    if not file.is_file():
        raise DataError(f"{folder} holds no {SPLIT_FILE}: it is no frozen split")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def load(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Open arrays by name, memory-mapped and read only."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def content_hash(header: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over a header, and the name, type, shape and bytes of every array, in the order given."""
    digest = hashlib.sha256(header.encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
