"""Cards of data sets: what is known of each, one yaml in `properties/dataset/`.

A name is that of a yaml (`beauty`), with a variant of it (`allmrec-beauty@official_code`), or a category of a template
(`amazon2018-Video_Games`).
"""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from llmbole.data.convert.report import Counts
from llmbole.settings import SettingsError, build, close_name, load_yaml, properties_folder

DOMAIN_MARK = ":"
"""Stands between the name of a set and a raw id of it, where several sets are one."""


@dataclass(frozen=True)
class Download:
    """One published file.

    Attributes:
        address: Where it is; its last part is the file's name.
        sha256: Its SHA-256, if known.
        size: Its bytes, if known.
        members: Of a zip or tar archive: raw file name to the member it is unpacked from.
    """

    address: str
    sha256: str | None = None
    size: int | None = None
    members: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for file, member in self.members.items():
            path = PurePosixPath(member)
            if path.is_absolute() or ".." in path.parts or PurePosixPath(file).name != file:
                raise ValueError(f"members: {file!r} from {member!r} leads out of the folder")

    @property
    def name(self) -> str:
        """The file's name."""
        return self.address.rpartition("/")[2]

    @property
    def gives(self) -> tuple[str, ...]:
        """The raw files it gives: itself, or members of the archive."""
        return tuple(self.members) or (self.name,)


@dataclass(frozen=True)
class Source:
    """Where raw files come from.

    Attributes:
        kind: `recbole_wheel` (they lie inside the installed RecBole), `download` (they are fetched), `folder` (the user
            says where), or `own` (a folder of the user's own data).
        files: File name to its SHA-256, or to `None` where no hash is known.
        folder: Folder inside the RecBole wheel, or the one below the cache of downloads.
        address: Where the files are published, for people.
        downloads: What to fetch.
    """

    kind: Literal["recbole_wheel", "download", "folder", "own"]
    files: dict[str, str | None]
    folder: str = ""
    address: str = ""
    downloads: tuple[Download, ...] = ()

    def __post_init__(self) -> None:
        if not self.files and self.kind != "own":
            raise ValueError("files is empty; name at least one raw file")
        if self.kind == "recbole_wheel" and not self.folder:
            raise ValueError("folder is missing; say where in the RecBole wheel the files lie")
        if self.kind == "download":
            if not re.fullmatch(r"[\w.-]+", self.folder):
                raise ValueError(f"folder = {self.folder!r}: name one folder for the downloads")
            given = {file for download in self.downloads for file in download.gives}
            if given != set(self.files):
                raise ValueError(f"downloads give {sorted(given)}, but files are {sorted(self.files)}")


@dataclass(frozen=True)
class Core:
    """Least numbers of interactions.

    Attributes:
        users: Of a user.
        items: Of an item.
        rounds: `all` counts and leaves out until nothing changes (a k-core), `once` does so one time.
        count_from: Only ratings from here on are counted; lower ones of who is kept stay.
    """

    users: int = 0
    items: int = 0
    rounds: Literal["all", "once"] = "all"
    count_from: float | None = None


@dataclass(frozen=True)
class Filter:
    """Which interactions are kept; applied in this order.

    Attributes:
        duplicates: Of several interactions of a user with an item, `first` and `last` keep that row, `keep` keeps all.
        min_rating: Least rating.
        since: First day (`2017-01-01`, UTC).
        until: First day that is left out (UTC).
        core: Least numbers of interactions of users and items.
    """

    duplicates: Literal["first", "last", "keep"] = "first"
    min_rating: float | None = None
    since: str | None = None
    until: str | None = None
    core: Core | None = None

    def __post_init__(self) -> None:
        low, high = (_seconds(name, getattr(self, name)) for name in ("since", "until"))
        if low is not None and high is not None and low >= high:
            raise ValueError(f"since = {self.since} is not before until = {self.until}")

    @property
    def window(self) -> tuple[float, float]:
        """Times that are kept, the second not included, in seconds since 1970."""
        low, high = _seconds("since", self.since), _seconds("until", self.until)
        return (-math.inf if low is None else low, math.inf if high is None else high)


def _seconds(name: str, day: str | None) -> float | None:
    if day is None:
        return None
    try:
        date = datetime.datetime.fromisoformat(day)
    except ValueError as error:
        raise ValueError(f"{name} = {day!r}: {error}; write dates as 2001-06-01") from error
    return date.replace(tzinfo=datetime.timezone.utc).timestamp()


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
    """What is known about a data set.

    Attributes:
        domains: Of several sets as one (`llmbole.data.joined`), their names in order.
    """

    name: str
    title: str
    source: Source
    converter: str
    words: Words
    rating: Rating
    licence: str
    citation: str
    expected: Counts | None = None
    filter: Filter = field(default_factory=Filter)
    label: Label | None = None
    windows: Windows | None = None
    domains: tuple[str, ...] = ()


def _folder() -> Path:
    return properties_folder() / "dataset"


def _templates() -> dict[str, Path]:
    return {file.stem: file for file in _folder().glob("template/*.yaml")}


def names() -> list[str]:
    """Names of all data sets but the categories of templates, sorted; variants are not listed."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def template_names() -> list[str]:
    """How categories of templates are named: `amazon2018-<Category>`."""
    return sorted(f"{name}-<Category>" for name in _templates())


def card(name: str) -> DatasetCard:
    """The card of a data set.

    Args:
        name: The yaml's name, with `@variant` behind it for another preparation; or a template's and a category.

    Returns:
        The card.

    Raises:
        SettingsError: There is no data set, variant or category of that name, or its yaml is wrong.
    """
    base, at, variant = name.partition("@")
    file, content = _content(base)
    variants = content.pop("variants", {})
    if content.get("name") != base:
        raise SettingsError(f"{file}: name is {content.get('name')!r}; it must be the file's name, {base!r}")
    if at:
        if variant not in variants:
            help = close_name(variant, variants) if variants else f"{base!r} has none"
            raise SettingsError(f"dataset {base!r}: unknown variant {variant!r}; {help}")
        content = {**content, "expected": None, **variants[variant], "name": name}
    return build(DatasetCard, content, f"{file}{at}{variant}")


def _content(base: str) -> tuple[Path, dict[str, Any]]:
    """The yaml of a data set; of a template, with the category in it."""
    if base in names():
        file = _folder() / f"{base}.yaml"
        return file, load_yaml(file)
    prefix, dash, category = base.partition("-")
    templates = _templates()
    if base in templates:
        known = ", ".join(f"{base}-{each}" for each in load_yaml(templates[base])["categories"])
        raise SettingsError(f"dataset {base!r} goes with a category: {known}")
    if prefix in templates and dash:
        content = load_yaml(templates[prefix])
        known = content.pop("categories", [])
        if category not in known:
            raise SettingsError(
                f"dataset {prefix}: unknown category {category!r}; {close_name(category, known)}"
            )
        return templates[prefix], _filled(content, category)
    raise SettingsError(f"unknown dataset {base!r}; {close_name(base, [*names(), *template_names()])}")


def _filled(value: Any, category: str) -> Any:  # noqa: ANN401 - a YAML value
    """A template's value with `{category}` replaced, in keys too; `{Category}` is the one for people."""
    if isinstance(value, dict):
        return {_filled(key, category): _filled(below, category) for key, below in value.items()}
    if isinstance(value, list):
        return [_filled(below, category) for below in value]
    if isinstance(value, str):
        return value.replace("{category}", category).replace("{Category}", category.replace("_", " "))
    return value
