"""LoRA: low-rank updates of a frozen language model's projections, kept as a module and as PEFT's own two files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from llmbole.llm.backbone import LanguageModel

WEIGHTS = "adapter_model.safetensors"
NAME = "default"  # PEFT's name of an adapter
_PREFIX = "base_model.model."  # of parameters in PEFT's files
# Query and value projections as architectures name them, OPT, Llama and Qwen2 first, GPT-2 last.
_TARGETS = (("q_proj", "v_proj"), ("query", "value"), ("query_key_value",), ("qkv_proj",), ("c_attn",))


@dataclass(frozen=True)
class LoraSettings:
    """Sizes of the updates, Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.

    Attributes:
        r: rank of an update.
        alpha: updates are scaled by `alpha / r`.
        dropout: probability, on the input of an update.
        targets: last names of the linear layers that are updated; None takes the query and value projections.
    """

    r: int
    alpha: int
    dropout: float
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {value}: must be at least 1"
            for name, value in (("r", self.r), ("alpha", self.alpha))
            if value < 1
        ]
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout = {self.dropout}: must be in [0, 1)")
        if problems:
            raise ValueError("\n".join(problems))


class Adapter(nn.Module):
    """The updates of a language model, put into it; they change nothing until they are trained.

    The module holds the updates alone: its parameters are what LoRA trains, and `train()` switches their dropout on
    and leaves the frozen model in evaluation mode.

    Args:
        lm: the frozen language model, which is changed in place.
        settings: sizes.

    Raises:
        ValueError: the model has updates already, or no layers of the targets' names.
    """

    def __init__(self, lm: LanguageModel, settings: LoraSettings) -> None:
        super().__init__()
        if any(isinstance(module, LoraLayer) for module in lm.model.modules()):
            raise ValueError("the language model has LoRA updates already: load it again")
        self.config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets(lm, settings.targets),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.model.modules()),
            task_type="CAUSAL_LM",
            inference_mode=True,
        )
        inject_adapter_in_model(self.config, lm.model)
        self.parts = nn.ModuleDict()
        for name, layer in lm.model.named_modules():
            if isinstance(layer, LoraLayer):
                self.parts[name.replace(".", "/")] = _part(cast(Any, layer).eval())
        self.float()  # updates of a model in bfloat16 are learned in single precision
        self.requires_grad_(True)
        self.eval()

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, which PEFT can load too."""
        tensors = {
            _peft_name(name): value.detach().cpu().contiguous() for name, value in self.state_dict().items()
        }
        save_file(tensors, folder / WEIGHTS)
        self.config.save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        """Read the weights that `save` wrote.

        Args:
            folder: their folder.

        Raises:
            ValueError: names or shapes are not exactly those of this adapter.
        """
        tensors = load_file(folder / WEIGHTS)
        own = {_peft_name(name): value for name, value in self.state_dict().items()}
        wrong = sorted(
            name
            for name in own.keys() | tensors.keys()
            if name not in own or name not in tensors or own[name].shape != tensors[name].shape
        )
        if wrong:
            raise ValueError(
                f"{folder / WEIGHTS} holds {len(tensors)} tensors and the adapter has {len(own)}; {len(wrong)} differ, "
                f"the first is {wrong[0]}: it was tuned with other settings or another model"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])


def merge(lm: LanguageModel) -> None:
    """Add a language model's updates to its weights: it becomes a plain model that answers the same."""
    for name, layer in list(lm.model.named_modules()):
        if isinstance(layer, LoraLayer):
            updated = cast(Any, layer)
            updated.merge(safe_merge=True)
            lm.model.set_submodule(name, updated.get_base_layer())


def targets(lm: LanguageModel, names: tuple[str, ...] | None) -> list[str]:
    """Last names of the layers to update.

    Args:
        lm: the language model.
        names: those wanted; None finds the query and value projections.

    Returns:
        The names; each is that of a layer.

    Raises:
        ValueError: the model has no layers of such names; the message lists those it has.
    """
    linear = {
        name.rpartition(".")[2]
        for name, module in lm.model.base_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    wanted = names or next((each for each in _TARGETS if linear.issuperset(each)), ())
    if not wanted or not linear.issuperset(wanted):
        missing = sorted(set(wanted) - linear) or "a query and a value projection"
        raise ValueError(
            f"{type(lm.model).__name__} has no linear layers named {missing}; set lora.targets to some of "
            f"{sorted(linear)}"
        )
    return list(wanted)


def _part(layer: Any) -> nn.Module:  # noqa: ANN401 - a PEFT layer
    """The update of one layer."""
    part = nn.Module()
    part.lora_A, part.lora_B = layer.lora_A[NAME], layer.lora_B[NAME]
    part.dropout = layer.lora_dropout[NAME]
    return part


def _peft_name(name: str) -> str:
    """`parts.model/layers/0/q_proj.lora_A.weight` as PEFT writes it."""
    return _PREFIX + name.removeprefix("parts.").replace("/", ".")
