"""What a pre-training sample is: turns of prompt and answer, made of text and of symbols."""

import re
from dataclasses import dataclass
from typing import TypeAlias

Symbols: TypeAlias = tuple[int, ...]
Weighted: TypeAlias = tuple[tuple[int, float], ...]
Segment: TypeAlias = str | Symbols | Weighted
"""Text, symbols that share one position, or a latent vector by its coordinates.

A symbol is a number that means nothing outside its sample. The encoder puts a random token of the vocabulary
for every symbol of a sample, anew for each sample; symbols that share a position become the sum of their tokens'
embeddings, or of vectors that are drawn for the sample. A latent vector's coordinates mean the same everywhere:
maps that are trained with the model, and thrown away after it, take them into its input space.
"""


@dataclass(frozen=True)
class Turn:
    """A prompt and the answer that is learned; with an empty answer, the prompt's own text is learned."""

    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]


@dataclass(frozen=True)
class Sample:
    """One document of the corpus."""

    task: str
    turns: tuple[Turn, ...]
    candidates: tuple[str, ...] = ()
    """The titles that the last answer chooses from, in the prompt's order."""

    @property
    def prompt(self) -> tuple[Segment, ...]:
        """Everything before the last answer, earlier turns included."""
        before = [piece for turn in self.turns[:-1] for piece in (*turn.prompt, *turn.answer)]
        return (*before, *self.turns[-1].prompt)

    @property
    def answer(self) -> str:
        """The last answer as text; symbols show as `<number>`."""
        return show(self.turns[-1].answer)


def show(segments: tuple[Segment, ...]) -> str:
    """Segments as readable text: a position with symbols 3 and 5 reads `<3+5>`."""
    return "".join(
        piece if isinstance(piece, str) else f"<{'+'.join(str(symbol) for symbol, _ in weighted(piece))}>"
        for piece in segments
    )


def is_latent(piece: Symbols | Weighted) -> bool:
    """Whether a position takes a latent vector."""
    return bool(piece) and isinstance(piece[0], tuple)


def weighted(piece: Symbols | Weighted) -> Weighted:
    """The symbols of a position with weights, whose squares add up to 1 where none are given."""
    return tuple(each if isinstance(each, tuple) else (each, len(piece) ** -0.5) for each in piece)


def fill(template: str, **slots: str | tuple[Segment, ...]) -> tuple[Segment, ...]:
    """The template with every `{slot}` replaced, adjacent text joined."""
    segments: list[Segment] = []
    for place, piece in enumerate(re.split(r"\{(\w+)\}", template)):
        value: str | tuple[Segment, ...] = slots[piece] if place % 2 else piece
        segments.extend((value,) if isinstance(value, str) else value)
    return join(segments)


def join(segments: list[Segment]) -> tuple[Segment, ...]:
    """Adjacent texts as one, so that they are tokenized together."""
    joined: list[Segment] = []
    for piece in segments:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return tuple(joined)


def single(task: str, prompt: tuple[Segment, ...], answer: str, candidates: tuple[str, ...] = ()) -> Sample:
    """A sample of one turn."""
    return Sample(task, (Turn(prompt, (answer,)),), candidates)
