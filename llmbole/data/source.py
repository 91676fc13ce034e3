"""Data sets: where the raw files come from, what identifies them, and raw files -> atomic files and text tables.

A data set is one yaml in `properties/dataset/` and one converter in `llmbole/data/convert/`.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmbole.data.convert.report import Counts, DataError, Report
from llmbole.settings import SettingsError, build, close_name, load_yaml, properties_folder

logger = logging.getLogger(__name__)

FINGERPRINT_FILE = "fingerprint.json"


@dataclass(frozen=True)
class Source:
    """Where raw files come from.

    Attributes:
        kind: `recbole_wheel` (they lie inside the installed RecBole), or `folder` (the user says where).
        files: File name to its SHA-256, or to `None` where no hash is known.
        folder: Folder inside the RecBole wheel.
        address: Where the files are published, for people.
    """

    kind: Literal["recbole_wheel", "folder"]
    files: dict[str, str | None]
    folder: str = ""
    address: str = ""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty; name at least one raw file")
        if self.kind == "recbole_wheel" and not self.folder:
            raise ValueError("folder is missing; say where in the RecBole wheel the files lie")


@dataclass(frozen=True)
class Filter:
    """Which interactions are kept.

    Attributes:
        duplicates: Of several interactions of a user with an item, `first` keeps the first row, `keep` keeps all.
    """

    duplicates: Literal["first", "keep"] = "first"


@dataclass(frozen=True)
class Words:
    """How prompts speak of the data: one item, several, what a user does with it, and did."""

    item: str
    items: str
    verb: str
    past: str


@dataclass(frozen=True)
class Rating:
    """The rating scale, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Label:
    """Which ratings are a like, for protocols of labelled pairs.

    Attributes:
        positive_from: The least rating that is a like.
    """

    positive_from: float


@dataclass(frozen=True)
class Windows:
    """Time windows of training, validation and test, for protocols that split by absolute time.

    A window is two dates (`2001-06-01`, UTC midnight), the first included and the second not. Either `valid` and
    `test` are given, or `held_out`, whose interactions are halved in time order: validation, then test.
    """

    train: tuple[str, str]
    valid: tuple[str, str] | None = None
    test: tuple[str, str] | None = None
    held_out: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if (self.held_out is None) == (self.valid is None or self.test is None):
            raise ValueError("give valid and test, or held_out")
        for name in ("train", "valid", "test", "held_out"):
            window = getattr(self, name)
            if window is None:
                continue
            try:
                since, until = map(datetime.date.fromisoformat, window)
            except ValueError as error:
                raise ValueError(f"{name} = {list(window)}: {error}; write dates as 2001-06-01") from error
            if since >= until:
                raise ValueError(f"{name} = {list(window)}: the window ends before it begins")


@dataclass(frozen=True)
class DatasetCard:
    """What is known about a data set: one yaml in `properties/dataset/`."""

    name: str
    title: str
    source: Source
    converter: str
    words: Words
    rating: Rating
    expected: Counts
    licence: str
    citation: str
    filter: Filter = field(default_factory=Filter)
    label: Label | None = None
    windows: Windows | None = None


def _folder() -> Path:
    return properties_folder() / "dataset"


