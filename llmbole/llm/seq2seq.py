"""An encoder-decoder model (T5) that reads words and answers in words; whole words are marked for the encoder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from llmbole.llm.identity import UNTRAINED, LLMSpec, folder
from llmbole.llm.quiet import quiet

WORDS = 512  # positions of whole words, and of tokens, as in P5
_PIECE = r"[0-9]{1,2}|[^\W\d_]+|[^\w\s]|_"  # numbers fall into pieces of two digits
_SCALE = 0.3  # of an untrained model's embeddings; at T5's own scale, 1, steps of AdamW change them slowly
_SPECIAL = ("<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Sizes:
    """Sizes of an untrained T5.

    Attributes:
        width: of its states.
        inner: of its feed-forward layers.
        layers: of the encoder, and as many of the decoder.
        heads: of attention, which divide the width.
        dropout: probability.
    """

    width: int
    inner: int
    layers: int
    heads: int
    dropout: float

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("width", "inner", "layers", "heads")
            if getattr(self, name) < 1
        ]
        if not problems and self.width % self.heads:
            problems.append(f"heads = {self.heads}: must divide width = {self.width}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout = {self.dropout}: must be in [0, 1)")
        if problems:
            raise ValueError("\n".join(problems))


class Seq2Seq(nn.Module):
    """An encoder-decoder with a whole-word embedding, added to the input embeddings of all tokens of a word.

    Geng et al., Recommendation as Language Processing (P5), RecSys 2022, Section 4.1. The embedding says which tokens
    belong together (`item_`, `12`, `34`), not which word they are. It begins at 0, so that a trained model begins as it
    is.

    Args:
        model: the encoder-decoder of transformers.
        tokenizer: its tokenizer.
        words: that get a token of their own, with new embeddings.

    Attributes:
        parameters_total: number of parameters; tied ones count once.
    """

    model: Any  # the classes of transformers have methods that their base class lacks

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str] = ()
    ) -> None:
        super().__init__()
        known = len(cast(nn.Embedding, model.get_input_embeddings()).weight)
        if words:
            model.resize_token_embeddings(known + len(words), mean_resizing=False)
        self._ids = {word: [number] for number, word in enumerate(words, known)}
        self.model, self.tokenizer = model, tokenizer
        width = self.model.get_input_embeddings().weight.shape[1]
        self.whole_words = nn.Embedding(
            WORDS + 1, width, padding_idx=0, dtype=model.dtype, device=model.device
        )
        nn.init.zeros_(self.whole_words.weight)
        self.parameters_total = sum(parameter.numel() for parameter in self.parameters())

    def word_ids(self, word: str) -> list[int]:
        """Token ids of a word, as it stands behind a space."""
        if word not in self._ids:
            self._ids[word] = self.tokenizer(word, add_special_tokens=False).input_ids
        return self._ids[word]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids of texts, the end of a text included, and the number of the word that each belongs to.

        Args:
            texts: words with spaces between.

        Returns:
            Both `[B, T]`, padded on the right; words count from 1, 0 is padding.

        Raises:
            ValueError: a text is longer than the model takes.
        """
        ids, words = [], []
        for text in texts:
            parts = [*map(self.word_ids, text.split()), [self.tokenizer.eos_token_id]]
            ids.append(torch.tensor([index for part in parts for index in part]))
            words.append(torch.tensor([number for number, part in enumerate(parts, 1) for _ in part]))
            if len(ids[-1]) > WORDS:
                raise ValueError(
                    f"a text takes {len(ids[-1])} tokens, but {WORDS} fit: show a shorter history ({text[:80]!r} ...)"
                )
        pad = int(self.tokenizer.pad_token_id)
        device = self.model.device
        return (
            pad_sequence(ids, batch_first=True, padding_value=pad).to(device),
            pad_sequence(words, batch_first=True).to(device),
        )

    def loss(self, texts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Cross-entropy of the answers' tokens and their end: the mean over rows of each row's mean. A scalar."""
        targets, counted = self.encode(answers)  # [B, A]
        targets = targets.masked_fill(counted == 0, -100)
        logits = self._decode(texts, self.model._shift_right(targets))  # [B, A, V]
        losses = functional.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none")  # [B, A]
        return (losses.sum(1) / (counted > 0).sum(1)).mean()

    def first_logits(self, texts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Logits of each answer's first token at the first position. Shape `[B, answers]`, float32."""
        first = [self.word_ids(answer)[0] for answer in answers]
        start = int(self.model.config.decoder_start_token_id)
        begun = torch.full((len(texts), 1), start, device=self.model.device)
        return self._decode(texts, begun)[:, 0, first].float()

    def _decode(self, texts: Sequence[str], begun: Tensor) -> Tensor:
        ids, words = self.encode(texts)  # [B, T]
        embeddings = self.model.get_input_embeddings()(ids) + self.whole_words(words)  # [B, T, H]
        out: Any = self.model(inputs_embeds=embeddings, attention_mask=words > 0, decoder_input_ids=begun)
        return out.logits


def load(
    spec: LLMSpec,
    sizes: Sizes,
    texts: Iterable[str],
    device: torch.device | str = "cpu",
    *,
    words: Sequence[str] = (),
) -> Seq2Seq:
    """An encoder-decoder by name, or an untrained T5.

    Args:
        spec: which model; `untrained` takes the sizes.
        sizes: of an untrained model.
        texts: whose words, other than numbers, are an untrained model's vocabulary.
        device: where it goes.
        words: that get a token of their own.

    Returns:
        The model, all of whose weights can be trained.

    Raises:
        ValueError: the model is quantized, or no encoder-decoder.
    """
    if spec.quantization is not None or spec.device_map is not None:
        raise ValueError(
            "llm.quantization and llm.device_map: all weights are trained here; leave them empty"
        )
    if spec.name == UNTRAINED:
        own = number_tokenizer(texts)
        made = Seq2Seq(T5ForConditionalGeneration(_config(sizes, own)), own, words)
        nn.init.normal_(made.model.get_input_embeddings().weight, std=_SCALE)
        return made.to(device)
    path = folder(spec)
    dtype = torch.float32 if spec.precision == "auto" else getattr(torch, spec.precision)
    common = {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(path, **common)
        model = AutoModelForSeq2SeqLM.from_pretrained(path, use_safetensors=True, dtype=dtype, **common)
    return Seq2Seq(model, tokenizer, words).to(device)


def _config(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> T5Config:
    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=sizes.width,
        d_kv=sizes.width // sizes.heads,
        d_ff=sizes.inner,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        dropout_rate=sizes.dropout,
        **ids,
    )


def number_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words and of numbers in pieces of two digits, the last one of one if digits are odd.

    Args:
        texts: whose words and signs it knows.

    Returns:
        The tokenizer.
    """
    numbers = [str(digit) for digit in range(10)] + [f"{number:02d}" for number in range(100)]
    words = sorted({piece for text in texts for piece in re.findall(_PIECE, text)} - set(numbers))
    vocabulary = {word: number for number, word in enumerate([*_SPECIAL, *numbers, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_PIECE), "isolated")]
    )
    names = dict(zip(("pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
