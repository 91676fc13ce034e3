"""Raw files: where they lie, fetched and unpacked if they must be, and their hashes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from pathlib import Path

from llmbole.data.cards import DatasetCard, Download
from llmbole.data.convert.report import DataError
from llmbole.data.own import OWN_FORMATS, OWN_TABLES
from llmbole.settings import load_yaml, properties_folder

# Smaller files are read anew each time.
REMEMBERED_FROM = 8 << 20
# A file changed within this time may change again without a new time of change.
SETTLED_SECONDS = 3.0


def find(folder: Path, name: str) -> Path | None:
    """A raw file in a folder: as it is named, or with or without `.gz`; `None` if there is none."""
    other = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    return next((folder / each for each in (name, other) if (folder / each).is_file()), None)


def default_cache() -> Path:
    """Where downloads go when nothing else is said: `raw/` in the store of overall.yaml."""
    return Path(load_yaml(properties_folder() / "overall.yaml")["store"]) / "raw"


def locate(card: DatasetCard, raw: Path | None, cache: Path | None = None, *, progress: bool = True) -> Path:
    """The folder of a data set's raw files; what is published is fetched and unpacked there first.

    Args:
        card: The data set.
        raw: A folder to read instead of the default one.
        cache: Folder of downloads.
        progress: Whether a download shows a progress bar.

    Returns:
        A folder that holds all files of the card.

    Raises:
        DataError: There is no such folder, or it lacks files that can't be got; the message names them, and where to
            get them.
    """
    folder = raw if raw is not None else _default(card, cache)
    if card.source.kind == "own":
        _check_own(card, folder)
    if not _missing(card, folder):
        return folder
    for download in card.source.downloads:
        _provide(card, download, folder, progress)
    missing = _missing(card, folder)
    if missing:
        advice = "put them there, or give their folder with --raw=FOLDER"
        origin = f"; they are published at {card.source.address}" if card.source.address else ""
        raise DataError(f"{card.name}: {folder} holds no {', '.join(missing)}; {advice}{origin}")
    return folder


def _check_own(card: DatasetCard, folder: Path) -> None:
    for table in OWN_TABLES[:2]:
        found = [name for name in card.source.files if name.startswith(f"{table}.")]
        if len(found) != 1:
            forms = ", ".join(f"{table}.{form}" for form in OWN_FORMATS)
            raise DataError(
                f"{folder} must hold one of {forms}; it holds {' and '.join(found) or 'none of them'}"
            )


def _missing(card: DatasetCard, folder: Path) -> list[str]:
    return [name for name in card.source.files if find(folder, name) is None]


def _default(card: DatasetCard, cache: Path | None) -> Path:
    source = card.source
    if source.kind == "download":
        return (cache or default_cache()) / source.folder
    if source.kind in ("folder", "own"):
        origin = f"; they are published at {source.address}" if source.address else ""
        raise DataError(
            f"{card.name}: give the folder of {', '.join(source.files)} with --raw=FOLDER{origin}"
        )
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{card.name}: its files lie in the package recbole, which is missing; install recbole==1.2.0"
        )
    return Path(spec.submodule_search_locations[0]) / source.folder


def _provide(card: DatasetCard, download: Download, folder: Path, progress: bool) -> None:
    """Fetch one published file if its raw files are missing, and unpack an archive beside itself."""
    if all(find(folder, name) for name in download.gives):
        return
    from filelock import FileLock

    from llmbole.data import archive, fetch

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{download.name}.lock")
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"{card.name}: {folder} lacks {', '.join(_missing(card, folder))} and can't be written to ({error}); "
            f"put them there, unpacked, or give another folder with --raw=FOLDER"
        ) from error
    try:
        target = folder / download.name
        if not target.is_file():
            fetch.fetch(download, target, progress=progress)
        if download.members:
            archive.unpack(target, download.members, folder)
    except fetch.UnreachableError as error:
        lacking = [
            other for other in card.source.downloads if not all(find(folder, name) for name in other.gives)
        ]
        wanted = "\n".join(f"  {other.name} from {other.address}" for other in lacking)
        raise DataError(
            f"{card.name}: its raw files can't be downloaded ({error}). Get them on another machine:\n{wanted}\n"
            f"and put them into {folder}, or into any folder and give it with --raw=FOLDER"
        ) from error
    finally:
        lock.release()


def file_hashes(card: DatasetCard, raw: Path, cache: Path | None = None) -> dict[str, str]:
    """SHA-256 of each raw file.

    Args:
        card: The data set.
        raw: Folder of its raw files.
        cache: Folder that remembers hashes of big files by path, size and times of change; `None` remembers nothing.

    Returns:
        Name to SHA-256 in hexadecimal.

    Raises:
        DataError: A raw file is missing or is not the published one.
    """
    found, problems = {}, []
    for name, expected in card.source.files.items():
        path = find(raw, name)
        if path is None:
            raise DataError(f"{card.name}: {raw} holds no {name}")
        found[name] = _remembered(path, cache)
        if expected is not None and found[name] != expected:
            hashes = f"SHA-256 {found[name]}, not {expected}"
            problems.append(f"{path} is not the published file, get it again: {hashes}")
    if problems:
        raise DataError(f"{card.name}: " + "\n".join(problems))
    return found


def _remembered(path: Path, cache: Path | None) -> str:
    """The hash of a file, from the cache if the file is big and unchanged."""
    before = _state(path)
    if cache is None or before["size"] < REMEMBERED_FROM:
        return _sha256(path)
    place = cache / "hashes" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json"
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
        if stored.get("state") == before:
            return str(stored["sha256"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # not there, or unreadable: it is written anew
    digest = _sha256(path)
    if _state(path) == before and time.time() - before["changed_ns"] / 1e9 > SETTLED_SECONDS:
        _write(place, {"state": before, "sha256": digest})
    return digest


def _state(path: Path) -> dict[str, int]:
    """What changes when a file does: a copy with an old date still has a new time of status change."""
    stat = path.stat()
    return {
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "changed_ns": max(stat.st_ctime_ns, stat.st_mtime_ns),
        "inode": stat.st_ino,
    }


def _write(place: Path, content: dict[str, object]) -> None:
    aside = place.with_suffix(f".{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content), encoding="utf-8")
        os.replace(aside, place)
    except OSError:
        aside.unlink(missing_ok=True)  # a cache that can't be written only costs time


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
