"""Keys and values of rows of unequal length, in memory that is taken once: nothing is copied when a token comes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class RowCache(Cache):
    """A cache whose rows are prompts padded on the right; what follows a prompt takes the place of its padding.

    The first pass fills it from the first column on. Before each later pass `columns` says where the keys and values of
    its tokens go, and an attention mask over `width` columns what each token sees.

    Args:
        layers: of the model.
        room: columns that a row has.

    Attributes:
        columns: where the keys and values of the next pass go, `[B, n]`.
        width: columns that the next pass reads.
    """

    columns: Tensor
    width: int

    def __init__(self, layers: int, room: int) -> None:
        self.room = room
        self.rows = [_RowLayer(self) for _ in range(layers)]
        super().__init__(layers=[*self.rows])

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some, `[b]`."""
        for layer in self.rows:
            kept = rows.to(layer.all_keys.device)
            layer.all_keys, layer.all_values = layer.all_keys[kept], layer.all_values[kept]

    def join(self, other: RowCache) -> RowCache:
        """Take over the rows of another cache of the same room, behind its own."""
        for layer, more in zip(self.rows, other.rows, strict=True):
            layer.all_keys = torch.cat([layer.all_keys, more.all_keys])
            layer.all_values = torch.cat([layer.all_values, more.all_values])
        return self

    def mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to attention scores: a token sees its row's columns up to its own, `[B, 1, n, width]`."""
        places = torch.arange(self.width, device=self.columns.device)
        hidden = places > self.columns[:, :, None]  # [B, n, width]
        zeros = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return zeros.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


class _RowLayer(CacheLayerMixin):
    """Keys and values of one layer, `[B, heads, room, D]`."""

    all_keys: Tensor
    all_values: Tensor

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the memory; columns that no token has are zeros, which a mask can hide."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys, self.all_values = (
            states.new_zeros(*states.shape[:2], self.cache.room, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ANN401 - the library's signature
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Write the states of new tokens, `[B, heads, n, D]`; those of all columns that are read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.all_keys[:, :, : key_states.shape[2]] = key_states
            self.all_values[:, :, : value_states.shape[2]] = value_states
            return key_states, value_states
        columns = self.cache.columns.to(key_states.device)
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        self.all_keys[rows, :, columns] = key_states.transpose(1, 2)
        self.all_values[rows, :, columns] = value_states.transpose(1, 2)
        return self.all_keys[:, :, : self.cache.width], self.all_values[:, :, : self.cache.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next pass sees, and the first one's column."""
        return (self.cache.width if self.is_initialized else query_length), 0

    def get_seq_length(self) -> int:
        """Columns that are read; 0 before the first pass."""
        return self.cache.width if self.is_initialized else 0

    def get_max_length(self) -> int:
        """Columns that a row has."""
        return self.cache.room
