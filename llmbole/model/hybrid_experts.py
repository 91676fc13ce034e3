"""The hybrid-expert adaptor of KAR: an encoder's vectors of what an LLM wrote, made small and useful for prediction.

Xi et al., Towards Open-World Recommendation with Knowledge Augmentation from Large Language Models, RecSys 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIDES = ("user", "item")


@dataclass(frozen=True)
class AdaptorSettings:
    """The hybrid-expert adaptor.

    Attributes:
        shared: Experts of users and items.
        specific: Experts of users alone, and as many of items alone.
        hidden: Width inside an expert.
        width: Of an adapted vector.
        dropout: Inside an expert.
    """

    shared: int
    specific: int
    hidden: int
    width: int
    dropout: float

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {least}"
            for name, least in (("shared", 0), ("specific", 1), ("hidden", 1), ("width", 1))
            if getattr(self, name) < least
        ]
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout = {self.dropout}: must be in [0, 1)")
        if problems:
            raise ValueError("\n".join(problems))


class Experts(nn.Module):
    """MLPs of one hidden layer, side by side.

    Args:
        count: How many; 0 gives nothing.
        inputs: Width of what they read.
        settings: Their other sizes.
    """

    def __init__(self, count: int, inputs: int, settings: AdaptorSettings) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(inputs, settings.hidden) for _ in range(count))
        self.second = nn.ModuleList(nn.Linear(settings.hidden, settings.width) for _ in range(count))
        self.between = nn.Sequential(nn.ReLU(), nn.Dropout(settings.dropout))

    def forward(self, vectors: Tensor) -> list[Tensor]:
        """What each expert makes of vectors `[B, T]`, each of shape `[B, width]`."""
        pairs = zip(self.first, self.second, strict=True)
        return [second(self.between(first(vectors))) for first, second in pairs]


class Adaptor(nn.Module):
    """The hybrid-expert adaptor: shared and specific experts, weighted by a gate of each side.

    Args:
        inputs: Width of the encoder's vectors, T.
        settings: Numbers and sizes.
    """

    def __init__(self, inputs: int, settings: AdaptorSettings) -> None:
        super().__init__()
        self.shared = Experts(settings.shared, inputs, settings)
        self.specific = nn.ModuleDict({side: Experts(settings.specific, inputs, settings) for side in SIDES})
        count = settings.shared + settings.specific
        self.gates = nn.ModuleDict({side: nn.Linear(inputs, count) for side in SIDES})

    def forward(self, vectors: Tensor, side: str) -> Tensor:
        """Adapted vectors: the experts' mean, weighted by softmax(gate(r)).

        Args:
            vectors: Of knowledge, r. Shape `[B, T]`.
            side: `user` or `item`.

        Returns:
            Shape `[B, width]`.
        """
        made = torch.stack([*self.shared(vectors), *self.specific[side](vectors)], dim=1)  # [B, E, width]
        weights: Tensor = self.gates[side](vectors).softmax(dim=1)  # [B, E]
        return (weights[:, :, None] * made).sum(dim=1)
