"""Metrics of labelled pairs: by hand, against scikit-learn and slow plain versions, invariances, failure messages."""

from __future__ import annotations

import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from llmbole.evaluator import metrics
from llmbole.evaluator.checks import UndefinedMetricError
from llmbole.evaluator.per_user import per_user_auc, per_user_ndcg

# User 7: one tie of both labels. User 3: only positives. User 5: one row. User 9: worst order.
USERS = np.array([7, 3, 7, 9, 5, 7, 9, 3, 9])
LABELS = np.array([1, 1, 0, 0, 1, 0, 1, 1, 0])
SCORES = np.array([0.5, 0.1, 0.5, 0.9, 0.2, 0.1, 0.3, 0.8, 0.4])


def log(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return np.array([row["uid"] for row in rows]), np.array([row["label"] for row in rows])


def random_rows(seed: int, rows: int = 400, users: int = 60, levels: int = 5):
    """Users with few rows and scores of few levels: many ties, many users of one class."""
    random = np.random.default_rng(seed)
    owners = random.integers(0, users, rows)
    return owners, random.integers(0, 2, rows), random.integers(0, levels, rows) / levels


def test_auc_of_each_user_by_hand():
    users, values = per_user_auc(USERS, LABELS, SCORES)
    assert users.tolist() == [7, 9]
    assert values.tolist() == [0.75, 0.0]
    assert metrics.uauc(USERS, LABELS, SCORES) == 0.375


def test_ndcg_of_each_user_by_hand():
    users, values = per_user_ndcg(USERS, LABELS, SCORES)
    assert users.tolist() == [7, 9]
    np.testing.assert_allclose(values, [(1 + 1 / math.log2(3)) / 2, 1 / math.log2(4)], rtol=1e-15)
    assert metrics.user_ndcg(USERS, LABELS, SCORES) == values.mean()


def test_auc_over_all_rows_by_hand():
    # Positives .5 .1 .2 .3 .8 against negatives .5 .9 .1 .4: wins 2.5 + 0.5 + 1 + 1 + 3 of 20.
    assert metrics.auc(LABELS, SCORES) == 8 / 20
    assert metrics.auc([0, 1], [1.0, 1.0]) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_ndcg_are_scikit_learns(seed):
    users, labels, scores = random_rows(seed)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    both = [user for user in np.unique(users) if 0 < labels[users == user].mean() < 1]
    aucs = [roc_auc_score(labels[users == user], scores[users == user]) for user in both]
    # scikit-learn's NDCG averages over ties too.
    ndcgs = [ndcg_score([labels[users == user]], [scores[users == user]]) for user in both]
    assert 10 < len(both) < len(np.unique(users)), "some users have one class"
    for found, wanted in ((per_user_auc, aucs), (per_user_ndcg, ndcgs)):
        owners, values = found(users, labels, scores)
        assert owners.tolist() == both
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed):
    users, labels, scores = random_rows(seed)
    order = np.random.default_rng(seed).permutation(len(users))
    for function in (per_user_auc, per_user_ndcg):
        first, second = function(users, labels, scores), function(users[order], labels[order], scores[order])
        assert first.users.tolist() == second.users.tolist()
        assert first.values.tolist() == second.values.tolist(), "bit for bit"
    assert metrics.auc(labels, scores) == metrics.auc(labels[order], scores[order])
    probabilities = scores[order]
    for function in (metrics.log_loss, metrics.expected_calibration_error, metrics.accuracy):
        assert function(labels, scores) == pytest.approx(function(labels[order], probabilities), abs=1e-12)


def test_only_the_order_of_scores_matters_to_auc_and_ndcg():
    users, labels, scores = random_rows(1)
    for change in (np.exp, lambda x: 3 * x - 7, lambda x: -1 / (x + 0.1)):
        assert metrics.auc(labels, change(scores)) == metrics.auc(labels, scores)
        assert metrics.uauc(users, labels, change(scores)) == metrics.uauc(users, labels, scores)
        assert metrics.user_ndcg(users, labels, change(scores)) == metrics.user_ndcg(users, labels, scores)
    assert metrics.uauc(users, labels, -scores) == pytest.approx(1 - metrics.uauc(users, labels, scores))


def test_infinite_scores_are_ranked():
    assert metrics.auc([1, 0, 1], [np.inf, 0.0, -np.inf]) == 0.5


