"""RecBole's Config with small overrides: settings come from one mapping, and unknown or reserved keys are refused."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from llmbole import compat, registry
from llmbole.settings import SettingsError, close_name, load_yaml

compat.apply()

from llmbole.evaluator import value_metrics  # noqa: E402
from recbole.config import Config as RecBoleConfig  # noqa: E402 - the patches come first
from recbole.utils import (  # noqa: E402
    ModelType,
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    get_model,
    training_arguments,
)

value_metrics.register()  # a Config refuses metrics that it doesn't know

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")

RESERVED = {
    "model": "it is an argument of Config",
    "dataset": "it is an argument of Config",
    "seed": "it is an argument of Config",
    "device": "it is an argument of Config",
    "gpu_id": "choose the device with Config's argument `device`",
    "use_gpu": "choose the device with Config's argument `device`",
    "data_path": "it is Config's argument `data_folder`",
    "checkpoint_dir": "checkpoints go where the trainer's argument `workspace` says",
    "save_dataset": "prepared data is kept by this project, not by RecBole",
    "dataset_save_path": "prepared data is kept by this project, not by RecBole",
    "save_dataloaders": "prepared data is kept by this project, not by RecBole",
    "dataloaders_save_path": "prepared data is kept by this project, not by RecBole",
}

OWN_KEYS = ("sequence_batch_size", "sampled_negatives")

# np.round scales by 10 ** decimals: with more than 15 it would change the last digits instead of keeping them.
DECIMAL_PLACES = 15


class Config(RecBoleConfig):
    """The settings of one RecBole model on one prepared data folder.

    Unlike RecBole's it reads no command line, evaluates no strings, leaves `CUDA_VISIBLE_DEVICES` and numpy alone,
    refuses misspelt keys of RecBole's own models and unknown optimizers, and reads data from `data_folder` whatever
    the data set's name. A sequential model with cross-entropy loss gets `train_neg_sample_args: None`.
    What can't be is a `SettingsError`; a data folder without the interactions is a `FileNotFoundError`.

    Args:
        model: Name of a RecBole model, or a RecBole-style model class.
        dataset: Name of the data set; `<data_folder>/<dataset>.inter` holds its interactions.
        data_folder: Folder of RecBole's atomic files.
        settings: RecBole settings that differ from RecBole's defaults.
        device: `auto` (CUDA if there is any, else CPU) or a torch device such as `cpu`, `cuda:1`.
        seed: Seed of negative sampling, shuffling and initial weights.
    """

    def __init__(
        self,
        model: str | type,
        dataset: str,
        data_folder: Path,
        settings: Mapping[str, Any],
        *,
        device: str = "auto",
        seed: int,
    ) -> None:
        _check_reserved(settings)
        model_class = model_class_of(model)
        if model_class.__module__.startswith(("recbole.", "llmbole.recommender.")):
            check_keys(model, settings)
        self._data_folder = Path(data_folder)
        self._device = resolve_device(device)
        self._seed = seed
        super().__init__(model=model_class, dataset=dataset, config_dict=copy.deepcopy(dict(settings)))
        _check_interactions(self._data_folder, dataset, self.final_config_dict.get("benchmark_filename"))
        _check_learner(self.final_config_dict["learner"])

    def compatibility_settings(self) -> None:
        """Leave numpy alone; the names RecBole reads are in `llmbole.compat`."""

    def _init_parameters_category(self) -> None:
        self.parameters = {name: list(keys) for name, keys in _ARGUMENT_LISTS.items()}

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return _PropertiesLoader

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        self.internal_config_dict.update(registry.own_defaults(model))

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        if final["MODEL_TYPE"] == ModelType.SEQUENTIAL and _is_cross_entropy(self.model_class, final):
            if self.external_config_dict.get("train_neg_sample_args") is not None:
                raise SettingsError(
                    f"{self.model}: train_neg_sample_args is set, but loss_type CE scores all items and samples none; "
                    "remove it, or set loss_type: BPR"
                )
            final["train_neg_sample_args"] = None
        for key, value in (("show_progress", False), ("metric_decimal_place", DECIMAL_PLACES)):
            if key not in self.external_config_dict:
                final[key] = value
        if "load_col" not in self.external_config_dict:
            final["load_col"] = self._columns()
        super()._set_default_parameters()
        final["data_path"] = str(self._data_folder)
        final["checkpoint_dir"] = str(self._data_folder)  # exists, so RecBole makes no folder of its own
        final["seed"] = self._seed

    def _columns(self) -> dict[str, list[str]]:
        """The columns a model needs, whatever the data set's name: features only for models that read them."""
        with_features = self.final_config_dict["MODEL_TYPE"] == ModelType.CONTEXT or self.model in (
            "DIN",
            "DIEN",
        )
        columns = {}
        for kind in ("inter", "user", "item") if with_features else ("inter",):
            file = self._data_folder / f"{self.dataset}.{kind}"
            if file.is_file():
                with file.open(encoding="utf-8") as lines:
                    header = lines.readline().rstrip("\n").split(self.final_config_dict["field_separator"])
                columns[kind] = [name.partition(":")[0] for name in header]
        return columns

    def _init_device(self) -> None:
        self.final_config_dict.update(
            device=self._device,
            use_gpu=self._device.type == "cuda",
            gpu_id="",
            single_spec=True,
            local_rank=0,
        )


