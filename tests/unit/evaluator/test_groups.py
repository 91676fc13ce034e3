"""Groups of rows and metrics within them, by hand."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from llmbole.evaluator import groups
from llmbole.evaluator.groups import Group
from llmbole.evaluator.summary import summarize, summarize_rows


def rows_of(found):
    return {group.name: np.flatnonzero(group.rows).tolist() for group in found}


def test_counts_of_interactions():
    assert groups.interaction_counts([1, 3, 3, 1, 1], 5).tolist() == [0, 3, 0, 2, 0]
    with pytest.raises(ValueError, match="the id of row 1 is 5; ids lie between 0 and 4"):
        groups.interaction_counts([1, 5], 5)


def test_warm_and_cold_items_by_hand():
    # Ten items: 3 warm, 3 cold. Sorted: 2 (9), 5 (7), 1 4 6 (4 each), 3 7 8 9 (1 each), 10 (none).
    counts = [99, 4, 9, 1, 4, 7, 4, 1, 1, 1, 0]
    found = rows_of(groups.warm_cold_items(np.arange(1, 11), counts))
    assert found == {"warm_items": [0, 1, 4], "cold_items": [7, 8, 9]}, "ties by id, the padding ignored"
    assert rows_of(groups.warm_cold_items([5, 5, 3, 10], counts)) == {"warm_items": [0, 1], "cold_items": [3]}


def test_the_share_of_items_is_exact():
    for n_items, size in ((20, 7), (100, 35), (1000, 350), (3, 1), (2, 0)):
        warm, cold = groups.warm_cold_items(np.arange(1, n_items + 1), np.arange(n_items + 1))
        assert warm.rows.sum() == cold.rows.sum() == size
        assert not (warm.rows & cold.rows).any()
    with pytest.raises(ValueError, match=r"share is 35; it has to be above 0 and at most 0\.5"):
        groups.warm_cold_items([1], [0, 1], share=35)


def test_warm_and_cold_rows_by_hand():
    users, items = [1, 1, 2, 2], [1, 2, 1, 2]
    found = groups.warm_cold_rows(users, items, [0, 3, 2], [0, 5, 2])
    assert rows_of(found) == {"warm": [0], "cold": [1, 2, 3]}
    assert rows_of(groups.warm_cold_rows(users, items, [0, 3, 2], [0, 5, 2], least=2))["cold"] == []


@pytest.mark.skipif("LLMBOLE_DATA" not in os.environ, reason="LLMBOLE_DATA names no folder of real data")
def test_rows_seen_once_are_those_collm_released_as_not_cold():
    columns = {}
    for part in ("train", "test"):
        path = Path(os.environ["LLMBOLE_DATA"]) / "ml-1m-collm" / f"{part}.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        columns[part] = {name: np.array([row[name] for row in rows]) for name in ("uid", "iid", "not_cold")}
    train, test = columns["train"], columns["test"]
    counts = groups.interaction_counts(train["uid"], 839), groups.interaction_counts(train["iid"], 3256)
    warm, _ = groups.warm_cold_rows(test["uid"], test["iid"], *counts, least=1)
    assert warm.rows.sum() == 4153
    assert (warm.rows == (test["not_cold"] == 1)).all()


def test_cold_users_have_exactly_the_number():
    assert rows_of(groups.cold_users([1, 2, 3, 3], [0, 2, 4, 3])) == {
        "cold_users": [2, 3],
        "other_users": [0, 1],
    }
    assert rows_of(groups.cold_users([1, 2], [0, 2, 4], interactions=4))["cold_users"] == [1]


def test_ids_without_a_count_are_refused():
    for function in (groups.warm_cold_items, groups.popularity_bins, groups.history_bins, groups.cold_users):
        with pytest.raises(ValueError, match="of row 1 is 4; ids lie between 1 and 2"):
            function([1, 4], [0, 1, 1])
    with pytest.raises(ValueError, match="the user of row 0 is 0"):
        groups.cold_users([0], [0, 1])
    with pytest.raises(ValueError, match=r"differ in length \(2 users, 1 items\)"):
        groups.warm_cold_rows([1, 1], [1], [0, 1], [0, 1])


def test_popularity_and_history_bins_by_hand():
    counts = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    found = rows_of(groups.popularity_bins(np.arange(1, 9), counts))
    assert found == {f"popularity_{place}_of_4": [2 * place - 2, 2 * place - 1] for place in (1, 2, 3, 4)}
    assert rows_of(groups.history_bins([8, 1, 4], counts, bins=2)) == {
        "history_1_of_2": [1, 2],
        "history_2_of_2": [0],
    }


def test_cuts_are_values_that_occur():
    # A quarter of ten rows is 2.5, so the cuts are the third, fifth and eighth value.
    found = groups.quantile_bins("size", np.arange(10), 4)
    assert [int(group.rows.sum()) for group in found] == [3, 2, 3, 2]


def test_equal_values_share_a_bin():
    found = rows_of(groups.quantile_bins("size", [5, 5, 5, 1], 2))
    assert found == {"size_1_of_2": [0, 1, 2, 3], "size_2_of_2": []}
    values = np.random.default_rng(0).integers(0, 9, 500)
    found = groups.quantile_bins("size", values, 5)
    assert sum(group.rows for group in found).tolist() == [1] * 500, "each row is in one bin"
    ranges = [(values[group.rows].min(), values[group.rows].max()) for group in found]
    assert all(low[1] < high[0] for low, high in zip(ranges, ranges[1:], strict=False))
    assert [group.rows.tolist() for group in groups.quantile_bins("size", [], 2)] == [[], []]
    with pytest.raises(ValueError, match="bins is 0; give at least 1"):
        groups.quantile_bins("size", [1], 0)


def test_entropy_by_hand():
    found = groups.entropy([0.5, 0.0, 1.0, 0.2])
    wanted = [math.log(2), 0, 0, -0.2 * math.log(0.2) - 0.8 * math.log(0.8)]
    np.testing.assert_allclose(found, wanted, atol=1e-15)
    with pytest.raises(ValueError, match=r"the probability of row 1 is 1\.2"):
        groups.entropy([0.5, 1.2])


def test_thirds_of_confidence_by_hand():
    found = rows_of(groups.confidence_thirds([0.5, 0.99, 0.3, 0.01, 0.6, 0.9, 0.0]))
    assert found == {"confidence_high": [1, 3, 6], "confidence_middle": [2, 5], "confidence_low": [0, 4]}
    parts = groups.confidence_thirds(np.random.default_rng(0).random(1000))
    assert [int(part.rows.sum()) for part in parts] == [334, 333, 333]
    assert sum(part.rows for part in parts).tolist() == [1] * 1000
    with pytest.raises(ValueError, match=r"the probability of row 0 is -1\.5"):
        groups.confidence_thirds([-1.5])


FIRST = Group("first", np.array([True, True, False, False]))
LAST = Group("last", np.array([False, False, True, True]))
NONE = Group("none", np.zeros(4, dtype=bool))


def test_means_of_user_values_within_groups():
    found = summarize([FIRST, LAST, NONE], {"HIT@1": [1, 0, 1, 1], "NDCG@5": [0.5, 0.25, 1, 0]})
    assert found == {
        "first": {"count": 2, "HIT@1": 0.5, "NDCG@5": 0.375},
        "last": {"count": 2, "HIT@1": 1.0, "NDCG@5": 0.5},
        "none": {"count": 0, "HIT@1": None, "NDCG@5": None},
    }


def test_metrics_of_rows_are_computed_within_groups():
    labels, scores = [0, 1, 1, 1], [0.25, 0.75, 0.5, 0.75]
    found = summarize_rows([FIRST, LAST, NONE], [1, 1, 2, 2], labels, scores)
    loss = -(math.log(0.75) + math.log(0.75)) / 2
    assert found["first"] == {"count": 2, "AUC": 1.0, "UAUC": 1.0, "LogLoss": pytest.approx(loss), "ACC": 1.0}
    loss = -(math.log(0.5) + math.log(0.75)) / 2
    assert found["last"] == {
        "count": 2,
        "AUC": None,
        "UAUC": None,
        "LogLoss": pytest.approx(loss),
        "ACC": 0.5,
    }
    assert found["none"] == {"count": 0, "AUC": None, "UAUC": None, "LogLoss": None, "ACC": None}


def test_auc_may_exist_where_uauc_does_not():
    found = summarize_rows(
        [FIRST], [1, 2, 3, 3], [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], ["AUC", "UAUC", "UserNDCG"]
    )
    assert found == {"first": {"count": 2, "AUC": 1.0, "UAUC": None, "UserNDCG": None}}


def test_ratings_within_groups():
    found = summarize_rows([LAST], [1, 1, 2, 2], [5, 4, 3, 1], [1.0, 1.0, 4.0, 1.0], ["RMSE", "MAE"])
    assert found == {"last": {"count": 2, "RMSE": pytest.approx(math.sqrt(0.5)), "MAE": 0.5}}


def test_what_summaries_refuse():
    with pytest.raises(ValueError, match="the HIT@1 of row 1 is nan"):
        summarize([FIRST], {"HIT@1": [1, math.nan, 0, 0]})
    with pytest.raises(ValueError, match="group first tells of 4 rows, but there are 3"):
        summarize([FIRST], {"HIT@1": [1, 0, 0]})
    with pytest.raises(ValueError, match=r"differ in length \(4 HIT@1, 3 NDCG@5\)"):
        summarize([FIRST], {"HIT@1": [1, 0, 0, 1], "NDCG@5": [1, 0, 0]})
    with pytest.raises(ValueError, match="groups need names of their own; given are first, first"):
        summarize([FIRST, FIRST], {"HIT@1": [1, 0, 0, 1]})
    with pytest.raises(ValueError, match="a metric can't be named 'count'"):
        summarize([FIRST], {"count": [1, 0, 0, 1]})
    with pytest.raises(ValueError, match="the rows of group odd are no booleans"):
        summarize([Group("odd", np.array([0, 1]))], {"HIT@1": [1, 0]})
    with pytest.raises(ValueError, match="unknown metrics GAUC; there are AUC, UAUC"):
        summarize_rows([FIRST], [1], [1], [1], ["GAUC"])
    with pytest.raises(ValueError, match=r"the probability of row 3 is 3\.0"):
        summarize_rows([LAST], [1, 1, 2, 2], [0, 1, 0, 1], [0.0, 0.5, 1.0, 3.0])