def test_users_may_be_names_and_scores_single_precision():
    users, labels, scores = random_rows(2)
    names = np.array([f"user {user:03d}" for user in users])
    single = scores.astype(np.float32)
    assert metrics.uauc(names, labels == 1, single) == metrics.uauc(users, labels, scores)


def test_a_perfect_order_has_exactly_one():
    users = np.repeat(np.arange(50), 40)
    labels = np.tile(np.arange(40) % 3 == 0, 50)
    assert set(per_user_ndcg(users, labels, labels * 1.0).values.round(12)) == {1.0}
    unique = labels + np.tile(np.arange(40) / 100, 50)
    assert set(per_user_ndcg(users, labels, unique).values) == {1.0}
    assert set(per_user_auc(users, labels, unique).values) == {1.0}


def test_log_loss_by_hand_and_clipped():
    assert metrics.log_loss([1, 0], [0.8, 0.4]) == pytest.approx(
        -(math.log(0.8) + math.log(0.6)) / 2, abs=1e-15
    )
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-math.log(2.220446049250313e-16), rel=1e-15)
    assert metrics.log_loss([0], [1.0]) == pytest.approx(-math.log(2.220446049250313e-16), rel=1e-15)
    random = np.random.default_rng(0)
    labels, chances = random.integers(0, 2, 500), random.random(500).round(1)
    assert metrics.log_loss(labels, chances) == pytest.approx(sklearn_log_loss(labels, chances), abs=1e-13)


def test_accuracy_by_hand():
    assert metrics.accuracy([1, 0, 1, 0], [0.6, 0.5, 0.5, 0.7]) == 0.5, "0.5 predicts 0"
    assert metrics.accuracy([1, 0, 1, 0], [0.6, 0.5, 0.5, 0.7], threshold=0.65) == 0.25
    with pytest.raises(ValueError, match=r"threshold is 50; it has to lie in \[0, 1\]"):
        metrics.accuracy([1], [0.5], threshold=50)


def test_calibration_error_by_hand():
    # Bins (0, .5] and (.5, 1]: gaps |.35 - .5| of 2 rows and |.8 - 1| of 1 row.
    assert metrics.expected_calibration_error([0, 1, 1], [0.2, 0.5, 0.8], bins=2) == pytest.approx(
        0.5 / 3, abs=1e-15
    )
    assert metrics.expected_calibration_error([0, 1], [0.0, 1.0]) == 0
    assert metrics.expected_calibration_error([1, 0], [0.0, 1.0]) == 1
    with pytest.raises(ValueError, match="bins is 0"):
        metrics.expected_calibration_error([0], [0.0], bins=0)


def test_calibration_error_is_a_plain_loops():
    random = np.random.default_rng(4)
    labels, chances = random.integers(0, 2, 1000), random.random(1000)
    total = 0.0
    for place in range(15):
        rows = (chances > place / 15) & (chances <= (place + 1) / 15)
        total += rows.sum() * abs(chances[rows].mean() - labels[rows].mean())
    assert metrics.expected_calibration_error(labels, chances) == pytest.approx(total / 1000, abs=1e-14)


def test_relative_improvement_of_a_published_row():
    assert metrics.relative_improvement(0.8137, 0.7990) == pytest.approx(4.916, abs=5e-4)
    assert metrics.relative_improvement(0.7, 0.7) == 0
    with pytest.raises(
        ValueError, match=r"base_auc is 0\.5; RelaImpr has a meaning only for a base above 0\.5"
    ):
        metrics.relative_improvement(0.7, 0.5)
    with pytest.raises(ValueError, match=r"auc is 70; an AUC lies in \[0, 1\]"):
        metrics.relative_improvement(70, 0.6)
    with pytest.raises(ValueError, match="base_auc is nan"):
        metrics.relative_improvement(0.7, math.nan)


def test_rating_errors_by_hand():
    assert metrics.rmse([1, 2, 5], [1, 4, 4]) == pytest.approx(math.sqrt(5 / 3), abs=1e-15)
    assert metrics.mae([1, 2, 5], [1, 4, 4]) == 1


PAIRS = (metrics.uauc, metrics.user_ndcg, per_user_auc, per_user_ndcg)
CHANCES = (metrics.log_loss, metrics.accuracy, metrics.expected_calibration_error)


