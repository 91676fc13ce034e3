"""What a training remembers besides its weights, as tensors and JSON values: generators, optimizers, counters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.trainer.checkpoint import part


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of the random generators of torch (all devices), numpy and Python, as tensors and JSON values."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64))}
    if torch.cuda.is_available():
        tensors |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {"numpy": [int(position), int(has_gauss), float(gauss)], "python": random.getstate()}


def restore_random_states(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Put back what `random_states` gave."""
    torch.set_rng_state(tensors["torch"].cpu())
    cuda = [
        tensors[name].cpu()
        for name in sorted(tensors, key=lambda name: (len(name), name))
        if name.startswith("cuda")
    ]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])
    position, has_gauss, gauss = document["numpy"]
    np.random.set_state(
        ("MT19937", tensors["numpy"].cpu().numpy().astype(np.uint32), position, has_gauss, gauss)
    )
    version, internal, gauss_next = document["python"]
    random.setstate((version, tuple(internal), gauss_next))


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors `<parameter>.<name>` and JSON values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entries in state["state"].items():
        tensors |= {f"{index}.{name}": value for name, value in entries.items() if isinstance(value, Tensor)}
        values[str(index)] = {name: value for name, value in entries.items() if not isinstance(value, Tensor)}
    return tensors, {"values": values, "groups": state["param_groups"]}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], document: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` gave, into an optimizer of the same construction."""
    fresh = optimizer.state_dict()["param_groups"]
    groups = [
        {key: tuple(saved[key]) if isinstance(own[key], tuple) else saved[key] for key in own}
        for own, saved in zip(fresh, document["groups"], strict=True)
    ]
    state = {int(index): {**part(tensors, index), **values} for index, values in document["values"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def optimizers(trainer: object) -> dict[str, torch.optim.Optimizer]:
    """A trainer's optimizers by attribute name, each once; some of RecBole's trainers have several."""
    names = {
        id(value): name for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)
    }
    return {name: getattr(trainer, name) for name in names.values()}


def generators(loader: Any) -> dict[str, torch.Generator]:  # noqa: ANN401 - any loader
    """A loader's random generator, and those of the loaders inside it."""
    holders = {"own": loader, **vars(loader)}
    found = {name: getattr(holder, "generator", None) for name, holder in holders.items()}
    return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


def counters(model: nn.Module) -> dict[str, dict[str, int | float]]:
    """Plain numbers that a model and its modules hold; some models count their steps in one (annealing)."""
    counters = {}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if type(value) in (int, float)}
        if own:
            counters[name] = own
    return counters


def set_counters(model: nn.Module, counters: dict[str, dict[str, int | float]]) -> None:
    """Put back what `counters` gave."""
    for name, module in model.named_modules():
        vars(module).update(counters.get(name, {}))
