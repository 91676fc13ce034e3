"""The numbers of this project's path are stock RecBole's: the benchmark's comparison with tiny models."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "recbole_parity.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("recbole_parity", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (
            "LightGCN",
            {
                "epochs": 2,
                "embedding_size": 8,
                "n_layers": 1,
                "train_batch_size": 16384,
                "learning_rate": 0.02,
            },
        ),
        (
            "SASRec",
            {
                "epochs": 2,
                "MAX_ITEM_LIST_LENGTH": 4,
                "hidden_size": 8,
                "inner_size": 8,
                "n_layers": 1,
                "train_batch_size": 8192,
                "learning_rate": 0.02,
                "loss_type": "CE",
            },
        ),
    ],
)
def test_same_seed_same_numbers_as_stock_recbole(benchmark, model, settings):
    theirs, ours = benchmark.compare(model, settings, seed=7)
    assert ours == theirs
    assert theirs["test"]["hit@10"] > 0.01, "something was learned"
