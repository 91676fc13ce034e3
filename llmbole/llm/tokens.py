"""Text to token ids and back, exactly: no added spaces, no control tokens hidden in data."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # byte fallback needs these names in the vocabulary
_CACHE_ENTRIES = 1 << 16
_CACHE_CHARACTERS = 1000  # longer texts are full prompts, which do not come back


class TextTokenizer:
    """Encodes every text as plain data.

    The tokenizer's own pipeline is kept (normalisation, pre-tokenisation, vocabulary, merges) with three changes:

    - no space is put in front of a text (sentencepiece tokenizers do so by habit), so that pieces can be encoded one
      by one and joined: `decode(ids(a) + ids(b)) == a + b`. Decoders that strip one leading space from the whole
      sequence (Llama's) still do;
    - text that spells a special token (`</s>`, `[HistoryEmb]`) is encoded as the characters it consists of;
    - nothing is truncated or padded and no special token is added.

    Special tokens enter a prompt by id only: `bos_id`, `eos_id`, `pad_id`.

    Args:
        tokenizer: a tokenizer of transformers with a `tokenizers` backend.

    Raises:
        ValueError: the tokenizer has no such backend, or it has neither a pad, an eos nor an unk token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no fast backend (tokenizer.json). Convert it once with "
                "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(folder) and use that folder."
            )
        self.tokenizer = tokenizer
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        self.pad_id: int = _padding_id(tokenizer)
        self._backend = _plain_backend(backend)
        self._cache: dict[str, list[int]] = {}
        self._shortened: dict[tuple[str, int], str] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of one text. The list is shared with a cache: do not change it."""
        return self.ids_many([text])[0]

    def ids_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts; unseen ones are encoded in one parallel call. Do not change the lists."""
        unseen = [text for text in dict.fromkeys(texts) if text not in self._cache]
        fresh = dict(zip(unseen, (e.ids for e in self._backend.encode_batch_fast(unseen)), strict=True))
        result = [fresh[text] if text in fresh else self._cache[text] for text in texts]
        if len(self._cache) + len(fresh) > _CACHE_ENTRIES:
            self._cache.clear()
        self._cache.update((text, ids) for text, ids in fresh.items() if len(text) <= _CACHE_CHARACTERS)
        return result

    def shorten(self, text: str, limit: int) -> str:
        """The longest beginning of the text that has at most `limit` tokens, without trailing white space."""
        known = self._shortened.get((text, limit))
        if known is not None:
            return known
        shortened = text
        encoding = self._backend.encode(text, add_special_tokens=False)
        while len(encoding.ids) > limit:
            # The beginning of a text may have more tokens than it had inside the text: cut until it fits.
            end = min(encoding.offsets[limit][0], len(shortened) - 1)
            shortened = shortened[:end].rstrip()
            encoding = self._backend.encode(shortened, add_special_tokens=False)
        if len(self._shortened) > _CACHE_ENTRIES:
            self._shortened.clear()
        self._shortened[text, limit] = shortened
        return shortened

    @functools.cached_property
    def quotes(self) -> dict[int, int]:
        """Number of quotation marks in each token of the vocabulary that has any."""
        special = set(self.tokenizer.all_special_tokens)
        vocabulary = self.tokenizer.get_vocab()
        return {
            index: token.count('"')
            for token, index in vocabulary.items()
            if '"' in token and token not in special
        }

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, without special tokens and without any clean-up of spaces."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text)


def _padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The pad token, else eos, else unk: padded positions are masked, so any id of the vocabulary serves."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        if candidate is not None:
            return int(candidate)
    raise ValueError(
        f"{type(tokenizer).__name__} of {tokenizer.name_or_path!r} names no pad, eos or unk token: "
        "set one of them in its tokenizer_config.json."
    )


def _plain_backend(backend: Tokenizer) -> Tokenizer:
    state = json.loads(backend.to_str())
    added = state["added_tokens"]
    control = {token["content"] for token in added if not token["content"].isspace()}
    # Runs of spaces that some tokenizers keep as added tokens are ordinary text.
    state["added_tokens"] = [token for token in added if token["content"].isspace()]
    state["post_processor"] = state["truncation"] = state["padding"] = None
    state["normalizer"] = _without_prefix_space(state["normalizer"])
    state["pre_tokenizer"] = _without_prefix_space(state["pre_tokenizer"])
    _hide(state["model"], {name for name in control if not _BYTE.fullmatch(name)})
    return Tokenizer.from_str(json.dumps(state))


def _without_prefix_space(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """The normalizer or pre-tokenizer without any step that puts a space in front of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    part = dict(part)
    if part["type"] == "Metaspace":
        part["prepend_scheme"] = "never"
    if part["type"] == "ByteLevel":
        part["add_prefix_space"] = False
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            part[key] = [kept for kept in map(_without_prefix_space, part[key]) if kept is not None]
    return part


def _hide(model: dict[str, Any], names: set[str]) -> None:
    """Rename control tokens inside the model's vocabulary, so that no text can spell them; ids stay."""

    def renamed(piece: str) -> str:
        # U+10FFFF is no character: it can't occur in a text that means something.
        return f"\U0010ffff{piece}\U0010ffff" if piece in names and piece != model.get("unk_token") else piece

    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed(piece): index for piece, index in vocabulary.items()}
    else:
        model["vocab"] = [[renamed(piece), score] for piece, score in vocabulary]
