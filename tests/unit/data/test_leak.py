"""A planted leak of each kind is found, and named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmbole.data import leak
from llmbole.data import protocol as protocols

PROTOCOL = protocols.protocol("loo_rank20")


def planted(split, phase=None, **arrays):
    """A split with other arrays, and the hash that fits them; functions get a copy of the old array."""
    changed = {
        name: change(np.array(getattr(split, name))) for name, change in arrays.items() if phase is None
    }
    phases = {name: dict(old) for name, old in split.phases.items()}
    if phase is not None:
        for name, change in arrays.items():
            phases[phase][name] = change(np.array(phases[phase][name]))
    other = dataclasses.replace(split, phases=phases, **changed)
    return dataclasses.replace(other, hash=other.contents_hash())


def only(problems, start):
    assert len(problems) == 1 and problems[0].startswith(start), problems


def put(row, value):
    def change(array):
        array[row] = value
        return array

    return change


def test_target_among_training_interactions(split):
    ends = planted(split, train_ends=put(7, split.train_ends[7] + 1))
    user = split.user_tokens[7]
    only(
        leak.check(ends, PROTOCOL),
        f"valid: 1 targets are training interactions, the first is of user '{user}'",
    )


def test_target_that_is_also_a_training_item(split):
    phase = split.phase("valid")
    position = phase.positions[3]
    repeated = planted(split, items=put(split.offsets[phase.users[3]], split.items[position]))
    assert any(
        "1 targets are training items of their user" in problem for problem in leak.check(repeated, PROTOCOL)
    )


def test_target_that_stands_in_its_history(split):
    """The validation item again as the test item: not in training, but in the test history."""
    valid, test = split.phase("valid"), split.phase("test")
    item = valid.targets[0]
    leaky = planted(planted(split, items=put(test.positions[0], item)), "test", targets=put(0, item))
    assert "test: 1 targets stand in their own history" in " ".join(leak.check(leaky, PROTOCOL))


def test_target_of_another_interaction(split):
    wrong = planted(split, "test", targets=put(5, 1 + split.phase("test").targets[5] % 1682))
    assert any(
        "1 targets are not the interaction they stand for" in problem
        for problem in leak.check(wrong, PROTOCOL)
    )


def test_history_from_the_future(split):
    user = 11
    first, last = split.offsets[user], split.offsets[user + 1] - 1
    late = planted(split, timestamps=put(first, split.timestamps[last] + 1))
    problems = leak.check(late, PROTOCOL)
    only(problems, "1 interactions stand after a later one, the first is user")
    assert f"user '{split.user_tokens[user]}'" in problems[0]


def test_candidate_from_the_users_history(split):
    phase = split.phase("test")
    place = int(np.argmax(phase.candidates[4] != phase.targets[4]))
    known = planted(split, "test", candidates=put((4, place), phase.history(4)[0]))
    only(leak.check(known, PROTOCOL), "test: 1 candidate lists hold another item of their user")


def test_validation_candidate_that_is_the_test_target(split):
    phase = split.phase("valid")
    place = int(np.argmax(phase.candidates[4] != phase.targets[4]))
    later = planted(split, "valid", candidates=put((4, place), split.phase("test").targets[4]))
    only(leak.check(later, PROTOCOL), "valid: 1 candidate lists hold another item of their user")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda lists, targets: np.where(lists == targets[:, None], np.roll(lists, 1, axis=1), lists),
            "hold their target once",
        ),
        (
            lambda lists, targets: np.where(np.arange(20) == 3, targets[:, None], lists),
            "hold their target once",
        ),
        (lambda lists, targets: np.where(lists == lists[:, :1], 0, lists), "hold a number that is no item"),
        (
            lambda lists, targets: np.where(lists == targets[:, None], lists, lists[:, :1]),
            "hold an item twice",
        ),
        (
            lambda lists, targets: lists[:, :19],
            "candidates have shape (943, 19), the protocol wants (943, 20)",
        ),
    ],
)
def test_broken_lists(split, change, problem):
    lists = planted(split, "test", candidates=lambda array: change(array, split.phase("test").targets))
    assert any(problem in found for found in leak.check(lists, PROTOCOL))


def test_order_that_tells_the_label(split):
    """Targets first in a quarter of the lists: nothing else is wrong with them."""

    def first(lists):
        targets = split.phase("test").targets
        for row in range(0, len(lists), 4):
            lists[row] = [targets[row], *lists[row][lists[row] != targets[row]]]
        return lists

    problems = leak.check(planted(split, "test", candidates=first), PROTOCOL)
    only(problems, "test: the target's place in its list is not random (chi-square, p = ")


def test_changed_arrays_and_another_protocol(split):
    changed = dataclasses.replace(split, hash="0" * 64)
    only(leak.check(changed, PROTOCOL), "the split's arrays differ from its hash")
    newer = dataclasses.replace(PROTOCOL, version=2)
    only(leak.check(split, newer), "the split follows loo_rank20 v1, not loo_rank20 v2")


def test_training_rows(split):
    users = np.repeat(np.arange(1, 4), 2)
    items = np.concatenate([split.train_items(user)[-2:] for user in (1, 2, 3)])
    histories = np.stack([np.append(split.train_items(user)[:3], 0) for user in users])
    assert leak.check_training(split, users, items, histories) == []
    test = split.phase("test")
    leaky = leak.check_training(split, np.append(users, test.users[0]), np.append(items, test.targets[0]))
    only(leaky, "training rows hold 1 interactions that are held out, the first is user")
    histories[2, 3] = split.phase("valid").targets[1]
    problems = leak.check_training(split, users, items, histories)
    only(problems, "histories of training rows hold 1 items that are not for training")


def test_histories_that_show_the_target_or_anything_later(split):
    valid, test = split.phase("valid"), split.phase("test")
    histories, _ = valid.histories(5)
    assert leak.check_histories(valid, histories) == []
    assert leak.check_histories(test, test.histories(5)[0]) == []
    with_target = np.array(histories)
    with_target[4, 0] = valid.targets[4]
    user = split.user_tokens[valid.users[4]]
    only(
        leak.check_histories(valid, with_target),
        f"1 histories show an item that is not of the past, the first is of user '{user}'",
    )
    later = np.array(histories)
    later[7, 1] = test.targets[list(test.users).index(valid.users[7])]
    assert len(leak.check_histories(valid, later)) == 1


def test_what_may_not_be_shown_of_similar_users(full_split):
    """A held-out interaction, a later one, and one of the user's own are each found."""
    phase, rows = full_split.phase("test"), np.array([0])
    own, user = phase.positions[0], phase.users[0]
    trained = np.flatnonzero(full_split.trained & (full_split.owners != user))
    times = full_split.timestamps
    earlier, later = (
        trained[kind][:1] for kind in (times[trained] <= times[own], times[trained] > times[own])
    )
    held_out = phase.positions[[int(np.argmin(times[phase.positions]))]]
    assert leak.check_similar(phase, rows, earlier) == []
    only(leak.check_similar(phase, rows, later), "1 targets are shown with something later")
    only(leak.check_similar(phase, rows, held_out), "1 targets are shown with a held-out interaction")
    mine = np.array([full_split.offsets[user]])
    only(leak.check_similar(phase, rows, mine), "1 targets are shown with an interaction of their own user")
