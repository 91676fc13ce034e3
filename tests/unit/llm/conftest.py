"""Small random language models of four architectures, with small tokenizers, saved as folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.auto import AutoModelForCausalLM

from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.tokens import TextTokenizer

TITLES = [
    "Toy Story (1995)",
    "Toy Story",
    "Heat (1995)",
    "Star Wars (1977)",
    "Til There Was You (1997)",
    "Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)",
    "Usual Suspects, The (1995)",
    "Amélie (2001)",
    "Se7en (1995)",
    "M (1931)",
]
_CORPUS = [
    f'This user has watched "{title}" in the previous. Recommend one next movie.' for title in TITLES
] * 3
_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 _.,:;!?(){}[]<>|/%"


def byte_level(special: dict[str, str], size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, as OPT, GPT-2 and Qwen2 have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentencepiece_like(
    special: dict[str, str], size: int = 460, legacy: bool = False
) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with byte fallback that writes spaces as U+2581 and puts one in front of a text, as Llama's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = list(dict.fromkeys(["<unk>", *special.values()]))
    tokenizer.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=size - 256, special_tokens=names, show_progress=False)
    )
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary.update({f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)})
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


def unigram(special: dict[str, str], size: int = 160) -> PreTrainedTokenizerFast:
    """A unigram tokenizer: its vocabulary holds the special tokens as pieces that a text could spell."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<unk>", *special.values()], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*_CORPUS, *_LETTERS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "opt": lambda: byte_level({"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}),
    "llama": lambda: sentencepiece_like({"bos_token": "<s>", "eos_token": "</s>"}),
    "llama_legacy": lambda: sentencepiece_like({"bos_token": "<s>", "eos_token": "</s>"}, legacy=True),
    "qwen2": lambda: byte_level({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
    "gpt2": lambda: byte_level({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    "unigram": lambda: unigram({"eos_token": "</s>", "pad_token": "<pad>"}),
}
ARCHITECTURES = ("opt", "llama", "qwen2", "gpt2")


def config(architecture: str, size: int, **changes: object) -> PreTrainedConfig:
    """The configuration of a small model."""
    common = {"vocab_size": size, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0}
    rotary = {
        **common,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    if architecture == "opt":
        return OPTConfig(
            **{
                **common,
                "pad_token_id": 1,
                "hidden_size": 32,
                "word_embed_proj_dim": 32,
                "num_hidden_layers": 2,
            },
            **{"num_attention_heads": 4, "ffn_dim": 48, **changes},
        )
    if architecture == "llama":
        return LlamaConfig(**{**rotary, "num_key_value_heads": 2, "pad_token_id": None, **changes})
    if architecture == "qwen2":
        return Qwen2Config(**{**rotary, "num_key_value_heads": 2, "tie_word_embeddings": True, **changes})
    return GPT2Config(**{**common, "n_embd": 32, "n_layer": 2, "n_head": 4, **changes})


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a small random model with its tokenizer and give its folder."""

    def build_folder(architecture: str, seed: int = 0, **changes: object) -> Path:
        torch.manual_seed(seed)
        tokenizer = TOKENIZERS[architecture]()
        model = AutoModelForCausalLM.from_config(config(architecture, len(tokenizer), **changes))
        for name, parameter in model.named_parameters():
            # Default weights are so small that scores of all texts are nearly alike.
            scale = 0.3 if parameter.dim() > 1 else 0.05
            offset = 1.0 if "norm" in name or "ln_" in name and name.endswith("weight") else 0.0
            torch.nn.init.normal_(
                parameter, offset if name.endswith("weight") and parameter.dim() == 1 else 0.0, scale
            )
        model.tie_weights()
        folder = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build_folder


@pytest.fixture(scope="session")
def folders(build: Callable[..., Path]) -> dict[str, Path]:
    """One model folder for each architecture."""
    return {architecture: build(architecture) for architecture in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, folders: dict[str, Path]) -> LanguageModel:
    """A frozen small model of each architecture."""
    return load(LLMSpec(name=str(folders[request.param]))).freeze()


@pytest.fixture(params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A tokenizer of each family, with extra special tokens as A-LLMRec adds."""
    made = TOKENIZERS[request.param]()
    made.add_tokens([AddedToken("[HistoryEmb]", special=True), AddedToken("<tool_call>", special=False)])
    return made


@pytest.fixture
def titles() -> list[str]:
    """Titles the small tokenizers were trained on; one contains another, one has a letter outside ASCII."""
    return list(TITLES)


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], PreTrainedTokenizerFast]:
    """A new tokenizer of a family by name."""
    return lambda family: TOKENIZERS[family]()


@pytest.fixture
def tokens_of() -> Callable[[str], TextTokenizer]:
    """A new exact encoder of a tokenizer family by name."""
    return lambda family: TextTokenizer(TOKENIZERS[family]())


@pytest.fixture(scope="session")
def byte_tokens() -> TextTokenizer:
    """An exact encoder that every text survives."""
    return TextTokenizer(TOKENIZERS["opt"]())
