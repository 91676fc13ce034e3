"""Sequences of items as sequences of words: keys and values of item after item, read by one bidirectional encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from llmbole.llm.encode import load_encoder
from llmbole.llm.identity import EncoderSpec

FIRST, KEY, VALUE = 0, 1, 2
"""Types of tokens: the first one of a sequence, of an attribute's key, of its value."""
Item = Sequence[tuple[str, str]]


class ItemSequences(nn.Module):
    """A bidirectional encoder over items as key-value text (Li et al., RecFormer, KDD 2023, sections 2.1 and 2.2).

    A token's input is the sum of its word, its place, its type and the place of its item in the sequence. Types and
    places of items begin with the encoder's own initial deviation; the rest is pre-trained.

    Attributes:
        width: size H of a representation.

    Args:
        spec: which encoder.
        items: attributes of each item as keys and values; 0 is the padding item.
        attribute_tokens: longest key, and longest value, in tokens; longer ones are cut.
        longest: items of a sequence, and its tokens; what is beyond is left out.
        pooling: `first`, the first token's output, or `mean` over all tokens.
        device: where the module goes.

    Raises:
        ValueError: the encoder is no transformer with a first token of its own, or reads fewer tokens.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        items: Sequence[Item],
        attribute_tokens: int,
        longest: tuple[int, int],
        pooling: Literal["first", "mean"],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        loaded = load_encoder(spec, device)
        self.model = cast(Any, getattr(loaded[0], "auto_model", None))
        self.tokenizer = loaded.tokenizer
        if self.model is None or self.tokenizer.cls_token_id is None:
            raise ValueError(
                f"{spec.name} is no transformer whose sequences begin with a token of their own ([CLS]): use an "
                "encoder such as BERT, MPNet or Longformer"
            )
        self.longest, self.pooling = longest, pooling
        limit = _positions(self.model)
        if limit is not None and longest[1] > limit:
            raise ValueError(
                f"{longest[1]} tokens of a sequence: {spec.name} reads at most {limit}; lower it"
            )
        self.width = int(self.model.config.hidden_size)
        self.types, self.places = nn.Embedding(3, self.width), nn.Embedding(longest[0] + 1, self.width)
        for table in (self.types, self.places):
            nn.init.normal_(table.weight, std=getattr(self.model.config, "initializer_range", 0.02))
        self.items: list[tuple[list[int], list[int]]] = []
        self._attribute_tokens = attribute_tokens
        self.add_items(items)
        self.to(device)

    def add_items(self, items: Sequence[Item]) -> None:
        """Let sequences hold more items, whose ids follow on those that are there.

        Args:
            items: attributes of each as keys and values.
        """
        self.items += self._tokenized(items)

    def _tokenized(self, items: Sequence[Item]) -> list[tuple[list[int], list[int]]]:
        """Token ids and types of each item: key, value, key, value, ..."""
        texts = sorted({text for item in items for pair in item for text in pair})
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        ids = {text: list(row)[: self._attribute_tokens] for text, row in zip(texts, rows, strict=True)}
        found = []
        for item in items:
            parts = [
                (ids[text], kind) for pair in item for text, kind in zip(pair, (KEY, VALUE), strict=True)
            ]
            words = [word for row, _ in parts for word in row]
            found.append((words, [kind for row, kind in parts for _ in row]))
        return found

    def flatten(self, sequence: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Tokens of a sequence of items.

        Args:
            sequence: item ids, the newest first; 0 is padding.

        Returns:
            Ids, types and places of items, cut to the longest sequence; items count from 1, the first token is at 0.
        """
        ids, types, places = [int(self.tokenizer.cls_token_id)], [FIRST], [0]
        shown = [item for item in sequence if item][: self.longest[0]]
        for place, item in enumerate(shown, start=1):
            words, kinds = self.items[item]
            ids, types, places = ids + words, types + kinds, places + [place] * len(words)
        limit = self.longest[1]
        return ids[:limit], types[:limit], places[:limit]

    def forward(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Representations of sequences of item ids, the newest first. Shape `[B, H]`."""
        device = self.places.weight.device
        rows = [self.flatten(sequence) for sequence in sequences]
        padded = [
            nn.utils.rnn.pad_sequence([torch.tensor(row[part]) for row in rows], batch_first=True)
            for part in range(3)
        ]
        ids, types, places = (each.to(device) for each in padded)  # [B, T]
        lengths = torch.tensor([len(row[0]) for row in rows], device=device)  # [B]
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]  # [B, T]
        inputs = self.model.get_input_embeddings()(ids) + self.types(types) + self.places(places)  # [B, T, H]
        more: dict[str, Tensor] = {}
        if self.model.config.model_type == "longformer":  # elsewhere all tokens see all
            more["global_attention_mask"] = torch.zeros_like(ids).index_fill(1, ids.new_zeros(1), 1)
        output = self.model(inputs_embeds=inputs, attention_mask=mask.long(), **more).last_hidden_state
        if self.pooling == "first":
            return cast(Tensor, output[:, 0])
        kept = mask[:, :, None].to(output.dtype)  # [B, T, 1]
        return cast(Tensor, (output * kept).sum(1) / kept.sum(1))


def _positions(model: nn.Module) -> int | None:
    """Tokens that a table of positions has room for; None if there is no such table."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None
