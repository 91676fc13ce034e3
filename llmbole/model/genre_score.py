"""Genres of items, genres that an answer names, and how well the two agree beside chance; arrays in, numbers out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbole.data.text import ItemText
from llmbole.llm.score import mentioned, plain_title

CUT_OFFS = (1, 3)
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u0060\u00b4", "'"))
_HYPHENS = re.compile("[-\u2010-\u2015_]+")


@dataclass(frozen=True)
class Genres:
    """The genres of a data set.

    Attributes:
        names: As answers are compared with them, sorted.
        labels: As the data set writes them, in the same order; of several spellings the first.
        of_items: Whether an item, by internal id, is of a genre. Boolean, shape `[n_items, G]`.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    of_items: np.ndarray


def plain(text: str) -> str:
    """A text without what does not matter: case, white space, hyphens for spaces, the form of apostrophes."""
    return plain_title(_HYPHENS.sub(" ", text.translate(_APOSTROPHES)))


def genres_of(items: ItemText, left_out: Sequence[str]) -> Genres:
    """The categories of items as genres.

    Args:
        items: Text of items.
        left_out: Categories that are no genre, such as MovieLens's `unknown`.

    Returns:
        The genres; none, if no item has one.
    """
    refused = {plain(name) for name in left_out} | {""}
    named = [{plain(name) for name in each} - refused for each in items.categories]
    names = tuple(sorted(set().union(*named)))
    spelled = {plain(name): name for each in reversed(items.categories) for name in reversed(each)}
    place = {name: column for column, name in enumerate(names)}
    found = np.zeros((len(items), len(names)), dtype=bool)
    for item, each in enumerate(named):
        found[item, [place[name] for name in each]] = True
    return Genres(names, tuple(spelled[name] for name in names), found)


def read_genres(answer: str, names: Sequence[str]) -> list[int]:
    """The genres that an answer names, in the order in which it does.

    A genre is named where it stands as whole words, whatever the case, the apostrophe, and whether a space or a hyphen
    joins its words; inside a longer genre that stands there it is not (`crime drama` of `Crime Drama`). Named again, it
    counts where it was named first. Nothing else is understood: synonyms, plurals and `not` are not.

    Args:
        answer: Text of any number of lines, possibly empty.
        names: `Genres.names`.

    Returns:
        Places of the genres; an answer that names none is not valid.
    """
    text = plain(answer)
    place = {name: column for column, name in enumerate(names) if name in text}  # of hundreds, a few
    return [place[name] for name in mentioned(text, set(place))]


def precision(named: Sequence[Sequence[int]], truth: np.ndarray, count: int) -> np.ndarray:
    """The share of the first genres of answers that are right; genres that an answer lacks are wrong ones.

    Args:
        named: Genres of each answer, in order.
        truth: Genres of each target. Boolean, shape `[U, G]`.
        count: How many of the first count.

    Returns:
        Shape `[U]`.
    """
    hits = [row[list(each[:count])].sum() for each, row in zip(named, truth, strict=True)]
    return np.array(hits, dtype=np.float64) / count


def drawn(shares: np.ndarray, count: int) -> np.ndarray:
    """How likely each genre is among different ones that are drawn, one after the other, by their shares.

    Args:
        shares: Of all genres, sum 1. Shape `[G]`.
        count: How many are drawn, 1 to 3; if fewer have a share, all of those are.

    Returns:
        Probabilities. Shape `[G]`.
    """
    some = shares > 0
    found, p = np.zeros(len(shares)), shares[some]
    if len(p) <= count:
        found[some] = 1.0
        return found
    total = p.copy()  # drawn first
    if count > 1:
        others = p / (1 - p)
        total += p * (others.sum() - others)  # second: behind any other
    if count > 2:
        left = 1 - p[:, None] - p[None, :]
        np.fill_diagonal(left, 1.0)
        pairs = others[:, None] * p[None, :] / left  # third: behind any two others
        np.fill_diagonal(pairs, 0.0)
        total += p * (pairs.sum() - pairs.sum(axis=0) - pairs.sum(axis=1))
    found[some] = total
    return found


def measures(named: Sequence[Sequence[int]], truth: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """What answers are worth, and what two answers without any knowledge of the user are.

    Args:
        named: Genres of each answer, in order.
        truth: Genres of each target. Boolean, shape `[U, G]`.
        counts: Training interactions of each genre. Shape `[G]`.

    Returns:
        `GenreValid`: the share of answers that name a genre. At each cut-off, means over users: `GenrePrecision@k`;
        `GenreChance@k`, of different genres drawn by their share of the training interactions, exactly;
        `GenrePopular@k`, of the genres of most training interactions.
    """
    found = {"GenreValid": float(np.mean([bool(each) for each in named]))}
    popular = np.argsort(-counts, kind="stable").tolist()
    for count in CUT_OFFS:
        chance = truth @ drawn(counts / counts.sum(), count) / count
        found[f"GenrePrecision@{count}"] = float(precision(named, truth, count).mean())
        found[f"GenreChance@{count}"] = float(chance.mean())
        found[f"GenrePopular@{count}"] = float(precision([popular] * len(truth), truth, count).mean())
    return found
