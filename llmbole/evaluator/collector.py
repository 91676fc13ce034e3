"""RecBole's Collector and Evaluator with the values of each user kept, and ties broken by the frozen order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.config import Config
from llmbole.evaluator import value_metrics
from llmbole.evaluator.per_user import PerUser
from llmbole.evaluator.value_metrics import ITEMS, LABELS, SCORES, USERS, Rows, UserMetric
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector as RecBoleCollector
from recbole.evaluator import Evaluator as RecBoleEvaluator
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.collector import DataStruct
from recbole.utils import EvaluatorType

CANDIDATE_FIELD = "candidate_list"


class ScoreError(ValueError):
    """A model gave a score that is not a number; the message names the model and the user."""


class Collector(RecBoleCollector):
    """Collects what metrics need, and the users it belongs to.

    Where an interaction carries frozen candidates (field `candidate_list`), equal scores are ranked in the order of
    the candidates, which is shuffled independently of the label: a constant scorer gets what chance gives. RecBole's
    own order of equal scores is whatever `torch.topk` gives.

    Args:
        config: Settings.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.user_field: str = config["USER_ID_FIELD"]
        self.item_field: str = config["ITEM_ID_FIELD"]
        self.scores_rows: bool = config["eval_type"] == EvaluatorType.VALUE
        self.model_name: str = config["model"]

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Interaction, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collect one batch; NaN scores are a ScoreError, and so are `topk` beyond the candidates a ValueError.

        Args:
            scores_tensor: Scores of all items, `-inf` where an item is not ranked, or of rows for value metrics. Shape
                `[users, n_items]` or `[rows]`.
            interaction: The rows the scores belong to.
            positive_u: Row of `scores_tensor` of each positive item.
            positive_i: The positive items.
        """
        users = _users(interaction[self.user_field].cpu(), len(scores_tensor))  # [users]
        self._check_numbers(scores_tensor, users)
        self.data_struct.update_tensor(USERS, users)
        if self.scores_rows and self.item_field in interaction:
            self.data_struct.update_tensor(ITEMS, interaction[self.item_field])
        if CANDIDATE_FIELD in interaction:
            candidates = interaction[CANDIDATE_FIELD].to(scores_tensor.device)  # [rows, C]
            scores_tensor = self._without_ties(scores_tensor, candidates)
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)

    def get_data_struct(self) -> DataStruct:
        """What was collected, handed out once."""
        collected = super().get_data_struct()
        for key in (USERS, ITEMS):
            if key in self.data_struct:
                del self.data_struct[key]
        return collected

    def _without_ties(self, scores: Tensor, candidates: Tensor) -> Tensor:
        """Ranks in place of scores: `C` for the best candidate down to 1, `-inf` for every other item."""
        width = candidates.shape[1]
        if max(self.topk) > width:
            raise ValueError(
                f"topk {max(self.topk)} asks for more than the {width} candidates of a user; lower topk"
            )
        if len(candidates) != len(scores) * width:
            raise ValueError(
                f"{len(candidates)} rows are not {len(scores)} users with {width} candidates each"
            )
        candidates = candidates[::width]  # [users, C]
        order = scores.gather(1, candidates).argsort(dim=1, descending=True, stable=True)  # [users, C]
        ranks = torch.arange(width, 0, -1, device=scores.device, dtype=scores.dtype).expand_as(order)
        return torch.full_like(scores, -torch.inf).scatter(1, candidates.gather(1, order), ranks)

    def _check_numbers(self, scores: Tensor, users: Tensor) -> None:
        bad = torch.isnan(scores).reshape(len(users), -1).any(dim=1).cpu()  # [users]
        if bad.any():
            raise ScoreError(
                f"{self.model_name} gives NaN scores for {int(bad.sum())} of {len(users)} users of a batch, "
                f"the first is user {int(users[bad][0])} (internal id); "
                "lower the learning rate or check the model's inputs"
            )


class Evaluator(RecBoleEvaluator):
    """Computes metrics without rounding, and keeps the values of each user and, for value metrics, of each row.

    Top-k metrics are RecBole's; the metrics of labelled rows are those of `value_metrics`, also AUC, LogLoss, RMSE and
    MAE, which RecBole has too.

    Args:
        config: Settings.

    Attributes:
        per_user: Top-k metric name (`hit@10`) to values in the order of `users`, of the last evaluation.
        users: Internal user ids of the last evaluation; one per row for value metrics.
        user_values: Metric name (`hit@10`, `uauc`) to the users that have a value, with their values. Users without
            both labels have no `uauc` and no `userndcg`.
        rows: The labelled rows of the last evaluation; `None` for top-k metrics.
        lists: The recommended items of each user, `[U, max k]`, where a metric of RecBole's asks for them.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.per_user: dict[str, np.ndarray] = {}
        self.users = np.zeros(0, dtype=np.int64)
        self.user_values: dict[str, PerUser] = {}
        self.rows: Rows | None = None
        self.lists: np.ndarray | None = None
        for name, metric in self.metric_class.items():
            if isinstance(metric, TopkMetric):
                metric.topk_result = self._keep
            elif name in value_metrics.METRICS:
                self.metric_class[name] = value_metrics.METRICS[name](config)

    def evaluate(self, dataobject: DataStruct) -> dict[str, float]:
        """Compute all metrics.

        Args:
            dataobject: What the Collector collected.

        Returns:
            Metric name (`hit@10`, `uauc`) to average over users, or value over rows.

        Raises:
            ValueError: A metric can't be computed from these rows, such as LogLoss from logits.
        """
        self.per_user, self.user_values = {}, {}
        self.users = dataobject.get(USERS).numpy()
        self.rows = Rows.of(dataobject) if SCORES in dataobject and LABELS in dataobject else None
        self.lists = dataobject.get("rec.items").numpy() if "rec.items" in dataobject else None
        result: dict[str, Any] = super().evaluate(dataobject)
        self.user_values = {name: PerUser(self.users, values) for name, values in self.per_user.items()}
        for name, metric in self.metric_class.items():
            if isinstance(metric, UserMetric) and metric.last is not None:
                self.user_values[name] = metric.last
        return result

    def _keep(self, metric: str, value: np.ndarray) -> dict[str, float]:
        """Average each user's values `[users, max k]`, as RecBole's `topk_result` does before it rounds."""
        averages = value.mean(axis=0)
        names = {k: f"{metric}@{k}" for k in self.config["topk"]}
        self.per_user.update({name: value[:, k - 1].astype(np.float64) for k, name in names.items()})
        return {name: float(averages[k - 1]) for k, name in names.items()}


def _users(rows: Tensor, count: int) -> Tensor:
    """The user of each row of scores: the interaction's own rows, or one per block of rows of the same user."""
    users = rows if len(rows) == count else rows.unique_consecutive()
    if len(users) != count:
        raise ValueError(
            f"{count} rows of scores for {len(users)} users; an evaluation batch holds whole users, each once"
        )
    return users
