"""Filters on arrays, against a slow plain version, and the rules of the papers by hand."""

from __future__ import annotations

import datetime
from collections import Counter

import numpy as np
import pytest

from llmbole.data.cards import Core, Filter
from llmbole.data.convert import filters


def columns(rows):
    users, items, ratings, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "user": np.array(users, np.int32),
        "item": np.array(items, np.int32),
        "rating": np.array(ratings, np.float32),
        "time": np.array(times, np.float64),
    }


def plain(rows, rule):
    """The same rules, row by row."""
    kept = list(enumerate(rows))
    if rule.duplicates != "keep":
        last = {}
        for number, row in kept if rule.duplicates == "last" else reversed(kept):
            last[row[:2]] = number
        kept = [(number, row) for number, row in kept if last[row[:2]] == number]
    if rule.min_rating is not None:
        kept = [(number, row) for number, row in kept if row[2] >= rule.min_rating]
    low, high = rule.window
    kept = [(number, row) for number, row in kept if low <= row[3] < high]
    while rule.core is not None:
        counted = [row for _, row in kept if rule.core.count_from is None or row[2] >= rule.core.count_from]
        users, items = Counter(row[0] for row in counted), Counter(row[1] for row in counted)
        before = len(kept)
        kept = [
            (number, row)
            for number, row in kept
            if users[row[0]] >= rule.core.users and items[row[1]] >= rule.core.items
        ]
        if rule.core.rounds == "once" or len(kept) == before:
            break
    return [number for number, _ in kept]


def random_rule(rng):
    def choose(*options):
        return options[rng.integers(len(options))]

    core = Core(
        users=int(rng.integers(0, 5)),
        items=int(rng.integers(0, 5)),
        rounds=choose("all", "once"),
        count_from=choose(None, 3.0),
    )
    return Filter(
        duplicates=choose("first", "last", "keep"),
        min_rating=choose(None, 2.0, 4.0),
        since=choose(None, "1970-01-03"),
        until=choose(None, "1970-01-09"),
        core=choose(None, core, core),
    )


@pytest.mark.parametrize("seed", range(200))
def test_a_filter_keeps_what_the_plain_version_keeps(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 120))
    rows = list(
        zip(
            rng.integers(0, 12, n).tolist(),
            rng.integers(0, 9, n).tolist(),
            rng.integers(1, 6, n).astype(float).tolist(),
            (rng.integers(0, 10, n) * 86400).astype(float).tolist(),
            strict=True,
        )
    )
    rule = random_rule(rng)
    kept, left = filters.keep(columns(rows), rule)
    assert kept.tolist() == plain(rows, rule)
    gone = sorted(row for rows_left in left.values() for row in rows_left.tolist())
    assert sorted([*kept.tolist(), *gone]) == list(range(n))


def test_one_round_leaves_what_falls_under_the_minimum_through_it():
    # i2 has two users, one of whom has only it: once, u1 stays with i2 though i2 then has one user.
    rows = [(0, 0, 5, 0), (0, 1, 5, 1), (1, 1, 5, 2), (2, 0, 5, 3), (2, 0, 4, 4)]
    once = Filter(duplicates="keep", core=Core(2, 2, "once"))
    assert filters.keep(columns(rows), once)[0].tolist() == [0, 1, 3, 4]
    every = Filter(duplicates="keep", core=Core(2, 2, "all"))
    assert filters.keep(columns(rows), every)[0].tolist() == [3, 4]


def test_low_ratings_that_are_not_counted_stay_with_who_is_kept():
    rows = [(0, 0, 5, 0), (0, 1, 3, 1), (0, 2, 1, 2), (1, 0, 1, 3), (1, 1, 1, 4), (2, 0, 4, 5)]
    rule = Filter(duplicates="keep", core=Core(users=2, rounds="once", count_from=3.0))
    assert filters.keep(columns(rows), rule)[0].tolist() == [0, 1, 2]


def test_dates_are_utc_and_the_last_is_left_out():
    first = datetime.datetime(2017, 1, 1, tzinfo=datetime.timezone.utc).timestamp()
    last = datetime.datetime(2018, 1, 1, tzinfo=datetime.timezone.utc).timestamp()
    rows = [(0, 0, 5, first - 1), (0, 1, 5, first), (0, 2, 5, last - 1), (0, 3, 5, last)]
    assert filters.keep(columns(rows), Filter(since="2017-01-01", until="2018-01-01"))[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"since": "2017"}, "since = '2017'.*write dates as 2001-06-01"),
        ({"since": "2018-01-01", "until": "2017-01-01"}, "is not before until"),
    ],
)
def test_dates_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Filter(**values)
