"""Attributes of items in words: how an LLM is asked for one, shown examples, and how its answer is read."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmbole.llm.score import QUOTES, plain_title

Pair = tuple[str, str]
"""A title and a value."""

NOTHING = frozenset(
    {
        "unknown",
        "not known",
        "not available",
        "not applicable",
        "n/a",
        "na",
        "none",
        "null",
        "nothing",
        "no",
        "yes",
        "various",
        "i don't know",
        "i do not know",
    }
)
"""Answers that name no value."""

_MARKS = " \t\"'`*_.,;:!?-"
_NUMBER = re.compile(r"\d+")
_FURTHER = re.compile(r"\s*[,;/|&]\s*|\s+and\s+")


@dataclass(frozen=True)
class Attribute:
    """Something to know of an item.

    Attributes:
        item: what a data set calls the items that have it: its word `item`.
        name: what prompts call it.
        kind: `name`, some words; `number`, of which its range of `width` counts.
        source: field of the items' text where it stands, such as `categories`; null where no item has it.
        examples: title to value, shown in prompts where the items' text has none to show.
        width: of a range of numbers, such as 100 pages; 1 keeps numbers apart.
    """

    item: str
    name: str
    kind: Literal["name", "number"]
    source: Literal["brand", "categories", "year"] | None = None
    examples: Mapping[str, str] = field(default_factory=dict)
    width: int = 1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width = {self.width}: must be at least 1")
        if self.source is None and not self.examples:
            raise ValueError(
                f"attribute {self.name!r} of a {self.item} has neither a source nor examples: prompts can't show how "
                "it is answered; give one of them"
            )
        wrong = [title for title, value in self.examples.items() if not isinstance(value, str)]
        if wrong:
            raise ValueError(f"the value of the example {wrong[0]!r} is no text; write it in quotation marks")

    @property
    def column(self) -> str:
        """Name of the feature that its values make."""
        return "generated_" + re.sub(r"\W+", "_", self.name)


def check_texts(text: str, shown: str) -> list[str]:
    """What is wrong with the two templates of `question`, one sentence each."""
    slots = {
        "text": (text, {"item", "attribute", "examples", "title"}),
        "shown": (shown, {"item", "attribute", "title", "value"}),
    }
    problems = []
    for key, (template, wanted) in slots.items():
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        needed = wanted - {"item"}
        if not needed <= found <= wanted:
            problems.append(
                f"{key} = {template!r}: must hold {{{'}, {'.join(sorted(needed))}}}, and may hold {{item}}"
            )
    return problems


def question(text: str, shown: str, attribute: Attribute, examples: Sequence[Pair], title: str) -> str:
    """A prompt that asks for an attribute of an item, with examples of others.

    Args:
        text: template with `{attribute}`, `{examples}`, `{title}`, and maybe `{item}`.
        shown: template of an example with `{attribute}`, `{title}`, `{value}`, and maybe `{item}`.
        attribute: what is asked for.
        examples: titles and values.
        title: of the item.

    Returns:
        The prompt.
    """
    words = {"item": attribute.item, "attribute": attribute.name}
    listed = "".join(shown.format(**words, title=name, value=value) for name, value in examples)
    return text.format(**words, examples=listed, title=title)


def read_value(text: str, attribute: Attribute, title: str, words: int) -> str | None:
    """The value that an answer says; None if it says no valid one.

    The rules, in this order:

    1. The answer is the first line that is not empty, without the attribute's name and a colon in front, and without
       marks around it.
    2. A number is the first whole number in it; its range counts: 234 of width 100 is `200-299`.
    3. Of several names the first counts: what stands before a comma, a semicolon, a slash, an ampersand or the word
       "and". It is written without capitals.
    4. A name without a letter, of more words than are allowed, the item's own title, or a word for nothing (`NOTHING`)
       is no value.

    Args:
        text: an answer of any number of lines, possibly empty.
        attribute: what was asked for.
        title: of the item.
        words: longest name in words.

    Returns:
        The value, as it is compared with others.
    """
    line = next((line for line in text.translate(QUOTES).splitlines() if line.strip(_MARKS)), "")
    plain = plain_title(line).strip(_MARKS)
    label = plain_title(attribute.name)
    if plain.startswith(f"{label}:"):
        plain = plain[len(label) + 1 :].strip(_MARKS)
    if attribute.kind == "number":
        number = _NUMBER.search(plain)
        return None if number is None else _range(int(number.group()), attribute.width)
    if plain in NOTHING or plain == plain_title(title).strip(_MARKS):
        return None
    name = _FURTHER.split(plain)[0].strip(_MARKS)
    if name in NOTHING or not 1 <= len(name.split()) <= words or not re.search(r"[^\W\d_]", name):
        return None
    return name


def _range(number: int, width: int) -> str:
    low = number // width * width
    return str(number) if width == 1 else f"{low}-{low + width - 1}"
