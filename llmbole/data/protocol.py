"""Protocols: how data are split, what is ranked, and which metrics are reported; each has a name and a version.

A protocol is one yaml in `properties/protocol/`. The split it makes is an artifact: see `llmbole.data.split`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmbole.settings import SettingsError, build, close_name, load_yaml, properties_folder


@dataclass(frozen=True)
class Candidates:
    """What the target is ranked among.

    Attributes:
        kind: `frozen`: the target and random items the user never interacted with, drawn once; `full`: all items.
        negatives: Random items per user.
        seed: Seed of the draw, the protocol's own.
    """

    kind: Literal["frozen", "full"]
    negatives: int = 0
    seed: int | None = None

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
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def count(self) -> int | None:
        """Candidates per user, the target included; `None` for a full ranking."""
        return self.negatives + 1 if self.kind == "frozen" else None


@dataclass(frozen=True)
class Protocol:
    """How data are split, what is ranked, and which metrics are reported.

    Attributes:
        name: The yaml's name.
        version: Raised by every change that can change a number.
        title: Name for people.
        description: What is done, in a sentence or two.
        task: `ranking`: candidates are ranked by their scores.
        split: `leave_one_out`: a user's last interaction is for the test, the second last for validation.
        order: What "last" means. `time`: exact timestamps, equal ones in the order of the raw rows. `recbole_time`: the
            same after scaling timestamps to [0, 1] in single precision, as RecBole orders by default; interactions
            closer than that precision (1 s on ml-100k) then count as simultaneous.
        candidates: What the target is ranked among.
        metrics: Metrics as RecBole names them.
        topk: Cut-offs of the metrics.
        selection: Metric by which models are chosen on validation data, such as `HIT@1`.
        report: Metrics that records and tables show, the first one leading; all of them if none is named.
    """

    name: str
    version: int
    title: str
    task: Literal["ranking"]
    split: Literal["leave_one_out"]
    order: Literal["time", "recbole_time"]
    candidates: Candidates
    metrics: tuple[str, ...]
    topk: tuple[int, ...]
    selection: str
    report: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        problems = []
        if self.version < 1:
            problems.append(f"version = {self.version}: versions count from 1")
        if not self.metrics or not self.topk or min(self.topk, default=0) < 1:
            problems.append(
                f"metrics = {self.metrics}, topk = {self.topk}: both are needed, cut-offs are at least 1"
            )
        elif self.candidates.count is not None and max(self.topk) > self.candidates.count:
            problems.append(f"topk = {self.topk}: there are only {self.candidates.count} candidates")
        known = [f"{metric}@{cut_off}" for metric in self.metrics for cut_off in self.topk]
        for key, names in (("selection", (self.selection,)), ("report", self.report)):
            problems += [
                f"{key} = {name!r}: {close_name(name, known)}" for name in names if name not in known
            ]
        if problems:
            raise ValueError("\n".join(problems))


def _folder() -> Path:
    return properties_folder() / "protocol"


def names() -> list[str]:
    """Names of all protocols, sorted."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def protocol(name: str) -> Protocol:
    """The protocol of a name.

    Args:
        name: The yaml's name.

    Returns:
        The protocol.

    Raises:
        SettingsError: There is no protocol of that name, or its yaml is wrong.
    """
    if name not in names():
        raise SettingsError(f"unknown protocol {name!r}; {close_name(name, names())}")
    file = _folder() / f"{name}.yaml"
    found = build(Protocol, load_yaml(file), str(file))
    if found.name != name:
        raise SettingsError(f"{file}: name is {found.name!r}; it must be the file's name, {name!r}")
    return found
