"""Protocols: how data are split, what is predicted, and which metrics are reported; each has a name and a version.

A protocol is one yaml in `properties/protocol/`. The split it makes is an artifact: see `llmbole.data.split`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmbole.data.scenario import Scenario
from llmbole.settings import SettingsError, build, close_name, load_yaml, properties_folder


@dataclass(frozen=True)
class Retriever:
    """A conventional model whose best items are handed to methods that re-rank a list.

    Attributes:
        model: A RecBole model.
        number: Items per user.
        seed: Seed of its training and of the order in which its items are shown, the protocol's own.
    """

    model: str
    number: int
    seed: int

    def __post_init__(self) -> None:
        if self.number < 2 or self.seed < 0:
            raise ValueError(
                f"number = {self.number}, seed = {self.seed}: at least 2 items and a seed of at least 0"
            )


@dataclass(frozen=True)
class Candidates:
    """What the target is ranked among.

    Attributes:
        kind: `frozen`: the target and random items the user never interacted with, drawn once; `full`: all items.
        negatives: Random items per user.
        seed: Seed of the draw, the protocol's own.
        known: Whether a full ranking holds items of the user's history. `recbole`: as RecBole does it, it does for
            sequential models and does not for others. `excluded`: it does not, whatever the model.
        retriever: Under a full ranking, who picks the items that methods rank which can't rank all of them.
    """

    kind: Literal["frozen", "full"]
    negatives: int = 0
    seed: int | None = None
    known: Literal["recbole", "excluded"] = "recbole"
    retriever: Retriever | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.kind == "frozen" and self.negatives < 1:
            problems.append(f"negatives = {self.negatives}: frozen candidates need at least 1")
        if self.kind == "frozen" and (self.seed is None or self.seed < 0):
            problems.append(f"seed = {self.seed}: frozen candidates need a seed of at least 0")
        if self.kind == "full" and (self.negatives or self.seed is not None):
            problems.append(
                "negatives and seed are for frozen candidates; a full ranking draws nothing, remove them"
            )
        if self.retriever is not None and (self.kind != "full" or self.known != "excluded"):
            problems.append("a retriever is for a full ranking whose known items are excluded; remove it")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def count(self) -> int | None:
        """Candidates per user, the target included; `None` for a full ranking."""
        return self.negatives + 1 if self.kind == "frozen" else None


@dataclass(frozen=True)
class Labels:
    """Where the label of a row comes from.

    Attributes:
        kind: `interaction`: every interaction is a 1 and each gets random items as 0 that its user never interacted
            with; `threshold`: 1 from the data set's `label.positive_from` on, else 0; `rating`: the rating itself.
        negatives: Random items per interaction, for `interaction`.
        seed: Seed of their draw, the protocol's own.
    """

    kind: Literal["interaction", "threshold", "rating"]
    negatives: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        drawn = self.kind == "interaction"
        if drawn and (self.negatives < 1 or self.seed is None or self.seed < 0):
            raise ValueError(
                f"negatives = {self.negatives}, seed = {self.seed}: labels by interaction need at least 1 negative and "
                "a seed of at least 0"
            )
        if not drawn and (self.negatives or self.seed is not None):
            raise ValueError(
                f"negatives and seed are for labels by interaction, not by {self.kind}; remove them"
            )


@dataclass(frozen=True)
class Protocol:
    """How data are split, what is predicted, and which metrics are reported.

    Attributes:
        name: The yaml's name.
        version: Raised by every change that can change a number.
        title: Name for people.
        description: What is done, in a sentence or two.
        task: `ranking`: candidates are ranked by their scores. `pairs`: labels of user-item pairs are predicted.
            `rating`: ratings are predicted.
        split: `leave_one_out`: a user's last interaction is for the test, the second last for validation. `windows`:
            by the time windows of the data set. `time_ratio`: all interactions in time order are cut by `ratios`.
            `time_then_last`: cut by `ratios`, and the last interaction of a user within the validation or test part is
            the target; earlier ones there are history only.
        order: What "last" means. `time`: exact timestamps, equal ones in the order of the raw rows. `recbole_time`: the
            same after scaling timestamps to [0, 1] in single precision, as RecBole orders by default; interactions
            closer than that precision (1 s on ml-100k) then count as simultaneous.
        metrics: Metrics as RecBole names them.
        selection: Metric by which models are chosen on validation data, such as `HIT@1` or `AUC`.
        candidates: What the target of a ranking is ranked among.
        labels: Where labels come from, for pairs and ratings.
        history: Which earlier interactions are a row's history: `all`, or `positives`, those whose label is 1.
        ratios: Shares of training, validation and test, for splits by ratio.
        topk: Cut-offs of the metrics of a ranking.
        report: Metrics that records and tables show, the first one leading; all of them if none is named.
        over_backbone: Metrics of a method against its backbone alone, which need both: RelaImpr is the gain in AUC.
        catalogue: Whether the record says what the lists of a full ranking show of the catalogue: coverage, Gini
            coefficient, average popularity.
        scenario: Who is left out of training; it stands behind the name, as in `loo_rank20@few_shot-128`.
        groups: Names of the groups of users or rows whose metrics stand in the record, see `llmbole.evaluator.groups`.
    """

    name: str
    version: int
    title: str
    task: Literal["ranking", "pairs", "rating"]
    split: Literal["leave_one_out", "windows", "time_ratio", "time_then_last"]
    order: Literal["time", "recbole_time"]
    metrics: tuple[str, ...]
    selection: str
    candidates: Candidates | None = None
    labels: Labels | None = None
    history: Literal["all", "positives"] = "all"
    ratios: tuple[float, float, float] | None = None
    topk: tuple[int, ...] = ()
    report: tuple[str, ...] = ()
    over_backbone: tuple[Literal["RelaImpr"], ...] = ()
    catalogue: bool = False
    scenario: Scenario | None = None
    groups: tuple[
        Literal[
            "items_by_warmth",
            "rows_by_warmth",
            "cold_users",
            "popularity",
            "history_length",
            "confidence",
            "training_users",
        ],
        ...,
    ] = ()
    description: str = ""

    def __post_init__(self) -> None:
        problems = [] if self.version >= 1 else [f"version = {self.version}: versions count from 1"]
        problems += self._ranking_problems() if self.task == "ranking" else self._label_problems()
        problems += self._split_problems()
        known = self.reported_names
        for key, names in (("selection", (self.selection,)), ("report", self.report)):
            problems += [
                f"{key} = {name!r}: {close_name(name, known)}" for name in names if name not in known
            ]
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def reported_names(self) -> list[str]:
        """Metrics as tables name them: `HIT@1` for each cut-off, or `AUC`."""
        return [f"{metric}@{cut_off}" for metric in self.metrics for cut_off in self.topk] or [*self.metrics]

    def public_names(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics under the names of this protocol, whatever the case they come in: `hit@1` becomes `HIT@1`."""
        names = {name.lower(): name for name in self.reported_names}
        return {names.get(name.lower(), name): value for name, value in metrics.items()}

    @property
    def frozen(self) -> Candidates | None:
        """The candidates, if they are frozen."""
        return self.candidates if self.candidates is not None and self.candidates.kind == "frozen" else None

    def _ranking_problems(self) -> list[str]:
        problems = []
        if not self.metrics or not self.topk or min(self.topk, default=0) < 1:
            problems.append(
                f"metrics = {self.metrics}, topk = {self.topk}: both are needed, cut-offs are at least 1"
            )
        if self.candidates is None:
            problems.append("candidates is missing: a ranking needs them, frozen or full")
        elif self.candidates.count is not None and max(self.topk, default=0) > self.candidates.count:
            problems.append(f"topk = {self.topk}: there are only {self.candidates.count} candidates")
        if self.labels is not None:
            problems.append("labels are for pairs and ratings; remove them from a ranking")
        if self.over_backbone:
            problems.append("over_backbone compares AUC, which a ranking has not; remove it")
        if self.split not in ("leave_one_out", "time_then_last"):
            problems.append(f"split = {self.split!r}: a ranking is split leave_one_out or time_then_last")
        return problems

    def _label_problems(self) -> list[str]:
        problems = []
        if self.over_backbone and "AUC" not in self.metrics:
            problems.append(f"over_backbone = {self.over_backbone}: it compares AUC; add it to metrics")
        if not self.metrics or self.topk:
            problems.append(
                f"metrics = {self.metrics}, topk = {self.topk}: {self.task} has metrics, no cut-offs"
            )
        if self.candidates is not None:
            problems.append(f"candidates are for a ranking; remove them from {self.task}")
        if self.labels is None or (self.labels.kind == "rating") != (self.task == "rating"):
            wanted = "rating" if self.task == "rating" else "interaction or threshold"
            problems.append(f"labels.kind must be {wanted} for {self.task}")
        elif self.history == "positives" and self.labels.kind != "threshold":
            problems.append(f"history = 'positives' needs labels by threshold, not by {self.labels.kind}")
        if self.split == "time_then_last":
            problems.append("split = 'time_then_last' is for a ranking")
        return problems

    def _split_problems(self) -> list[str]:
        needed = self.split in ("time_ratio", "time_then_last")
        if needed != (self.ratios is not None):
            return [f"ratios = {self.ratios}: {'needed' if needed else 'not used'} by the split {self.split}"]
        if self.ratios is not None and (min(self.ratios) <= 0 or abs(sum(self.ratios) - 1) > 1e-9):
            return [f"ratios = {self.ratios}: three positive shares that sum to 1"]
        return []


def _folder() -> Path:
    return properties_folder() / "protocol"


def names() -> list[str]:
    """Names of all protocols, sorted."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def protocol(name: str) -> Protocol:
    """The protocol of a name.

    Args:
        name: The yaml's name, and perhaps a scenario behind it: `loo_rank20@few_shot-128`, `loo_rank20@cold_users`,
            `loo_rank20@cross_domain`.

    Returns:
        The protocol.

    Raises:
        SettingsError: There is no protocol or scenario of that name, or its yaml is wrong.
    """
    base, at, scenario = name.partition("@")
    if base not in names():
        raise SettingsError(f"unknown protocol {base!r}; {close_name(base, names())}")
    file = _folder() / f"{base}.yaml"
    found = build(Protocol, load_yaml(file), str(file))
    if found.name != base:
        raise SettingsError(f"{file}: name is {found.name!r}; it must be the file's name, {base!r}")
    if not at:
        return found
    parsed = Scenario.parse(scenario)
    told_apart = parsed.kind != "cross_domain"  # there no one who is tested is trained on
    groups = (*found.groups, "training_users") if told_apart else found.groups
    return dataclasses.replace(found, name=name, scenario=parsed, groups=groups)
