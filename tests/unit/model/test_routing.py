"""Routing by confidence: entropies and mixes by hand, the ends of the share, and what is asked of the LLM."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmbole.model.routing import Routing, RoutingSettings, best
from llmbole.settings import SettingsError, build

LABELS = np.array([1, 0, 1, 0, 1])
CRM = np.array([0.9, 0.5, 0.4, 0.2, 0.6], dtype=np.float32)
LLM = np.array([0.1, 0.2, 0.8, 0.3, 0.7])
FREE = {"share": None, "threshold": None, "choose": "auc", "shares": [0.0, 1.0], "valid_rows": 0}


@pytest.fixture
def asked():
    return []


@pytest.fixture
def routing(asked):
    def ask(rows):
        asked.append(rows.tolist())
        return LLM[rows], 10 * len(rows)

    return Routing(np.array([1, 1, 1, 2, 2]), LABELS, CRM, ask)


def test_the_least_sure_rows_come_first_and_equal_ones_in_their_order(routing):
    def s(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert routing.entropies == pytest.approx([s(0.9), s(0.5), s(0.4), s(0.2), s(0.6)], abs=1e-7)
    assert routing.entropies[1] == pytest.approx(math.log(2))
    assert routing.order.tolist() == [1, *sorted([2, 4], key=lambda row: -routing.entropies[row]), 3, 0]
    same = Routing(np.ones(3), LABELS[:3], np.full(3, 0.5), lambda rows: (LLM[rows], 0))
    assert same.order.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("share", "threshold", "count"),
    [(0.0, None, 0), (1.0, None, 5), (0.5, None, 3), (0.2, None, 1), (None, 0.6, 3), (None, 0.0, 5)],
)
def test_a_share_and_a_threshold_say_how_many_rows_are_routed(routing, share, threshold, count):
    assert routing.count(share, threshold) == count


def test_the_entropy_at_a_threshold_is_not_above_it(routing):
    assert routing.count(None, float(routing.entropies[1])) == 0


def test_without_routed_rows_the_mix_is_the_crm_bit_for_bit_and_the_llm_is_not_asked(routing, asked):
    assert np.array_equal(routing.mix(0), CRM.astype(np.float64))
    assert (asked, routing.tokens) == ([], 0)


def test_with_all_rows_routed_the_mix_is_the_llm(routing, asked):
    assert np.array_equal(routing.mix(5), LLM)
    assert asked == [[0, 1, 2, 3, 4]]


def test_each_row_is_asked_about_once_and_tokens_grow_with_the_rows(routing, asked):
    curve = routing.curve([5, 1, 3, 1], ["AUC", "ACC"])
    assert sorted(row for rows in asked for row in rows) == [0, 1, 2, 3, 4]
    assert [(point["rows"], point["llm_tokens"]) for point in curve] == [(1, 10), (3, 30), (5, 50)]
    mixed = [0.9, 0.2, 0.8, 0.2, 0.7]  # rows 1, 2 and 4 are the LLM's
    assert routing.mix(3) == pytest.approx(mixed)
    assert curve[1]["AUC"] == 1.0 and curve[1]["ACC"] == 1.0
    assert curve[2]["AUC"] == pytest.approx(4 / 6)  # 0.1 of row 0 is below both negatives


def test_groups_are_of_the_crms_confidence_for_both_models(routing):
    assert set(routing.confidence(["ACC"])) == {"crm"}
    routing.mix(5)
    found = routing.confidence(["ACC"])
    assert [found["crm"][f"confidence_{name}"]["count"] for name in ("high", "middle", "low")] == [2, 2, 1]
    assert found["crm"]["confidence_high"]["ACC"] == 1.0  # rows 0 and 3
    assert found["llm"]["confidence_high"]["ACC"] == 0.5


def test_groups_of_any_scores_are_by_the_crms_confidence(routing):
    found = routing.groups(LLM, ["ACC"])
    assert list(found) == [f"crm_confidence_{part}" for part in ("high", "middle", "low")]
    assert [found[name]["count"] for name in found] == [2, 2, 1]  # rows 0 and 3, then 2 and 4, then 1
    assert [found[name]["ACC"] for name in found] == [0.5, 1.0, 1.0]


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"probability of row 1 is 1\.5"):
        Routing(np.ones(2), LABELS[:2], np.array([0.5, 1.5]), lambda rows: (rows, 0))


def test_the_best_share_is_the_smallest_of_equal_ones():
    curve = [
        {"rows": 0, "AUC": 0.6, "LogLoss": 0.7},
        {"rows": 1, "AUC": 0.7, "LogLoss": 0.6},
        {"rows": 2, "AUC": 0.7, "LogLoss": 0.5},
    ]
    assert best(curve, "auc")["rows"] == 1
    assert best(curve, "log_loss")["rows"] == 2
    with pytest.raises(ValueError, match="AUC of the validation rows is undefined"):
        best([{"rows": 0}], "auc")


def chosen(llm_of):
    """The share chosen for 4,000 rows of a calibrated CRM and an LLM made of their true chances."""
    random = np.random.default_rng(5)
    crm_part, llm_part = random.normal(size=(2, 4000))
    chances = 1 / (1 + np.exp(-(crm_part + llm_part)))
    labels = (random.random(4000) < chances).astype(int)
    crm = 1 / (1 + np.exp(-crm_part))
    llm = llm_of(random, 1 / (1 + np.exp(-llm_part)))
    made = Routing(np.ones(4000), labels, crm, lambda rows: (llm[rows], len(rows)))
    shares = (0.0, 0.05, 0.1, 0.3, 0.5, 1.0)
    return best(made.curve([made.count(share, None) for share in shares], ["AUC"]), "auc")["share"]


def test_an_llm_at_chance_is_given_no_row_and_one_that_knows_other_things_some():
    assert chosen(lambda random, llm: random.random(len(llm))) == 0.0
    assert 0.0 < chosen(lambda random, llm: llm) < 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0.1, "threshold": 0.5}, "set one of them to null"),
        ({"share": 1.1}, "shares lie between 0 and 1"),
        ({"shares": []}, "shares lie between 0 and 1"),
        ({"shares": [0.0, -0.1]}, "shares lie between 0 and 1"),
        ({"threshold": 0.7}, "between 0 and 0.6931"),
        ({"choose": "uauc"}, "none of 'auc', 'log_loss'"),
        ({"valid_rows": -1}, "valid_rows = -1"),
    ],
)
def test_settings_that_can_not_be_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        build(RoutingSettings, {**FREE, **changes}, "routing")
