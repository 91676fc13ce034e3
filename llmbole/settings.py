"""Settings: yaml files, typed frozen dataclasses built from them, and overrides from a command line.

Nothing here evaluates text as code: values are YAML scalars, lists and mappings. A key that is not in the
defaults is refused with the closest known name, and every mistake of one source is reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that is unknown, missing, or of the wrong type; the message names each one and where it stands."""


def properties_folder() -> Path:
    """The folder of all yaml files: beside the package in the repository, inside it when installed."""
    installed = Path(__file__).parent / "properties"
    folder = installed if installed.is_dir() else Path(__file__).parent.parent / "properties"
    if not (folder / "overall.yaml").is_file():
        raise SettingsError(
            f"{folder} holds no overall.yaml: the installation of llmbole is incomplete, install it again"
        )
    return folder


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses duplicate keys and reads 1e-4 as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for (key_node, _), key in zip(node.value, keys, strict=True):
        if keys.count(key) > 1:
            raise SettingsError(
                f"line {key_node.start_mark.line + 1}: key {key!r} stands twice; keep one of them"
            )
    return {
        key: loader.construct_object(value, deep=True)
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one yaml file that holds a mapping.

    Args:
        path: The file.

    Returns:
        Its content; an empty file gives an empty mapping.

    Raises:
        SettingsError: The file is missing, is not YAML, holds a key twice, or is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file") from None
    except (yaml.YAMLError, SettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected keys with values, found a {type(content).__name__}")
    return content


def parse_value(text: str) -> Any:  # noqa: ANN401 - a YAML value is of any type
    """One command-line value as YAML: `1e-4` is a number, `[1, 2]` a list, `true` a boolean, `null` nothing."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError:
        return text


def close_name(name: str, known: Iterable[str]) -> str:
    """The sentence that helps with a misspelt name: the closest known one, or all of them."""
    names = sorted(known)
    lowered = {other.lower(): other for other in names}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean {lowered[matches[0]]!r}?" if matches else f"known: {', '.join(names)}"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys; empty mappings stay values."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merge(
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
    where: str,
    *,
    open_keys: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """Lay overrides over defaults; a key that the defaults lack is refused with the close name.

    A scalar given for a mapping that has a `name` sets that name: `--backbone=GRU4Rec` is `--backbone.name=GRU4Rec`.

    Args:
        defaults: The nested settings that say which keys there are.
        overrides: Nested settings to lay over them.
        where: File or `command line`, for messages.
        open_keys: Dotted mapping name (`""` is the top) to further keys that are allowed there without a default.

    Returns:
        A new nested mapping.

    Raises:
        SettingsError: Unknown keys or values of another type than the default's, all at once.
    """
    problems: list[str] = []
    merged = _merge(defaults, overrides, "", open_keys or {}, problems)
    if problems:
        raise SettingsError("\n".join(f"{where}: {problem}" for problem in problems))
    return merged


def _merge(
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
    prefix: str,
    open_keys: Mapping[str, Iterable[str]],
    problems: list[str],
) -> dict[str, Any]:
    merged = dict(defaults)
    allowed = set(open_keys.get(prefix.rstrip("."), ()))
    for key, value in overrides.items():
        dotted = f"{prefix}{key}"
        if key not in defaults:
            if key in allowed:
                merged[key] = value
            else:
                problems.append(
                    f"unknown setting {dotted!r}; {close_name(str(key), set(defaults) | allowed)}"
                )
            continue
        default = defaults[key]
        if isinstance(default, Mapping) and isinstance(value, str) and "name" in default:
            value = {"name": value}
        if isinstance(default, Mapping) and default and isinstance(value, Mapping):
            merged[key] = _merge(default, value, f"{dotted}.", open_keys, problems)
            continue
        mistake = _wrong_type(default, value)
        if mistake:
            problems.append(f"{dotted} = {value!r} {mistake}")
            continue
        merged[key] = float(value) if _is_float_with_integer(default, value) else value
    return merged


def _is_float_with_integer(default: object, value: object) -> bool:
    return isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)


def _wrong_type(default: object, value: object) -> str | None:
    """Why a value cannot stand where the default stands; `None` if it can. A default of null takes anything."""
    if default is None or value is None or _is_float_with_integer(default, value):
        return None
    same_kind = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
    return (
        None
        if same_kind
        else f"is a {type(value).__name__}, expected a {type(default).__name__} such as {default!r}"
    )


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings: `{"align.lr": 1}` becomes `{"align": {"lr": 1}}`.

    Raises `SettingsError`: A key is set both as a value and as a mapping.
    """
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        level = nested
        for parent in parents:
            below = level.setdefault(parent, {})
            if not isinstance(below, dict):
                below = level[parent] = {"name": below}  # --backbone=SASRec with --backbone.epochs=5
            level = below
        if isinstance(level.get(last), dict) and not isinstance(value, Mapping):
            level[last].setdefault("name", value)
            continue
        if last in level:
            raise SettingsError(f"setting {key!r} is given twice")
        level[last] = value
    return nested


def build(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build a frozen dataclass, and the dataclasses inside it, from nested settings.

    Args:
        cls: The dataclass; its fields without defaults are required.
        mapping: Nested settings.
        where: File or key the mapping comes from, for messages.

    Returns:
        The instance; the dataclass's own `__post_init__` checks values.

    Raises:
        SettingsError: Unknown keys, missing keys, wrong types, and what `__post_init__` refuses, all at once.
    """
    problems: list[str] = []
    built = _build(cls, mapping, "", problems)
    if problems:
        raise SettingsError("\n".join(f"{where}: {problem}" for problem in problems))
    return typing.cast(T, built)


def _build(cls: type, mapping: Mapping[str, Any], prefix: str, problems: list[str]) -> object | None:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before = len(problems)
    for key in mapping:
        if key not in fields:
            problems.append(f"unknown key {prefix + str(key)!r}; {close_name(str(key), fields)}")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            arguments[name] = _convert(hints[name], mapping[name], prefix + name, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"missing key {prefix + name!r}")
    if len(problems) > before:
        return None
    try:
        return typing.cast(object, cls(**arguments))
    except ValueError as error:
        problems.extend(f"{prefix}{line}" for line in str(error).splitlines())
        return None


def _convert(hint: Any, value: object, name: str, problems: list[str]) -> Any:  # noqa: ANN401 - follows the hint
    """One value as its annotation says: nested dataclasses, tuples from lists, floats from integers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(
            next(option for option in arguments if option is not type(None)), value, name, problems
        )
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _build(typing.cast(type, hint), value, f"{name}.", problems)
    if origin is typing.Literal:
        if value not in arguments:
            problems.append(f"{name} = {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        if Ellipsis not in arguments and len(value) != len(arguments):
            problems.append(f"{name} = {list(value)!r} has {len(value)} values, expected {len(arguments)}")
            return value
        return tuple(_convert(arguments[0], item, f"{name}[{i}]", problems) for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if expected is Any:
        return value
    expected = {Mapping: Mapping, typing.Mapping: Mapping}.get(expected, expected)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        problems.append(
            f"{name} = {value!r} is a {type(value).__name__}, expected {getattr(expected, '__name__', expected)}"
        )
    return value


def part_problems(parts: Mapping[str, type], settings: Mapping[str, Any]) -> list[str]:
    """What is wrong in parts of the settings that are built from their own dataclasses.

    Args:
        parts: Setting name to frozen dataclass.
        settings: All settings.

    Returns:
        A message for each part that can't be built.
    """
    problems = []
    for name, part in parts.items():
        try:
            build(part, settings[name], name)
        except SettingsError as error:
            problems.append(str(error))
    return problems


Rule = Callable[[Mapping[str, Any]], Iterable[str] | None]


def part_checks(*rules: Rule, **named: type) -> type:
    """A settings class that builds each named part of the settings, and so checks it, and asks rules about the whole.

    Args:
        *rules: What else is wrong with all settings: messages, or a SettingsError.
        **named: Setting name to frozen dataclass.

    Returns:
        A class with `parts`, and with `check(settings)`, which raises one SettingsError with all mistakes.
    """

    class Checks:
        parts = named

        @classmethod
        def check(cls, settings: Mapping[str, Any]) -> None:
            problems = part_problems(cls.parts, settings)
            unsound = bool(problems)
            for rule in rules:
                try:
                    problems += rule(settings) or []
                except SettingsError as error:
                    problems.append(str(error))
                except (TypeError, AttributeError):  # a rule may trip over a value that is told of already
                    if not unsound:
                        raise
            if problems:
                raise SettingsError("\n".join(problems))

    return Checks
