"""Search spaces: what is read from yaml and the command line, grids by hand, draws that stay in their ranges."""

from __future__ import annotations

import random

import pytest

from llmbole.settings import SettingsError, flatten, nest, parse_value
from llmbole.sweep.space import Choice, Range, describe, grid, parse, sample, shown, split_layer


def from_words(*words: str) -> dict:
    """A layer as the command line gives it: `sweep.a.b=[1, 2]`."""
    pairs = [word.partition("=") for word in words]
    return nest(flatten({key: parse_value(value) for key, _, value in pairs}))


def test_lists_are_choices_and_ends_are_ranges_wherever_they_stand():
    layer = from_words(
        "sweep.align.alpha=[0.1, 0.5]",
        "sweep.learning_rate={low: 1e-4, high: 1e-2, log: true}",
        "sweep.width={low: 8, high: 64}",
        "align.epochs=3",
    )
    settings, block = split_layer(layer)
    assert settings == {"align": {"epochs": 3}}
    assert parse([("yaml", {"align.beta": [1, 2]}), ("settings", block)]) == {
        "align.beta": Choice((1, 2)),
        "align.alpha": Choice((0.1, 0.5)),
        "learning_rate": Range(1e-4, 1e-2, True),
        "width": Range(8, 64),
    }


def test_a_later_source_replaces_and_null_takes_away():
    yaml = {"align.alpha": [0.1], "align.beta": [0.2]}
    block = split_layer(from_words("sweep.align.alpha=[0.5]", "sweep.align.beta=null"))[1]
    assert parse([("yaml", yaml), ("settings", block)]) == {"align.alpha": Choice((0.5,))}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "neither a list of values nor"),
        (0.5, "sweep.x = 0.5 is neither a list"),
        ({"low": 1.0, "high": 0.5}, "low must be below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "a logarithmic range begins above 0"),
        ({"low": 0.0}, "missing key 'high'"),
        ({"low": 0.0, "high": 1.0, "lob": True}, "unknown key 'lob'; did you mean 'low'"),
        ({"low": "a", "high": 1.0}, "low = 'a' is a str"),
        ([1, 2, 1], "1 stands twice"),
    ],
)
def test_a_wrong_entry_is_named(entry, message):
    with pytest.raises(SettingsError, match=f"f.yaml: .*{message}"):
        parse([("f.yaml", {"x": entry})])


@pytest.mark.parametrize("name", ["seed", "protocol", "dataset", "store", "device", "threads"])
def test_what_makes_scores_incomparable_or_changes_nothing_is_not_searched(name):
    with pytest.raises(SettingsError, match=f"sweep.{name} is not searched"):
        parse([("settings", {name: [1, 2]})])


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        parse([("settings", {"seed": [1], "x": 3, "y": {"low": 2, "high": 1}})])
    assert len(str(caught.value).splitlines()) == 3


def test_a_grid_is_every_combination_the_last_setting_fastest():
    space = {"a": Choice((1, 2)), "b": Choice(("x", "y"))}
    assert grid(space) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    with pytest.raises(SettingsError, match="c is a range"):
        grid({**space, "c": Range(0, 1)})


def test_draws_are_the_same_again_and_begin_alike_for_more_trials():
    space = {"a": Choice((1, 2, 3)), "b": Range(1e-4, 1e-1, True)}
    assert sample(space, 5, seed=3) == sample(space, 9, seed=3)[:5]
    assert sample(space, 5, seed=3) != sample(space, 5, seed=4)


def test_draws_stay_in_their_ranges_and_reach_all_of_them():
    chance = random.Random(1)
    whole = [Range(1, 4).draw(chance) for _ in range(400)]
    assert set(whole) == {1, 2, 3, 4} and all(isinstance(value, int) for value in whole)
    logarithmic = [Range(1, 64, True).draw(chance) for _ in range(2000)]
    assert all(isinstance(value, int) for value in logarithmic)
    assert min(logarithmic) == 1 and max(logarithmic) == 64
    small = [Range(1e-4, 1.0, True).draw(chance) for _ in range(2000)]
    assert all(1e-4 <= value <= 1.0 for value in small)
    assert sum(value < 1e-2 for value in small) == pytest.approx(1000, abs=120)  # half of the logarithms
    even = [Range(0.0, 1.0).draw(chance) for _ in range(2000)]
    assert sum(value < 0.5 for value in even) == pytest.approx(1000, abs=120)


def test_a_space_is_described_as_it_is_written():
    space = {"a": Choice((1, None)), "b": Range(1e-4, 1e-1, True)}
    written = describe(space)
    assert written == {"a": [1, None], "b": {"low": 1e-4, "high": 1e-1, "log": True}}
    assert parse([("again", written)]) == space


def test_settings_in_one_line():
    assert shown({"align.alpha": 0.123456, "llm.name": "tiny"}) == "align.alpha=0.1235, llm.name=tiny"
