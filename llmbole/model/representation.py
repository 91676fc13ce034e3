"""Row representations: what a conventional model makes of a row before its last layer turns it into a logit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from llmbole.settings import SettingsError, close_name


def prediction_layer(model: nn.Module, path: str | None = None) -> nn.Linear:
    """The linear layer that makes a model's logit; its input is the row's representation.

    Args:
        model: A conventional model that predicts labels.
        path: Dotted name of the layer; `None` finds the last linear layer with one output.

    Returns:
        The layer; `in_features` is the width of the representation.

    Raises:
        SettingsError: There is no such layer; the message names those there are.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if path is not None:
        if path not in layers:
            raise SettingsError(
                f"{type(model).__name__} has no linear layer {path!r}; {close_name(path, layers)}"
            )
        return layers[path]
    final = [layer for layer in layers.values() if layer.out_features == 1]
    if not final:
        raise SettingsError(
            f"{type(model).__name__} has no linear layer with one output, so no representation of a row stands before "
            f"its logit; name a layer ({', '.join(layers) or 'it has no linear ones'}) or choose DIN, DCNV2 or DeepFM"
        )
    return final[-1]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer is given while the block runs, with gradients.

    Args:
        layer: Any module that is called with a tensor.

    Yields:
        A list that grows by the first argument of each call.
    """
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()


def represent(model: Any, layer: nn.Linear, rows: Any) -> Tensor:  # noqa: ANN401 - a RecBole model; its Interaction
    """Representations of rows, with gradients.

    Args:
        model: A conventional model that predicts labels.
        layer: One of its layers, as `prediction_layer` gives it.
        rows: Rows as the model reads them.

    Returns:
        What the layer is given for each row. Shape `[B, D]`.

    Raises:
        SettingsError: The layer is not run once with one vector for each row.
    """
    with inputs_of(layer) as seen:
        model.predict(rows)
    wanted = (len(rows), layer.in_features)
    found = [tuple(tensor.shape) for tensor in seen]
    if found != [wanted]:
        raise SettingsError(
            f"a layer of {type(model).__name__} was to be given rows of shape {wanted} once, but was given {found}: "
            "name another layer"
        )
    return seen[0]
