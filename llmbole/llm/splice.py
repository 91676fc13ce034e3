"""Vectors put where slot tokens stand."""

from __future__ import annotations

import torch
from torch import Tensor


def splice(embeddings: Tensor, rows: Tensor, columns: Tensor, vectors: Tensor) -> Tensor:
    """Return a copy of the input embeddings in which position `(rows[j], columns[j])` holds `vectors[j]`.

    Differentiable with respect to both inputs; the embeddings passed in are not changed.

    Args:
        embeddings: input embeddings of a batch, `[B, T, H]`.
        rows: batch row of each vector, `[n]`.
        columns: position of each vector in its row, `[n]`; a position may occur once.
        vectors: the vectors, `[n, H]`; converted to the data type of the embeddings.

    Returns:
        The new embeddings, `[B, T, H]`.

    Raises:
        ValueError: the number of positions and of vectors, or the hidden sizes, differ.
    """
    if embeddings.dim() != 3 or vectors.dim() != 2 or embeddings.shape[-1] != vectors.shape[-1]:
        raise ValueError(
            f"splice needs embeddings [B, T, H] and vectors [n, H]; got {list(embeddings.shape)} "
            f"and {list(vectors.shape)}."
        )
    if not rows.shape == columns.shape == vectors.shape[:1]:
        raise ValueError(
            f"splice got {vectors.shape[0]} vectors for {rows.numel()} rows and {columns.numel()} columns: "
            "each soft position takes exactly one vector."
        )
    device = embeddings.device
    positions = (rows.to(device), columns.to(device))
    return torch.index_put(embeddings, positions, vectors.to(device, embeddings.dtype))
