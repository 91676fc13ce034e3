"""Averages of each user's rows, so that methods can be compared user by user."""

from __future__ import annotations

import numpy as np

from llmbole.evaluator.value_metrics import Rows

EPSILON = float(np.finfo(np.float64).eps)


def by_user(rows: Rows, task: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Each user's number of rows and mean errors.

    Args:
        rows: What was scored.
        task: `pairs`, for log-loss and share of right predictions (where scores are probabilities), or `rating`, for
            squared and absolute error.

    Returns:
        Users, ascending, of shape `[U]`, and columns by name: `user_rows` and the means, each of shape `[U]`.
    """
    users, place, counts = np.unique(rows.users, return_inverse=True, return_counts=True)
    if task == "rating":
        error = rows.scores - rows.labels
        values = {"user_MSE": error**2, "user_MAE": np.abs(error)}
    elif ((rows.scores >= 0) & (rows.scores <= 1)).all():
        likely = np.where(rows.labels == 1, rows.scores, 1 - rows.scores)
        values = {
            "user_LogLoss": -np.log(np.clip(likely, EPSILON, 1 - EPSILON)),
            "user_ACC": ((rows.scores > 0.5) == (rows.labels == 1)).astype(np.float64),
        }
    else:
        values = {}
    means = {name: np.bincount(place, weights=column) / counts for name, column in values.items()}
    return users, {"user_rows": counts.astype(np.float64), **means}
