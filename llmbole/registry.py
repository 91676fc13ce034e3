"""Names of methods, read without importing them; RecBole's own models are found when no method has the name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from llmbole.settings import SettingsError, close_name, load_yaml, properties_folder

LABEL_LEARNERS = ("DIN", "NeuMF")
"""Models that predict labels though RecBole does not count them among its context-aware ones."""
LABEL_FORMS = ("BPR", "LightGCN", "SASRec")
"""Models that RecBole trains to rank and that have a form of their own for labels: `llmbole.model.labels`."""
ENTRY_POINT_GROUP = "llmbole.models"
TRAINING_KEYS = frozenset(
    {"sequence_batch_size", "sampled_negatives"}
)  # what llmbole's trainers read beside RecBole's settings
Class = TypeVar("Class", bound=type)

_registered: dict[str, type] = {}


class UnknownModelError(SettingsError):
    """No method and no RecBole model has the name."""


def register_model(name: str, task: str | None = None) -> Callable[[Class], Class]:
    """Register a class as the method of a name.

    Args:
        name: What `--model` is given.
        task: The task (`ranking`, `pairs`, `rating`) of the protocols under which this class is the method, if it has
            another class for the rest. Its settings are in `<name>.<task>.yaml`.

    Returns:
        A decorator that gives the class back.

    Raises:
        ValueError: Another class has the name already.
    """

    key = name if task is None else f"{name}.{task}"

    def register(cls: Class) -> Class:
        earlier = _registered.get(key)
        if earlier is not None and (earlier.__module__, earlier.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(
                f"model name {key!r} is taken by {earlier.__module__}.{earlier.__qualname__}; choose another"
            )
        _registered[key] = cls
        return cls

    return register


def form(name: str, task: str | None) -> str:
    """Which form of a method runs a task, as `method` and its yaml are named: `CTRL.ranking`, or the name alone.

    Args:
        name: A method or a conventional model.
        task: The task of a protocol.

    Returns:
        The name itself, if no class is registered for this task.
    """
    key = f"{name}.{task}"
    return key if key in _all_forms() else name


def forms(name: str) -> list[str]:
    """All forms of a method, the one without a task first."""
    return sorted(key for key in _all_forms() if key == name or key.startswith(f"{name}."))


def _all_forms() -> set[str]:
    return {*_built_in(), *_installed(), *_registered}


@cache
def _built_in() -> dict[str, str]:
    """Method name to module, found by the decorator's text in llmbole/model."""
    folder = Path(__file__).parent / "model"
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        module = ".".join(("llmbole.model", *file.relative_to(folder).with_suffix("").parts))
        for name, task in re.findall(
            r'^@register_model\("(\w+)"(?:, task="(\w+)")?\)', file.read_text(encoding="utf-8"), re.MULTILINE
        ):
            name = f"{name}.{task}" if task else name
            if name in found:
                raise ValueError(
                    f"model name {name!r} is claimed by {found[name]} and by {module}; rename one"
                )
            found[name] = module
    return found


@cache
def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    """Methods that other packages offer under the entry-point group."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name in found or point.name in _built_in():
            raise ValueError(
                f"model name {point.name!r} of {point.value} is taken already; uninstall one of the packages"
            )
        found[point.name] = point
    return found


def method_names() -> list[str]:
    """Names of all methods: llmbole's own, installed ones, and those registered in this process."""
    return sorted(name for name in _all_forms() if "." not in name)


@cache
def _recbole_folder() -> Path:
    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        raise SettingsError("RecBole is not installed; run pip install recbole==1.2.0")
    return Path(spec.origin).parent


@cache
def recbole_names() -> list[str]:
    """Names of RecBole's models, read from its settings files without importing it."""
    return sorted(path.stem for path in (_recbole_folder() / "properties" / "model").glob("*.yaml"))


@cache
def own_recommenders() -> frozenset[str]:
    """Names of conventional models that RecBole lacks.

    As in RecBole a model's file is its class's name in small letters, so both are read without importing them.
    """
    files = (Path(__file__).parent / "recommender").glob("*.py")
    classes = {
        file.stem: re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
        for file in files
    }
    return frozenset(name for stem, names in classes.items() for name in names if name.lower() == stem)