def names() -> list[str]:
    """Names of all data sets, sorted."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def card(name: str) -> DatasetCard:
    """The card of a data set.

    Args:
        name: The yaml's name.

    Returns:
        The card.

    Raises:
        SettingsError: There is no data set of that name, or its yaml is wrong.
    """
    if name not in names():
        raise SettingsError(f"unknown dataset {name!r}; {close_name(name, names())}")
    file = _folder() / f"{name}.yaml"
    found = build(DatasetCard, load_yaml(file), str(file))
    if found.name != name:
        raise SettingsError(f"{file}: name is {found.name!r}; it must be the file's name, {name!r}")
    return found


def locate_raw(card: DatasetCard, raw: Path | None) -> Path:
    """The folder of a data set's raw files.

    Args:
        card: The data set.
        raw: A folder to read instead of the default one.

    Returns:
        A folder that holds all files of the card.

    Raises:
        DataError: There is no such folder or it lacks files; the message names them, and where to get them.
    """
    folder = raw if raw is not None else _default_raw(card)
    missing = [name for name in card.source.files if not (folder / name).is_file()]
    if missing:
        advice = "put them there, or give their folder with --raw=FOLDER"
        raise DataError(f"{card.name}: {folder} holds no {', '.join(missing)}; {advice}{_origin(card)}")
    return folder


def _default_raw(card: DatasetCard) -> Path:
    if card.source.kind == "folder":
        files = ", ".join(card.source.files)
        raise DataError(f"{card.name}: give the folder of {files} with --raw=FOLDER{_origin(card)}")
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{card.name}: its files lie in the package recbole, which is missing; install recbole==1.2.0"
        )
    return Path(spec.submodule_search_locations[0]) / card.source.folder


def _origin(card: DatasetCard) -> str:
    return f"; they are published at {card.source.address}" if card.source.address else ""


def fingerprint(card: DatasetCard, raw: Path) -> str:
    """What identifies prepared data: hash of the raw files, the filter, and the converter's version.

    A raw file that is not the published one is a DataError.

    Args:
        card: The data set.
        raw: Folder of its raw files.

    Returns:
        SHA-256 in hexadecimal.
    """
    return _hash(_identity(card, raw))


def _hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _identity(card: DatasetCard, raw: Path) -> dict[str, Any]:
    version = converter(card).VERSION
    return {
        "files": _hashes(card, raw),
        "filter": asdict(card.filter),
        "converter": card.converter,
        "version": version,
    }


def _hashes(card: DatasetCard, raw: Path) -> dict[str, str]:
    found, problems = {}, []
    for name, expected in card.source.files.items():
        digest = hashlib.sha256()
        with (raw / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        found[name] = digest.hexdigest()
        if expected is not None and found[name] != expected:
            hashes = f"SHA-256 {found[name]}, not {expected}"
            problems.append(f"{raw / name} is not the published file, get it again: {hashes}")
    if problems:
        raise DataError(f"{card.name}: " + "\n".join(problems))
    return found


def converter(card: DatasetCard) -> Any:  # noqa: ANN401 - a converter module
    """The converter module of a data set.

    Args:
        card: The data set.

    Returns:
        A module with `VERSION` and `convert`.

    Raises:
        SettingsError: There is no converter of the card's name.
    """
    files = (Path(__file__).parent / "convert").glob("*.py")
    known = sorted({file.stem for file in files} - {"__init__", "report", "write"})
    if card.converter not in known:
        raise SettingsError(
            f"{card.name}: unknown converter {card.converter!r}; {close_name(card.converter, known)}"
        )
    return importlib.import_module(f"llmbole.data.convert.{card.converter}")


def prepare(
    card: DatasetCard, raw: Path | None, folder: Path, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Convert raw files into RecBole's atomic files and text tables.

    Writes `<name>.inter`, `<name>.item`, `<name>.user`, `items.parquet`, `users.parquet` and `fingerprint.json`. Items
    and users without interactions are left out, so that ids do not depend on which files RecBole loads.

    Args:
        card: The data set.
        raw: Folder of the raw files, `None` for the card's own place.
        folder: An existing, empty folder. After an error it holds half-made files; the caller throws it away.
        progress: Called with the number of raw lines read since the last call.

    Returns:
        Users, items, interactions, the expected counts, the fingerprint, and warnings, one line each.

    Raises:
        DataError: The folder is not empty, raw files are missing or not the published ones, or nothing is left of them.
    """
    if not folder.is_dir() or any(folder.iterdir()):
        raise DataError(f"{card.name}: {folder} must be an existing, empty folder")
    raw = locate_raw(card, raw)
    identity, report = _identity(card, raw), Report()
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
    return {**asdict(counts), "expected": asdict(card.expected), "fingerprint": digest, "warnings": warnings}


def _unexpected(card: DatasetCard, counts: Counts) -> list[str]:
    found: Mapping[str, int] = asdict(counts)
    expected = asdict(card.expected)
    warnings = [
        f"{found[what]} {what}, expected {expected[what]}" for what in found if found[what] != expected[what]
    ]
    for warning in warnings:
        logger.warning("%s: %s", card.name, warning)
    return warnings
