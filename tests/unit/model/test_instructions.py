"""Instructions come from training alone, answer what they ask, and leave out users with too short a history."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from llmbole.data import protocol as protocols
from llmbole.data import source
from llmbole.data.hold_out import freeze
from llmbole.data.label_rows import freeze as freeze_rows
from llmbole.data.pairs import PairSplit
from llmbole.data.sequences import Sequences
from llmbole.data.split import Split
from llmbole.model.instructions import Instructions, InstructionSettings, Sampler, check
from llmbole.model.ranking_prompts import TASKS

SETTINGS = {"tasks": TASKS, "per_task": 300, "min_history": 3, "candidates": 6, "positives": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Splits of ml-100k for a ranking and for ratings."""
    card, prepared = source.card("ml-100k"), tmp_path_factory.mktemp("data")
    source.prepare(card, None, prepared)
    made = {}
    for name, split in (("loo_full", freeze), ("loo_rating", freeze_rows)):
        made[name] = tmp_path_factory.mktemp(name)
        split(protocols.protocol(name), card, prepared, made[name])
    return made


@pytest.fixture(scope="module")
def split(folders):
    return Split.load(folders["loo_full"])


@pytest.fixture(scope="module")
def sequences(split):
    return Sequences.of(split)


def sample(sequences, seed=1, **changes) -> Instructions:
    return Sampler(sequences, InstructionSettings(**{**SETTINGS, **changes}), 4.0, seed).sample()


def of(rows, task):
    chosen = rows.task == TASKS.index(task)
    return SimpleNamespace(**{name: column[chosen] for name, column in vars(rows).items()})


def test_lists_hold_the_users_next_items_and_name_them_best_rated_first(sequences):
    rows = of(sample(sequences), "listwise")
    assert len(rows.position) == 300
    for position, offered, answer in zip(rows.position, rows.offered, rows.answer, strict=True):
        own = np.arange(position, position + 3)
        assert set(answer) == set(sequences.items[own]) <= set(offered)
        user = sequences.users[position]
        assert sequences.train_ends[user] >= position + 3 and position - sequences.offsets[user] >= 3
        rating = dict(zip(sequences.items[own], sequences.ratings[own], strict=True))
        assert [rating[item] for item in answer] == sorted(rating.values(), reverse=True)
        known = sequences.items[sequences.offsets[user] : sequences.train_ends[user]]
        assert not (set(offered) - set(answer)) & set(known)
    assert not (rows.offered[:, :3] == rows.answer).all()


def test_the_other_tasks_answer_what_they_ask(sequences):
    rows = sample(sequences)
    likes, pairs, rated = (of(rows, task) for task in ("pointwise", "pairwise", "rating"))
    liked = likes.label == 1
    assert liked.sum() == 150
    own = sequences.items[likes.position] == likes.offered[:, 0]
    assert (own == liked).all()
    assert (sequences.ratings[likes.position[liked]] >= 4).all()
    assert (pairs.answer[:, 0] == sequences.items[pairs.position]).all()
    assert ((pairs.offered[:, :2] == pairs.answer[:, :1]).sum(axis=1) == 1).all()
    assert 100 < (pairs.offered[:, 0] == pairs.answer[:, 0]).sum() < 200
    assert (rated.label == sequences.ratings[rated.position]).all()
    assert (rated.offered[:, 0] == sequences.items[rated.position]).all()


def test_the_same_seed_draws_the_same_and_nothing_twice(sequences):
    one, same, other = sample(sequences), sample(sequences), sample(sequences, seed=2)
    assert all(np.array_equal(vars(one)[name], vars(same)[name]) for name in vars(one))
    assert not np.array_equal(one.position, other.position)
    asked = np.stack([one.task, one.position], axis=1)
    assert len(np.unique(asked, axis=0)) == len(one)


def test_too_short_histories_are_left_out(sequences):
    least = 200
    rows = sample(sequences, min_history=least, per_task=10**6, tasks=("rating",))
    assert (rows.position - sequences.offsets[sequences.users[rows.position]] >= least).all()
    assert set(sequences.users[rows.position]) == set(np.flatnonzero(sequences.train_counts > least))
    with pytest.raises(ValueError, match="lower instructions.min_history"):
        sample(sequences, min_history=10_000)


@pytest.mark.parametrize("name", ["loo_full", "loo_rating"])
def test_training_is_all_that_is_asked_and_shown(folders, name):
    opened = (Split if name == "loo_full" else PairSplit).load(folders[name])
    sequences = Sequences.of(opened)
    rows = sample(sequences)
    assert sequences.trained[rows.position].all()
    assert check(opened, sequences, rows, 10) == []
    held_out = opened.phase("test").positions if name == "loo_full" else opened.part("test").positions
    planted = Instructions(**{**vars(rows), "position": np.append(rows.position[:-1], held_out[0])})
    problems = check(opened, sequences, planted, 10)
    assert problems and "held out" in problems[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positives": 6}, "must be fewer"),
        ({"tasks": ()}, "name at least one"),
        ({"tasks": ("rating", "rating")}, "each once"),
        ({"per_task": 0, "min_history": 0}, r"(?s)per_task = 0.*min_history = 0"),
    ],
)
def test_settings_that_ask_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        InstructionSettings(**{**SETTINGS, **changes})
