"""Short real runs of CTRL on ml-100k rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.model import training
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.verify import verify

FEW = {"sentences.rows": 65, "align.batch_size": 32, "align.epochs": 3, "backbone.MAX_ITEM_LIST_LENGTH": 5}


@pytest.fixture
def ctrl(run):
    def short(settings=None, **more):
        return run("CTRL", {**FEW, **(settings or {})}, **{"protocol": "unified_ctr", **more})

    return short


@pytest.mark.parametrize("backbone", ["DIN", "DCNV2"])
def test_a_run_from_raw_files_to_a_sealed_record(ctrl, backbone):
    result = ctrl(backbone=backbone)
    record = load(result.path)
    assert set(record.metrics) == set(record.backbone_metrics) == {"AUC", "UAUC", "LogLoss", "ACC", "ECE"}
    assert (record.backbone, record.llm, record.text_encoder) == (backbone, None, "all-MiniLM-L6-v2")
    scores = np.load(result.artifacts["scores"].folder / "rows.npz")["scores"]
    assert len(scores) == record.extra["rows"] and scores.min() > 0 and scores.max() < 1
    assert not verify(result.path.parents[2])
    text = result.artifacts["text"]
    assert text.summary["example"].startswith("This is a user, age is ")
    vectors = training.load_tensors(text, "text")
    assert vectors["text"].shape == (65, 384) and len(vectors["rows"].unique()) == 65
    assert result.artifacts["aligned"].summary["rows"] == 64  # a last batch of one row is left out
    trained = result.artifacts["tuned"].summary["parameters"]
    assert trained == result.artifacts["backbone"].summary["parameters"]


def test_the_fine_tuning_begins_with_the_aligned_weights(ctrl):
    short, long = ctrl(), ctrl({"align.epochs": 6})
    assert short.record.artifacts["text"] == long.record.artifacts["text"]
    assert short.record.artifacts["backbone"] == long.record.artifacts["backbone"]
    aligned = [training.load_tensors(each.artifacts["aligned"], "weights") for each in (short, long)]
    tuned = training.load_tensors(short.artifacts["tuned"], "backbone")
    own = training.load_tensors(short.artifacts["backbone"], "backbone")
    name = "embedding_layer.token_embedding_table.item.embedding.weight"
    distances = [(tuned[f"model.{name}"] - each).norm() for each in (aligned[0][name], own[f"model.{name}"])]
    assert distances[0] < 0.5 * distances[1]
    assert not torch.equal(aligned[0][name], aligned[1][name])
    assert short.artifacts["aligned"].summary["loss"] > long.artifacts["aligned"].summary["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "LightGCN"}, "LightGCN has no prediction layer"),
        ({"backbone": "Pop"}, "Pop has no prediction layer"),
        ({"align.parts": 0, "sentences.rows": -1}, r"(?s)rows = -1.*parts = 0"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(run, settings, message):
    with pytest.raises(SettingsError, match=message):
        run("CTRL", settings, protocol="unified_ctr")
