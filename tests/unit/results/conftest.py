"""A complete record, and a folder that holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbole import results
from llmbole.results import Commit, Dataset, Environment, LanguageModel, ProtocolVersion, Record, Selection
from llmbole.results import StageCost as Cost

USERS = ["196", "186", "é,22"]
PER_USER = {"HIT@1": [1.0, 0.0, 0.0], "NDCG@5": [1.0, 0.6309297535714575, 0.0]}


def make(**changes: Any) -> Record:
    """A record with something in every field; `seed` also goes into the config."""
    config = changes.pop(
        "config",
        {
            "backbone": {"name": "SASRec", "hidden_size": 50},
            "align": {"learning_rate": 1e-4, "layers": [128, 64]},
            "prompt": "ends with {",
            "none": {},
            "seed": changes.get("seed", 2025),
        },
    )
    values: dict[str, Any] = {
        "method": "ALLMRec",
        "label": "",
        "backbone": "SASRec",
        "llm": LanguageModel(name="tiny", revision="3f2a91c0d4", parameters=4_123_456),
        "text_encoder": "all-MiniLM-L6-v2",
        "dataset": Dataset(
            name="ml-100k",
            fingerprint="f1" * 32,
            counts={"users": 3, "items": 1682},
            expected_counts={"users": 943},
            warnings=["940 users fewer than published"],
        ),
        "protocol": ProtocolVersion(name="loo_rank20", version=1, split="5b" * 32),
        "seed": 2025,
        "scoring": "candidate_log_likelihood",
        "metrics": {name: results.average(column) for name, column in PER_USER.items()},
        "backbone_metrics": {"HIT@1": 0.25, "NDCG@5": 0.5},
        "backbone_stage": "backbone",
        "validation_metrics": {"HIT@1": 0.30000000000000004},
        "group_metrics": {"warm": {"HIT@1": 0.5}},
        "extra": {"valid_answers": 0.96},
        "selection": Selection(kind="fixed", metric="HIT@1", value=0.35, trials=1),
        "cost": {
            "backbone": Cost(
                seconds=0.25, peak_memory_bytes=3 * 2**20, trainable_parameters=1000, cached_from=60.5
            ),
            "projection": Cost(
                seconds=100.0, peak_memory_bytes=2**30, llm_tokens=12_345, trainable_parameters=500
            ),
        },
        "artifacts": {"backbone": "a0" * 16, "projection": "b1" * 16},
        "config": config,
        "config_hash": results.content_hash(config),
        "environment": Environment(
            python="3.12.1",
            platform="Linux-6.1",
            processor="Some CPU 2.4GHz",
            cores=2,
            memory_bytes=8_000_000_000,
            gpu=None,
            versions={"torch": "2.13.0"},
        ),
        "commit": Commit(hash="0123456789abcdef0123456789abcdef01234567", dirty=False),
        "created": "2025-01-31T23:59:59Z",
        "supersedes": None,
    }
    return Record(**{**values, **changes})


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Builds a complete record; keyword arguments replace fields."""
    return make


@pytest.fixture
def append_record(tmp_path: Path) -> Callable[..., Path]:
    """Appends a record to `results` of the temporary folder; `hit`, a multiple of 1/20, is its HIT@1."""

    def add(hit: float | None = None, **changes: Any) -> Path:
        users, per_user = USERS, PER_USER
        if hit is not None:
            users = [str(number) for number in range(20)]
            per_user = {"HIT@1": [float(number < round(hit * 20)) for number in range(20)]}
        metrics = {name: results.average(column) for name, column in per_user.items()}
        record = dataclasses.replace(make(**changes), metrics=metrics)
        return results.append(record, tmp_path / "results", users=users, per_user=per_user)

    return add
