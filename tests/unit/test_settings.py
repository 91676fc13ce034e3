"""Settings: yaml, typed dataclasses, overrides, and the messages a mistake gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from llmbole.settings import SettingsError, build, flatten, load_yaml, merge, nest, parse_value, part_checks


@dataclass(frozen=True)
class Inner:
    rate: float
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate = {self.rate}: must not be negative")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    layers: tuple[int, ...]
    name: str | None = None


def test_nested_dataclasses_are_built_and_integers_become_floats():
    built = build(Outer, {"inner": {"rate": 1}, "layers": [2, 3]}, "test.yaml")
    assert built == Outer(Inner(1.0), (2, 3))
    assert isinstance(built.inner.rate, float)


def test_every_mistake_is_reported_at_once_with_file_and_close_name():
    with pytest.raises(SettingsError) as caught:
        build(Outer, {"inner": {"rat": 1, "kind": "c"}, "layers": "x", "nam": "y"}, "test.yaml")
    message = str(caught.value)
    assert "test.yaml: unknown key 'inner.rat'; did you mean 'rate'?" in message
    assert "test.yaml: missing key 'inner.rate'" in message
    assert "inner.kind = 'c' is none of 'a', 'b'" in message
    assert "unknown key 'nam'; did you mean 'name'?" in message
    assert "layers = 'x' is a str, expected tuple" in message


def test_a_dataclass_refuses_its_own_values_with_the_place():
    with pytest.raises(SettingsError, match=r"test.yaml: inner.rate = -1.0: must not be negative"):
        build(Outer, {"inner": {"rate": -1}, "layers": []}, "test.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5", 5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("a:b", "a:b"),
        ("", None),
    ],
)
def test_command_line_values_are_yaml(text, value):
    assert parse_value(text) == value


def test_values_are_never_evaluated():
    assert parse_value("__import__('os').getcwd()") == "__import__('os').getcwd()"
    with pytest.raises(SettingsError):
        merge({"rate": 1.0}, {"rate": parse_value("1+1")}, "command line")


def test_yaml_refuses_a_key_twice_and_names_file_and_line(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(SettingsError, match=r"twice.yaml: line 1: key 'a' stands twice"):
        load_yaml(file)


def test_yaml_reads_exponents_as_numbers(tmp_path):
    file = tmp_path / "numbers.yaml"
    file.write_text("a: 1e-4\nb: 1.0e-3\nc: 12\nd: '1e-4'\n")
    assert load_yaml(file) == {"a": 1e-4, "b": 1e-3, "c": 12, "d": "1e-4"}


def test_yaml_builds_no_objects(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SettingsError, match="evil.yaml"):
        load_yaml(file)


def test_a_name_given_for_a_mapping_sets_its_name():
    defaults = {"backbone": {"name": "SASRec", "epochs": 3}}
    assert merge(defaults, {"backbone": "GRU4Rec"}, "x") == {"backbone": {"name": "GRU4Rec", "epochs": 3}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"align": {"rte": 1}}, r"unknown setting 'align.rte'; did you mean 'rate'\?"),
        ({"align": {"rate": "x"}}, r"align.rate = 'x' is a str, expected a float"),
        ({"align": {"on": 1}}, r"align.on = 1 is a int, expected a bool"),
        ({"align": 3}, r"align = 3 is a int, expected a dict"),
    ],
)
def test_wrong_overrides_are_refused(override, message):
    with pytest.raises(SettingsError, match=message):
        merge({"align": {"rate": 0.5, "on": True}}, override, "command line")


def test_dotted_keys_nest_and_flatten():
    flat = {"align.rate": 1, "align.more.deep": 2, "seed": 3}
    assert nest(flat) == {"align": {"rate": 1, "more": {"deep": 2}}, "seed": 3}
    assert flatten(nest(flat)) == flat


@pytest.mark.parametrize("order", [("backbone", "backbone.epochs"), ("backbone.epochs", "backbone")])
def test_a_name_and_a_setting_below_it_go_together(order):
    values = {"backbone": "SASRec", "backbone.epochs": 5}
    assert nest({key: values[key] for key in order}) == {"backbone": {"name": "SASRec", "epochs": 5}}


def test_parts_and_rules_are_checked_together():
    def backbone(settings):
        raise SettingsError("backbone BPR does not fit")

    def faster(settings):
        return ["inner.rate: too slow"] if settings["inner"]["rate"] < 1 else []

    checks = part_checks(backbone, faster, inner=Inner, outer=Outer)
    wrong = {"inner": {"rate": -1.0}, "outer": {"inner": {"rate": 1.0}}}
    with pytest.raises(SettingsError) as caught:
        checks.check(wrong)
    messages = ("rate = -1.0", "layers", "backbone BPR does not fit", "inner.rate: too slow")
    assert all(message in str(caught.value) for message in messages)
    sound = {"inner": {"rate": 2.0}, "outer": {"inner": {"rate": 1.0}, "layers": [1]}}
    assert part_checks(faster, inner=Inner, outer=Outer).check(sound) is None


def test_a_rule_that_trips_over_a_wrong_value_hides_no_message_and_no_mistake_of_its_own():
    checks = part_checks(lambda settings: ["odd"] if settings["inner"]["rate"] % 2 else [], inner=Inner)
    with pytest.raises(SettingsError, match="rate"):
        checks.check({"inner": {"rate": None}})
    with pytest.raises(TypeError):
        part_checks(lambda settings: settings["inner"] + 1, inner=Inner).check({"inner": {"rate": 1.0}})
