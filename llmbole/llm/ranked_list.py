"""A generated ranking read back: which candidates it names, in which order, and what was wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbole.llm.score import QUOTES, mentioned, plain_title

FAULTS = ("foreign", "repeated", "missing", "renumbered", "rambling")
_QUOTED = re.compile(r'"([^"]*)(?:"|\Z)')
_NUMBERED = re.compile(r"\s*(\d+)\s*[.):\]]\s*(.*)", re.DOTALL)
_BULLET = re.compile(r"\s*[-*\u2022]\s+(.*)", re.DOTALL)
_NUMBER_BEFORE = re.compile(r"(\d+)\s*[.):\]]\s*\Z")


@dataclass(frozen=True)
class RankedList:
    """What an answer ranks.

    Attributes:
        order: places of the candidates it names, best first, each once.
        faults: what was wrong, of `FAULTS`; nothing, if the answer lists the wanted number of candidates and no more.
    """

    order: tuple[int, ...]
    faults: frozenset[str]

    def positions(self, count: int) -> np.ndarray:
        """Position of each of `count` candidates, from 1; all that are not named share `count + 1`. Shape `[count]`."""
        found = np.full(count, count + 1, dtype=np.int64)
        found[list(self.order)] = np.arange(1, len(self.order) + 1)
        return found


@dataclass(frozen=True)
class _Entry:
    text: str
    number: int | None


def parse_ranking(text: str, titles: Sequence[str], wanted: int) -> RankedList:
    """Read a ranking from an answer.

    The rules, in this order:

    1. Entries are the quoted texts. Without any quotation mark they are lines, and parts of lines between semicolons;
       if some of those begin with a number or a bullet, the others are entries only if they are a candidate's title.
       Text that is no part of an entry is `rambling`.
    2. If every entry has a number of its own and the numbers do not ascend, the numbers count: `renumbered`.
    3. An entry that is a candidate's title names it. Otherwise it names the candidates that it mentions, in order, and
       is `rambling`; an entry that mentions none is `foreign`. Case, white space and forms of quotation marks do not
       matter. Of candidates with one title the first that is not named yet is meant.
    4. A candidate counts where it is named first; named again it is `repeated`.
    5. An answer that names fewer candidates than wanted is `missing` some.

    Args:
        text: a generated answer, of any number of lines, possibly empty.
        titles: titles of the candidates.
        wanted: how many should be named; at most all of them.

    Returns:
        The candidates in order, and the faults.
    """
    names = [plain_title(title) for title in titles]
    plain = text.translate(QUOTES)
    entries, rambling = _quoted(plain) if '"' in plain else _lines(plain, set(names))
    faults = {"rambling"} if rambling else set()
    numbers = [entry.number for entry in entries if entry.number is not None]
    if len(set(numbers)) == len(entries) and numbers != sorted(numbers):
        faults.add("renumbered")
        entries = sorted(entries, key=lambda entry: entry.number or 0)
    order: list[int] = []
    for entry in entries:
        title = plain_title(entry.text)
        exact = title in names
        found = [title] if exact else mentioned(title, set(names) - {""})
        if not exact:
            faults.add("rambling" if found else "foreign")
        for name in found:
            free = [place for place, other in enumerate(names) if other == name and place not in order]
            order += free[:1]
            if not free:
                faults.add("repeated")
    if len(order) < min(wanted, len(titles)):
        faults.add("missing")
    return RankedList(tuple(order), frozenset(faults))


def _quoted(text: str) -> tuple[list[_Entry], bool]:
    """Quoted entries with the numbers in front of them, and whether there are words outside."""
    entries, end, rambling = [], 0, False
    for match in _QUOTED.finditer(text):
        gap = text[end : match.start()]
        number = _NUMBER_BEFORE.search(gap)
        entries.append(_Entry(match.group(1), int(number.group(1)) if number else None))
        rambling |= _has_words(gap)
        end = match.end()
    return entries, rambling or _has_words(text[end:])


def _lines(text: str, names: set[str]) -> tuple[list[_Entry], bool]:
    """Entries by line and semicolon, and whether some parts are none."""
    parts = [part for part in re.split(r"[;\n]+", text) if part.strip()]
    entries = []
    for part in parts:
        numbered, bullet = _NUMBERED.fullmatch(part), _BULLET.fullmatch(part)
        if plain_title(part) in names:
            entries.append((_Entry(part, None), True))
        elif numbered:
            entries.append((_Entry(numbered.group(2), int(numbered.group(1))), True))
        else:
            entries.append((_Entry(bullet.group(1) if bullet else part, None), bullet is not None))
    marked = any(mark for _, mark in entries)
    kept = [entry for entry, mark in entries if mark or not marked]
    return kept, len(kept) < len(entries)


def _has_words(text: str) -> bool:
    return re.search(r"[^\W\d_]", text) is not None
