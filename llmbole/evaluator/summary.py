"""Metrics within each group of rows; `None`, never NaN, where one is undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from llmbole.evaluator import checks, metrics
from llmbole.evaluator.checks import UndefinedMetricError
from llmbole.evaluator.groups import Group

ROW_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "AUC": lambda users, labels, scores: metrics.auc(labels, scores),
    "UAUC": metrics.uauc,
    "UserNDCG": metrics.user_ndcg,
    "LogLoss": lambda users, labels, scores: metrics.log_loss(labels, scores),
    "ACC": lambda users, labels, scores: metrics.accuracy(labels, scores),
    "ECE": lambda users, labels, scores: metrics.expected_calibration_error(labels, scores),
    "RMSE": lambda users, labels, scores: metrics.rmse(labels, scores),
    "MAE": lambda users, labels, scores: metrics.mae(labels, scores),
}

Summary = dict[str, dict[str, int | float | None]]


def summarize(groups: Sequence[Group], values: Mapping[str, ArrayLike]) -> Summary:
    """Means of per-row values (in ranking: of the users) within each group.

    Args:
        groups: Groups of the rows.
        values: Metric name to values. Shapes `[R]`.

    Returns:
        Group name to `count` (its rows) and the mean of each metric, `None` where the group is empty.

    Raises:
        ValueError: A value is not finite, lengths differ, or two groups have one name.
    """
    numbers = {}
    for name, column in values.items():
        if name == "count":
            raise ValueError("a metric can't be named 'count': that is the number of rows")
        (array,) = checks.columns(**{name: column})
        numbers[name] = checks.finite(array, name)
    checks.columns(**numbers)
    count = len(next(iter(numbers.values()))) if numbers else None
    summary: Summary = {}
    for name, rows in _checked(groups, count):
        summary[name] = {"count": int(rows.sum())}
        summary[name].update(
            {metric: float(column[rows].mean()) if rows.any() else None for metric, column in numbers.items()}
        )
    return summary


def summarize_rows(
    groups: Sequence[Group],
    users: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike,
    names: Sequence[str] = ("AUC", "UAUC", "LogLoss", "ACC"),
) -> Summary:
    """Metrics of labelled rows, computed anew within each group.

    Args:
        groups: Groups of the rows.
        users: User of each row. Shape `[R]`.
        labels: Labels, or ratings for RMSE and MAE. Shape `[R]`.
        scores: Scores; probabilities for LogLoss, ACC and ECE. Shape `[R]`.
        names: Metrics, of `ROW_METRICS`.

    Returns:
        Group name to `count` (its rows) and the value of each metric, `None` where it is undefined: in a group without
        rows, AUC where only one label occurs, UAUC and UserNDCG where no user has both.

    Raises:
        ValueError: A column is wrong, a metric is unknown, or two groups have one name.
    """
    unknown = [name for name in names if name not in ROW_METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {', '.join(unknown)}; there are {', '.join(ROW_METRICS)}")
    owners, marks, numbers = checks.columns(users=users, labels=labels, scores=scores)
    for metric in names:  # over all rows first, so that an error numbers the rows as the caller does
        _or_none(metric, owners, marks, numbers)
    summary: Summary = {}
    for name, rows in _checked(groups, len(owners)):
        summary[name] = {"count": int(rows.sum())}
        for metric in names:
            summary[name][metric] = _or_none(metric, owners[rows], marks[rows], numbers[rows])
    return summary


def _or_none(metric: str, users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float | None:
    try:
        return ROW_METRICS[metric](users, labels, scores)
    except UndefinedMetricError:
        return None


def _checked(groups: Sequence[Group], rows: int | None) -> list[tuple[str, np.ndarray]]:
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise ValueError(f"groups need names of their own; given are {', '.join(names)}")
    for group in groups:
        if group.rows.dtype != bool or group.rows.ndim != 1:
            raise ValueError(f"the rows of group {group.name} are no booleans of the shape [rows]")
        if rows is not None and len(group.rows) != rows:
            raise ValueError(f"group {group.name} tells of {len(group.rows)} rows, but there are {rows}")
    return [(group.name, group.rows) for group in groups]
