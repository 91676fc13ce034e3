"""Rows of real ml-100k users, prepared once, and their splits."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from llmbole.data import cards, protocol, source, splits


@pytest.fixture(scope="session")
def card():
    """ml-100k's card for raw files that are not the published ones."""
    whole = cards.card("ml-100k")
    files = {f"ml-100k.{kind}": None for kind in ("inter", "user", "item")}
    return dataclasses.replace(whole, source=dataclasses.replace(whole.source, kind="folder", files=files))


@pytest.fixture(scope="session")
def prepared(card, tmp_path_factory) -> Path:
    """The first 30 users of ml-100k, prepared."""
    wheel = Path(importlib.util.find_spec("recbole").origin).parent / "dataset_example" / "ml-100k"
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared")
    for kind in ("inter", "user", "item"):
        header, *lines = (wheel / f"ml-100k.{kind}").read_text(encoding="utf-8").splitlines()
        kept = lines if kind == "item" else [line for line in lines if int(line.split("\t")[0]) <= 30]
        (raw / f"ml-100k.{kind}").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    source.prepare(card, raw, folder)
    return folder


@pytest.fixture(scope="session")
def splits_of(card, prepared, tmp_path_factory):
    """The split of a protocol, made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            splits.freeze(protocol.protocol(name), card, prepared, folder)
            made[name] = splits.load(folder)
        return made[name]

    return get
