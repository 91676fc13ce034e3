"""Hidden layers of conventional models: their outputs, kept by forward hooks while a model computes its loss or scores.

RecBole's context-aware models, DIN, NeuMF and FiBiNET build their deep part of `MLPLayers`. The end of each of its
blocks (dropout, linear, normalisation, activation) counts as a hidden layer; a model of other parts is given the names
of modules, as `model.named_modules()` has them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmbole.config import model_class_of
from llmbole.settings import SettingsError, close_name
from recbole.data.interaction import Interaction
from recbole.model.layers import MLPLayers

SETTING = "crm_modules"


class HiddenLayers:
    """The outputs of a model's hidden layers in its latest pass.

    Args:
        model: A RecBole model.
        rows: Some rows, at least two, with which the order and the widths of the layers are found.
        names: Modules that are the hidden layers; `None` finds those of `MLPLayers`.

    Attributes:
        names: Dotted names of the modules, in the order in which they compute.
        widths: Width of each one's output for a row.

    Raises:
        SettingsError: There are none, a name is no module's, or a module is not computed, or not once for each row.
    """

    def __init__(self, model: Any, rows: Interaction, names: Sequence[str] | None = None) -> None:  # noqa: ANN401
        modules = dict(model.named_modules())
        wanted = _blocks(modules) if names is None else list(names)
        for name in wanted:
            if name not in modules:
                raise SettingsError(
                    f"{SETTING}: {type(model).__name__} has no module {name!r}; {close_name(name, modules)}"
                )
        self._outputs: dict[str, Tensor] = {}
        hooks = {name: modules[name].register_forward_hook(self._keeper(name)) for name in wanted}
        training = model.training
        with torch.no_grad():
            model.eval().predict(rows)
        model.train(training)
        found = {name: output for name, output in self._outputs.items() if len(output) == len(rows)}
        if names is None:  # attention units have MLPs too, which compute once for each item of a history
            found = {name: output for name, output in found.items() if output.dim() == 2}
        for name in set(wanted) - found.keys():
            hooks[name].remove()
        if not found or (names is not None and len(found) < len(wanted)):
            raise _nothing(type(model).__name__, modules, wanted, found)
        self.names = list(found)
        self.widths = [output.flatten(1).shape[1] for output in found.values()]

    def check(self, numbers: Sequence[int]) -> list[int]:
        """Widths of layers by number, 1 for the first, negative ones from the end; a SettingsError if there is none."""
        count = len(self.names)
        for number in numbers:
            if number == 0 or abs(number) > count:
                raise SettingsError(
                    f"crm_layers: {number} is no hidden layer; there are {count}, from 1: {', '.join(self.names)}"
                )
        return [self.widths[number - (number > 0)] for number in numbers]

    def outputs(self, numbers: Sequence[int]) -> list[Tensor]:
        """What layers gave in the model's latest pass, with gradients.

        Args:
            numbers: 1 for the first of `names`; negative ones count from the end.

        Returns:
            An output per number. Shapes `[B, width]`.
        """
        return [self._outputs[self.names[number - (number > 0)]].flatten(1) for number in numbers]

    def _keeper(self, name: str) -> Any:  # noqa: ANN401 - a forward hook
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            self._outputs.pop(name, None)  # so that the mapping's order is that of the pass
            self._outputs[name] = output

        return keep


def check_model(name: str, names: Sequence[str] | None) -> None:
    """Refuse, before any work, a model in which no hidden layers can be found.

    Args:
        name: Name of a conventional model.
        names: Modules that the settings name; any model may have them.

    Raises:
        SettingsError: None are named, and the model is not built of `MLPLayers`.
    """
    source = inspect.getsource(inspect.getmodule(model_class_of(name)))  # type: ignore[arg-type]
    if names is None and "MLPLayers(" not in source:
        raise SettingsError(
            f"backbone {name} has no hidden layers that can be found, as it is not built of RecBole's MLPLayers; name "
            f"modules of it in {SETTING}, or choose DCNV2, DeepFM, xDeepFM, FiBiNET, AutoInt or DIN"
        )


def _blocks(modules: dict[str, nn.Module]) -> list[str]:
    """Names of the last module of each block of each `MLPLayers`."""
    found = []
    for name, module in modules.items():
        if not isinstance(module, MLPLayers):
            continue
        parts = list(module.mlp_layers.named_children())
        for (key, _), following in zip(parts, [*parts[1:], None], strict=True):
            if following is None or isinstance(
                following[1], nn.Dropout
            ):  # each block begins with its dropout
                found.append(f"{name}.mlp_layers.{key}")
    return found


def _nothing(
    model: str, modules: dict[str, nn.Module], wanted: Sequence[str], found: dict[str, Tensor]
) -> SettingsError:
    missing = [name for name in wanted if name not in found]
    told = (
        f"modules {', '.join(missing)} of {model} give" if missing else f"{model} has no MLPLayers that give"
    )
    return SettingsError(
        f"{told} no output for each row; name others in {SETTING}, of {', '.join(name for name in modules if name)}"
    )
