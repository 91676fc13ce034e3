"""Metrics of labelled rows through RecBole's config, trainer and evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.evaluator import metrics, value_metrics
from llmbole.evaluator.checks import UndefinedMetricError
from llmbole.evaluator.collector import Collector, Evaluator
from llmbole.evaluator.per_user import per_user_auc, per_user_ndcg
from llmbole.trainer.trainer import Trainer
from recbole.data.interaction import Interaction
from recbole.evaluator import Evaluator as StockEvaluator
from recbole.evaluator import metric_types, smaller_metrics
from recbole.evaluator import metrics as stock_metrics
from recbole.evaluator.register import metric_information, metrics_dict

VALUE = {
    "metrics": ["AUC", "UAUC", "UserNDCG", "LogLoss", "ACC", "ECE"],
    "valid_metric": "UAUC",
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": None, "mode": "labeled"},
}


@pytest.fixture(scope="module")
def parts(built):
    return built("DeepFM", embedding_size=4, epochs=2, stopping_step=1, **VALUE)


def collected(config, scores, **columns):
    """What the Collector holds after two batches."""
    collector = Collector(config)
    rows = Interaction({name: torch.as_tensor(values) for name, values in columns.items()})
    half = len(scores) // 2
    for part in (slice(None, half), slice(half, None)):
        collector.eval_batch_collect(scores[part], rows[part], torch.arange(0), torch.arange(0))
    return collector.get_data_struct()


def random_rows(config, seed=0, count=300):
    random = np.random.default_rng(seed)
    scores = torch.from_numpy((random.integers(0, 20, count) / 20).astype(np.float32))
    columns = {
        "user_id": random.integers(1, 40, count),
        "item_id": random.integers(1, 90, count),
        "label": random.integers(0, 2, count).astype(np.float32),
    }
    return collected(config, scores, **columns), scores.double().numpy(), columns


def test_deepfm_is_trained_chosen_and_scored_by_them(parts, tmp_path):
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    best, validated = trainer.fit(parts.train, parts.valid, saved=True, show_progress=False)
    assert best == validated["uauc"]
    result = trainer.evaluate(parts.test)
    rows = trainer.evaluator.rows
    assert list(result) == ["auc", "uauc", "userndcg", "logloss", "acc", "ece"]
    features = parts.test._dataset.inter_feat
    assert rows.users.tolist() == features["user_id"].tolist()
    assert rows.items.tolist() == features["item_id"].tolist()
    assert rows.labels.tolist() == features["label"].tolist()
    assert result["auc"] == metrics.auc(rows.labels, rows.scores)
    assert result["uauc"] == metrics.uauc(rows.users, rows.labels, rows.scores)
    assert result["userndcg"] == metrics.user_ndcg(rows.users, rows.labels, rows.scores)
    assert result["logloss"] == metrics.log_loss(rows.labels, rows.scores)
    assert result["acc"] == metrics.accuracy(rows.labels, rows.scores)
    assert result["ece"] == metrics.expected_calibration_error(rows.labels, rows.scores)


def test_values_of_each_user_have_users_of_their_own(parts):
    data, scores, columns = random_rows(parts.config)
    evaluator = Evaluator(parts.config)
    result = evaluator.evaluate(data)
    assert evaluator.per_user == {}, "only top-k metrics have a value for every user"
    assert evaluator.users.tolist() == columns["user_id"].tolist()
    assert set(evaluator.user_values) == {"uauc", "userndcg"}
    for name, function in (("uauc", per_user_auc), ("userndcg", per_user_ndcg)):
        wanted = function(columns["user_id"], columns["label"], scores)
        users, values = evaluator.user_values[name]
        assert users.tolist() == wanted.users.tolist()
        assert values.tolist() == wanted.values.tolist()
        assert result[name] == values.mean()
    assert np.array_equal(evaluator.rows.scores, scores)


def test_a_second_evaluation_starts_anew(parts):
    evaluator = Evaluator(parts.config)
    evaluator.evaluate(random_rows(parts.config, seed=1)[0])
    first = evaluator.rows, dict(evaluator.user_values)
    evaluator.evaluate(random_rows(parts.config, seed=2, count=100)[0])
    assert len(first[0].users) == 300 and len(evaluator.rows.users) == 100
    assert first[1]["uauc"].values.tolist() != evaluator.user_values["uauc"].values.tolist()


def test_top_k_metrics_are_in_user_values_too(built, tmp_path):
    parts = built("BPR", embedding_size=4, metrics=["Hit", "NDCG"], topk=[3], valid_metric="NDCG@3")
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    trainer.evaluate(parts.test)
    evaluator = trainer.evaluator
    assert evaluator.rows is None
    assert set(evaluator.user_values) == set(evaluator.per_user) == {"hit@3", "ndcg@3"}
    assert evaluator.user_values["hit@3"].users is evaluator.users
    assert evaluator.user_values["hit@3"].values is evaluator.per_user["hit@3"]


@pytest.mark.parametrize("seed", range(3))
def test_recboles_own_metrics_to_four_decimals(built, seed):
    names = ["AUC", "LogLoss", "RMSE", "MAE"]
    config = built("LR", embedding_size=4, **{**VALUE, "metrics": names, "valid_metric": "AUC"}).config
    data, _, _ = random_rows(config, seed)
    stock = StockEvaluator(config)
    assert type(stock.metric_class["auc"]) is stock_metrics.AUC, "stock RecBole stays as it is"
    theirs, ours = stock.evaluate(data), Evaluator(config).evaluate(data)
    assert list(ours) == list(theirs) == ["auc", "logloss", "rmse", "mae"]
    # RecBole clips probabilities at 1e-15, these metrics at 2.2e-16; the rows hold probabilities of 0 in places.
    for name in ("auc", "rmse", "mae"):
        assert ours[name] == pytest.approx(theirs[name], abs=5e-7), name
    sure = data.get("rec.score").clamp(0.01, 0.99)
    data.set("rec.score", sure)
    assert Evaluator(config).evaluate(data)["logloss"] == pytest.approx(
        stock.evaluate(data)["logloss"], abs=5e-5
    )


def test_logits_are_refused_by_metrics_of_probabilities(parts):
    rows = {"user_id": [1, 1, 2, 2], "item_id": [1, 2, 3, 4], "label": [0.0, 1.0, 0.0, 1.0]}
    data = collected(parts.config, torch.tensor([0.2, 0.3, 3.5, 0.9]), **rows)
    with pytest.raises(
        ValueError, match=r"the probability of row 2 is 3\.5; it has to lie in \[0, 1\]: apply a sigmoid"
    ):
        Evaluator(parts.config).evaluate(data)


def test_one_class_is_an_error_and_not_nan(parts):
    evaluator = Evaluator(parts.config)
    evaluator.evaluate(random_rows(parts.config)[0])
    rows = {"user_id": [1, 1, 2, 2], "item_id": [1, 2, 3, 4], "label": [1.0, 1.0, 1.0, 1.0]}
    data = collected(parts.config, torch.tensor([0.2, 0.3, 0.5, 0.9]), **rows)
    with pytest.raises(
        UndefinedMetricError, match="AUC needs rows of both labels, but all 4 rows have the label 1"
    ):
        evaluator.evaluate(data)
    assert evaluator.user_values == {}, "none of the evaluation before"


def test_half_precision_scores_of_shape_rows_by_one(parts):
    rows = {"user_id": [1, 1, 2, 2], "item_id": [1, 2, 3, 4], "label": [0.0, 1.0, 0.0, 1.0]}
    data = collected(parts.config, torch.tensor([[0.25], [0.5], [0.75], [0.5]], dtype=torch.bfloat16), **rows)
    evaluator = Evaluator(parts.config)
    assert evaluator.evaluate(data)["uauc"] == 0.5
    assert evaluator.rows.scores.tolist() == [0.25, 0.5, 0.75, 0.5]


def test_registering_twice_changes_nothing():
    before = dict(metrics_dict), dict(metric_types), dict(metric_information), list(smaller_metrics)
    value_metrics.register()
    assert before == (metrics_dict, metric_types, metric_information, smaller_metrics)
    assert [smaller_metrics.count(name) for name in ("ece", "acc", "uauc", "userndcg")] == [1, 0, 0, 0]
    for metric in value_metrics.NEW:
        assert metrics_dict[metric.__name__.lower()] is metric


def test_a_name_taken_by_another_metric_is_an_error(monkeypatch):
    monkeypatch.setitem(metrics_dict, "acc", stock_metrics.MAE)
    with pytest.raises(
        ValueError, match=r"recbole\.evaluator\.metrics\.MAE is already RecBole's metric 'acc'"
    ):
        value_metrics.register()
