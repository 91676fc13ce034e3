"""The grammar of prompt templates: literal text, text slots, soft slots, special tokens."""

from __future__ import annotations

import string
from dataclasses import dataclass

_SPECIAL = ("bos", "eos")


@dataclass(frozen=True)
class Text:
    """A slot filled by text."""

    name: str


@dataclass(frozen=True)
class Soft:
    """A slot of one position, filled by a vector."""

    name: str


@dataclass(frozen=True)
class Special:
    """A special token of the tokenizer: bos or eos."""

    name: str


Part = str | Text | Soft | Special


def parse(text: str) -> list[Part]:
    """Split a template text at its slots.

    Args:
        text: the template.

    Returns:
        Its parts in order; strings are literal text.

    Raises:
        ValueError: the text is not a template.
    """
    parts: list[Part] = []
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"not a template: {error}; write {{{{ and }}}} for braces: {text!r}") from error
    for literal, name, kind, conversion in fields:
        if literal:
            parts.append(literal)
        if name is None:
            continue
        if (
            not name.isidentifier()
            or conversion
            or kind not in ("", "soft")
            or (kind == "soft" and name in _SPECIAL)
        ):
            written = f"{{{name}:{kind}}}" if kind else f"{{{name}}}"
            raise ValueError(
                f"{written} is not a slot: use {{name}}, {{name:soft}}, {{bos}} or {{eos}} in {text!r}"
            )
        if kind == "soft":
            parts.append(Soft(name))
        else:
            parts.append(Special(name) if name in _SPECIAL else Text(name))
    return parts
