"""The newest values before places in one long sequence, gathered for many rows at once."""

from __future__ import annotations

import numpy as np


def newest(
    values: np.ndarray, starts: np.ndarray, ends: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last values of each row's span, as RecBole's lists.

    Args:
        values: The sequence. Shape `[N]`.
        starts: Where each row's span begins. Shape `[B]`.
        ends: Where it ends, not included. Shape `[B]`.
        max_length: Longest list; the newest values are kept.

    Returns:
        Values, oldest first, right-padded with 0, of shape `[B, max_length]`, and their numbers, of shape `[B]`.
    """
    lengths = np.minimum(ends - starts, max_length)  # [B]
    columns = np.arange(max_length)
    inside = columns < lengths[:, None]  # [B, L]
    places = np.where(inside, (ends - lengths)[:, None] + columns, 0)
    found = values[places] if len(values) else np.zeros(places.shape, dtype=values.dtype)
    return np.where(inside, found, 0).astype(values.dtype, copy=False), lengths
