"""Real ml-100k, prepared and split once, and small raw sets that a test writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmbole.data import protocol as protocols
from llmbole.data import source
from llmbole.data.hold_out import freeze
from llmbole.data.split import Split

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"


@pytest.fixture(scope="session")
def ranking() -> dict:
    """RecBole's settings of leave-one-out with ranking metrics."""
    return {
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["HIT", "NDCG", "MRR"],
        "topk": [1, 5],
        "valid_metric": "HIT@1",
    }


@pytest.fixture(scope="session")
def card() -> source.DatasetCard:
    return source.card("ml-100k")


@pytest.fixture(scope="session")
def prepared(card, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    source.prepare(card, None, folder)
    return folder


@pytest.fixture(scope="session")
def split(card, prepared, tmp_path_factory) -> Split:
    folder = tmp_path_factory.mktemp("loo_rank20")
    freeze(protocols.protocol("loo_rank20"), card, prepared, folder)
    return Split.load(folder)


@pytest.fixture(scope="session")
def full_split(card, prepared, tmp_path_factory) -> Split:
    folder = tmp_path_factory.mktemp("loo_full")
    freeze(protocols.protocol("loo_full"), card, prepared, folder)
    return Split.load(folder)


@dataclasses.dataclass
class Small:
    """A raw set in RecBole's atomic form, its card, and a way to prepare and split it."""

    card: source.DatasetCard
    raw: Path
    folder: Path

    def prepare(self) -> dict:
        self.folder.mkdir()
        return source.prepare(self.card, self.raw, self.folder)

    def split(self, **changes) -> Split:
        protocol = dataclasses.replace(protocols.protocol("loo_rank20"), **changes)
        folder = self.folder.parent / f"split{len(list(self.folder.parent.iterdir()))}"
        folder.mkdir()
        freeze(protocol, self.card, self.folder, folder)
        return Split.load(folder)


@pytest.fixture
def small(card, tmp_path):
    """Write a raw set from lines, `small(inter, items, users)`; rows for items and users are made when not given."""

    def write(inter: list[str], items: list[str] | None = None, users: list[str] | None = None) -> Small:
        raw = tmp_path / "raw"
        raw.mkdir()
        rows = [line.split("\t") for line in inter]
        if items is None:
            items = [f"{item}\tTitle {item}\t1990\tDrama" for item in dict.fromkeys(row[1] for row in rows)]
        if users is None:
            users = [f"{user}\t30\tF\tother\t00000" for user in dict.fromkeys(row[0] for row in rows)]
        for kind, head, lines in (("inter", INTER, inter), ("item", ITEM, items), ("user", USER, users)):
            text = "\r\n".join([head, *lines]) + "\r\n"
            (raw / f"tiny.{kind}").write_bytes(text.encode())
        files = {f"tiny.{kind}": None for kind in ("inter", "item", "user")}
        origin = dataclasses.replace(card.source, kind="folder", files=files)
        counts = source.Counts(len({row[0] for row in rows}), len({row[1] for row in rows}), len(rows))
        tiny = dataclasses.replace(card, name="tiny", source=origin, expected=counts)
        return Small(tiny, raw, tmp_path / "prepared")

    return write