class _PropertiesLoader(yaml.SafeLoader):
    """Reads RecBole's yaml files, where 1e-4 is a number, without changing PyYAML's own loaders."""


_PropertiesLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)$"),
    list("-+0123456789."),
)

_ARGUMENT_LISTS = {
    "General": tuple(general_arguments),
    "Training": tuple(training_arguments),
    "Evaluation": tuple(evaluation_arguments),
    "Dataset": tuple(dataset_arguments),
}


def model_class_of(model: str | type) -> type:
    """The class of a conventional model given by name; a class is returned as it is.

    Args:
        model: Name or class.

    Returns:
        The class.

    Raises:
        SettingsError: Neither RecBole nor llmbole has a conventional model of that name.
    """
    if isinstance(model, type):
        return model
    if model in registry.own_recommenders():
        return _own_class(model)
    if model not in registry.recbole_names():
        names = registry.conventional_names()
        raise SettingsError(f"there is no model {model!r}; {close_name(model, names)}")
    try:
        found: type = get_model(model)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"model {model} needs the package {error.name}, which is not installed"
        ) from error
    return found


def _own_class(name: str) -> type:
    """One of `registry.own_recommenders`; imported by name here, so that their code is part of the keys of stages."""
    from llmbole.recommender import cl4srec, fibinet, mixgcf, youtubednn

    classes: tuple[type, ...] = (
        cl4srec.CL4SRec,
        fibinet.FiBiNET,
        mixgcf.MixGCF,
        youtubednn.YoutubeDNN,
    )
    return next(found for found in classes if found.__name__ == name)


def resolve_device(device: str) -> torch.device:
    """The torch device of a name; `auto` is CUDA if there is any, else the CPU.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...

    Returns:
        The device.

    Raises:
        SettingsError: The name is no device, or CUDA is asked for and not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise SettingsError(
            f"device {device!r} is no torch device; use auto, cpu, cuda or cuda:<number>"
        ) from None
    if found.type == "cuda" and (
        not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()
    ):
        raise SettingsError(
            f"device {device!r} is not there ({torch.cuda.device_count()} CUDA devices); use auto or cpu"
        )
    return found


def known_keys(model: str | type) -> set[str]:
    """Every setting that a model, or RecBole on its behalf, reads.

    RecBole's argument lists and yaml files, and the keys that the model's source and its base classes' read.
    """
    model_class = model_class_of(model)
    keys = set(OWN_KEYS).union(*_ARGUMENT_LISTS.values(), registry.own_defaults(model_class.__name__))
    folder = _properties()
    files = [
        folder / "overall.yaml",
        folder / "dataset" / "sample.yaml",
        folder / "model" / f"{model_class.__name__}.yaml",
    ]
    for file in files + sorted((folder / "quick_start_config").glob("*.yaml")):
        if file.is_file():
            keys.update(load_yaml(file))
    for base in inspect.getmro(model_class):
        if base.__module__ not in ("builtins", "torch.nn.modules.module"):
            source = inspect.getsource(importlib.import_module(base.__module__))
            keys.update(re.findall(r"config\[\s*[\"'](\w+)[\"']\s*\]", source))
    return keys


def check_keys(model: str | type, keys: Iterable[str]) -> None:
    """Refuse settings that nothing reads, all at once, each with the close name.

    Args:
        model: Name or class of a RecBole model.
        keys: Names of settings.

    Raises:
        SettingsError: At least one key is unknown to the model and to RecBole.
    """
    known = known_keys(model)
    unknown = [key for key in keys if key not in known]
    if unknown:
        name = model if isinstance(model, str) else model.__name__
        raise SettingsError(
            "\n".join(f"{name}: unknown setting {key!r}; {close_name(key, known)}" for key in unknown)
        )


def _properties() -> Path:
    return Path(inspect.getfile(RecBoleConfig)).parents[1] / "properties"


def _check_reserved(settings: Mapping[str, Any]) -> None:
    reserved = [f"setting {key!r} can't be set here: {RESERVED[key]}" for key in settings if key in RESERVED]
    if reserved:
        raise SettingsError("\n".join(reserved))


def _check_learner(learner: object) -> None:
    if not isinstance(learner, str) or learner.lower() not in LEARNERS:
        raise SettingsError(f"unknown optimizer learner = {learner!r}; {close_name(str(learner), LEARNERS)}")


def _check_interactions(folder: Path, dataset: str, parts: list[str] | None) -> None:
    names = [f"{dataset}.{part}.inter" for part in parts] if parts else [f"{dataset}.inter"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no {', '.join(missing)}; prepare the data set {dataset!r} there first"
        )


def _is_cross_entropy(model_class: type, final: Mapping[str, Any]) -> bool:
    return not hasattr(model_class, "input_type") and final.get("loss_type") == "CE"
