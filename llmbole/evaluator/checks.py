"""Checks of the columns that metrics and groups read; each error names the first row that is wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


class UndefinedMetricError(ValueError):
    """The rows are sound, but the metric has no value on them: no rows, or rows of one class only."""


def columns(**named: ArrayLike) -> list[np.ndarray]:
    """Columns as arrays, in the order given.

    Args:
        **named: One value per row each, under the name that errors give it.

    Returns:
        The arrays. Shapes `[R]`.

    Raises:
        ValueError: A column is not one-dimensional, or the columns differ in length.
    """
    arrays = {name: np.asarray(values) for name, values in named.items()}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(f"{name} has the shape {array.shape}; give one value per row, shape [rows]")
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise ValueError(f"the columns differ in length ({lengths}); give each row one value of each")
    return list(arrays.values())


def refuse(bad: np.ndarray, values: np.ndarray, what: str, advice: str) -> None:
    """Raise a ValueError for the first row that is bad, if any.

    Args:
        bad: Whether a row is bad. Shape `[R]`.
        values: The values the message shows. Shape `[R]`.
        what: What a value is, such as `label`.
        advice: What is allowed, and what to do.

    Raises:
        ValueError: At least one row is bad.
    """
    if bad.any():
        row = int(bad.argmax())
        others = f" (and of {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise ValueError(
            f"the {what} of row {row}{others} is {values[row : row + 1].tolist()[0]!r}; {advice}"
        )


def binary(labels: np.ndarray) -> np.ndarray:
    """Labels as booleans; anything but 0 and 1 is a ValueError. Shape `[R]`."""
    refuse(
        (labels != 0) & (labels != 1), labels, "label", "labels are 0 or 1: turn ratings into labels first"
    )
    return labels == 1


def scores(values: np.ndarray, what: str = "score") -> np.ndarray:
    """Scores in double precision; NaN is a ValueError, infinities can be ranked and pass. Shape `[R]`."""
    numbers = values.astype(np.float64)
    refuse(np.isnan(numbers), numbers, what, "check what the model computes for this row")
    return numbers


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """Numbers in double precision; NaN and infinities are ValueErrors. Shape `[R]`."""
    numbers = values.astype(np.float64)
    refuse(~np.isfinite(numbers), numbers, what, "it has to be a finite number")
    return numbers


def probabilities(values: np.ndarray) -> np.ndarray:
    """Probabilities in double precision; anything outside [0, 1] is a ValueError. Shape `[R]`."""
    numbers = scores(values, "probability")
    advice = "it has to lie in [0, 1]: apply a sigmoid to logits, or leave out metrics of probabilities"
    refuse((numbers < 0) | (numbers > 1), numbers, "probability", advice)
    return numbers


def some_rows(count: int, metric: str) -> None:
    """No rows are an UndefinedMetricError."""
    if count == 0:
        raise UndefinedMetricError(f"{metric} of no rows is undefined")


def indices(values: np.ndarray, size: int, what: str, least: int = 0) -> np.ndarray:
    """Ids to look up a table with.

    Args:
        values: Ids, of any shape.
        size: Length of the table; the largest id is one less.
        what: What an id is of, such as `item`.
        least: The smallest id.

    Returns:
        The ids as integers, in the shape given.

    Raises:
        ValueError: An id is no integer, or not in `least .. size - 1`.
    """
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"{what} ids are of the type {values.dtype}; give internal ids, which are integers")
    flat = values.reshape(-1)
    bad = (flat < least) | (flat >= size)
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), values.shape)
        raise ValueError(
            f"the {what} of row {int(place[0])} is {int(flat[bad][0])}; ids lie between {least} and {size - 1}"
        )
    return values.astype(np.int64)
