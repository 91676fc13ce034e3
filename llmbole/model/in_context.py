"""LLM-CF's in-context module: rows as tokens, a decoder over retrieved examples, and a reconstruction loss.

Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024. No language model is in it: texts come as
vectors that were made before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel

ROW_HIDDEN = 128


@dataclass(frozen=True)
class InContextSettings:
    """Sizes and parts of the module.

    Attributes:
        width: Of tokens, and of the collaborative feature.
        hidden: Width inside the mappings of text to tokens and back.
        layers: Of the decoder.
        heads: Of each layer.
        history: Items of a row's history that its token knows, the newest ones.
        text: Whether a row's token knows the text of its items.
        reasoning: Whether an example has a token of its reasoning.
        pooling: `decoder`, or `mean` of all tokens in its place.
        reconstruction: Weight of the reconstruction loss; 0 leaves it out.
        added_weight: Weight of the feature where it is added to a user's vector, as for rankings.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    history: int
    text: bool
    reasoning: bool
    pooling: Literal["decoder", "mean"]
    reconstruction: float
    added_weight: float

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("width", "hidden", "layers", "heads", "history")
            if getattr(self, name) < 1
        ]
        if self.heads > 0 and self.width % (2 * self.heads):
            problems.append(f"width = {self.width}: must be a multiple of 2 * heads = {2 * self.heads}")
        if not 0 <= self.reconstruction < float("inf"):
            problems.append(f"reconstruction = {self.reconstruction}: must be a number of at least 0")
        if not 0 < self.added_weight < float("inf"):
            problems.append(f"added_weight = {self.added_weight}: must be a number above 0")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def reconstructs(self) -> bool:
        """Whether there is a reconstruction loss: something to restore, and a decoder that restores it."""
        return self.reconstruction > 0 and self.reasoning and self.pooling == "decoder"


@dataclass(frozen=True)
class ItemTables:
    """What is known of each item by internal id; row 0 is the padding item.

    Attributes:
        text: Vectors of item text. Shape `[n_items, T]`.
        labels: Tables of ids from 1, padded with 0: categories, brands. Each of shape `[n_items, C]`.
    """

    text: Tensor
    labels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Examples:
    """The in-context data set M: rows with their label and the reasoning behind it.

    Attributes:
        users: Shape `[N]`.
        items: Shape `[N]`.
        histories: Oldest first, padded with 0. Shape `[N, L]`.
        labels: 0 or 1. Shape `[N]`.
        reasoning: Vectors of the reasoning. Shape `[N, T]`.
    """

    users: Tensor
    items: Tensor
    histories: Tensor
    labels: Tensor
    reasoning: Tensor


def label_table(values: Sequence[Iterable[str]]) -> Tensor:
    """Ids of each item's words from 1, in alphabetical order, padded with 0. Shape `[n_items, C]`, C at least 1."""
    words = [[word for word in each if word] for each in values]
    known = {word: number for number, word in enumerate(sorted({word for each in words for word in each}), 1)}
    width = max(1, *map(len, words))
    return torch.tensor([[known[word] for word in each] + [0] * (width - len(each)) for each in words])


class RowTokens(nn.Module):
    """One token of a row's features: user, item and history, each by id, by labels and by text.

    Args:
        users: Number of users, the padding user included.
        tables: What is known of items.
        settings: Of the module.
        text_mapping: Vectors of text to tokens, shared with the reasoning.
    """

    text: Tensor

    def __init__(
        self, users: int, tables: ItemTables, settings: InContextSettings, text_mapping: nn.Module
    ) -> None:
        super().__init__()
        width = settings.width
        self.users = nn.Embedding(users, width, padding_idx=0)
        ids = torch.arange(len(tables.text))[:, None]  # an item is its own first label
        sizes = [len(ids), *(int(each.max()) + 1 for each in tables.labels)]
        self.bags = nn.ModuleList(nn.EmbeddingBag(size, width, mode="mean", padding_idx=0) for size in sizes)
        for number, table in enumerate((ids, *tables.labels)):
            self.register_buffer(f"labels_{number}", table, persistent=False)
        self.register_buffer("text", tables.text if settings.text else None, persistent=False)
        self.text_mapping = text_mapping
        fields = 1 + 2 * (len(sizes) + settings.text)
        self.mlp = nn.Sequential(
            nn.Linear(fields * width, ROW_HIDDEN), nn.ReLU(), nn.Linear(ROW_HIDDEN, width)
        )

    def forward(self, users: Tensor, items: Tensor, histories: Tensor) -> Tensor:
        """Tokens of rows.

        Args:
            users: Shape `[n]`.
            items: Shape `[n]`.
            histories: Padded with 0. Shape `[n, L]`.

        Returns:
            Shape `[n, width]`.
        """
        fields = [self.users(users)]
        for ids in (items[:, None], histories):
            for number, bag in enumerate(self.bags):
                labels = self.get_buffer(f"labels_{number}")[ids]  # [n, L, C]
                fields.append(bag(labels.flatten(1)))
            if self.text is not None:
                mean = functional.embedding_bag(ids, self.text, mode="mean", padding_idx=0)  # [n, T]
                fields.append(self.text_mapping(mean))
        tokens: Tensor = self.mlp(torch.cat(fields, dim=1))
        return tokens


