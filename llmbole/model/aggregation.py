"""Adaptive aggregation of two models' results: Llama4Rec's long-tail coefficient, user weights and utilities.

Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive Aggregation,
2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

_DECIMALS = 9  # of utilities: differences below are rounding, and count as ties


@dataclass(frozen=True)
class AggregateSettings:
    """How much the LLM's result counts.

    Attributes:
        weight: `adaptive`: by user, Eq. 6; `uniform`: alpha1 for every user, the ablation without AA.
        alpha1: the largest weight; 0 is the conventional model alone.
        alpha2: cut-off: the least share of alpha1 that a user gets.
        constant: C, utility of one position.
    """

    weight: Literal["adaptive", "uniform"]
    alpha1: float
    alpha2: float
    constant: float

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be in [0, 1]"
            for name in ("alpha1", "alpha2")
            if not 0 <= getattr(self, name) <= 1
        ]
        if not 0 < self.constant < float("inf"):
            problems.append(f"constant = {self.constant}: must be greater than 0")
        if problems:
            raise ValueError("\n".join(problems))

    def weights(self, counts: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Weight of the LLM for each user.

        Args:
            counts: Training interactions of every user by internal id, 0 for the padding user. Shape `[n_users]`.
            users: Internal ids. Shape `[U]`.

        Returns:
            In [0, 1]. Shape `[U]`.
        """
        if self.weight == "uniform":
            return np.full(len(users), self.alpha1)
        coefficients = long_tail(counts)
        known = coefficients[1:]
        return llm_weights(coefficients[users], known.min(), known.max(), self.alpha1, self.alpha2)


def long_tail(counts: np.ndarray) -> np.ndarray:
    """Eq. 4: l_u = log(N(u) + 1), for N(u) training interactions of user u. Shape as given."""
    return np.log(np.asarray(counts, dtype=np.float64) + 1)


def llm_weights(
    coefficients: np.ndarray, least: float, greatest: float, alpha1: float, alpha2: float
) -> np.ndarray:
    """Eq. 6: alpha_u = alpha1 * max((l_max - l_u) / (l_max - l_min), alpha2): the fewer interactions, the greater.

    Args:
        coefficients: l_u of users. Shape `[U]`.
        least: l_min over all users.
        greatest: l_max over all users; where it is l_min, no user is in the tail, and the cut-off counts.
        alpha1: The largest weight.
        alpha2: The cut-off.

    Returns:
        Shape `[U]`.
    """
    spread = greatest - least
    shares = (greatest - coefficients) / spread if spread > 0 else np.zeros_like(coefficients)
    return alpha1 * np.maximum(shares, alpha2)


def aggregate_lists(positions: np.ndarray, weights: np.ndarray, constant: float = 1.0) -> np.ndarray:
    """Eq. 5 over lists: U = alpha_u * U_LLM + (1 - alpha_u) * U_Rec, where a utility is -position * C.

    Args:
        positions: Position of each item in the LLM's ranking, from 1; the items stand in the conventional model's
            order. Equal ones are ties, which that order breaks. Shape `[U, k]`.
        weights: alpha_u. Shape `[U]`.
        constant: C.

    Returns:
        Places in the conventional model's list, best utility first. Shape `[U, k]`.
    """
    share = weights[:, None]
    own = np.arange(1, positions.shape[1] + 1)
    utilities = share * (-positions * constant) + (1 - share) * (-own * constant)  # [U, k]
    return np.argsort(-np.round(utilities / constant, _DECIMALS), axis=1, kind="stable")


def aggregate_ratings(llm: np.ndarray, conventional: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Eq. 5 over ratings: alpha_u * r_LLM + (1 - alpha_u) * r_Rec. Shapes `[R]`."""
    return weights * llm + (1 - weights) * conventional


def chunk_bounds(length: int, chunk: int) -> list[tuple[int, int]]:
    """Where the chunks of a list begin and end, which the LLM ranks one by one; the last may be shorter."""
    return [(start, min(start + chunk, length)) for start in range(0, length, chunk)]
