"""What a model keeps outside its state, as tensors and JSON values: tensors, arrays, sparse matrices, plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn


def pack(values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take values apart into tensors and what JSON can hold.

    Modules are left out: their tensors are in the state of the model that holds them.

    Args:
        values: A model's `other_parameter()`.

    Returns:
        Tensors, and a document that says what each name is. A value of another kind stands in the document as it
        is, where JSON refuses it if it can't hold it.
    """
    tensors: dict[str, Tensor] = {}
    document: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, nn.Module):
            continue
        if isinstance(value, Tensor):
            tensors[name], document[name] = value, {"kind": "tensor"}
        elif isinstance(value, np.ndarray):
            kind = "matrix" if isinstance(value, np.matrix) else "array"
            tensors[name], document[name] = torch.from_numpy(np.array(value)), {"kind": kind}
        elif sparse.issparse(value):
            rows = value.tocsr()
            parts = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
            tensors |= {f"{name}.{part}": torch.from_numpy(np.array(array)) for part, array in parts.items()}
            document[name] = {"kind": "sparse", "format": value.format, "shape": list(value.shape)}
        else:
            document[name] = {"kind": "value", "value": value}
    return tensors, document


def unpack(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what `pack` took apart."""
    return {name: _unpack(name, tensors, entry) for name, entry in document.items()}


def _unpack(name: str, tensors: Mapping[str, Tensor], entry: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any kind
    if entry["kind"] == "value":
        return entry["value"]
    if entry["kind"] == "tensor":
        return tensors[name]
    if entry["kind"] == "sparse":
        parts = tuple(tensors[f"{name}.{part}"].cpu().numpy() for part in ("data", "indices", "indptr"))
        return sparse.csr_matrix(parts, shape=tuple(entry["shape"])).asformat(entry["format"])
    array = tensors[name].cpu().numpy()
    return np.asmatrix(array) if entry["kind"] == "matrix" else array