@pytest.mark.parametrize("function", PAIRS)
def test_what_per_user_metrics_refuse(function):
    with pytest.raises(ValueError, match=r"differ in length \(2 users, 2 labels, 3 scores\)"):
        function([1, 2], [0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"the score of row 1 is nan"):
        function([1, 2], [0, 1], [0.1, math.nan])
    with pytest.raises(ValueError, match=r"the label of row 0 \(and of 1 more\) is 4; labels are 0 or 1"):
        function([1, 2, 2], [4, 1, 3], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"labels has the shape \(2, 1\); give one value per row"):
        function([1, 2], [[0], [1]], [0.1, 0.2])


@pytest.mark.parametrize("function", [metrics.auc, *CHANCES])
def test_what_metrics_of_rows_refuse(function):
    with pytest.raises(ValueError, match="differ in length"):
        function([0, 1], [0.1])
    with pytest.raises(ValueError, match="of row 2 is nan"):
        function([0, 1, 0], [0.1, 0.2, math.nan])
    with pytest.raises(ValueError, match=r"the label of row 1 is 0\.5; labels are 0 or 1"):
        function([0, 0.5, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="the label of row 1 is None"):
        function([0, None, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="the label of row 1 is nan"):
        function([0, math.nan, 1], [0.1, 0.2, 0.3])
    with pytest.raises(UndefinedMetricError):
        function([], [])


@pytest.mark.parametrize("function", CHANCES)
def test_logits_are_no_probabilities(function):
    with pytest.raises(
        ValueError, match=r"the probability of row 1 is 2\.5; it has to lie in \[0, 1\]: apply a sigmoid"
    ):
        function([0, 1], [0.1, 2.5])


@pytest.mark.parametrize("function", [metrics.rmse, metrics.mae])
def test_what_rating_metrics_refuse(function):
    with pytest.raises(ValueError, match="the rating of row 0 is nan"):
        function([math.nan], [1.0])
    with pytest.raises(ValueError, match="the prediction of row 1 is inf"):
        function([1, 2], [1.0, math.inf])
    with pytest.raises(UndefinedMetricError, match="of no rows is undefined"):
        function([], [])


def test_one_class_is_undefined_and_not_nan():
    with pytest.raises(
        UndefinedMetricError, match="AUC needs rows of both labels, but all 2 rows have the label 1"
    ):
        metrics.auc([1, 1], [0.1, 0.2])
    with pytest.raises(UndefinedMetricError, match="UAUC is undefined: no user has rows of both labels"):
        metrics.uauc([1, 2], [0, 1], [0.1, 0.2])
    assert len(per_user_auc([1, 2], [0, 1], [0.1, 0.2]).users) == 0
    assert len(per_user_ndcg([], [], []).values) == 0


def test_users_of_one_class_in_a_file_are_skipped(tmp_path):
    rows = [
        {"uid": user, "iid": item, "label": int(item < 1 + user % 3)}
        for user in range(30)
        for item in range(2)
    ]
    rows += [{"uid": 99, "iid": 0, "label": 0}]
    users, labels = read(log(tmp_path / "test.jsonl.gz", rows))
    counted = per_user_auc(users, labels, np.random.default_rng(0).random(len(users))).users
    assert counted.tolist() == list(range(0, 30, 3)), (
        "users 1 and 2 of three have only positives, user 99 one row"
    )


@pytest.mark.skipif("LLMBOLE_DATA" not in os.environ, reason="LLMBOLE_DATA names no folder of real data")
def test_users_counted_on_collms_released_test_set():
    path = Path(os.environ["LLMBOLE_DATA"]) / "ml-1m-collm" / "test.jsonl.gz"
    users, labels = read(path)
    counted = per_user_auc(users, labels, np.random.default_rng(0).random(len(users))).users
    assert (len(np.unique(users)), len(counted)) == (320, 224)
    assert (len(users), int(np.isin(users, counted).sum())) == (7331, 6952)


def test_a_million_rows_take_no_minutes():
    random = np.random.default_rng(0)
    users, labels = random.integers(0, 100_000, 1_000_000), random.integers(0, 2, 1_000_000)
    scores = random.random(1_000_000, dtype=np.float32)
    started = time.perf_counter()
    assert metrics.uauc(users, labels, scores) == pytest.approx(0.5, abs=0.01)
    assert metrics.user_ndcg(users, labels, scores) > 0.5
    assert time.perf_counter() - started < 20, "a loop over users takes minutes"
