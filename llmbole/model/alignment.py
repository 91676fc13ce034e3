"""A-LLMRec's stage 1: item embeddings aligned with item text.

Kim et al., Large Language Models meet Collaborative Filtering: An Efficient All-round LLM-based Recommender System,
KDD 2024. Section and equation numbers are the paper's; departures from it are listed in `allmrec.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbole.model import ranking
from llmbole.model.base import LLMRecommender
from llmbole.model.training import parameter_groups

Interaction = Mapping[str, Tensor]  # RecBole's Interaction, of which only the columns are read


@dataclass(frozen=True)
class AlignSettings:
    """Stage 1, section 4.1."""

    text: str
    encoder: Literal["tuned", "frozen"]
    hidden: int
    alpha: float
    beta: float
    matching: bool
    reconstruction: bool
    recommendation: bool
    score: Literal["sum", "mean"]
    positions: int
    learning_rate: float
    encoder_learning_rate: float | None
    schedule: Literal["constant", "linear"]
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        ranking.check_training(asdict(self))
        rate = self.encoder_learning_rate
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(
                f"encoder_learning_rate = {rate}: must be a number above 0, or null for learning_rate"
            )
        if not (self.matching or self.reconstruction or self.recommendation):
            raise ValueError("every loss is off; leave matching, reconstruction or recommendation on")


class Alignment(LLMRecommender):
    """Stage 1: two autoencoders whose codes are pulled together (section 4.1).

    Args:
        items: The backbone's item embeddings E. Shape `[n_items, D]`.
        text: Gives the text vectors Q of item ids, `[n] -> [n, D_text]`; learns if it has trainable parameters.
        settings: Of stage 1.
    """

    def __init__(self, items: Tensor, text: Any, settings: AlignSettings) -> None:  # noqa: ANN401 - a module
        super().__init__()
        self.settings, self.text = settings, text
        self.register_buffer("items", items, persistent=False)  # E, [n_items, D]
        self.encode_item = nn.Sequential(nn.Linear(items.shape[1], settings.hidden), nn.Sigmoid())  # f_I^enc
        self.decode_item = nn.Linear(settings.hidden, items.shape[1])  # f_I^dec
        self.encode_text = nn.Sequential(nn.Linear(text.dimension, settings.hidden), nn.Sigmoid())  # f_T^enc
        self.decode_text = nn.Linear(settings.hidden, text.dimension)  # f_T^dec

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Eq. 4: matching, both reconstructions, and recommendation, for a positive and a negative item per row.

        Args:
            interaction: `user_vector [B, D]`, `item [B]`, `negatives [B, 1]`.

        Returns:
            The weighted losses, scalars.
        """
        positive, negative = interaction["item"], interaction["negatives"][:, 0]
        rows = torch.cat([positive, negative])  # [2B]
        source = self.items[rows]  # E, [2B, D]
        text = self.text(rows)  # Q, [2B, D_text]
        joint, text_code = self.encode_item(source), self.encode_text(text)  # e and q, [2B, hidden]
        decoded = self.decode_item(joint)  # [2B, D]
        scores = (interaction["user_vector"].repeat(2, 1) * decoded).sum(1)  # s(x_u, f_I^dec(e_i)), [2B]
        scores = scores / source.shape[1] if self.settings.score == "mean" else scores
        labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).to(scores.dtype)
        zero, both = scores.new_zeros(()), 2.0  # losses are sums over the positive and the negative item
        on = self.settings
        return (
            both * functional.mse_loss(joint, text_code) if on.matching else zero,  # L_matching, Eq. 1
            on.alpha * both * functional.mse_loss(decoded, source) if on.reconstruction else zero,  # Eq. 2
            on.beta * both * functional.mse_loss(self.decode_text(text_code), text.detach())
            if on.reconstruction
            else zero,  # Eq. 3
            both * functional.binary_cross_entropy_with_logits(scores, labels)
            if on.recommendation
            else zero,  # L_rec
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained; a text encoder that learns may have a learning rate of its own."""
        return parameter_groups(self, self.text, self.settings.encoder_learning_rate)

    @torch.inference_mode()
    def embeddings(self) -> dict[str, Tensor]:
        """Of all items `joint` e and `text` q, shapes `[n_items, hidden]`, and `decoded` f_I^dec(q), `[n_items, D]`."""
        self.eval()
        ids = torch.arange(len(self.items), device=self.items.device)
        text = torch.cat([self.text(chunk) for chunk in ids.split(256)])  # [n_items, D_text]
        code = self.encode_text(text)  # q, [n_items, hidden]
        return {"joint": self.encode_item(self.items), "text": code, "decoded": self.decode_item(code)}
