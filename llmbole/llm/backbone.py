"""A causal language model with its tokenizer, loaded at a pinned revision and held frozen where asked."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from llmbole.llm.identity import LLMSpec, folder
from llmbole.llm.quiet import quiet
from llmbole.llm.tokens import TextTokenizer

logger = logging.getLogger(__name__)


class LanguageModel:
    """A causal language model and its tokenizer.

    It is no `nn.Module` on purpose: a recommender that holds one does not take the LLM's weights into its own
    parameters, checkpoints or device moves.

    Attributes:
        model: the causal language model of transformers.
        tokenizer: its tokenizer.
        tokens: exact encoding of texts with that tokenizer.
        hidden_size: width of the input embeddings, which soft vectors must have.
        max_length: the longest sequence the model takes, in positions; None if its configuration names no limit.
        parameters_total: number of parameters; tied ones count once.

    Args:
        model: the causal language model.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tokens = TextTokenizer(tokenizer)
        self.hidden_size = int(self.input_weight.shape[1])
        self.max_length: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.parameters_total = sum(parameter.numel() for parameter in model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the input embeddings are, and inputs must be."""
        return self.input_weight.device

    @property
    def input_weight(self) -> Tensor:
        """Embedding matrix, `[V, H]`."""
        return cast(Tensor, self.model.get_input_embeddings().weight)

    @property
    def output_weight(self) -> Tensor:
        """Matrix of the head, `[V, H]`; the embedding matrix itself if the model ties them."""
        return cast(Tensor, cast(nn.Module, self.model.get_output_embeddings()).weight)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings `[..., H]` of token ids `[...]`."""
        return self.model.get_input_embeddings()(ids.to(self.device))

    def hidden(
        self,
        embeddings: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Last hidden states before the head.

        Args:
            embeddings: input embeddings, `[B, T, H]`.
            mask: None if padding is only at the right, where no token sees it (the fastest); 1 at tokens and 0 at
                padding anywhere, `[B, T]`; or what is added to the attention scores, `[B, 1, T, keys]`.
            positions: position of each token, counted from 0, `[B, T]`; None counts the tokens.
            cache: keys and values of earlier tokens, to which those of these tokens are added.

        Returns:
            Hidden states, `[B, T, H]`.
        """
        if positions is None and mask is not None:
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)  # [B, T]
        return self.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def layers(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Hidden states behind each layer; the last are those that the head takes.

        Args:
            embeddings: input embeddings, padded on the right, `[B, T, H]`.

        Returns:
            The embeddings' own states, and a state per layer, `[B, T, H]` each.
        """
        out = self.model.base_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
        return (*out.hidden_states[:-1], out.last_hidden_state)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]` in float32 of hidden states `[..., H]`."""
        return cast(nn.Module, self.model.get_output_embeddings())(hidden).float()

    def freeze(self) -> LanguageModel:
        """Require no gradients and stay in evaluation mode, also when a module around the model is set to train."""
        self.model.requires_grad_(False)
        self.model.eval()
        self.model.train = types.MethodType(_stay_in_evaluation_mode, self.model)  # type: ignore[method-assign]
        return self

    def checksum(self) -> str:
        """SHA-256 over names and values of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def load(
    spec: LLMSpec, device: torch.device | str = "cpu", *, extra_tokens: Sequence[str] = ()
) -> LanguageModel:
    """Load a causal language model.

    A missing folder is a FileNotFoundError. Weights that are not safetensors, 4-bit where it is impossible, and an
    architecture that changes embeddings or logits in a way scoring does not know are ValueErrors.

    Args:
        spec: which model, and how to hold it.
        device: where it goes, unless the spec has a device map.
        extra_tokens: special tokens to add; the embeddings grow only if they have no spare rows, and a tied head
            stays tied. New rows start as the mean of the old ones.

    Returns:
        The model, in evaluation mode.
    """
    device = torch.device(device)
    path = folder(spec)
    options: dict[str, Any] = {"dtype": _dtype(spec, device), "attn_implementation": "sdpa"}
    if spec.quantization is not None:
        options["quantization_config"] = _four_bit(device)
        options["device_map"] = spec.device_map or {"": device}
    elif spec.device_map is not None:
        options["device_map"] = spec.device_map
    common = {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(path, **common)
        model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **common, **options)
    if "device_map" not in options:
        nn.Module.to(model, device)
    language_model = LanguageModel(model.eval(), tokenizer)
    _add_tokens(language_model, extra_tokens)
    if spec.gradient_checkpointing:
        _checkpoint_layers(model)
    _check_architecture(language_model)
    logger.info("loaded %s: %s, %d parameters", spec.name, model.dtype, language_model.parameters_total)
    return language_model


def save(lm: LanguageModel, path: Path) -> None:
    """Write a causal language model and its tokenizer as a folder that `load` takes."""
    with quiet():
        lm.model.save_pretrained(path)
        lm.tokenizer.save_pretrained(path)


def load_tokens(spec: LLMSpec) -> TextTokenizer:
    """The tokenizer of a causal language model, without the model.

    Args:
        spec: which model.

    Returns:
        Its tokenizer.
    """
    with quiet():
        return TextTokenizer(
            AutoTokenizer.from_pretrained(
                folder(spec), local_files_only=True, trust_remote_code=spec.trust_remote_code
            )
        )


def parameter_count(spec: LLMSpec) -> int:
    """Number of parameters of a causal language model, tied ones once, told without its weights."""
    common = {"trust_remote_code": spec.trust_remote_code}
    with quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder(spec), local_files_only=True, **common)
        model = AutoModelForCausalLM.from_config(config, **common)
    return sum(parameter.numel() for parameter in model.parameters())


def _dtype(spec: LLMSpec, device: torch.device) -> torch.dtype:
    if spec.precision == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return getattr(torch, spec.precision)


def _four_bit(device: torch.device) -> Any:  # noqa: ANN401 - the class is imported only where it is needed
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ValueError(
            f"quantization 4bit needs a CUDA GPU, and the device is {device}: leave quantization empty"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("quantization 4bit needs bitsandbytes: pip install llmbole[quantization]")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def _add_tokens(lm: LanguageModel, names: Sequence[str]) -> None:
    """Add special tokens; only tokens that the tokenizer does not know get new, deterministic embeddings."""
    vocabulary = lm.tokenizer.get_vocab()
    fresh = [name for name in dict.fromkeys(names) if name not in vocabulary]
    if not fresh:
        return
    lm.tokenizer.add_tokens(fresh, special_tokens=True)
    if len(lm.tokenizer) > len(lm.input_weight):
        lm.model.resize_token_embeddings(len(lm.tokenizer), mean_resizing=False)
    new = lm.tokenizer.convert_tokens_to_ids(fresh)
    weights = {id(weight): weight for weight in (lm.input_weight, lm.output_weight)}
    with torch.no_grad():
        for weight in weights.values():
            weight[new] = weight[: len(vocabulary)].float().mean(0).to(weight.dtype)
    lm.tokens = TextTokenizer(lm.tokenizer)
    lm.parameters_total = sum(parameter.numel() for parameter in lm.model.parameters())


def _checkpoint_layers(model: PreTrainedModel) -> None:
    """Compute each layer again in the backward pass, in evaluation mode too.

    transformers' own switch acts in training mode only, and a frozen model is never in training mode.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that support gradient checkpointing: turn it off"
        )
    for layer in layers:
        layer.forward = functools.partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - wraps any layer
    if not torch.is_grad_enabled() or kwargs.get("past_key_values") is not None:
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _check_architecture(lm: LanguageModel) -> None:
    """Refuse architectures that do more between embeddings and logits than decoder and head."""
    ids = torch.tensor([[lm.tokens.pad_id] * 3], device=lm.device)
    with torch.inference_mode():
        expected = lm.model(input_ids=ids, use_cache=False).logits.float()
        actual = lm.head(lm.hidden(lm.embed(ids), torch.ones_like(ids)))
    difference = (actual - expected.to(actual.device)).abs().max()
    if not difference <= 0.05 * expected.std():  # rounding in bfloat16 is far below
        raise ValueError(
            f"{type(lm.model).__name__} changes embeddings or logits outside its decoder and head, "
            "so its scores would be wrong: use another architecture (OPT, Llama, Qwen2 and GPT-2 are tested)."
        )


def _stay_in_evaluation_mode(model: nn.Module, mode: bool = True) -> nn.Module:
    return model
