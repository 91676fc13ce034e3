"""Several data sets as one, such as `ml-1m+beauty`: for scenarios that train on one set and test on another.

Ids carry the name of their set (`ml-1m:1193`), so a user or an item of two sets counts as two; the sets' rows follow
each other, so the items of a set have consecutive internal ids.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbole.data import source
from llmbole.data.cards import DOMAIN_MARK, DatasetCard, Filter, Rating, Source, Words
from llmbole.data.convert.report import Counts, DataError
from llmbole.data.convert.write import AtomicFile
from llmbole.data.own import OWN_YAML, card_in, own_folder
from llmbole.settings import SettingsError

SEPARATOR = "+"
NEUTRAL = Words(item="item", items="items", verb="choose", past="chosen")


def names(dataset: str) -> list[str]:
    """The sets that a name joins; just itself if it joins none, or is a folder with a plus sign in its path."""
    folder = own_folder(dataset)
    if SEPARATOR not in dataset or (folder is not None and folder.is_dir()):
        return [dataset]
    return dataset.split(SEPARATOR)


def card_of(name: str, folders: Sequence[Path]) -> DatasetCard:
    """The card of a data set by the name it has in a run.

    Args:
        name: The name; `own-...` is a folder of the user's own.
        folders: Raw or prepared data of each set that it joins.

    Returns:
        The card.
    """
    return join([card_in(each, folder) for each, folder in zip(names(name), folders, strict=True)])


def prepared_card(name: str, folder: Path) -> DatasetCard:
    """The card of prepared data, as `prepare` left them in a folder."""
    found = names(name)
    return card_of(name, [folder / each for each in found] if len(found) > 1 else [folder])


def join(cards: Sequence[DatasetCard]) -> DatasetCard:
    """The card of several sets as one; of a single one, its own.

    Prompts speak of items neutrally where the sets have different words; labels are there if the sets agree on them;
    time windows are left out.

    Args:
        cards: The sets, in order.

    Returns:
        The card.

    Raises:
        SettingsError: A set stands twice.
    """
    if len(cards) == 1:
        return cards[0]
    domains = tuple(card.name for card in cards)
    if len(set(domains)) < len(domains):
        raise SettingsError(f"dataset {SEPARATOR.join(domains)}: a set stands in it twice; name each once")
    words, labels = {card.words for card in cards}, {card.label for card in cards}
    expected = [card.expected for card in cards if card.expected is not None]
    return DatasetCard(
        name=SEPARATOR.join(domains),
        title=" and ".join(card.title for card in cards),
        source=Source(kind="own", files={}),
        converter="joined",
        words=words.pop() if len(words) == 1 else NEUTRAL,
        rating=Rating(min(card.rating.low for card in cards), max(card.rating.high for card in cards)),
        licence="; ".join(dict.fromkeys(card.licence for card in cards)),
        citation="; ".join(dict.fromkeys(card.citation for card in cards)),
        expected=_sum(expected) if len(expected) == len(cards) else None,
        filter=Filter(),
        label=labels.pop() if len(labels) == 1 else None,
        domains=domains,
    )


def fingerprint(cards: Sequence[DatasetCard], raws: Sequence[Path], cache: Path | None) -> str:
    """What identifies the prepared data of all sets together; of a single one, its own fingerprint."""
    return _together([source.fingerprint(card, raw, cache) for card, raw in zip(cards, raws, strict=True)])


def _together(fingerprints: Sequence[str]) -> str:
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.sha256(json.dumps(list(fingerprints)).encode()).hexdigest()


def prepare(
    cards: Sequence[DatasetCard],
    raws: Sequence[Path],
    folder: Path,
    progress: Callable[[int], None] | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Prepare each set, and put them together: see `source.prepare`.

    Of features only those are kept that all sets have.

    Args:
        cards: The sets, in order.
        raws: Folder of the raw files of each.
        folder: An existing, empty folder.
        progress: Called with the number of raw lines read since the last call.
        cache: Folder of downloads and of hashes of big files.

    Returns:
        The summary of `source.prepare`, counts added up.

    Raises:
        DataError: The folder is not empty, or a set can't be prepared.
    """
    if len(cards) == 1:
        return source.prepare(cards[0], raws[0], folder, progress, cache)
    if any(folder.iterdir()):
        raise DataError(f"{folder} must be an existing, empty folder")
    summaries = []
    for card, raw in zip(cards, raws, strict=True):
        aside = folder / card.name
        aside.mkdir()
        summaries.append(source.prepare(card, raw, aside, progress, cache))
    whole = join(cards)
    _join_atomic(cards, folder, whole.name, "inter", marked=2)
    _join_atomic(cards, folder, whole.name, "item", marked=1)
    if all((folder / card.name / f"{card.name}.user").is_file() for card in cards):
        _join_atomic(cards, folder, whole.name, "user", marked=1)
    for table, key in (("items", "item_id"), ("users", "user_id")):
        _join_tables(cards, folder, table, key)
    _clear(cards, folder)
    return _described(whole, summaries, folder)


