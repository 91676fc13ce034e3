"""What writes texts: an engine's answers and errors, and how a server is asked. Light: imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class EngineError(RuntimeError):
    """Texts that could not all be written; what is written is kept, and the message says how to go on."""


@dataclass(frozen=True)
class Answer:
    """What came back for a prompt.

    Attributes:
        text: The answer; an empty one is an answer like others.
        refused: Whether whoever answers would not answer.
    """

    text: str
    refused: bool = False


class Engine(Protocol):
    """Something that answers prompts.

    Attributes:
        identity: All that an answer depends on beside its prompt: model, revision, decoding.
        tokens: Tokens read and written so far.
    """

    identity: Mapping[str, Any]
    tokens: int

    def answers(self, prompts: Sequence[str], batch_size: int) -> Iterator[Mapping[int, Answer]]:
        """Answers by their prompts' places, in groups as they are finished, in any order."""


@dataclass(frozen=True)
class Access:
    """How a server is asked; nothing here changes an answer.

    Attributes:
        base_url: Of the server, such as `http://localhost:8000/v1`; `None` takes `OPENAI_BASE_URL`, else OpenAI's own.
        concurrency: Requests at the same time.
        attempts: Requests for one prompt before the run stops.
        timeout: Seconds to wait for an answer.
        budget_requests: Requests of one command and stage, repeated ones included; 0 sets no limit.
        budget_tokens: Tokens of one command and stage, read and written; requests under way may pass it. 0 sets no
            limit.
        first_pause: Seconds before the second attempt; each pause may be twice as long as the one before.
        longest_pause: Seconds that a pause has at most, unless the server asks for more.
    """

    base_url: str | None = None
    concurrency: int = 8
    attempts: int = 6
    timeout: float = 120.0
    budget_requests: int = 0
    budget_tokens: int = 0
    first_pause: float = 0.5
    longest_pause: float = 30.0
