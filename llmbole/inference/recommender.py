"""Top-k items for users and for histories, from a finished run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from llmbole.data import splits
from llmbole.data.convert.report import DataError
from llmbole.data.text import ItemText
from llmbole.inference.files import read_items
from llmbole.inference.finished import Finished
from llmbole.inference.people import People
from llmbole.model.scorer import Context, NewItems, Scorer
from llmbole.settings import SettingsError

SCORES_PER_BATCH = 4_000_000
USERS_PER_BATCH = 64
Key = TypeVar("Key")
LONGEST_LIST = 1000
"""Items that one LLM prompt could be asked to rank; most LLMs take far fewer."""


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        rank: From 1.
        item_id: Raw id.
        title: Its title, empty if it has none.
        score: What it was ranked by: the model's score, a probability, or the log-likelihood of its title in its list.
    """

    rank: int
    item_id: str
    title: str
    score: float


@dataclass(frozen=True)
class Query:
    """One list that is asked for.

    Attributes:
        context: Whose.
        k: Items wanted.
        seen: Items to leave out, by internal id. Shape `[n]`.
        items: Items to recommend among, by internal id, ascending; `None` for all of the data set. Shape `[C]`.
    """

    context: Context
    k: int
    seen: np.ndarray
    items: np.ndarray | None = None


