"""Leaves of the methods that answer a prompt with one of the candidates: settings, projections, scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.settings import Rule, part_checks

CANDIDATES = "candidate_list"


@dataclass(frozen=True)
class PromptTraining:
    """Settings of training on prompts with a history and candidates."""

    user: bool
    history: int
    candidates: int
    positions: int
    learning_rate: float
    schedule: Literal["constant", "linear"]
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        check_training(asdict(self))


def check_training(settings: Mapping[str, Any]) -> None:
    """Refuse numbers no training can use, all at once.

    Raises `ValueError`: One line per mistake.
    """
    problems = []
    for name, least in (
        ("epochs", 1),
        ("batch_size", 1),
        ("hidden", 1),
        ("history", 0),
        ("candidates", 2),
        ("positions", 0),
    ):
        if name in settings and settings[name] < least:
            problems.append(f"{name} = {settings[name]}: must be at least {least}")
    if settings.get("schedule", "constant") not in ("constant", "linear"):
        problems.append(f"schedule = {settings['schedule']!r}: must be constant or linear")
    for name in ("learning_rate", "alpha", "beta"):
        if name in settings and not 0 <= settings[name] < float("inf"):
            problems.append(f"{name} = {settings[name]}: must be a number of at least 0")
    if problems:
        raise ValueError("\n".join(problems))


def checks(*rules: Rule, **parts: type) -> type:
    """A settings class that builds each named part of the settings, and so checks it.

    Args:
        *rules: As `llmbole.settings.part_checks` takes them.
        **parts: Setting name to frozen dataclass.

    Returns:
        A class with `check(settings)`.
    """

    def problems(settings: Mapping[str, Any]) -> list[str]:
        found = []
        for name in parts:
            wanted, kept = settings[name].get("positions"), settings.get("positions")
            if wanted and kept and wanted > kept:
                found.append(f"{name}.positions = {wanted}: only positions = {kept} are kept; raise that")
        if settings["scoring"] not in SCORINGS:
            found.append(f"scoring = {settings['scoring']!r} is none of {', '.join(SCORINGS)}")
        return found

    return part_checks(problems, *rules, **parts)


SCORINGS = ("candidate_log_likelihood", "generation")


def projection(width: int, hidden_size: int, activation: nn.Module) -> nn.Sequential:
    """Two layers from a vector of a conventional model into the LLM's input space, initialised as in A-LLMRec.

    Args:
        width: Width of the vectors.
        hidden_size: Width of the LLM's input embeddings.
        activation: Between the layers.

    Returns:
        Linear, LayerNorm, activation, Linear: `[n, width] -> [n, hidden_size]`.
    """
    layers = nn.Sequential(
        nn.Linear(width, hidden_size),
        nn.LayerNorm(hidden_size),
        activation,
        nn.Linear(hidden_size, hidden_size),
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return layers


def newest(histories: Tensor, lengths: Tensor, count: int) -> Tensor:
    """The last items of right-padded histories, still oldest first and right-padded.

    Args:
        histories: Item ids, 0 behind the last one. Shape `[B, L]`.
        lengths: Items in each history. Shape `[B]`.
        count: Items to keep.

    Returns:
        Item ids. Shape `[B, count]`.
    """
    columns = torch.arange(count, device=histories.device)  # [count]
    kept = lengths.clamp(max=count)[:, None]  # [B, 1]
    places = (lengths[:, None] - kept + columns).clamp(max=histories.shape[1] - 1)  # [B, count]
    return torch.where(columns < kept, histories.gather(1, places), 0)


class Users(Protocol):
    """What gives user representations for rows of interactions."""

    def user_vectors(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """User representations of the rows. Shape `[B, D]`."""


class Chooser(Protocol):
    """A method that answers a prompt with one of its candidates."""

    choice: TitleChoice
    users: Users | None
    history: int
    tokens_read: int

    def soft_vectors(self, prompt: ChoicePrompt, users: Tensor | None) -> dict[str, Tensor]:
        """Vectors of the prompt's soft positions, by slot. Shapes `[n, H]`."""


def prompts(model: Chooser, interaction: Any) -> tuple[ChoicePrompt, dict[str, Tensor]]:  # noqa: ANN401 - Interaction
    """Prompts and soft vectors of rows that hold whole candidate lists, one prompt per list.

    Raises `ValueError`: The rows are not whole candidate lists in order.
    """
    lists = interaction[CANDIDATES]  # [rows, C]
    count = lists.shape[1]
    if len(lists) % count or not torch.equal(lists[::count].flatten(), interaction["item_id"]):
        raise ValueError(
            f"rows must be whole lists of {count} candidates in their order; got {len(lists)} rows"
        )
    first = interaction[torch.arange(0, len(lists), count)]
    users = model.users.user_vectors(first) if model.users is not None else None
    history = newest(first["item_id_list"], first["item_length"], model.history)
    prompt = model.choice.prompt(history, lists[::count])
    model.tokens_read += model.choice.tokens(prompt)
    return prompt, model.soft_vectors(prompt, users)


@torch.inference_mode()
def log_likelihoods(model: Chooser, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
    """Log-likelihood of each row's title under its user's prompt. Shape `[rows]`."""
    prompt, vectors = prompts(model, interaction)
    return model.choice.log_likelihood(prompt, vectors).flatten()  # [B * C]


@torch.inference_mode()
def answers(model: Chooser, interaction: Any) -> tuple[list[str], np.ndarray]:  # noqa: ANN401 - RecBole's Interaction
    """Greedy answers as texts, and the place of the candidate each one names, -1 for none. Shape `[B]`."""
    prompt, vectors = prompts(model, interaction)
    texts = model.choice.generate(prompt, vectors)
    named = [
        model.choice.chosen(text, row) for text, row in zip(texts, prompt.candidates.tolist(), strict=True)
    ]
    return texts, np.array([-1 if place is None else place for place in named])