def _described(whole: DatasetCard, summaries: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The summary of joined sets from theirs, with its fingerprint in a file."""
    fingerprints = [each["fingerprint"] for each in summaries]
    digest = _together(fingerprints)
    content = {"dataset": whole.name, "fingerprint": digest, "sets": fingerprints}
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    (folder / source.FINGERPRINT_FILE).write_text(text, encoding="utf-8")
    counts = _sum(
        [Counts(*(each[name] for name in ("users", "items", "interactions"))) for each in summaries]
    )
    expected = None if whole.expected is None else vars(whole.expected)
    named = zip(whole.domains, summaries, strict=True)
    warnings = [f"{name}: {warning}" for name, each in named for warning in each["warnings"]]
    return {**vars(counts), "expected": expected, "fingerprint": digest, "warnings": warnings}


def _sum(counts: Sequence[Counts]) -> Counts:
    return Counts(
        sum(each.users for each in counts),
        sum(each.items for each in counts),
        sum(each.interactions for each in counts),
    )


def _join_atomic(cards: Sequence[DatasetCard], folder: Path, name: str, kind: str, *, marked: int) -> None:
    """Put the atomic files of one kind behind each other; the first `marked` columns are ids."""
    files = [folder / card.name / f"{card.name}.{kind}" for card in cards]
    heads = [next(_rows(file)) for file in files]
    columns = [column for column in heads[0] if all(column in head for head in heads)]
    with AtomicFile(folder / f"{name}.{kind}", columns) as out:
        for card, file, head in zip(cards, files, heads, strict=True):
            places = [head.index(column) for column in columns]
            rows = _rows(file)
            next(rows)
            for row in rows:
                values = [row[place] for place in places]
                values[:marked] = [f"{card.name}{DOMAIN_MARK}{value}" for value in values[:marked]]
                out.write(values)


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.reader(lines, delimiter="\t")


def _join_tables(cards: Sequence[DatasetCard], folder: Path, table: str, key: str) -> None:
    """Put the parquet tables of one name behind each other, the columns that all of them have."""
    import pyarrow
    import pyarrow.parquet

    files = [folder / card.name / f"{table}.parquet" for card in cards]
    schemas = [pyarrow.parquet.read_schema(file) for file in files]
    fields = [
        field for field in schemas[0] if all(schema.get_field_index(field.name) >= 0 for schema in schemas)
    ]
    schema = pyarrow.schema(fields)
    with pyarrow.parquet.ParquetWriter(folder / f"{table}.parquet", schema) as out:
        for card, file in zip(cards, files, strict=True):
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(columns=schema.names):
                    ids = pyarrow.array(
                        [f"{card.name}{DOMAIN_MARK}{value}" for value in batch.column(key).to_pylist()]
                    )
                    columns = [ids if name == key else batch.column(name) for name in schema.names]
                    out.write_batch(pyarrow.record_batch(columns, schema=schema))


def _clear(cards: Sequence[DatasetCard], folder: Path) -> None:
    """Leave of each set's own folder only the card of the user's own data, which `prepared_card` reads."""
    for card in cards:
        aside = folder / card.name
        text = (aside / OWN_YAML).read_bytes() if (aside / OWN_YAML).is_file() else None
        shutil.rmtree(aside)
        if text is not None:
            aside.mkdir()
            (aside / OWN_YAML).write_bytes(text)
