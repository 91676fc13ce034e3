"""Routing by confidence: rows of which a conventional model (CRM) is least sure are answered by an LLM.

CoReLLa's inference. The entropy s = -p log p - (1 - p) log(1 - p) of the CRM's probability p is highest where p is
near 1/2. Rows are asked about in the order of falling entropy, so that what was asked for one share serves any larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmbole.evaluator import groups
from llmbole.evaluator.groups import Group
from llmbole.evaluator.summary import summarize_rows

Ask = Callable[[np.ndarray], tuple[np.ndarray, int]]
METRICS: Mapping[str, str] = {"auc": "AUC", "log_loss": "LogLoss"}
"""What a share can be chosen by."""


@dataclass(frozen=True)
class RoutingSettings:
    """Which rows the LLM answers: a share, those above a threshold, or a share chosen on validation rows."""

    share: float | None
    threshold: float | None
    choose: Literal["auc", "log_loss"]
    shares: tuple[float, ...]
    valid_rows: int

    def __post_init__(self) -> None:
        problems = []
        if self.share is not None and self.threshold is not None:
            problems.append(f"share = {self.share} and threshold = {self.threshold}: set one of them to null")
        given = () if self.share is None else (self.share,)
        if not self.shares or not all(0 <= share <= 1 for share in (*self.shares, *given)):
            problems.append(f"share = {self.share}, shares = {list(self.shares)}: shares lie between 0 and 1")
        if self.threshold is not None and not 0 <= self.threshold <= math.log(2):
            problems.append(f"threshold = {self.threshold}: an entropy lies between 0 and {math.log(2):.4f}")
        if self.valid_rows < 0:
            problems.append(f"valid_rows = {self.valid_rows}: must be at least 0, which takes all")
        if problems:
            raise ValueError("\n".join(problems))


class Routing:
    """Rows with the probabilities of the CRM, and those of the LLM where it was asked.

    Args:
        users: Shape `[R]`.
        labels: Shape `[R]`.
        crm: The CRM's probabilities. Shape `[R]`.
        ask: Row numbers to the LLM's probabilities, `[n]` to `[n]`, and how many tokens it read for them.

    Attributes:
        entropies: Of the CRM's probabilities. Shape `[R]`.
        order: Row numbers, the highest entropy first; rows of equal entropy in their order. Shape `[R]`.
        llm: The LLM's probabilities, NaN where it was not asked. Shape `[R]`.
        tokens: Tokens that the LLM read so far.

    Raises:
        ValueError: The CRM gives something that is no probability.
    """

    def __init__(self, users: np.ndarray, labels: np.ndarray, crm: np.ndarray, ask: Ask) -> None:
        self.users, self.labels, self.crm, self._ask = users, labels, crm, ask
        self.entropies = groups.entropy(crm)
        self.order = np.argsort(-self.entropies, kind="stable")
        self.llm = np.full(len(crm), np.nan)
        self.asked = self.tokens = 0

    def count(self, share: float | None, threshold: float | None) -> int:
        """How many rows the LLM gets: the share of them, rounded, or all whose entropy is above the threshold."""
        if share is not None:
            return int(share * len(self.crm) + 0.5)
        return int((self.entropies > threshold).sum())

    def mix(self, count: int) -> np.ndarray:
        """The LLM's probabilities of the rows of highest entropy, which it is asked for now, and the CRM's of others.

        Args:
            count: How many rows the LLM gets.

        Returns:
            Probabilities. Shape `[R]`.
        """
        if count > self.asked:
            rows = np.sort(self.order[self.asked : count])
            self.llm[rows], tokens = self._ask(rows)
            self.asked, self.tokens = count, self.tokens + tokens
        mixed = self.crm.astype(np.float64)
        routed = self.order[:count]
        mixed[routed] = self.llm[routed]
        return mixed

    def metrics(self, scores: np.ndarray, names: Sequence[str]) -> dict[str, float]:
        """Metrics over all rows; one that is undefined is left out."""
        found = self._within([Group("all", np.ones(len(scores), dtype=bool))], scores, names)["all"]
        return {name: found[name] for name in names if name in found}

    def curve(self, counts: Iterable[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Metrics of the mix against the rows routed.

        Args:
            counts: How many rows the LLM gets, in any order.
            names: Names of metrics.

        Returns:
            For each count, ascending, `share`, `rows`, `llm_tokens` and the metrics.
        """
        points = []
        for count in sorted(set(counts)):
            found = self.metrics(self.mix(count), names)
            share = count / len(self.crm)
            points.append({"share": share, "rows": count, "llm_tokens": self.tokens, **found})
        return points

    def confidence(self, names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Metrics of both models in three groups by the CRM's entropy (Figure 1); of the CRM alone until all are asked.

        Args:
            names: Names of metrics.

        Returns:
            `crm` and `llm`, group name, `count` and metrics.
        """
        thirds = groups.confidence_thirds(self.crm)
        both = {"crm": self.crm, **({"llm": self.llm} if self.asked == len(self.crm) else {})}
        return {model: self._within(thirds, scores, names) for model, scores in both.items()}

    def groups(self, scores: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Metrics of scores in thirds of the rows by the CRM's entropy: `crm_confidence_high` and so on (Figure 1).

        Args:
            scores: Shape `[R]`.
            names: Names of metrics.

        Returns:
            Group name, `count` and metrics.
        """
        thirds = [Group(f"crm_{group.name}", group.rows) for group in groups.confidence_thirds(self.crm)]
        return self._within(thirds, scores, names)

    def _within(
        self, parts: Sequence[Group], scores: np.ndarray, names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        summary = summarize_rows(parts, self.users, self.labels, scores, names)
        return {
            part: {name: float(value) for name, value in found.items() if value is not None}
            for part, found in summary.items()
        }


def best(curve: Sequence[Mapping[str, Any]], choose: str) -> Mapping[str, Any]:
    """The point of a curve with the best metric; of equal ones that with the fewest rows.

    Args:
        curve: As `Routing.curve` gives it, with the metric.
        choose: `auc` or `log_loss`.

    Returns:
        The point.

    Raises:
        ValueError: No point has the metric, as where all rows have one label.
    """
    name = METRICS[choose]
    points = [point for point in curve if name in point]
    if not points:
        raise ValueError(
            f"{name} of the validation rows is undefined (all have one label?); set routing.share or routing.threshold"
        )
    return (max if choose == "auc" else min)(points, key=lambda point: point[name])
