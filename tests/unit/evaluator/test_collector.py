"""Values of each user, averages, ties and numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.evaluator.collector import Collector, Evaluator, ScoreError
from llmbole.trainer.trainer import Trainer
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector as StockCollector
from recbole.evaluator import Evaluator as StockEvaluator
from recbole.model.abstract_recommender import AbstractRecommender

RANKING = {
    "metrics": ["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP"],
    "topk": [1, 3],
    "valid_metric": "MRR@3",
}


@pytest.fixture(scope="module")
def config(built):
    return built("BPR", embedding_size=4, **RANKING).config


def frozen_batch(candidates, targets, users):
    """Rows of whole candidate lists, as the loader of frozen candidates gives them."""
    count = candidates.shape[1]
    interaction = Interaction(
        {
            "user_id": users.repeat_interleave(count),
            "item_id": candidates.flatten(),
            "candidate_list": candidates.repeat_interleave(count, dim=0),
        }
    )
    rows = torch.arange(len(users))
    return interaction, rows.repeat_interleave(count), rows, targets


def evaluate(config, scores, batch):
    interaction, _, positive_users, positive_items = batch
    collector, evaluator = Collector(config), Evaluator(config)
    collector.eval_batch_collect(scores, interaction, positive_users, positive_items)
    return evaluator, evaluator.evaluate(collector.get_data_struct())


def test_values_of_each_user_by_hand(config):
    scores = torch.tensor([[-torch.inf, 0.9, 0.5, 0.1], [-torch.inf, 0.1, 0.9, 0.5]])
    batch = Interaction({"user_id": torch.tensor([4, 2])}), None, torch.tensor([0, 1]), torch.tensor([1, 1])
    evaluator, result = evaluate(config, scores, batch)
    assert evaluator.users.tolist() == [4, 2]
    assert evaluator.per_user["hit@1"].tolist() == [1, 0]
    assert evaluator.per_user["hit@3"].tolist() == [1, 1]
    np.testing.assert_allclose(evaluator.per_user["mrr@3"], [1, 1 / 3])
    np.testing.assert_allclose(evaluator.per_user["ndcg@3"], [1, 1 / np.log2(4)])
    assert result["mrr@3"] == pytest.approx(2 / 3, abs=1e-15)


def test_averages_are_recboles_before_rounding(built, tmp_path):
    parts = built("BPR", embedding_size=4, **RANKING)
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    result = trainer.evaluate(parts.test)
    own = trainer.evaluator
    trainer.eval_collector, trainer.evaluator = StockCollector(parts.config), StockEvaluator(parts.config)
    trainer.evaluator.metric_class = {name: metric for name, metric in trainer.evaluator.metric_class.items()}
    stock = trainer.evaluate(parts.test)
    assert result.keys() == stock.keys() == own.per_user.keys()
    for name, value in result.items():
        assert value == own.per_user[name].mean() == pytest.approx(stock[name], abs=1e-14)
    assert sorted(own.users.tolist()) == sorted(set(parts.test._dataset.inter_feat["user_id"].tolist()))


def test_equal_scores_keep_the_frozen_order(config):
    candidates = torch.tensor([[3, 1, 2], [2, 3, 1], [1, 2, 3]])
    batch = frozen_batch(candidates, torch.tensor([1, 1, 1]), torch.tensor([5, 6, 7]))
    evaluator, _ = evaluate(config, torch.zeros(3, 4), batch)
    np.testing.assert_allclose(evaluator.per_user["mrr@3"], [1 / 2, 1 / 3, 1])
    assert evaluator.users.tolist() == [5, 6, 7]


def test_a_higher_score_still_wins(config):
    batch = frozen_batch(torch.tensor([[3, 1, 2]]), torch.tensor([2]), torch.tensor([5]))
    scores = torch.tensor([[0.0, 0.2, 0.3, 0.2]])
    evaluator, _ = evaluate(config, scores, batch)
    assert evaluator.per_user["hit@1"].tolist() == [1]


def test_a_constant_scorer_gets_chance(config):
    generator = torch.Generator().manual_seed(3)
    users, width = 20_000, 5
    candidates = torch.rand(users, 9, generator=generator).argsort(1)[:, :width] + 1
    places = torch.randint(0, width, (users,), generator=generator)
    targets = candidates[torch.arange(users), places]
    evaluator, result = evaluate(
        config, torch.full((users, 10), 0.7), frozen_batch(candidates, targets, torch.arange(users) + 1)
    )
    assert result["hit@1"] == pytest.approx(1 / width, abs=0.01)
    assert result["hit@3"] == pytest.approx(3 / width, abs=0.01)


def test_more_cut_offs_than_candidates_are_refused(config):
    batch = frozen_batch(torch.tensor([[3, 1]]), torch.tensor([1]), torch.tensor([5]))
    with pytest.raises(ValueError, match="topk 3 asks for more than the 2 candidates"):
        evaluate(config, torch.zeros(1, 4), batch)


def test_scores_that_are_no_numbers_name_model_and_user(config):
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, torch.nan, 2.0, 3.0]])
    batch = Interaction({"user_id": torch.tensor([4, 2])}), None, torch.tensor([0, 1]), torch.tensor([1, 1])
    with pytest.raises(
        ScoreError, match="BPR gives NaN scores for 1 of 2 users of a batch, the first is user 2"
    ):
        evaluate(config, scores, batch)


def test_value_metrics_keep_the_users_of_the_rows(built, tmp_path):
    parts = built("DeepFM", embedding_size=4)
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    result = trainer.evaluate(parts.test)
    assert set(result) == {"auc", "logloss"}
    assert trainer.evaluator.per_user == {}
    assert trainer.evaluator.users.tolist() == parts.test._dataset.inter_feat["user_id"].tolist()


class Rows(AbstractRecommender):
    """Scores each row by a table; it can't rank all items."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def predict(self, interaction):
        return self.table[interaction["user_id"], interaction["item_id"]]


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "SASRec"])
def test_ranking_all_items_once_equals_scoring_each_candidate(built, name, tmp_path):
    parts = built(name, MAX_ITEM_LIST_LENGTH=5, **RANKING) if name == "SASRec" else built(name, **RANKING)
    rows = parts.dataset[torch.arange(6)] if name != "SASRec" else parts.test._dataset[torch.arange(6)]
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    trainer.tot_item_num = parts.dataset.item_num
    parts.model.eval()
    candidates = torch.rand(6, 30, generator=torch.Generator().manual_seed(1)).argsort(1)[:, :4] + 1
    interaction = rows.repeat_interleave(4)
    interaction.update(
        Interaction({"item_id": candidates.flatten(), "candidate_list": candidates.repeat_interleave(4, 0)})
    )
    batch = interaction, torch.arange(6).repeat_interleave(4), torch.arange(6), candidates[:, 0]
    with torch.no_grad():
        _, fast, _, _ = trainer._neg_sample_batch_eval(batch)
        slow = parts.model.predict(interaction).view(6, 4)
    assert torch.isinf(fast).sum() == fast.numel() - 24
    torch.testing.assert_close(fast.gather(1, candidates), slow, rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_rank_all_items_scores_rows(config, tmp_path):
    model = Rows(torch.arange(40.0).view(8, 5))
    trainer = Trainer(config, model, workspace=tmp_path)
    trainer.tot_item_num = 5
    batch = frozen_batch(torch.tensor([[3, 1], [2, 4]]), torch.tensor([1, 2]), torch.tensor([5, 6]))
    _, scores, _, _ = trainer._neg_sample_batch_eval(batch)
    assert scores[0].tolist() == [-torch.inf, 26, -torch.inf, 28, -torch.inf]
