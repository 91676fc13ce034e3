"""Metrics of labelled pairs and of ratings, on plain arrays with one value per row (`R` rows).

All of them refuse columns of different lengths, NaN, labels other than 0 and 1, and probabilities outside [0, 1] with a
ValueError that names the row. Where the rows are sound but the metric has no value, they raise UndefinedMetricError.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from llmbole.evaluator import checks
from llmbole.evaluator.checks import UndefinedMetricError
from llmbole.evaluator.per_user import per_user_auc, per_user_ndcg

EPSILON = float(np.finfo(np.float64).eps)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve over all rows, as the rank statistic: ties count one half. CoLLM, LLM-CF, CoReLLa.

    Args:
        labels: 0 or 1. Shape `[R]`.
        scores: Higher is better; any scale. Shape `[R]`.

    Returns:
        Between 0 and 1; 0.5 for a constant score.

    Raises:
        ValueError: A column is wrong; see the module.
        UndefinedMetricError: The rows are all positive, all negative, or none.
    """
    marks, numbers = checks.columns(labels=labels, scores=scores)
    values = per_user_auc(np.zeros(len(marks), dtype=np.int64), marks, numbers).values
    if len(values) == 0:
        found = f"all {len(marks)} rows have the label {int(marks[0])}" if len(marks) else "there are no rows"
        raise UndefinedMetricError(f"AUC needs rows of both labels, but {found}")
    return float(values[0])


def uauc(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> float:
    """Unweighted mean of `per_user_auc`: users without both labels are skipped, ties count one half. CoLLM.

    Args:
        users: User of each row, ids or names. Shape `[R]`.
        labels: 0 or 1. Shape `[R]`.
        scores: Higher is better; any scale. Shape `[R]`.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: A column is wrong; see the module.
        UndefinedMetricError: No user has rows of both labels.
    """
    return per_user_auc(users, labels, scores).mean("UAUC")


def user_ndcg(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> float:
    """Unweighted mean of `per_user_ndcg`: users without both labels are skipped, ties are averaged. CoLLM.

    Args:
        users: User of each row, ids or names. Shape `[R]`.
        labels: 0 or 1. Shape `[R]`.
        scores: Higher is better; any scale. Shape `[R]`.

    Returns:
        Above 0, at most 1.

    Raises:
        ValueError: A column is wrong; see the module.
        UndefinedMetricError: No user has rows of both labels.
    """
    return per_user_ndcg(users, labels, scores).mean("UserNDCG")


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of -log(probability of the row's label), natural logarithm. LLM-CF, CoReLLa.

    Probabilities are clipped to [eps, 1 - eps] with eps = 2.2e-16 of double precision, so that a sure and wrong
    prediction costs 36.04 and not infinity.

    Args:
        labels: 0 or 1. Shape `[R]`.
        probabilities: Predicted probability of the label 1. Shape `[R]`.

    Returns:
        At least 0; lower is better.

    Raises:
        ValueError: A column is wrong; see the module.
        UndefinedMetricError: There are no rows.
    """
    positive, chances = _predictions(labels, probabilities, "LogLoss")
    chances = np.clip(chances, EPSILON, 1 - EPSILON)
    return float(-np.where(positive, np.log(chances), np.log1p(-chances)).mean())


def accuracy(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> float:
    """Share of rows whose label is predicted; 1 is predicted where the probability is above the threshold. CoReLLa.

    Args:
        labels: 0 or 1. Shape `[R]`.
        probabilities: Predicted probability of the label 1. Shape `[R]`.
        threshold: A probability equal to it predicts 0.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: A column is wrong (see the module), or the threshold is outside [0, 1].
        UndefinedMetricError: There are no rows.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it has to lie in [0, 1]")
    positive, chances = _predictions(labels, probabilities, "ACC")
    return float(((chances > threshold) == positive).mean())


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Mean distance of predicted probability and share of positives, over bins of equal width, weighted by rows.

    Bins are ((i - 1) / bins, i / bins], the first one with 0. It is the form for two classes, of the probability of
    label 1 (Naeini et al., AAAI 2015). No paper of the benchmark reports it; it shows what mixing two differently
    calibrated models (CoReLLa) does.

    Args:
        labels: 0 or 1. Shape `[R]`.
        probabilities: Predicted probability of the label 1. Shape `[R]`.
        bins: Number of bins; empty ones count nothing.

    Returns:
        Between 0 and 1; lower is better.

    Raises:
        ValueError: A column is wrong (see the module), or there are no bins.
        UndefinedMetricError: There are no rows.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    positive, chances = _predictions(labels, probabilities, "ECE")
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], chances, side="left")  # [R]
    gaps = np.bincount(places, weights=chances - positive, minlength=bins)  # rows of the bin x its gap
    return float(np.abs(gaps).sum() / len(chances))


def relative_improvement(auc: float, base_auc: float) -> float:
    """RelaImpr in percent: ((AUC - 0.5) / (base AUC - 0.5) - 1) x 100, the gain over what chance leaves. LLM-CF.

    Args:
        auc: AUC of the model.
        base_auc: AUC of the model it is compared with.

    Returns:
        Percent; 0 if both are equal.

    Raises:
        ValueError: An AUC is outside [0, 1], or the base is not above chance.
    """
    for name, value in (("auc", auc), ("base_auc", base_auc)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; an AUC lies in [0, 1]")
    if base_auc <= 0.5:
        raise ValueError(f"base_auc is {base_auc}; RelaImpr has a meaning only for a base above 0.5")
    return ((auc - 0.5) / (base_auc - 0.5) - 1) * 100


def rmse(ratings: ArrayLike, predictions: ArrayLike) -> float:
    """Root of the mean squared error, on the scale of the ratings, without clipping. Llama4Rec.

    Args:
        ratings: True ratings. Shape `[R]`.
        predictions: Predicted ratings. Shape `[R]`.

    Returns:
        At least 0; lower is better.

    Raises:
        ValueError: A column is wrong (see the module), or a number is infinite.
        UndefinedMetricError: There are no rows.
    """
    return float(np.sqrt(np.square(_errors(ratings, predictions, "RMSE")).mean()))


def mae(ratings: ArrayLike, predictions: ArrayLike) -> float:
    """Mean absolute error, on the scale of the ratings, without clipping. Llama4Rec.

    Args:
        ratings: True ratings. Shape `[R]`.
        predictions: Predicted ratings. Shape `[R]`.

    Returns:
        At least 0; lower is better.

    Raises:
        ValueError: A column is wrong (see the module), or a number is infinite.
        UndefinedMetricError: There are no rows.
    """
    return float(np.abs(_errors(ratings, predictions, "MAE")).mean())


def _predictions(labels: ArrayLike, probabilities: ArrayLike, metric: str) -> tuple[np.ndarray, np.ndarray]:
    marks, chances = checks.columns(labels=labels, probabilities=probabilities)
    checks.some_rows(len(marks), metric)
    return checks.binary(marks), checks.probabilities(chances)


def _errors(ratings: ArrayLike, predictions: ArrayLike, metric: str) -> np.ndarray:
    true, predicted = checks.columns(ratings=ratings, predictions=predictions)
    checks.some_rows(len(true), metric)
    return checks.finite(predicted, "prediction") - checks.finite(true, "rating")
