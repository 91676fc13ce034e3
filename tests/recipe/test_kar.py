"""Short real runs of KAR on ml-100k rows: texts of users and items, the adaptor, and no LLM online."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmbole.llm import backbone as language_models
from llmbole.llm import encode, local
from llmbole.model.baseline import kar
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.verify import verify

SHORT = {
    "backbone.epochs": 1,
    "knowledge.user": "Taste: {history}",
    "knowledge.item": "About {target}",
    "knowledge.max_new_tokens": 2,
    "knowledge.listed.history": 2,
    "knowledge.batch_size": 256,
    "text_encoder.max_tokens": 4,
    "adaptor.hidden": 8,
    "adaptor.width": 4,
}


@pytest.fixture
def short(run):
    """A short run: `short({"adaptor.shared": 1})`."""

    def go(settings=None, **more):
        return run("KAR", {**SHORT, **(settings or {})}, **{"protocol": "loo_ctr", **more})

    return go


def entries(result):
    content = (result.artifacts["knowledge"].folder / "texts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines()]


def scores(result):
    return np.load(result.artifacts["scores"].folder / "rows.npz")["scores"]


def test_a_run_ends_in_a_sealed_record(short):
    result = short()
    record = load(result.path)
    assert set(record.metrics) >= {"AUC", "LogLoss"} and set(record.backbone_metrics) == {"AUC", "LogLoss"}
    assert record.cost["knowledge"].llm_tokens > 0
    assert record.cost["online"].llm_tokens is None and record.cost["scores"].llm_tokens is None
    assert 0 < scores(result).min() and scores(result).max() < 1
    found = entries(result)
    assert sum("user" in entry for entry in found) == result.artifacts["knowledge"].summary["users"] > 0
    assert sum("item" in entry for entry in found) == result.artifacts["knowledge"].summary["items"]
    assert all(1 <= len(entry["shown"]) <= 2 for entry in found if "user" in entry)
    assert not verify(result.path.parents[2])


def test_online_no_language_model_and_no_encoder_is_touched(short, monkeypatch):
    full = short()

    def refuse(*arguments, **keywords):
        raise AssertionError("the online part generates or encodes")

    for module, name in ((language_models, "load"), (encode, "load_encoder"), (local, "greedy")):
        monkeypatch.setattr(module, name, refuse)
    small = {"backbone.embedding_size": 4, "backbone.mlp_hidden_size": [8]}
    other = short({**small, "adaptor.shared": 1}, backbone="DIN")
    assert other.record.artifacts["knowledge_vectors"] == full.record.artifacts["knowledge_vectors"]
    assert other.artifacts["online"].cost["seconds"] > 0


def test_a_text_of_the_future_stops_the_run(short, monkeypatch):
    monkeypatch.setattr(kar, "rows_told", lambda rows, shown: np.ones(len(rows), dtype=np.int64))
    with pytest.raises(ValueError, match=r"(?s)the run leaks:\ntrain: \d+ rows are shown themselves"):
        short({"adaptor.shared": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "LR"}, "LR has no place for an extra feature"),
        ({"adaptor.width": 0, "knowledge.user": "x"}, r"(?s)lacks {history}.*width = 0"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(short, settings, message):
    with pytest.raises(SettingsError, match=message):
        short(settings)
