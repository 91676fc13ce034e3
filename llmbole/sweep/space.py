"""The search space: which settings are tried with which values, and the trials of a grid or of a random search."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmbole.settings import SettingsError, build, flatten

NOT_SEARCHED = {
    "seed": "all trials have the same seed; --seeds chooses those of the test",
    "protocol": "scores under different protocols can't be compared",
    "dataset": "scores on different data can't be compared",
    **dict.fromkeys(
        ("device", "store", "leaderboard", "raw", "progress", "threads"), "it changes no result of a trial"
    ),
}


@dataclass(frozen=True)
class Choice:
    """Some values of a setting."""

    values: tuple[Any, ...]

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values to check the setting with: all of them."""
        return self.values

    def draw(self, chance: random.Random) -> Any:  # noqa: ANN401 - a setting is of any type
        """One of the values, each as likely."""
        return chance.choice(self.values)

    def describe(self) -> Any:  # noqa: ANN401 - a JSON value
        """How it is written in a yaml file."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """All numbers between two, the ends included; whole ones if both ends are.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether the logarithm is searched evenly.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low = {self.low}, high = {self.high}: low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low}: a logarithmic range begins above 0")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values to check the setting with: the ends."""
        return self.low, self.high

    def draw(self, chance: random.Random) -> float:
        """A number of the range."""
        if not self.log:
            return (
                chance.randint(int(self.low), int(self.high))
                if self.whole
                else chance.uniform(self.low, self.high)
            )
        margin = 0.5 if self.whole else 0.0  # so that the ends are as likely as their neighbours
        drawn = math.exp(chance.uniform(math.log(self.low - margin), math.log(self.high + margin)))
        clipped = min(max(drawn, self.low), self.high)
        return round(clipped) if self.whole else clipped

    def describe(self) -> Any:  # noqa: ANN401 - a JSON value
        """How it is written in a yaml file."""
        return asdict(self)


Space = Mapping[str, Choice | Range]


def parse(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Choice | Range]:
    """Read the blocks `sweep` of several sources; a later one replaces what an earlier one says of a setting.

    A list is a choice, `{low: 1.0e-4, high: 0.1, log: true}` a range, and null takes a setting out of the search.

    Args:
        layers: Where a block comes from, and the block, nested or with dotted names.

    Returns:
        Dotted name to what is searched.

    Raises:
        SettingsError: An entry is none of those, or its setting is not to be searched; all of them at once.
    """
    space: dict[str, Choice | Range] = {}
    problems: list[str] = []
    for where, block in layers:
        for name, value in _entries(block):
            try:
                found = _entry(name, value)
            except SettingsError as error:
                problems += [f"{where}: {line}" for line in str(error).splitlines()]
                continue
            if found is None:
                space.pop(name, None)
            else:
                space[name] = found
    if problems:
        raise SettingsError("\n".join(problems))
    return space


def _entries(block: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names with their values; a mapping with `low` or `high` is a value."""
    entries = []
    for key, value in block.items():
        below = isinstance(value, Mapping) and value and not {"low", "high"} & set(value)
        entries += _entries(value, f"{prefix}{key}.") if below else [(f"{prefix}{key}", value)]
    return entries


def _entry(name: str, value: object) -> Choice | Range | None:
    if value is None:
        return None
    if name.partition(".")[0] in NOT_SEARCHED:
        raise SettingsError(f"sweep.{name} is not searched: {NOT_SEARCHED[name.partition('.')[0]]}")
    if isinstance(value, list) and value:
        again = [entry for number, entry in enumerate(value) if entry in value[:number]]
        if again:
            raise SettingsError(f"sweep.{name}: {again[0]!r} stands twice")
        return Choice(tuple(value))
    if isinstance(value, Mapping) and value:
        found = build(Range, value, f"sweep.{name}")
        whole = [isinstance(value[end], int) for end in ("low", "high")]
        return Range(value["low"], value["high"], found.log) if all(whole) else found
    raise SettingsError(
        f"sweep.{name} = {value!r} is neither a list of values nor {{low: ..., high: ...}}, with log: true or not"
    )


def describe(space: Space) -> dict[str, Any]:
    """The space as it is written in a yaml file."""
    return {name: dimension.describe() for name, dimension in space.items()}


def grid(space: Space) -> list[dict[str, Any]]:
    """Every combination of values, the last setting changing fastest.

    Args:
        space: Of choices alone.

    Returns:
        Settings of each trial, by dotted name.

    Raises:
        SettingsError: The space holds a range.
    """
    ranges = [name for name, dimension in space.items() if isinstance(dimension, Range)]
    if ranges:
        raise SettingsError(
            f"a grid needs lists, and {', '.join(ranges)} is a range; give a list, or --search=random or optuna"
        )
    values = [dimension.examples for dimension in space.values()]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def sample(space: Space, trials: int, seed: int) -> list[dict[str, Any]]:
    """Settings drawn at random; the first ones are the same for any number of trials.

    Args:
        space: What is searched.
        trials: How many to draw.
        seed: Of the draws.

    Returns:
        Settings of each trial, by dotted name.
    """
    chance = random.Random(seed)
    return [{name: dimension.draw(chance) for name, dimension in space.items()} for _ in range(trials)]


def split_layer(layer: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A layer of settings without its block `sweep`, and the block.

    Args:
        layer: Nested settings.

    Returns:
        The settings, and the block, which is empty if there is none.

    Raises:
        SettingsError: `sweep` is no mapping.
    """
    block = layer.get("sweep") or {}
    if not isinstance(block, Mapping):
        raise SettingsError(
            f"sweep = {block!r}: name a setting, such as --sweep.learning_rate='[1e-3, 1e-2]'"
        )
    return {key: value for key, value in layer.items() if key != "sweep"}, dict(block)


def shown(settings: Mapping[str, Any]) -> str:
    """Settings in one line: `align.alpha=0.5, align.beta=0.1`."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in flatten(settings).items()
    )
