"""Real ml-100k rows of a few users as a data set of its own, and one store for all runs of a session."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from llmbole.data import cards as dataset_cards

USERS = 40
NAME = "ml-slice"
WITHOUT_BACKBONE = ("LLMOnly", "ICL", "TALLRec", "Prompt4NR", "RecGen", "RecFormer", "P5")


@pytest.fixture(scope="session")
def raw_slice(tmp_path_factory) -> Path:
    """The first users' rows of ml-100k, as it lies in the RecBole wheel."""
    wheel = Path(importlib.util.find_spec("recbole").origin).parent / "dataset_example" / "ml-100k"
    folder = tmp_path_factory.mktemp("raw")
    for kind in ("inter", "user", "item"):
        header, *lines = (wheel / f"ml-100k.{kind}").read_text(encoding="utf-8").splitlines()
        kept = lines if kind == "item" else [line for line in lines if int(line.split("\t")[0]) <= USERS]
        (folder / f"{NAME}.{kind}").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def cards(tmp_path_factory) -> Path:
    """A folder of data set cards that holds the slice's, made from ml-100k's."""
    card = yaml.safe_load((dataset_cards._folder() / "ml-100k.yaml").read_text(encoding="utf-8"))
    card |= {"name": NAME, "title": "a slice of MovieLens-100K"}
    card["source"] = {
        "kind": "folder",
        "files": {f"{NAME}.{kind}": None for kind in ("inter", "user", "item")},
    }
    days = ["1997-09-01", "1998-01-01", "1998-03-01", "1998-05-01"]
    card["windows"] = {
        name: days[number : number + 2] for number, name in enumerate(("train", "valid", "test"))
    }
    folder = tmp_path_factory.mktemp("cards")
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """Store and leaderboard of all runs of a test session."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def run(raw_slice, cards, shared, monkeypatch):
    """`llmbole.run` on the slice, short: `run("ALLMRec", {"align.epochs": 2})`."""
    import llmbole

    monkeypatch.setattr(dataset_cards, "_folder", lambda: cards)

    def short(model, settings=None, folder=shared, **more):
        own = {
            "raw": str(raw_slice),
            "store": str(folder / "store"),
            "leaderboard": str(folder / "leaderboard"),
        }
        backbone = {} if model in WITHOUT_BACKBONE else {"backbone.epochs": 2}
        return llmbole.run(
            model, NAME, settings={**own, "progress": False, **backbone, **(settings or {})}, **more
        )

    return short
