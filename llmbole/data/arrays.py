"""Arrays of a split on disk: one memory-mapped file each, and one hash over all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data.convert.report import DataError

SPLIT_FILE = "split.json"
SEALED = "test"
_sealed = False


@contextmanager
def sealed_test() -> Iterator[None]:
    """Within, this process opens splits without their test part: asking for it is an error, not a leak.

    A sweep's trials run so, which holds for all their threads.

    Yields:
        Nothing.
    """
    global _sealed
    before, _sealed = _sealed, True
    try:
        yield
    finally:
        _sealed = before


def is_sealed() -> bool:
    """Whether test parts may not be opened now."""
    return _sealed


def open_parts(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some names of parts that may be opened now."""
    return tuple(name for name in names if not (_sealed and name == SEALED))


def refuse_sealed(name: str) -> None:
    """Refuse a part that may not be opened now.

    Args:
        name: Of the part.

    Raises:
        DataError: It is the test part, and this process may not see it.
    """
    if _sealed and name == SEALED:
        raise DataError("the test part is sealed: trials of a sweep see training and validation data only")


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
    """Open arrays by name, memory-mapped and read only; those of a sealed part are left out."""
    wanted = [name for name in names if not (_sealed and name.startswith(f"{SEALED}_"))]
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in wanted}


def content_hash(header: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over a header, and the name, type, shape and bytes of every array, in the order given."""
    digest = hashlib.sha256(header.encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
