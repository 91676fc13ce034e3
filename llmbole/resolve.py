"""From names and overrides to the full settings of one run, checked before any work."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbole import registry
from llmbole.data import joined, source
from llmbole.data import protocol as protocols
from llmbole.data.own import own_card, own_folder
from llmbole.defaults import (
    SPECIFICATIONS,
    Layer,
    chosen_form,
    lay_over,
    model_defaults,
    own_yaml,
    read_layers,
)
from llmbole.llm import identity
from llmbole.settings import SettingsError, build, flatten

logger = logging.getLogger(__name__)

OPTIONS = ("device", "store", "leaderboard", "raw", "progress", "threads")


@dataclass(frozen=True)
class Resolved:
    """One run: which class runs it, with which settings, and how.

    Attributes:
        model: Name of the method, or of a RecBole model.
        method: The class whose stages make the run's artifacts.
        settings: Everything that can change a number; data, protocol and models stand in it with their identities.
        options: Everything that cannot: device, folders (also of an LLM or text encoder given as one), progress bars.
        label: How the settings differ from the model's defaults; empty if they do not.
    """

    model: str
    method: Any
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    label: str = ""


def resolve(
    model: str,
    dataset: str,
    overrides: Mapping[str, Any] | None = None,
    config_files: Sequence[Path | str] = (),
) -> Resolved:
    """Resolve the settings of one run; refuses every unknown name and key with the closest known one.

    Args:
        model: Name of a method or of a RecBole model.
        dataset: Name of a data set, or a folder of the user's own data.
        overrides: Settings over the defaults, nested or with dotted keys.
        config_files: Yaml files to lay between the defaults and the overrides, in order.

    Returns:
        The run.

    Raises:
        SettingsError: Some name, key or value is wrong; the message says which and what to do.
    """
    registry.check_name(model)
    return resolve_layers(model, dataset, read_layers(overrides or {}, config_files))


def resolve_layers(model: str, dataset: str, layers: Sequence[Layer]) -> Resolved:
    """Resolve the settings of one run from what `read_layers` gave; see `resolve`."""
    registry.check_name(model)
    form = chosen_form(model, layers)
    dataset = _dataset_of(form, dataset)
    for name in joined.names(dataset):
        if own_folder(name) is None:
            source.card(name)
    defaults = model_defaults(model, form, layers)
    settings = lay_over(model, defaults, layers)
    method = pipeline_of(form)
    label = _label(defaults, settings, method.run_only)
    return _identified(model, method, dataset, settings, label)


def pipeline_of(form: str) -> Any:  # noqa: ANN401 - a class
    """The class whose stages make the run of a form of a method, or of a conventional model by itself."""
    if registry.forms(form):
        return registry.method(form)
    from llmbole.model.conventional import Conventional

    return Conventional


def _dataset_of(form: str, dataset: str) -> str:
    """The data set that a method means by a name: its yaml may hold `datasets`, short names of its own preparations."""
    short = own_yaml(form).get("datasets", {}) if registry.forms(form) else {}
    return joined.SEPARATOR.join(str(short.get(name, name)) for name in joined.names(dataset))


def identified_dataset(dataset: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A data set's settings with its fingerprint; raw files that are published are fetched if they are not there.

    Args:
        dataset: Its name, a folder of the user's own data, or several of them with `+` between.
        options: `raw`, `store` and `progress` of a run; raw files of several sets lie in folders of their names.

    Returns:
        The settings, and the folder of the raw files of each set.

    Raises:
        SettingsError: There is no such data set.
        DataError: Raw files are missing and can't be got, or are not the published ones.
    """
    cache, names = Path(options["store"]) / "raw", joined.names(dataset)
    given = dict.fromkeys(names, options["raw"])
    if options["raw"] and len(names) > 1:
        below = {name: Path(options["raw"]) / name for name in names if own_folder(name) is None}
        given = {name: str(below[name]) if name in below and below[name].is_dir() else None for name in names}
    located = [_located(name, {**options, "raw": given[name]}) for name in names]
    cards, raws = [card for card, _ in located], [raw for _, raw in located]
    settings = dataclasses.asdict(joined.join(cards))
    return {**settings, "fingerprint": joined.fingerprint(cards, raws, cache)}, [str(raw) for raw in raws]


def _located(dataset: str, options: Mapping[str, Any]) -> tuple[source.DatasetCard, Path]:
    """The card of one data set, and the folder of its raw files."""
    folder = own_folder(dataset)
    if folder is not None and options["raw"]:
        raise SettingsError(
            f"raw = {options['raw']!r}: the folder of {dataset!r} is the data set itself; leave raw out"
        )
    card = source.card(dataset) if folder is None else own_card(folder)
    given = folder or (Path(options["raw"]) if options["raw"] else None)
    cache = Path(options["store"]) / "raw"
    return card, source.locate_raw(card, given, cache, progress=bool(options["progress"]))


def _label(defaults: Mapping[str, Any], settings: Mapping[str, Any], run_only: Sequence[str]) -> str:
    """How a run's settings differ from the defaults, for tables; what has a column of its own is left out."""
    before, now = flatten(defaults), flatten(settings)
    own_column = {*OPTIONS, *run_only, "seed", "protocol", "backbone.name", "llm.name", "text_encoder.name"}
    changed = [key for key in now if key not in own_column and before.get(key) != now[key]]
    return ", ".join(f"{key}={now[key]}" for key in sorted(changed))


def _identified(model: str, method: Any, dataset: str, settings: dict[str, Any], label: str) -> Resolved:  # noqa: ANN401
    """Settings in which data set, protocol, text encoder and LLM stand with their identities."""
    options = {key: settings[key] for key in OPTIONS}
    settings = {key: value for key, value in settings.items() if key not in OPTIONS}
    settings["dataset"], options["raw"] = identified_dataset(dataset, options)
    rules = _protocol(model, method, settings["protocol"])
    if rules.scenario is not None:
        rules.scenario.check_dataset(settings["dataset"]["domains"])
    settings["protocol"] = dataclasses.asdict(rules)
    for part, spec_class in SPECIFICATIONS.items():
        if part in settings:
            spec = build(spec_class, settings[part], part)
            settings[part], options[f"{part}_folder"] = _pinned(spec), identity.given_folder(spec)
    if method.settings_class is not None:
        method.settings_class.check(settings)
    settings = json.loads(json.dumps(settings))
    options |= {name: _taken(settings, name) for name in method.run_only}
    return Resolved(model, method, settings, options, label)


def _taken(settings: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - a setting is of any type
    """A setting of a dotted name, taken away from the others."""
    *parents, last = name.split(".")
    for parent in parents:
        settings = settings[parent]
    return settings.pop(last)


def _pinned(spec: identity.LLMSpec | identity.EncoderSpec) -> dict[str, Any]:
    """A model's settings with its revision: a hash of its files, or the hub's commit.

    Of a folder that the user names, only the last part of its path stays: the hash says what is in it, and where it
    lies is no one else's concern.
    """
    folder = identity.given_folder(spec)
    name = f"./{Path(folder).name}" if folder else spec.name.partition("@")[0]
    return {**dataclasses.asdict(spec), "name": name, "revision": identity.revision(spec)}


def _protocol(model: str, method: Any, name: str) -> protocols.Protocol:  # noqa: ANN401 - a class
    found = protocols.protocol(name)
    base = name.partition("@")[0]
    if base not in method.protocols:
        classes = [registry.method(form) for form in registry.forms(model)] or [method]
        known = [protocol for each in classes for protocol in each.protocols]
        raise SettingsError(f"{model} has no protocol {base!r}; it runs under {', '.join(known)}")
    return found
