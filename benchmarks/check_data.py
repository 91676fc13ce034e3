"""Convert every data set of a folder and print counts beside the expected ones; rebuild CoLLM's split of ML-1M.

    python benchmarks/check_data.py [FOLDER]

The folder holds some of `amazon-beauty`, `amazon14-musical-raw`, `amazon18-giftcards-raw`, `ml-1m` and
`ml-1m-collm`; what is missing is passed over.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas

import llmbole
from llmbole.data import cards, leak, own, source, splits
from llmbole.data.pairs import PairSplit
from llmbole.data.protocol import protocol
from llmbole.evaluator.per_user import per_user_auc

PHASES = ("train", "valid", "test")


def convert(card: source.DatasetCard, raw: Path, folder: Path) -> dict[str, Any]:
    """Prepare one set and print its counts beside the expected ones."""
    folder.mkdir()
    found = source.prepare(card, raw, folder)
    for what in ("users", "items", "interactions"):
        wanted = found["expected"] and found["expected"][what]
        verdict = (
            ""
            if wanted is None
            else f"  expected {wanted:>9,}  {'ok' if wanted == found[what] else 'DIFFERS'}"
        )
        print(f"  {what:<13}{found[what]:>10,}{verdict}")
    for warning in found["warnings"]:
        print(f"  {warning[:160]}")
    return found


def linked(folder: Path, files: dict[str, Path]) -> Path:
    """A folder with the files under the names that a card wants."""
    folder.mkdir()
    for name, file in files.items():
        (folder / name).symlink_to(file.resolve())
    return folder


def with_files(
    card: source.DatasetCard, files: list[str], expected: tuple[int, int, int]
) -> source.DatasetCard:
    """A card that reads some files from a folder, whole."""
    origin = source.Source(kind="folder", files=dict.fromkeys(files))
    return dataclasses.replace(
        card, source=origin, expected=source.Counts(*expected), filter=source.Filter(duplicates="keep")
    )


def amazon2018(data: Path, work: Path) -> None:
    """Gift cards: 458 users, 148 items, 2,972 reviews."""
    files = ["Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz"]
    card = with_files(cards.card("amazon2018-Gift_Cards"), files, (458, 148, 2972))
    convert(card, data / "amazon18-giftcards-raw", work / "gift")


def amazon2014(data: Path, work: Path) -> None:
    """Musical instruments: 1,429 users, 900 items, 10,261 reviews; the file of items is not there."""
    card = with_files(
        cards.card("amazon2014-Musical_Instruments"),
        ["reviews_Musical_Instruments_5.json.gz"],
        (1429, 900, 10261),
    )
    convert(card, data / "amazon14-musical-raw", work / "music")


def beauty(data: Path, work: Path) -> None:
    """Amazon Beauty as own data: 22,363 users, 12,101 items, 198,502 reviews."""
    raw = data / "amazon-beauty"
    frame = pandas.read_csv(raw / "interactions.tsv.gz", sep="\t", dtype={"user_id": str, "item_id": str})
    frame = frame.rename(columns={"position": "timestamp"})
    items = pandas.read_json(raw / "items.jsonl.gz", lines=True, dtype={"item_id": str})
    items["categories"] = [list(dict.fromkeys(sum(lists, []))) for lists in items["categories"]]
    items = items[["item_id", "title", "brand", "categories"]]
    folder = llmbole.dataset_from_frames(frame, items, folder=work / "frames", name="beauty")
    card = dataclasses.replace(own.own_card(folder), expected=cards.card("beauty").expected)
    convert(card, folder, work / "beauty")


def ml_1m(data: Path, work: Path) -> None:
    """The users of ML-1M that are there."""
    files = sorted((data / "ml-1m").glob("ratings*.dat*"))
    named = {"ratings.dat.gz" if file.suffix == ".gz" else "ratings.dat": file for file in files[-1:]}
    named |= {name: data / "ml-1m" / name for name in ("movies.dat", "users.dat")}
    raw = linked(work / "ml-1m-raw", named)
    print("  (counts are of the users in the file)")
    convert(cards.card("ml-1m"), raw, work / "ml-1m")
    print("collm-ml-1m")
    folder = work / "collm"
    convert(cards.card("collm-ml-1m"), raw, folder)
    if (data / "ml-1m-collm").is_dir():
        compare_collm(folder, data / "ml-1m-collm")
        users_of_uauc(data / "ml-1m-collm")


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a gzipped file of JSON lines."""
    with gzip.open(file, "rt", encoding="utf-8") as text:
        yield from map(json.loads, text)


