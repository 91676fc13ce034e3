"""Content-addressed artifacts: one folder per key, written aside, sealed by a manifest, renamed into place.

Layout of a store folder::

    artifacts/<key>/           files of the artifact and manifest.json with their SHA-256
    artifacts/.making-<key>/   being written by the process that holds the key's lock
    workspaces/<key>/          checkpoints of a stage under way; they survive a kill and go when the stage ends
    locks/<key>.lock           operating-system locks: a dead process holds none
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SECONDS_PER_DAY = 86400.0


class StoreError(RuntimeError):
    """The store's folder cannot be used: unwritable, full, or damaged; the message says which and what to do."""


@dataclass(frozen=True)
class Artifact:
    """One finished artifact: its folder and what its manifest says of it."""

    key: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """Name of what this is: `backbone`, `alignment`, ..."""
        return str(self.manifest["stage"])

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the stage said of its work: epochs, validation metrics, counts."""
        return self.manifest["summary"]

    @property
    def cost(self) -> Mapping[str, Any]:
        """Seconds, peak memory and counters of the run that made it."""
        return self.manifest["cost"]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(entry["size"]) for entry in self.manifest["files"].values())


def file_hash(path: Path) -> str:
    """SHA-256 of one file, as hexadecimal."""
    with path.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest(stream)
        )


def _digest(stream: Any) -> str:  # noqa: ANN401 - Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class Store:
    """A folder of artifacts that any number of processes may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()

    def _artifact_folder(self, key: str) -> Path:
        return self.folder / "artifacts" / key

    def workspace(self, key: str) -> Path:
        """Folder for checkpoints of a stage under way; kept over kills."""
        return self.folder / "workspaces" / key

    def find(self, key: str) -> Artifact | None:
        """The artifact of a key if it is there, without reading its files."""
        folder = self._artifact_folder(key)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None  # a manifest that cannot be read is `damaged`, and counts as not made
        return Artifact(key=key, folder=folder, manifest=manifest)

    def damaged(self, key: str) -> str | None:
        """Why an artifact that is there cannot be used; `None` if all is well or nothing is there."""
        folder = self._artifact_folder(key)
        if not folder.is_dir():
            return None
        artifact = self.find(key)
        if artifact is None:
            return f"{folder / MANIFEST} is missing or no JSON"
        for name, entry in artifact.manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != entry["size"] or file_hash(path) != entry["sha256"]:
                return f"{path} differs from the hash in its manifest"
        return None

    def get(self, key: str) -> Artifact | None:
        """The artifact of a key if it is there and every file has the hash its manifest states."""
        problem = self.damaged(key)
        if problem:
            logger.warning("%s: the artifact will be made again", problem)
            return None
        return self.find(key)

    def make(self, key: str, describe: Callable[[Path, Path], Mapping[str, Any]]) -> tuple[Artifact, bool]:
        """The artifact of a key, made now if no sound one is there; concurrent callers make it once.

        Args:
            key: The artifact's key.
            describe: Called with an empty folder to fill and a workspace that survives kills; returns the
                manifest's content (at least `stage`, `summary`, `cost`).

        Returns:
            The artifact, and whether this call made it.

        Raises:
            StoreError: The store cannot be written; nothing half-made is left.
        """
        with self._lock(key):
            artifact = self.get(key)
            if artifact is not None:
                self._touch(artifact)
                return artifact, False
            with _clear_errors(self.folder):
                return self._make(key, describe), True

    def _make(self, key: str, describe: Callable[[Path, Path], Mapping[str, Any]]) -> Artifact:
        final, workspace = self._artifact_folder(key), self.workspace(key)
        aside = final.with_name(f".making-{key}")
        for leftover in (aside, final):
            if leftover.exists():
                shutil.rmtree(leftover)
        aside.mkdir(parents=True)
        workspace.mkdir(parents=True, exist_ok=True)
        try:
            manifest = {**describe(aside, workspace), "key": key, "created": time.time()}
            manifest["files"] = {
                path.relative_to(aside).as_posix(): {"size": path.stat().st_size, "sha256": file_hash(path)}
                for path in sorted(aside.rglob("*"))
                if path.is_file()
            }
            _write_durably(aside / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
            os.replace(aside, final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        shutil.rmtree(workspace, ignore_errors=True)
        return Artifact(key=key, folder=final, manifest=manifest)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        with _clear_errors(self.folder):
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "locks" / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info("another process is making %s: waiting for it", key[:12])
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @staticmethod
    def _touch(artifact: Artifact) -> None:
        """Note the use, so that pruning by age keeps what is in use; a read-only store is no error."""
        try:
            os.utime(artifact.folder / MANIFEST)
        except PermissionError:
            logger.debug("%s is read-only: its last use is not noted", artifact.folder)

    def artifacts(self) -> list[Artifact]:
        """All finished artifacts, newest first."""
        folder = self.folder / "artifacts"
        keys = (
            [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            if folder.is_dir()
            else []
        )
        found = [artifact for key in keys if (artifact := self.find(key)) is not None]
        return sorted(found, key=lambda artifact: (-float(artifact.manifest["created"]), artifact.key))

    def prune(self, unused_days: float | None = None) -> tuple[int, int]:
        """Remove what no run needs: leftovers of dead runs, damaged artifacts, and on request old ones.

        Args:
            unused_days: Also remove artifacts not used for this many days; `None` keeps every sound artifact.

        Returns:
            Number of folders removed and bytes freed. What a running process is making is left alone.
        """
        folders = [*self._children("workspaces"), *self._children("artifacts")]
        removed = freed = 0
        for folder in folders:
            key = folder.name.removeprefix(".making-")
            lock = FileLock(self.folder / "locks" / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            with lock:
                if (
                    folder.parent.name == "workspaces"
                    or folder.name != key
                    or self._disposable(key, unused_days)
                ):
                    freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                    shutil.rmtree(folder)
                    removed += 1
            lock.release(force=True)
        return removed, freed

    def _children(self, name: str) -> list[Path]:
        folder = self.folder / name
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _disposable(self, key: str, unused_days: float | None) -> bool:
        if self.damaged(key):
            return True
        used = (self._artifact_folder(key) / MANIFEST).stat().st_mtime
        return unused_days is not None and time.time() - used > unused_days * SECONDS_PER_DAY


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors about the store into sentences that say what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                f"no space left writing {where}: free some (llmbole store prune) or choose another --store; "
                "nothing half-made was left"
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message = f"{where} cannot be written: make {folder} writable or choose another --store"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            message = f"{where} is in the way: {folder} must be a folder for --store"
        else:
            raise
        raise StoreError(message) from error
