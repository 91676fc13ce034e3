"""Vectors stand where their positions say, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from llmbole.llm.splice import splice

ROWS, COLUMNS = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0])


def test_each_vector_changes_its_position_only() -> None:
    embeddings = torch.randn(3, 5, 4)
    before = embeddings.clone()
    vectors = torch.randn(3, 4)
    result = splice(embeddings, ROWS, COLUMNS, vectors)
    assert torch.equal(result[ROWS, COLUMNS], vectors)
    assert torch.equal(embeddings, before)
    for index in range(3):
        changed = vectors.clone()
        changed[index] += 1
        difference = (splice(embeddings, ROWS, COLUMNS, changed) != result).any(-1)
        assert difference.nonzero().tolist() == [[int(ROWS[index]), int(COLUMNS[index])]]


def test_gradients() -> None:
    embeddings = torch.randn(3, 5, 4, dtype=torch.double, requires_grad=True)
    vectors = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e, v: splice(e, ROWS, COLUMNS, v), (embeddings, vectors))
    splice(embeddings, ROWS, COLUMNS, vectors).sum().backward()
    assert torch.equal(vectors.grad, torch.ones(3, 4))  # type: ignore[arg-type]
    assert embeddings.grad is not None
    assert float(embeddings.grad.sum()) == (15 - 3) * 4


def test_frozen_embeddings_and_other_precision() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    result = splice(torch.zeros(3, 5, 4, dtype=torch.bfloat16), ROWS, COLUMNS, vectors)
    assert result.dtype == torch.bfloat16
    assert result.requires_grad


def test_no_vectors_leave_the_embeddings_alone() -> None:
    embeddings = torch.randn(3, 5, 4)
    none = torch.zeros(0, dtype=torch.long)
    assert torch.equal(splice(embeddings, none, none, torch.zeros(0, 4)), embeddings)


@pytest.mark.parametrize(
    ("count", "width", "message"),
    [(2, 4, "got 2 vectors for 3 rows"), (3, 5, "needs embeddings")],
)
def test_counts_and_sizes_must_match(count: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        splice(torch.zeros(3, 5, 4), ROWS, COLUMNS, torch.zeros(count, width))