def conventional_names() -> list[str]:
    """Names of all conventional models, RecBole's and llmbole's own: what `--backbone` can be."""
    return sorted({*recbole_names(), *own_recommenders()})


@cache
def recbole_keys(model: str) -> frozenset[str]:
    """The settings that a conventional model can be given, read from its settings files without importing it."""
    properties = _recbole_folder() / "properties"
    keys: set[str] = set(TRAINING_KEYS) | own_defaults(model).keys()
    for file in (
        properties / "overall.yaml",
        properties / "dataset" / "sample.yaml",
        properties / "model" / f"{model}.yaml",
    ):
        keys.update(load_yaml(file) if file.is_file() else {})
    return frozenset(keys)


def own_defaults(model: str) -> dict[str, Any]:
    """Defaults of one of `own_recommenders`; nothing for others, whose settings RecBole has."""
    if model not in own_recommenders():
        return {}
    settings = load_yaml(properties_folder() / "model" / f"{model}.yaml")
    return {key: value for key, value in settings.items() if key not in ("by_task", "sweep")}


def learns_labels(name: str) -> bool:
    """Whether a conventional model can predict labels of user-item pairs, told without importing it."""
    return name in LABEL_FORMS or learns_only_labels(name)


def check_learns_labels(settings: Mapping[str, Any]) -> None:
    """Refuse a backbone that learns which items are preferred, or come next, where labels are asked for.

    Args:
        settings: A run's settings.

    Raises:
        SettingsError: The protocol has labels and the backbone does not predict any.
    """
    name, protocol = settings["backbone"]["name"], settings["protocol"]
    if protocol["task"] != "ranking" and not learns_labels(name):
        examples = [*LABEL_LEARNERS, *LABEL_FORMS]
        wanted = "ratings" if protocol["task"] == "rating" else "labels of pairs"
        raise SettingsError(
            f"{name} learns to rank items, but {protocol['name']} asks for {wanted}; choose a model that predicts "
            f"labels, such as DeepFM, DCNV2 or {' or '.join(examples)}, or a protocol that ranks"
        )


@cache
def learns_only_labels(name: str) -> bool:
    """Whether a conventional model predicts labels whatever the protocol, told without importing it."""
    if name in own_recommenders():
        file = Path(__file__).parent / "recommender" / f"{name.lower()}.py"
        return f"class {name}(ContextRecommender)" in file.read_text(encoding="utf-8")
    folder = _recbole_folder() / "model" / "context_aware_recommender"
    return name in LABEL_LEARNERS or (folder / f"{name.lower()}.py").is_file()


def check_name(name: str) -> None:
    """Refuse a name that neither a method nor a conventional model has.

    Raises `UnknownModelError`: With the close name.
    """
    known = [*method_names(), *conventional_names()]
    if name not in known:
        raise UnknownModelError(f"unknown model {name!r}; {close_name(name, known)}")


def is_method(name: str) -> bool:
    """Whether a name is a method of the registry (and not a plain RecBole model)."""
    return name in method_names()


def method(name: str) -> Any:  # noqa: ANN401 - a class; its attributes are the method's
    """Import and return the class of a method, or of one of its forms.

    Raises `UnknownModelError`: No method has the name.
    """
    if name in _registered:
        return _registered[name]
    if name in _built_in():
        importlib.import_module(_built_in()[name])
        return _registered[name]
    if name in _installed():
        cls = _installed()[name].load()
        return register_model(name)(cls)
    raise UnknownModelError(f"unknown method {name!r}; {close_name(name, method_names())}")


def settings_file(name: str) -> Path | None:
    """The yaml beside an installed or in-process method's module; `None` for llmbole's own."""
    if name in _built_in():
        return None
    module = _installed()[name].module if name in _installed() else _registered[name].__module__
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SettingsError(
            f"{module} of model {name!r} stands in no file, so its settings {name}.yaml cannot be found"
        )
    return Path(spec.origin).with_name(f"{name}.yaml")
