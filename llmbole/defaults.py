"""A model's own settings, what goes with its backbone, LLM and task, and settings laid over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbole import registry
from llmbole.data import protocol as protocols
from llmbole.llm import identity
from llmbole.settings import SettingsError, close_name, flatten, load_yaml, merge, nest, properties_folder

SPECIFICATIONS: Mapping[str, type[identity.LLMSpec] | type[identity.EncoderSpec]] = {
    "llm": identity.LLMSpec,
    "text_encoder": identity.EncoderSpec,
    "judge": identity.LLMSpec,
}

Layer = tuple[str, dict[str, Any]]


def read_layers(overrides: Mapping[str, Any], config_files: Sequence[Path | str] = ()) -> list[Layer]:
    """Settings over the defaults, from files and a command line, in the order in which they lie on each other.

    Args:
        overrides: Nested or with dotted keys.
        config_files: Yaml files that lie below them, in order.

    Returns:
        Where settings come from, and the settings, nested.
    """
    files = [(str(file), load_yaml(Path(file))) for file in config_files]
    return [(where, nest(flatten(layer))) for where, layer in [*files, ("settings", dict(overrides))]]


def form_of(model: str, protocol: str) -> str:
    """The form of a method that runs a protocol; a conventional model has one form, its name."""
    return registry.form(model, _task(protocol))


def chosen_form(model: str, layers: Sequence[Layer]) -> str:
    """The form of a method that runs the protocol which the layers name, or the method's default."""
    if not registry.is_method(model):
        return model
    default = {**load_yaml(properties_folder() / "overall.yaml"), **own_yaml(model)}["protocol"]
    return form_of(model, _chosen_name(layers, "protocol") or default)


def search_space(model: str, layers: Sequence[Layer]) -> dict[str, Any]:
    """The block `sweep` of a model's yaml: setting to what is searched; empty if it has none.

    Args:
        model: Name of a method or of a RecBole model.
        layers: Settings over the defaults; the protocol among them chooses the method's form.

    Returns:
        Dotted name to what is searched, as the yaml has it.
    """
    return dict(own_yaml(chosen_form(model, layers)).get("sweep") or {})


def model_defaults(model: str, form: str, layers: Sequence[Layer]) -> dict[str, Any]:
    """A model's defaults: overall.yaml, its own yaml, and what goes with the backbone and the LLM that the layers name.

    The yaml of a method may hold `by_llm`: settings that fit an LLM of that name. That of a method or of a backbone may
    hold `by_task`: settings that fit the task of the protocol, a method's over a backbone's. A RecBole model by itself
    is the backbone of the pipeline `Conventional`.
    """
    own = own_yaml(form if registry.is_method(model) else "Conventional")
    for key in ("sweep", "datasets"):
        own.pop(key, None)
    by_llm, by_task = own.pop("by_llm", {}), own.pop("by_task", {})
    defaults = {**load_yaml(properties_folder() / "overall.yaml"), **own}
    task = _task(_chosen_name(layers, "protocol") or defaults["protocol"])
    if not registry.is_method(model):
        layers = [(model, {"backbone": model})]
    for where, layer in layers:
        defaults = _with_backbone(defaults, layer, where, task)
    if "backbone" in defaults:
        defaults = _with_backbone(defaults, {"backbone": defaults["backbone"]["name"]}, model, task)
    fitting = by_llm.get(_chosen_name(layers, "llm") or defaults.get("llm", {}).get("name"), {})
    defaults = merge(defaults, fitting, f"by_llm of {model}")
    return merge(defaults, by_task.get(task, {}), f"by_task of {model}", open_keys=_open_keys(defaults))


def lay_over(model: str, defaults: Mapping[str, Any], layers: Sequence[Layer]) -> dict[str, Any]:
    """Settings with layers over them; every key and type is checked.

    Args:
        model: Name of a method or of a RecBole model.
        defaults: Its settings, nested, as `model_defaults` gives them.
        layers: What `read_layers` gave.

    Returns:
        The settings, nested.

    Raises:
        SettingsError: A key is unknown, or a value of another type than the default's.
    """
    settings = dict(defaults)
    for where, layer in layers:
        own = _into_backbone(model, layer, settings)
        settings = merge(settings, own, where, open_keys=_open_keys(settings))
    return settings


