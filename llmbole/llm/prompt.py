"""Prompt templates with named text slots and named soft slots; encoded prompts; padded batches of them."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from llmbole.llm.slots import Part, Soft, Special, Text, parse
from llmbole.llm.tokens import TextTokenizer


@dataclass
class Encoded:
    """One prompt as token ids.

    Attributes:
        ids: token ids; soft positions hold the pad token's id.
        soft: for each soft slot the positions of its vectors, in order. A list slot's positions stand under the
            list's name, one for each kept item.
        dropped: how many of the oldest items of the `drop_oldest` list were left out to fit.
        shortened: how many text values were cut to the limit of tokens for a value.
    """

    ids: list[int]
    soft: dict[str, list[int]] = field(default_factory=dict)
    dropped: int = 0
    shortened: int = 0


class Template:
    """A prompt text with slots, parsed once.

    `{name}` is a text slot, `{name:soft}` takes one vector at exactly one position, `{bos}` and `{eos}` are the
    tokenizer's own special tokens (`{bos}` is nothing for a tokenizer without one), `{{` and `}}` are braces.
    A name listed in `items` is a list slot: each of its items is written by that item template and the items are
    joined by the separator. Values are data: braces, quotes, slot names and special tokens in them stay text.

    Neighbouring text and text values are encoded as one piece; a soft slot or a special token ends a piece. No space
    is ever added, so the decoded ids are the text itself.

    Args:
        text: the template, e.g. `"{user:soft}{bos} is a user representation. Watched: {history}."`.
        items: item template of each list slot, e.g. `{"history": '"{title}"{item:soft}'}`; one soft slot at most.
        separator: text between two items of a list.
        drop_oldest: the list slot whose first items are left out when a prompt is too long.

    Raises:
        ValueError: the text is not a template, or `items` or `drop_oldest` name a slot that it does not have.
    """

    def __init__(
        self,
        text: str,
        *,
        items: Mapping[str, str] | None = None,
        separator: str = ",",
        drop_oldest: str | None = None,
    ) -> None:
        self.text = text
        self.separator = separator
        self.drop_oldest = drop_oldest
        self._parts = parse(text)
        self._items = {name: parse(item) for name, item in (items or {}).items()}
        self.slots = tuple(dict.fromkeys(part.name for part in self._parts if isinstance(part, Text)))
        self.soft_slots = tuple(dict.fromkeys(part.name for part in self._parts if isinstance(part, Soft)))
        unknown = sorted(set(self._items) - set(self.slots))
        if unknown:
            raise ValueError(
                f"items name {unknown}, but the template has the slots {list(self.slots)}: {text!r}"
            )
        for name, parts in self._items.items():
            if sum(isinstance(part, Soft) for part in parts) > 1:
                raise ValueError(
                    f"the item template of {name!r} has more than one soft slot: {(items or {})[name]!r}"
                )
        if drop_oldest is not None and drop_oldest not in self._items:
            raise ValueError(
                f"drop_oldest is {drop_oldest!r}, which is no list slot; lists: {sorted(self._items)}"
            )

    def encode(
        self,
        tokens: TextTokenizer,
        values: Mapping[str, Any] | None = None,
        *,
        max_tokens: int | None = None,
        value_tokens: int | None = 64,
    ) -> Encoded:
        """Fill the template once; see `encode_many`."""
        return self.encode_many(tokens, [values or {}], max_tokens=max_tokens, value_tokens=value_tokens)[0]

    def encode_many(
        self,
        tokens: TextTokenizer,
        rows: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        value_tokens: int | None = 64,
    ) -> list[Encoded]:
        """Fill the template once per row of values.

        Args:
            tokens: the tokenizer.
            rows: a value for each text slot: a string; for a list slot a sequence with, per item, a string (item
                templates with one text slot) or a mapping.
            max_tokens: longest prompt allowed. The oldest items of the `drop_oldest` list go first; nothing else is
                ever left out.
            value_tokens: each text value is cut to this many tokens; None keeps them whole.

        Returns:
            One encoded prompt per row.

        Raises:
            ValueError: a value is missing, unknown or of the wrong kind, or a prompt is too long with every
                droppable item left out.
        """
        filled = []
        for number, row in enumerate(rows):
            self._check(row, number)
            filled.append(_Filling(self, tokens, row, value_tokens))
        rendered = [filling.render() for filling in filled]
        texts = [piece for pieces in rendered for piece in pieces if isinstance(piece, str)]
        known = dict(zip(texts, tokens.ids_many(texts), strict=True))
        result = []
        for number, (filling, pieces) in enumerate(zip(filled, rendered, strict=True)):
            encoded = filling.assemble(pieces, known)
            if max_tokens is not None and len(encoded.ids) > max_tokens:
                encoded = filling.fit(max_tokens)
                if len(encoded.ids) > max_tokens:
                    raise ValueError(
                        f"prompt {number} takes {len(encoded.ids)} tokens with all {filling.dropped} items of "
                        f"{self.drop_oldest!r} left out, but only {max_tokens} fit: shorten the template, lower "
                        f"value_tokens (now {value_tokens}) or give fewer items."
                    )
            result.append(encoded)
        return result

    def _check(self, row: Mapping[str, Any], number: int) -> None:
        missing, unknown = sorted(set(self.slots) - set(row)), sorted(set(row) - set(self.slots))
        if missing or unknown:
            raise ValueError(
                f"values of prompt {number}: missing {missing}, unknown {unknown}; slots: {list(self.slots)}"
            )
        for name, value in row.items():
            if isinstance(value, str) == (name in self._items):
                kind = "a sequence of items" if name in self._items else "a string"
                raise ValueError(
                    f"value {name!r} of prompt {number} must be {kind}, not {type(value).__name__}"
                )


class _Filling:
    """The values of one prompt on their way to token ids."""

    def __init__(
        self, template: Template, tokens: TextTokenizer, row: Mapping[str, Any], value_tokens: int | None
    ) -> None:
        self.template, self.tokens, self.row, self.value_tokens = template, tokens, row, value_tokens
        self.dropped = self.shortened = 0

    def render(self) -> list[str | Soft | Special]:
        """Pieces of the prompt: neighbouring texts are one piece."""
        self.shortened = 0
        pieces: list[str | Soft | Special] = []
        for part in self.template._parts:
            if isinstance(part, Text) and part.name in self.template._items:
                self._render_list(pieces, part.name)
            else:
                self._render_part(pieces, part, self.row, None)
        return pieces

    def _render_list(self, pieces: list[str | Soft | Special], name: str) -> None:
        parts = self.template._items[name]
        slots = [part.name for part in parts if isinstance(part, Text)]
        start = self.dropped if name == self.template.drop_oldest else 0
        for index, item in enumerate(self.row[name][start:]):
            if index:
                _append(pieces, self.template.separator)
            values = {slot: item for slot in slots} if isinstance(item, str) else item
            absent = [slot for slot in slots if slot not in values]
            if absent or (isinstance(item, str) and len(set(slots)) != 1):
                raise ValueError(
                    f"item {start + index} of {name!r} must give a text for each of {slots}: {item!r}"
                )
            for part in parts:
                self._render_part(pieces, part, values, name)

    def _render_part(
        self, pieces: list[str | Soft | Special], part: Part, values: Mapping[str, Any], name: str | None
    ) -> None:
        if isinstance(part, Text):
            text = values[part.name]
            if not isinstance(text, str):
                raise ValueError(f"slot {part.name!r} takes a string, not {type(text).__name__} ({text!r})")
            kept = text if self.value_tokens is None else self.tokens.shorten(text, self.value_tokens)
            self.shortened += kept != text
            _append(pieces, kept)
        elif isinstance(part, Soft):
            pieces.append(Soft(name or part.name))
        elif isinstance(part, Special):
            pieces.append(part)
        else:
            _append(pieces, part)

    def assemble(self, pieces: list[str | Soft | Special], known: Mapping[str, list[int]] | None) -> Encoded:
        """Token ids of the pieces and the positions of their soft slots."""
        ids: list[int] = []
        soft: dict[str, list[int]] = {name: [] for name in self.template.soft_slots}
        soft.update(
            {
                name: []
                for name, parts in self.template._items.items()
                if any(isinstance(p, Soft) for p in parts)
            }
        )
        for piece in pieces:
            if isinstance(piece, str):
                ids.extend(self.tokens.ids(piece) if known is None else known[piece])
            elif isinstance(piece, Soft):
                soft[piece.name].append(len(ids))
                ids.append(self.tokens.pad_id)
            else:
                ids.extend(_special_ids(self.tokens, piece.name))
        return Encoded(ids, soft, self.dropped, self.shortened)

    def fit(self, max_tokens: int) -> Encoded:
        """Leave out the fewest oldest items with which the prompt fits, or all of them if it never fits."""
        name = self.template.drop_oldest
        items = len(self.row[name]) if name is not None else 0

        def fits(dropped: int) -> bool:
            self.dropped = dropped
            return len(self.assemble(self.render(), None).ids) <= max_tokens

        self.dropped = min(bisect.bisect_left(range(items + 1), True, key=fits), items)
        return self.assemble(self.render(), None)


@dataclass
class PromptBatch:
    """Padded prompts.

    Attributes:
        ids: token ids, `[B, T]`.
        mask: 1 where a token or a soft position stands, 0 at padding, `[B, T]`.
        soft: for each soft slot `(rows, columns)`, each `[n]`: row by row, in the order of the positions.
    """

    ids: Tensor
    mask: Tensor
    soft: dict[str, tuple[Tensor, Tensor]]

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on a device."""
        soft = {name: (rows.to(device), columns.to(device)) for name, (rows, columns) in self.soft.items()}
        return PromptBatch(self.ids.to(device), self.mask.to(device), soft)


