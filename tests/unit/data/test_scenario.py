"""Scenarios: who is trained on, what the test keeps, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.data import leak, splits
from llmbole.data import protocol as protocols
from llmbole.data.scenario import Scenario
from llmbole.settings import SettingsError


@pytest.fixture
def frozen(card, prepared, tmp_path):
    def freeze(name):
        rules = protocols.protocol(name)
        folder = tmp_path / name
        folder.mkdir()
        splits.freeze(rules, card, prepared, folder)
        found = splits.load(folder)
        assert leak.check(found, rules) == []
        return found

    return freeze


def test_few_users_are_trained_on_and_all_are_tested(frozen, split):
    few = frozen("loo_rank20@few_shot-128")
    assert few.protocol == "loo_rank20@few_shot-128"
    trained = np.flatnonzero(few.train_ends > few.offsets[:-1])
    assert len(trained) == 128
    assert set(few.phase("valid").users) == set(trained)
    test, whole = few.phase("test"), split.phase("test")
    assert np.array_equal(test.candidates, whole.candidates)
    assert np.array_equal(test.history(3), whole.history(3))
    assert few.hash != split.hash
    more = frozen("loo_rank20@few_shot-256")
    assert set(trained) < set(np.flatnonzero(more.train_ends > more.offsets[:-1]))


def test_users_with_few_interactions_are_left_out(frozen):
    cold = frozen("loo_rank20@cold_users-20")
    counts = np.diff(cold.offsets)
    left_out = np.flatnonzero((counts > 0) & (cold.train_ends == cold.offsets[:-1]))
    assert len(left_out) == 32
    assert (counts[left_out] == 20).all()
    assert set(left_out) <= set(cold.phase("test").users)


def test_rows_of_pairs_are_left_out_too(frozen):
    few, whole = frozen("unified_ctr@few_shot-100"), frozen("unified_ctr")
    trained = set(few.part("train").users)
    assert len(trained) <= 100
    assert set(few.part("valid").users) <= set(np.flatnonzero(Scenario("few_shot", 100).trained(_of(whole))))
    for name in ("items", "labels", "positions"):
        assert np.array_equal(few.parts["test"][name], whole.parts["test"][name])


def _of(found):
    class Counted:
        counts = np.diff(found.offsets)

    return Counted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loo_rank20@few_shot", "needs a number, such as few_shot-128"),
        ("loo_rank20@few_shot-0", "needs a number"),
        ("loo_rank20@fewshot-12", "unknown scenario 'fewshot-12'; did you mean 'few_shot'"),
        ("loo_rank21@few_shot-12", "unknown protocol 'loo_rank21'"),
    ],
)
def test_mistakes_in_names_are_refused(name, message):
    with pytest.raises(SettingsError, match=message):
        protocols.protocol(name)


def test_a_scenario_that_leaves_nobody_out_or_in_is_refused(frozen):
    with pytest.raises(SettingsError, match="few_shot-5000 trains on 943 of 943 users"):
        frozen("loo_rank20@few_shot-5000")
    with pytest.raises(SettingsError, match="cold_users-1 trains on 943 of 943 users"):
        frozen("loo_rank20@cold_users-1")
