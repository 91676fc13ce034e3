"""The metrics of labelled rows as RecBole metric classes: named in a config, computed by `metrics`, not rounded.

`register` adds UAUC, UserNDCG, ACC and ECE to RecBole's tables of metrics, beside its own AUC, LogLoss, RMSE and MAE.
The evaluator of this project computes all eight with the classes here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from llmbole import compat
from llmbole.evaluator import metrics
from llmbole.evaluator.per_user import PerUser, per_user_auc, per_user_ndcg

compat.apply()

from recbole.evaluator import register as tables  # noqa: E402 - the patches come first
from recbole.evaluator.base_metric import AbstractMetric  # noqa: E402
from recbole.evaluator.collector import DataStruct  # noqa: E402
from recbole.utils import EvaluatorType  # noqa: E402

USERS = "data.users"
ITEMS = "data.items"
LABELS = "data.label"
SCORES = "rec.score"


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of an evaluation, in the order of the loader.

    Attributes:
        users: Internal user ids. Shape `[R]`.
        labels: Labels, or true ratings. Shape `[R]`.
        scores: What the model's `predict` gave. Shape `[R]`.
        items: Internal item ids, if they were collected. Shape `[R]`.
    """

    users: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    items: np.ndarray | None = None

    @classmethod
    def of(cls, collected: DataStruct) -> Rows:
        """The rows of what the Collector collected."""
        items = collected.get(ITEMS).numpy() if ITEMS in collected else None
        users = collected.get(USERS).numpy()
        return cls(users, _column(collected.get(LABELS)), _column(collected.get(SCORES)), items)


def _column(values: Tensor) -> np.ndarray:
    """One number per row, of `[R]` or `[R, 1]`, in double precision."""
    return values.double().reshape(len(values), -1).squeeze(-1).numpy()


class RowMetric(AbstractMetric):
    """A metric of labelled rows; its key in a result is its class's name in lower case."""

    metric_type = EvaluatorType.VALUE
    metric_need = [USERS, SCORES, LABELS]
    function: Callable[[np.ndarray, np.ndarray], float]

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """The metric's value under its name, such as `{"auc": 0.71}`."""
        return {type(self).__name__.lower(): self.value(Rows.of(dataobject))}

    def value(self, rows: Rows) -> float:
        """The value of the metric's function, of labels and scores."""
        return type(self).function(rows.labels, rows.scores)


class UserMetric(RowMetric):
    """A metric that is the unweighted mean of the values of users; they are kept in `last`."""

    by_user: Callable[[np.ndarray, np.ndarray, np.ndarray], PerUser]
    last: PerUser | None = None

    def value(self, rows: Rows) -> float:
        """The mean over the users that have a value."""
        self.last = type(self).by_user(rows.users, rows.labels, rows.scores)
        return self.last.mean(type(self).__name__)


class AUC(RowMetric):
    """Area under the ROC curve over all rows: `metrics.auc`."""

    function = staticmethod(metrics.auc)


class UAUC(UserMetric):
    """Mean AUC of the users with both labels: `metrics.uauc`."""

    by_user = staticmethod(per_user_auc)


class UserNDCG(UserMetric):
    """Mean NDCG of the users with both labels: `metrics.user_ndcg`."""

    by_user = staticmethod(per_user_ndcg)


class LogLoss(RowMetric):
    """Logarithmic loss: `metrics.log_loss`. The model's `predict` has to give probabilities."""

    function = staticmethod(metrics.log_loss)
    smaller = True


class ACC(RowMetric):
    """Accuracy at the threshold 0.5: `metrics.accuracy`. The model's `predict` has to give probabilities."""

    function = staticmethod(metrics.accuracy)


class ECE(RowMetric):
    """Calibration error: `metrics.expected_calibration_error`. The model's `predict` has to give probabilities."""

    function = staticmethod(metrics.expected_calibration_error)
    smaller = True


class RMSE(RowMetric):
    """Root of the mean squared error: `metrics.rmse`. The labels are ratings."""

    function = staticmethod(metrics.rmse)
    smaller = True


class MAE(RowMetric):
    """Mean absolute error: `metrics.mae`. The labels are ratings."""

    function = staticmethod(metrics.mae)
    smaller = True


NEW = (UAUC, UserNDCG, ACC, ECE)
METRICS: dict[str, type[RowMetric]] = {
    metric.__name__.lower(): metric for metric in (AUC, LogLoss, RMSE, MAE, *NEW)
}


def register() -> None:
    """Add the metrics that RecBole lacks to its tables; harmless when repeated.

    Raises:
        ValueError: Another metric has the name of one of them.
    """
    for metric in NEW:
        name = metric.__name__.lower()
        found = tables.metrics_dict.setdefault(name, metric)
        if found is not metric:
            raise ValueError(
                f"{found.__module__}.{found.__name__} is already RecBole's metric {name!r}; rename it, "
                f"the name stands for {metric.__module__}.{metric.__name__}"
            )
        tables.metric_types.setdefault(name, metric.metric_type)
        tables.metric_information.setdefault(name, metric.metric_need)
        if metric.smaller and name not in tables.smaller_metrics:
            tables.smaller_metrics.append(name)