class Recommender:
    """A finished run, opened: `Recommender(finished)(["196", "22"], k=5)`.

    Args:
        finished: The run.
        items: CSV of the items to recommend among; `None` for all of the data set.
        shortlist: Items that the backbone chooses for the method to rank; `None` leaves that to the method.

    Raises:
        SettingsError: The method can't recommend, or not these items.
        DataError: The file of items is wrong.
    """

    def __init__(
        self, finished: Finished, items: Path | str | None = None, shortlist: int | None = None
    ) -> None:
        self.finished = finished
        self.opener = finished.opener
        data, split = (finished.artifacts[name] for name in ("data", "split"))
        assert data is not None and split is not None  # every method's opener needs both
        self.split = splits.load(split.folder)
        self.people = People(self.split)
        text = ItemText.load(data.folder, self.split.item_tokens)
        self._raw, self._titles = [str(raw) for raw in self.split.item_tokens], list(text.title)
        self.items = {raw: place for place, raw in enumerate(self._raw) if place}
        self._catalogue = np.arange(1, self.split.n_items)
        self._given = items is not None
        new = self._read(Path(items)) if items is not None else None
        self.scorer = finished.open(new)
        self.shortlist = self._checked(shortlist)

    def _read(self, file: Path) -> NewItems | None:
        raw, text = read_items(file, self.items)
        first = self.split.n_items
        added = [each for each in raw if each not in self.items]
        if added and not self.opener.reads_new:
            raise DataError(
                f"{file}: the data set has no item {added[0]!r}, and {self.finished.model} scores only items that it "
                f"knows from training ({len(added)} rows are others); leave them out, or take a method that reads item "
                "text, such as ALLMRec or TALLRec"
            )
        self.items |= {each: first + place for place, each in enumerate(added)}
        self._raw += added
        self._titles += text.title[1:]
        self._catalogue = np.sort([self.items[each] for each in raw])
        return NewItems(first, text) if added else None

    def _checked(self, shortlist: int | None) -> int | None:
        """How many items the backbone chooses; `None` where nobody does."""
        scorer, name = self.scorer, self.finished.model
        wanted = shortlist if shortlist is not None else None if self._given else scorer.shortlist
        if shortlist is not None and shortlist < 1:
            raise SettingsError(f"shortlist = {shortlist}: must be at least 1")
        if shortlist is not None and self._given:
            raise SettingsError(
                "a shortlist is chosen from all items of the data set; give no file of items with it"
            )
        if shortlist is not None and scorer.retriever is None:
            raise SettingsError(
                f"{name} has no backbone that could choose {shortlist} items to rank; leave it out"
            )
        return wanted

    def users(self, raw: Iterable[str]) -> Iterator[str]:
        """Raw user ids, checked one by one; an unknown one is a DataError."""
        for user in raw:
            if user not in self.people.ids:
                raise DataError(f"the data set has no user {user!r}; give ids as they stand in the raw data")
            yield user

    def all_users(self) -> Iterator[str]:
        """Raw ids of all users."""
        return iter(self.people.ids)

    def __call__(
        self, users: Sequence[str] | str, k: int = 10, *, with_seen: bool = False
    ) -> dict[str, list[Recommendation]]:
        """Recommend to users of the data set.

        Args:
            users: Raw ids, or one.
            k: Items for each; fewer if there are not so many.
            with_seen: Whether items that a user has interacted with may be recommended.

        Returns:
            Best first, by user.

        Raises:
            DataError: The data set has no such user.
        """
        asked = [users] if isinstance(users, str) else list(users)
        return dict(self.stream(self.users(asked), k, with_seen=with_seen))

    def stream(
        self, users: Iterable[str], k: int = 10, *, with_seen: bool = False, batch: int = USERS_PER_BATCH
    ) -> Iterator[tuple[str, list[Recommendation]]]:
        """Recommend to any number of users, one batch after the other; see `__call__`.

        Args:
            users: Raw ids of the data set.
            k: Items for each.
            with_seen: Whether items that a user has interacted with may be recommended.
            batch: Users scored together.

        Yields:
            Raw id and recommendations, in the order of the users.
        """
        waiting = iter(users)
        while chunk := list(itertools.islice(waiting, batch)):
            queries = [self.query(user, k=k, with_seen=with_seen) for user in chunk]
            yield from zip(chunk, self.rank(queries), strict=True)

    def query(
        self, user: str, *, k: int, items: Sequence[str] | None = None, with_seen: bool = False
    ) -> Query:
        """What to ask for a user of the data set.

        Args:
            user: Raw id.
            k: Items wanted.
            items: Raw ids to recommend among; `None` for all.
            with_seen: Whether items that the user has interacted with may be recommended.

        Returns:
            The query.

        Raises:
            DataError: The data set has no such user or item.
        """
        (known,) = self.users([user])
        place = self.people.ids[known]
        seen = np.zeros(0, dtype=np.int64) if with_seen else self.people.seen(place)
        return Query(self.people.context(place), k, seen, self._among(items))

    def query_history(
        self, history: Sequence[str], *, k: int, items: Sequence[str] | None = None, with_seen: bool = False
    ) -> Query:
        """What to ask for somebody of whom a history alone is known; see `query`.

        Args:
            history: Raw item ids, oldest first.
            k: Items wanted.
            items: Raw ids to recommend among; `None` for all.
            with_seen: Whether items of the history may be recommended.

        Returns:
            The query.

        Raises:
            DataError: The data set has no such item, or the history is empty.
            SettingsError: The method needs to know the user.
        """
        if self.scorer.history_alone is not None:
            raise SettingsError(self.scorer.history_alone)
        places = self._places(history)
        if not len(places):
            raise DataError("the history is empty; give at least one item")
        if places.max() >= self.split.n_items:
            raise DataError("the history holds an item that the data set lacks; it can only be recommended")
        seen = np.zeros(0, dtype=np.int64) if with_seen else np.unique(places)
        return Query(Context(0, places), k, seen, self._among(items))

    def _among(self, items: Sequence[str] | None) -> np.ndarray | None:
        return None if items is None else np.unique(self._places(items))

    def _places(self, raw: Sequence[str]) -> np.ndarray:
        unknown = [item for item in raw if item not in self.items]
        if unknown:
            raise DataError(
                f"the data set has no item {unknown[0]!r}; give ids as they stand in the raw data"
            )
        return np.array([self.items[item] for item in raw], dtype=np.int64)

    def rank(self, queries: Sequence[Query]) -> list[list[Recommendation]]:
        """The best items of each query, equal scores in the order of the data set.

        Args:
            queries: What is asked for; they are scored in as few batches as there can be.

        Returns:
            Best first, in the order of the queries.

        Raises:
            SettingsError: A list is longer than the method can rank.
            ValueError: The model gives a score that is no number.
        """
        found: list[list[Recommendation]] = [[] for _ in queries]
        for places, items in self._groups(queries):
            if not items.shape[1]:
                continue
            scores = _scored(self.scorer, [queries[place].context for place in places], items)
            if not np.isfinite(scores).all():
                raise ValueError(
                    f"{self.finished.model} gives scores that are no finite numbers; train it again"
                )
            for place, row, values in zip(places, items, scores, strict=True):
                found[place] = self._best(queries[place], row, values)
        return found

    def _best(self, query: Query, items: np.ndarray, scores: np.ndarray) -> list[Recommendation]:
        left = np.flatnonzero(~np.isin(items, query.seen))
        order = left[np.argsort(-scores[left], kind="stable")[: query.k]]
        return [
            Recommendation(rank, self._raw[items[place]], self._titles[items[place]], float(scores[place]))
            for rank, place in enumerate(order, start=1)
        ]

    def _groups(self, queries: Sequence[Query]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Queries whose lists are equally long, and the items of each. Shapes `[B, C]`."""
        if self.scorer.shortlist is None and self.shortlist is None:
            alike: Mapping[bytes | None, list[int]] = _alike(
                None if query.items is None else query.items.tobytes() for query in queries
            )
            for places in alike.values():
                items = queries[places[0]].items
                shared = self._catalogue if items is None else items
                yield places, np.broadcast_to(shared, (len(places), len(shared)))
            return
        lists = self._lists(queries)
        for places in _alike(map(len, lists)).values():
            yield places, np.stack([lists[place] for place in places])

    def _lists(self, queries: Sequence[Query]) -> list[np.ndarray]:
        """What the method ranks for each query: the items given, or those that the backbone chooses, ascending."""
        lists = [
            np.setdiff1d(self._catalogue if query.items is None else query.items, query.seen)
            for query in queries
        ]
        chosen = [place for place, query in enumerate(queries) if query.items is None and not self._given]
        retriever = self.scorer.retriever
        if chosen and retriever is None:
            raise SettingsError(
                f"{self.finished.model} ranks lists of items and has no backbone to choose them; say which items"
            )
        if chosen and retriever is not None:
            assert self.shortlist is not None  # of a method that ranks lists, or as asked for
            contexts = [queries[place].context for place in chosen]
            width = len(self._catalogue)
            scores = _scored(retriever, contexts, np.broadcast_to(self._catalogue, (len(chosen), width)))
            for place, values in zip(chosen, scores, strict=True):
                left = lists[place]
                best = np.argsort(-values[left - 1], kind="stable")[: self.shortlist]
                lists[place] = np.sort(left[best])
        longest = max(map(len, lists))
        if self.scorer.shortlist is not None and longest > LONGEST_LIST:
            raise SettingsError(
                f"{self.finished.model} ranks the items of a list in one prompt, and {longest} are too many for any; "
                f"give at most {LONGEST_LIST}"
            )
        return lists


def _scored(scorer: Scorer, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
    """Scores in batches of bounded memory. Shape `[B, C]`."""
    size = max(1, SCORES_PER_BATCH // items.shape[1])
    chunks = [slice(start, start + size) for start in range(0, len(contexts), size)]
    return np.concatenate([scorer.score(contexts[chunk], items[chunk]) for chunk in chunks])


def _alike(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Places of equal keys."""
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places
