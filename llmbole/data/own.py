"""Folders of the user's own data: which card goes with one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmbole.data.cards import DatasetCard, card
from llmbole.data.convert.report import DataError
from llmbole.settings import SettingsError, build, close_name, load_yaml

OWN_YAML = "dataset.yaml"
OWN_TABLES = ("interactions", "items", "users")
OWN_FORMATS = ("parquet", "csv", "tsv")
OWN_PREFIX = "own-"
_OWN_KEYS = ("name", "title", "words", "rating", "label", "windows", "filter", "licence", "citation")
_OWN_DEFAULTS: Mapping[str, Any] = {
    "words": {"item": "item", "items": "items", "verb": "choose", "past": "chosen"},
    "rating": {"low": 0, "high": 5},
    "filter": {"duplicates": "keep"},
    "licence": "your own",
    "citation": "your own",
}


def own_folder(dataset: str) -> Path | None:
    """The folder that `dataset` names: something with a path's separator in it; `None` for a name."""
    return Path(dataset).expanduser().resolve() if "/" in dataset or "\\" in dataset else None


def own_card(folder: Path) -> DatasetCard:
    """The card of a folder of the user's own data; its `dataset.yaml` may give words, rating scale and label.

    Args:
        folder: Holds `interactions` and `items` as parquet, csv or tsv.

    Returns:
        The card, named `own-` and the folder's last part or the yaml's `name`.

    Raises:
        DataError: There is no such folder.
        SettingsError: Its yaml is wrong.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; llmbole list datasets shows the names of data sets"
        )
    file = folder / OWN_YAML
    given = load_yaml(file) if file.is_file() else {}
    unknown = [
        f"unknown key {key!r}; {close_name(str(key), _OWN_KEYS)}" for key in given if key not in _OWN_KEYS
    ]
    if unknown:
        raise SettingsError("\n".join(f"{file}: {problem}" for problem in unknown))
    name = (
        re.sub(r"[^\w.-]+", "-", str(given.get("name") or folder.name), flags=re.ASCII).strip("-.") or "data"
    )
    found = [
        f"{table}.{form}"
        for table in OWN_TABLES
        for form in OWN_FORMATS
        if (folder / f"{table}.{form}").is_file()
    ]
    files: dict[str, None] = dict.fromkeys([*found, *([OWN_YAML] if given else [])])
    content = {
        "title": f"./{name}",
        **_OWN_DEFAULTS,
        **given,
        "name": f"{OWN_PREFIX}{name}",
        "converter": "own",
    }
    return build(DatasetCard, {**content, "source": {"kind": "own", "files": files}}, str(file))


def card_in(name: str, folder: Path) -> DatasetCard:
    """A data set's card by the name it has in a run.

    Args:
        name: A name; `own-...` is a folder of the user's own.
        folder: Its raw or prepared data.

    Returns:
        The card.
    """
    return own_card(folder) if name.startswith(OWN_PREFIX) else card(name)