def collate(prompts: Sequence[Encoded], pad_id: int, side: Literal["left", "right"] = "left") -> PromptBatch:
    """Pad prompts to one length.

    Args:
        prompts: encoded prompts of one template, at least one.
        pad_id: id that fills padded positions.
        side: where the padding goes.

    Returns:
        Token ids, mask and soft positions, on the CPU.
    """
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts])  # [B]
    width = int(lengths.max())
    columns = torch.arange(width)  # [T]
    starts = width - lengths if side == "left" else torch.zeros_like(lengths)  # [B]
    mask = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])  # [B, T]
    ids = torch.full((len(prompts), width), pad_id)  # [B, T]
    ids[mask] = torch.tensor([index for prompt in prompts for index in prompt.ids], dtype=torch.long)
    soft = {}
    for name in prompts[0].soft:
        counts = torch.tensor([len(prompt.soft[name]) for prompt in prompts])
        rows = torch.repeat_interleave(torch.arange(len(prompts)), counts)  # [n]
        positions = torch.tensor(
            [position for prompt in prompts for position in prompt.soft[name]], dtype=torch.long
        )
        soft[name] = (rows, positions + starts[rows])
    return PromptBatch(ids, mask.long(), soft)


def _append(pieces: list[str | Soft | Special], text: str) -> None:
    if text and pieces and isinstance(pieces[-1], str):
        pieces[-1] += text
    elif text:
        pieces.append(text)


def _special_ids(tokens: TextTokenizer, name: str) -> list[int]:
    if name == "bos":
        return [] if tokens.bos_id is None else [tokens.bos_id]
    if tokens.eos_id is None:
        raise ValueError(
            "the template has {eos}, but the tokenizer names no eos token: set it in tokenizer_config.json"
        )
    return [tokens.eos_id]