class InContext(nn.Module):
    """Examples and a row as tokens [x_1, c_1, y_1, ..., x_K, c_K, y_K, x]; the last hidden state is the feature w.

    The decoder is Llama's (RMSNorm, rotary positions, causal attention, SwiGLU), a few layers of it, untrained. An
    example that is missing leaves no token, whatever the other rows of a batch have.

    Args:
        users: Number of users, the padding user included.
        tables: What is known of items.
        examples: The in-context data set.
        settings: Sizes and parts.
    """

    def __init__(
        self, users: int, tables: ItemTables, examples: Examples, settings: InContextSettings
    ) -> None:
        super().__init__()
        self.settings, width, text = settings, settings.width, tables.text.shape[1]
        self.text_mapping = nn.Sequential(
            nn.Linear(text, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, width)
        )
        self.rows = RowTokens(users, tables, settings, self.text_mapping)
        for name, column in vars(examples).items():
            self.register_buffer(name, column, persistent=False)
        config = LlamaConfig(
            vocab_size=2,  # the labels
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=4096,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
        self.decoder = LlamaModel(config)
        self.head = (
            nn.Sequential(nn.Linear(width, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, text))
            if settings.reconstructs
            else None
        )

    def forward(
        self, users: Tensor, items: Tensor, histories: Tensor, shown: Tensor, *, restore: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The collaborative feature of rows, and the reconstruction loss of their examples.

        Args:
            users: Shape `[B]`.
            items: Shape `[B]`.
            histories: Shape `[B, L]`.
            shown: Numbers of the examples of each row, -1 for none. Shape `[B, K]`.
            restore: Whether L_r is wanted, which only training needs.

        Returns:
            w, `[B, width]`, and L_r, a scalar; without `restore` 0.
        """
        shown = shown.gather(1, (shown >= 0).long().argsort(dim=1, stable=True))  # missing ones stand first
        query = self.rows(users, items, histories)  # [B, D]
        parts = self._example_tokens(shown.clamp(min=0))  # each [B, K, D]
        tokens = torch.cat([torch.stack(parts, 2).flatten(1, 2), query[:, None]], 1)  # [B, T, D]
        always = torch.ones(len(query), 1, dtype=torch.bool, device=query.device)
        there = torch.cat([(shown >= 0).repeat_interleave(len(parts), 1), always], 1)  # [B, T]
        if self.settings.pooling == "mean":
            weights = there / there.sum(1, keepdim=True)  # [B, T]
            return (tokens * weights[:, :, None]).sum(1), tokens.new_zeros(())
        hidden = self._decode(tokens, there)  # [B, T, D]
        if not restore:
            return hidden[:, -1], hidden.new_zeros(())
        return hidden[:, -1], self._reconstruction(hidden[:, : -1 : len(parts)], shown)

    def _example_tokens(self, shown: Tensor) -> list[Tensor]:
        """Tokens x, c (unless left out) and y of examples, each read once a batch. Shapes `[B, K, D]`."""
        distinct, places = torch.unique(shown, return_inverse=True)
        columns = (self.get_buffer(name)[distinct] for name in ("users", "items", "histories"))
        found = [self.rows(*columns)]
        if self.settings.reasoning:
            found.append(self.text_mapping(self.get_buffer("reasoning")[distinct]))
        found.append(self.decoder.embed_tokens(self.get_buffer("labels")[distinct]))
        return [each[places] for each in found]

    def _decode(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Hidden states. Positions count the tokens that are there, which stand at the end. Shape `[B, T, D]`."""
        positions = (there.long().cumsum(1) - 1).clamp(min=0)
        return self.decoder(
            inputs_embeds=tokens, attention_mask=there.long(), position_ids=positions
        ).last_hidden_state

    def _reconstruction(self, hidden: Tensor, shown: Tensor) -> Tensor:
        """L_r: 1 - the mean cosine of each row's restored reasoning; rows without examples have none.

        Args:
            hidden: States at the tokens x_k, which have not yet seen c_k. Shape `[B, K, D]`.
            shown: Numbers of the examples, -1 for none. Shape `[B, K]`.

        Returns:
            The mean over rows that have an example; 0 if none has.
        """
        some = shown >= 0  # [B, K]
        if self.head is None or not bool(some.any()):
            return hidden.new_zeros(())
        wanted = self.get_buffer("reasoning")[shown.clamp(min=0)]  # [B, K, T]
        cosines = functional.cosine_similarity(self.head(hidden), wanted, dim=-1) * some  # [B, K]
        counts = some.sum(1)
        return (1 - cosines.sum(1)[counts > 0] / counts[counts > 0]).mean()
