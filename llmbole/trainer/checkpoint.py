"""Tensors with a JSON document in one safetensors file, written so that a reader sees the old file or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import llmbole.config  # noqa: F401 - RecBole is imported only after its patches
from recbole.model.abstract_recommender import (
    ContextRecommender,
    GeneralRecommender,
    KnowledgeRecommender,
    SequentialRecommender,
)

DOCUMENT = "document"
CONVENTIONAL = (GeneralRecommender, SequentialRecommender, ContextRecommender, KnowledgeRecommender)


class CheckpointError(RuntimeError):
    """A checkpoint that can't be written or doesn't fit; the message says which and what to do."""


def write(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write a checkpoint aside and rename it into place.

    Args:
        path: The file, in a folder that exists.
        tensors: Dense tensors; they are copied to the CPU.
        document: What JSON can hold.

    Raises:
        CheckpointError: A tensor is sparse, or the document holds what JSON can't.
    """
    sparse = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
    if sparse:
        raise CheckpointError(f"{path}: {', '.join(sparse)} are sparse tensors, which safetensors can't hold")
    try:
        text = json.dumps(document)
    except TypeError as error:
        raise CheckpointError(f"{path}: the state holds what JSON can't ({error})") from None
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(copies, aside, metadata={DOCUMENT: text})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote.

    Args:
        path: The file.
        device: Where the tensors shall lie.

    Returns:
        The tensors and the document.

    Raises:
        CheckpointError: The file is missing, damaged, or no checkpoint of this project.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            document = json.loads((file.metadata() or {})[DOCUMENT])
            return {name: file.get_tensor(name) for name in file.keys()}, document
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train the model first") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path}: damaged or no checkpoint of this project ({error}); delete it and train again"
        ) from None


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state without what training can't change: the frozen parameters of a method with a language model.

    RecBole's own models are kept whole: some write into frozen parameters (RecVAE copies its encoder into its prior).
    """
    if isinstance(model, CONVENTIONAL):
        return dict(model.state_dict())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_learned_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put back what `learned_state` gave.

    Args:
        model: A model of the same architecture with the same parameters frozen.
        state: Tensors by name.
        path: Where they come from, for the message.

    Raises:
        CheckpointError: Names or shapes differ from the model's.
    """
    own = learned_state(model)
    differing = sorted(set(own) ^ set(state)) or sorted(
        name for name in own if own[name].shape != state[name].shape
    )
    if differing:
        raise CheckpointError(
            f"{path} doesn't fit {type(model).__name__}: {', '.join(differing[:5])} differ; delete it and train again"
        )
    model.load_state_dict(dict(state), strict=False)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `<prefix>.`, without it."""
    return {
        name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors, their names led by `<prefix>.`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