def has_setting(model: str, key: str, layers: Sequence[Layer]) -> bool:
    """Whether a model has a setting of a dotted name, such as `llm`, `backbone.epochs` or `epochs` of a RecBole model.

    Args:
        model: Name of a method or of a RecBole model.
        key: The name.
        layers: Settings that choose its form, backbone and LLM.

    Returns:
        Whether `lay_over` takes it.
    """
    found: Any = model_defaults(model, chosen_form(model, layers), layers)
    open_keys = _open_keys(found)
    *parents, last = next(iter(flatten(_into_backbone(model, nest({key: None}), found)))).split(".")
    for parent in parents:
        found = found.get(parent) if isinstance(found, Mapping) else None
    return isinstance(found, Mapping) and (last in found or last in open_keys.get(".".join(parents), ()))


def _chosen_name(layers: Sequence[tuple[str, Mapping[str, Any]]], part: str) -> str | None:
    """The name that the last layer which names one gives a part such as `llm`."""
    named = [layer[part] for _, layer in layers if part in layer]
    names = [value.get("name") if isinstance(value, Mapping) else value for value in named]
    return next((name for name in reversed(names) if name), None)


def _task(protocol: str) -> str | None:
    """The task of a protocol; an unknown one is refused later, when all settings are there."""
    base = str(protocol).partition("@")[0]
    return protocols.protocol(base).task if base in protocols.names() else None


def own_yaml(form: str) -> dict[str, Any]:
    """The yaml of a form of a method, or of a RecBole model; empty if a RecBole model has none."""
    beside = registry.settings_file(form) if registry.forms(form) else None
    file = beside or properties_folder() / "model" / f"{form}.yaml"
    conventional = not registry.forms(form) and not file.is_file()
    return {} if conventional else load_yaml(file)


def _into_backbone(model: str, layer: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """For a plain RecBole model, RecBole's flat keys are the backbone's: `--learning_rate` works as in RecBole."""
    if registry.is_method(model):
        return layer
    moved = {key: layer[key] for key in layer if key not in defaults}
    rest = {key: value for key, value in layer.items() if key not in moved}
    below = rest.get("backbone", {})
    return (
        {**rest, "backbone": {**moved, **(below if isinstance(below, Mapping) else {"name": below})}}
        if moved
        else rest
    )


def _with_backbone(
    defaults: dict[str, Any], layer: Mapping[str, Any], where: str, task: str | None
) -> dict[str, Any]:
    """Defaults in which the backbone that a layer names brings the settings of its own yaml, those of the task last."""
    name = _chosen_name([(where, layer)], "backbone")
    if name is None or "backbone" not in defaults:
        return defaults
    if name not in registry.conventional_names():
        raise SettingsError(
            f"{where}: unknown backbone {name!r}; {close_name(str(name), registry.conventional_names())}"
        )
    file = properties_folder() / "model" / f"{name}.yaml"
    own = load_yaml(file) if file.is_file() else {}
    own.pop("sweep", None)
    by_task = own.pop("by_task", {})
    same = (
        defaults["backbone"]
        if defaults["backbone"]["name"] == name
        else {"training": defaults["backbone"]["training"]}
    )
    return {**defaults, "backbone": {**own, **by_task.get(task, {}), **same, "name": name}}


def _open_keys(defaults: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Keys that a part takes beyond those its defaults name: RecBole's, or a model specification's."""
    keys = {
        part: frozenset(field.name for field in dataclasses.fields(spec_class))
        for part, spec_class in SPECIFICATIONS.items()
        if part in defaults
    }
    backbone = defaults.get("backbone")
    return (
        {**keys, "backbone": registry.recbole_keys(backbone["name"])}
        if isinstance(backbone, Mapping)
        else keys
    )
