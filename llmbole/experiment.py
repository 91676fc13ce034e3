"""Experiments: published tables as yaml files, each a grid of rows x data sets x seeds under one protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmbole import registry
from llmbole.data import cards, joined
from llmbole.data.protocol import Protocol, protocol
from llmbole.settings import SettingsError, build, close_name, load_yaml, properties_folder

GROUPS = {
    "items_by_warmth": ("warm_items", "cold_items"),
    "rows_by_warmth": ("warm", "cold"),
    "cold_users": ("cold_users", "other_users"),
    "training_users": ("training_users", "new_users"),
    "confidence": (
        *("confidence_high", "confidence_middle", "confidence_low"),
        *(
            "crm_confidence_high",
            "crm_confidence_middle",
            "crm_confidence_low",
        ),  # of methods that route by it
    ),
}
"""Groups whose metrics a table may show, by the name that protocols have for them."""


OF_LLM = ("MMLU",)
"""Metrics of the LLM itself, which a record has where its method measures them."""
OF_EXTRA = (
    "GenrePrecision@1",
    "GenrePrecision@3",
    "GenreChance@1",
    "GenreChance@3",
    "GenrePopular@1",
    "GenrePopular@3",
    "GenreValid",
)
"""What stages measure beside the metrics, which a record's `extra` has where its run asks for it."""