def ours(folder: Path) -> pandas.DataFrame:
    """Rows of the protocol `temporal_collm`: phase, user, time, label, title, and titles of the history."""
    card, rules = cards.card("collm-ml-1m"), protocol("temporal_collm")
    place = folder / "split"
    place.mkdir()
    splits.freeze(rules, card, folder, place)
    split = splits.load(place)
    assert isinstance(split, PairSplit)
    problems = leak.check(split, rules)
    print(f"  split {split.hash[:12]}, {len(problems)} leaks")
    titles = pandas.read_parquet(folder / "items.parquet").set_index("item_id")["title"].str.strip()
    named = np.array(["", *titles[split.item_tokens[1:]]], dtype=object)
    parts = []
    for phase in PHASES:
        part = split.part(phase)
        columns = {
            "user": part.users,
            "timestamp": part.timestamps.astype(int),
            "label": part.labels.astype(int),
        }
        history = [named[part.history(row)].tolist() for row in range(len(part))]
        parts.append(
            pandas.DataFrame({**columns, "title": named[part.items], "phase": phase, "history": history})
        )
    return pandas.concat(parts, ignore_index=True)


def users_of_uauc(published: Path) -> None:
    """How many users and rows of the published test set UAUC counts: 224 of 320, 6,952 of 7,331."""
    rows = list(lines(published / "test.jsonl.gz"))
    users, labels = (np.array([row[name] for row in rows]) for name in ("uid", "label"))
    counted, _ = per_user_auc(users, labels, np.zeros(len(rows)))
    inside = int(np.isin(users, counted).sum())
    print(
        f"  UAUC counts {len(counted)} of {len(set(users))} users, {inside:,} of {len(rows):,} rows of the test set"
    )


def compare_collm(folder: Path, published: Path) -> None:
    """Membership, label and timestamp row by row, then histories of positives, against the published split.

    The published user ids are its own: a user is recognised by its whole set of (timestamp, title, label, phase).
    """
    theirs = pandas.DataFrame(
        {**{key: row[key] for key in ("uid", "iid", "label", "timestamp", "title", "his")}, "phase": phase}
        for phase in PHASES
        for row in lines(published / f"{phase}.jsonl.gz")
    )
    mine = ours(folder)
    keys = ["timestamp", "title", "label", "phase"]
    theirs["title"] = theirs["title"].str.strip()
    known: defaultdict[tuple[int, str], set[int]] = defaultdict(set)
    for uid, timestamp, title in theirs[["uid", "timestamp", "title"]].itertuples(index=False):
        known[int(timestamp), title].add(uid)
    there = {
        uid: Counter(rows[keys].itertuples(index=False, name=None)) for uid, rows in theirs.groupby("uid")
    }
    same = missing = extra = users = 0
    names: dict[str, int] = {}
    for user, rows in mine.groupby("user"):
        votes = Counter(
            uid for key in zip(rows["timestamp"], rows["title"], strict=True) for uid in known.get(key, ())
        )
        if not votes:
            extra += len(rows)
            continue
        names[user] = votes.most_common(1)[0][0]
        users += 1
        here, published_rows = Counter(rows[keys].itertuples(index=False, name=None)), there[names[user]]
        same += (here & published_rows).total()
        missing += (published_rows - here).total()
        extra += (here - published_rows).total()
    print(
        f"  {users} users recognised in the published split; their rows with the same phase, label, timestamp: {same:,}"
    )
    print(
        f"  published rows of theirs that are missing here: {missing}; rows here that are not published: {extra}"
    )
    compare_histories(mine, theirs, names)


def compare_histories(mine: pandas.DataFrame, theirs: pandas.DataFrame, names: dict[str, int]) -> None:
    """Compare the positives before each row; rows of one second may stand in any order in either."""
    titles = dict(theirs[["iid", "title"]].itertuples(index=False))
    published = {
        (row.uid, row.timestamp, row.title): [titles.get(item, "") for item in row.his if item]
        for row in theirs.itertuples(index=False)
    }
    exact = as_sets = total = 0
    for user, rows in mine.groupby("user"):
        for row in rows.itertuples(index=False):
            theirs_here = published.get((names.get(user), row.timestamp, row.title))
            if theirs_here is not None:
                total += 1
                exact += row.history == theirs_here
                tied = set(rows.loc[rows["timestamp"] == row.timestamp, "title"])
                as_sets += set(row.history) - tied == set(theirs_here) - tied
    print(
        f"  histories of positives equal: {exact:,} of {total:,}; equal but for rows of one second: {as_sets:,}"
    )


SETS = {
    "ml-1m": ("ml-1m", ml_1m),
    "amazon18-giftcards": ("amazon18-giftcards-raw", amazon2018),
    "amazon14-musical": ("amazon14-musical-raw", amazon2014),
    "beauty": ("amazon-beauty", beauty),
}


def main() -> int:
    """Check what the folder holds."""
    data = Path(
        sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    )
    if not data.is_dir():
        print(f"{data}: there is no such folder; give one: make check-data DATA=FOLDER")
        return 2
    for name, (folder, check) in SETS.items():
        if not (data / folder).is_dir():
            print(f"{name}: not there")
            continue
        print(name)
        with tempfile.TemporaryDirectory() as work:
            check(data, Path(work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
