"""Artifacts of a run in several processes: the first holds locks and folders, the others work with it or wait."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from llmbole.pipeline.store import Artifact, Store, StoreError


class Processes(Protocol):
    """Several processes that run the same plan."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def same(self, value: object) -> Any:  # noqa: ANN401 - any small value
        """What the first process has, in all of them; each waits until all are here."""


def make(
    store: Store,
    key: str,
    maker: Callable[[Path, Path], Mapping[str, Any]],
    processes: Processes,
    shared: bool,
) -> tuple[Artifact, bool]:
    """The artifact of a key that all processes have come to.

    The first tells the others whether there is work, and all wait for the artifact to be in its place.

    Args:
        store: Where it goes; all processes have to see the same folder.
        key: The artifact's key.
        maker: As `Store.make` takes it; where the work is shared, the others fill a folder that is thrown away.
        processes: All processes of the run.
        shared: Whether all of them work on it.

    Returns:
        The artifact, and whether this process made it.

    Raises:
        StoreError: A process does not find what the first one made.
    """

    def leading(folder: Path, workspace: Path) -> Mapping[str, Any]:
        processes.same(True)
        return maker(folder, workspace)

    if processes.rank == 0:
        artifact, made = store.make(key, leading)
        if not made:
            processes.same(False)
        processes.same(None)
        return artifact, made
    if processes.same(None) and shared:
        with tempfile.TemporaryDirectory() as folder:
            maker(Path(folder), store.workspace(key))
    processes.same(None)
    found = store.find(key)
    if found is None:
        raise StoreError(
            f"process {processes.rank} does not find the artifact {key[:12]} that the first one made: give all "
            f"processes of a run the same --store; {store.folder} is not shared"
        )
    return found, False