@dataclass(frozen=True)
class Figure:
    """A plot beside a table.

    Attributes:
        kind: `points`, for each data set a point for each row; or `bars`, the columns row by row.
        x: Of points: the metric on this axis; so `y`.
        y: As there.
    """

    kind: Literal["points", "bars"] = "points"
    x: str = ""
    y: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row of a table: a model with its settings.

    Attributes:
        name: What the table calls it; names its published values too.
        model: A method or a conventional model; of a missing row, the one it waits for, if it has a name.
        backbone: The method's backbone, if it is not its default.
        protocol: The row's own, if not the table's, such as `loo_rank20@few_shot-128`.
        settings: Settings over the model's defaults, nested or with dotted keys.
        missing: Why the row can't be run; it is shown as such. `None` if it can.
    """

    name: str
    model: str | None = None
    backbone: str | None = None
    protocol: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.missing is None:
            raise ValueError(
                f"row {self.name!r} has no model; give one, or say with missing why there is none"
            )
        taken = [key for key in ("backbone", "protocol", "seed") if key in self.settings]
        if taken:
            raise ValueError(f"row {self.name!r}: {', '.join(taken)}: not among settings, beside them")


@dataclass(frozen=True)
class Experiment:
    """A published table, or one of our own.

    Attributes:
        name: `<paper>/<table>`, as the file lies in `properties/experiment`.
        title: What it shows.
        source: Paper and table; `None` for a table of our own.
        protocol: Of all rows that name no other.
        metrics: Its columns. A group's metric has the group's name behind it: `HIT@1 cold_items`.
        datasets: The table's name of each data set, and ours.
        rows: Its rows.
        seeds: Of each cell.
        llm: The LLM that the published numbers were got with; a table runs with it if settings say so.
        published: Data set (the table's name) to row to metric to the value in print.
        notes: Where the print contradicts itself.
        figure: What is drawn beside the table; `None` draws nothing.
    """

    name: str
    title: str
    protocol: str
    metrics: tuple[str, ...]
    datasets: Mapping[str, Any]
    rows: tuple[TableRow, ...]
    source: str | None = None
    seeds: tuple[int, ...] = (2026, 2027, 2028)
    llm: str | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    figure: Figure | None = None

    def __post_init__(self) -> None:
        problems = [*self._repeated(), *self._stray_values()]
        for key in ("metrics", "datasets", "rows", "seeds"):
            if not getattr(self, key):
                problems.append(f"{key}: at least one is needed")
        for axis in (self.figure.x, self.figure.y) if self.figure and self.figure.kind == "points" else ():
            if axis not in self.metrics:
                close = close_name(axis, self.metrics)
                problems.append(f"figure: {axis!r} is no metric of the table; {close}")
        if problems:
            raise ValueError("\n".join(problems))

    def row(self, name: str) -> TableRow:
        """The row of a name.

        Raises `SettingsError`: There is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise SettingsError(f"{self.name} has no row {name!r}; {close_name(name, names)}")

    def protocol_of(self, row: TableRow) -> str:
        """Name of a row's protocol."""
        return row.protocol or self.protocol

    def value(self, dataset: str, row: str, metric: str) -> float | None:
        """The published value of a cell; `None` where the table has none."""
        return self.published.get(dataset, {}).get(row, {}).get(metric)

    def _repeated(self) -> Iterator[str]:
        named = {"rows": [row.name for row in self.rows], "metrics": self.metrics, "seeds": self.seeds}
        for key, names in named.items():
            counts = Counter(map(str, names))
            yield from (f"{key}: {name!r} stands twice" for name, count in counts.items() if count > 1)

    def _stray_values(self) -> Iterator[str]:
        """Published values that belong to no cell."""
        rows = [row.name for row in self.rows]
        for dataset, of_rows in self.published.items():
            if dataset not in self.datasets:
                yield f"published: {dataset!r} is no data set of the table; {close_name(dataset, self.datasets)}"
            for row, values in of_rows.items():
                where = f"published.{dataset}.{row}"
                if row not in rows:
                    yield f"{where}: no row has this name; {close_name(row, rows)}"
                for metric, value in values.items():
                    if metric not in self.metrics:
                        yield f"{where}: {metric!r} is no metric of the table; {close_name(metric, self.metrics)}"
                    if isinstance(value, bool) or not isinstance(value, int | float):
                        yield f"{where}.{metric} = {value!r} is no number"


def folder() -> Path:
    """The folder of all experiments."""
    return properties_folder() / "experiment"


def names() -> list[str]:
    """Names of all experiments, sorted: `<paper>/<table>`."""
    return sorted(path.relative_to(folder()).with_suffix("").as_posix() for path in folder().glob("*/*.yaml"))


def load(name: str) -> Experiment:
    """The experiment of a name, with its models, protocols, data sets and metrics checked by name.

    Args:
        name: `<paper>/<table>`.

    Returns:
        The experiment.

    Raises:
        SettingsError: There is none of that name, or its yaml is wrong; all mistakes at once.
    """
    if name not in names():
        raise SettingsError(f"unknown experiment {name!r}; {close_name(name, names())}")
    file = folder() / f"{name}.yaml"
    found = build(Experiment, load_yaml(file), str(file))
    problems = list(_unknown(found))
    if found.name != name:
        problems.append(f"name is {found.name!r}; it must be the file's, {name!r}")
    if problems:
        raise SettingsError("\n".join(f"{file}: {problem}" for problem in problems))
    return found


def under(found: Experiment, name: str | None) -> Experiment:
    """An experiment with another protocol in place of its own.

    Args:
        found: The experiment.
        name: Of the protocol; `None` and its own change nothing.

    Returns:
        The experiment of the same rows and metrics under it.

    Raises:
        SettingsError: There is no such protocol, it does not report the metrics, or rows have protocols of their own.
    """
    if name in (None, found.protocol):
        return found
    rule = protocol(str(name))
    own = [row.name for row in found.rows if row.protocol is not None]
    problems = [f"these rows have protocols of their own: {', '.join(own)}"] if own else []
    problems += _not_reported(found.metrics, rule)
    if problems:
        what = f"{rule.name} can't stand in for {found.protocol} in {found.name}"
        raise SettingsError("\n".join(f"{what}: {problem}" for problem in problems))
    return replace(found, protocol=rule.name)


def _unknown(found: Experiment) -> Iterator[str]:
    """Names that nothing has."""
    for dataset in found.datasets.values():
        for part in joined.names(str(dataset)):
            yield from _refused(cards.card, part)
    for row in found.rows:
        if row.missing is None:
            yield from _refused(registry.check_name, str(row.model))
        if row.backbone is not None and row.backbone not in registry.conventional_names():
            close = close_name(row.backbone, registry.conventional_names())
            yield f"row {row.name!r}: unknown backbone {row.backbone!r}; {close}"
    for name in sorted({found.protocol_of(row) for row in found.rows}):
        refused = list(_refused(protocol, name))
        yield from refused or _not_reported(found.metrics, protocol(name))


def _not_reported(metrics: Sequence[str], rule: Protocol) -> Iterator[str]:
    """Metrics that no record of a protocol has."""
    known = [*(rule.report or rule.reported_names), *rule.over_backbone, *OF_LLM, *OF_EXTRA]
    groups = [group for name in rule.groups for group in GROUPS.get(name, ())]
    for metric in metrics:
        name, _, group = metric.partition(" ")
        if name not in known:
            yield f"metric {name!r} is not reported by {rule.name}; {close_name(name, known)}"
        if group and group not in groups:
            yield f"metric {metric!r}: {rule.name} has no group {group!r}; {close_name(group, groups)}"


def _refused(question: Callable[..., object], *arguments: object) -> Iterator[str]:
    try:
        question(*arguments)
    except SettingsError as error:
        yield str(error)
