"""Short real runs of CoReLLa on ml-100k rows: its stages, its ablations, and routing without a look at the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmbole.data.pairs import PairSplit
from llmbole.llm import lora
from llmbole.model import cf
from llmbole.report import page
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.verify import verify

FEW = {"steps": 2, "check_every": 1, "rows": 64, "valid_rows": 80, "batch_size": 8}
STEPS = {f"{stage}.{name}": value for stage in ("joint", "alone") for name, value in FEW.items()}
OWN = {
    **STEPS,
    "prompt.history": 2,
    "backbone.epochs": 1,
    "routing.shares": [0.0, 0.5, 1.0],
    "routing.valid_rows": 80,
}
SMALL = {"backbone.mlp_hidden_size": [16, 8], "backbone.embedding_size": 4}
METRICS = {"AUC", "LogLoss", "ACC"}


@pytest.fixture
def corella(run):
    """A short run: `corella({"routing.share": 0.0})`."""

    def short(settings=None, **more):
        chosen = {**OWN, **SMALL, **(settings or {})}
        return run("CoReLLa", chosen, **{"protocol": "temporal_ratio", **more})

    return short


def rows(result, stage="scores"):
    return np.load(result.artifacts[stage].folder / "rows.npz")


def test_it_runs_from_raw_files_to_a_sealed_record(corella):
    result = corella()
    record = load(result.path)
    assert set(record.metrics) == set(record.backbone_metrics) == METRICS
    assert record.scoring == "routed_by_entropy"
    assert page([record]).count("<polyline") == 1  # its curve over the share routed
    extra = record.extra
    assert set(extra["crm"]) == METRICS and "curve" not in extra
    assert ("llm" in extra) == (extra["share_routed"] == 1)
    assert extra["share_routed"] == extra["rows_routed"] / extra["rows"]
    best = max(extra["valid_curve"], key=lambda point: point["AUC"])
    assert extra["share_routed"] == pytest.approx(best["share"], abs=1 / extra["rows"])
    assert [point["rows"] for point in extra["valid_curve"]] == [0, 40, 80]
    assert set(extra["valid_confidence"]) == {"crm", "llm"}
    assert sum(group["count"] for group in extra["confidence"]["crm"].values()) == extra["rows"]
    assert record.cost["joint"].llm_tokens > 0 and record.cost["alone"].llm_tokens > 0
    assert not verify(result.path.parents[2])


def test_each_stage_trains_what_the_paper_trains(corella):
    result = corella()
    updates = 4 * 2 * 8 * (128 + 256)  # layers, projections, rank
    warm, joint = (load_file(result.artifacts[stage].folder / cf.WEIGHTS) for stage in ("backbone", "joint"))
    crm = result.artifacts["backbone"].summary["parameters"]
    maps = (128 + 1) * 64 + (16 + 1) * 64 + (8 + 1) * 64
    cost = result.record.cost
    assert cost["backbone"].trainable_parameters == crm
    assert cost["joint"].trainable_parameters == crm + updates + maps
    assert cost["alone"].trainable_parameters == updates
    assert warm.keys() == joint.keys()
    assert any(not torch.equal(warm[name], joint[name]) for name in warm if "embedding" in name)
    tuned = [load_file(result.artifacts[stage].folder / lora.WEIGHTS) for stage in ("joint", "alone")]
    assert all(not torch.equal(tuned[0][name], tuned[1][name]) for name in tuned[0] if "lora_B" in name)
    assert not (result.artifacts["alone"].folder / cf.WEIGHTS).exists()


def test_without_a_share_it_is_the_crm_bit_for_bit_and_reads_no_token(corella):
    mixed = corella({"routing.share": 0.0})
    assert mixed.record.cost["scores"].llm_tokens == mixed.record.cost["routing"].llm_tokens == 0
    assert mixed.metrics == mixed.record.extra["crm"]
    alone = corella({"routing.share": 0.0, "stages.joint": False, "stages.alone": False})
    assert {"joint", "alone"}.isdisjoint(alone.artifacts)
    assert np.array_equal(rows(alone)["scores"], rows(alone, "backbone_scores")["scores"])
    assert alone.metrics == alone.record.backbone_metrics
    assert not np.array_equal(rows(alone)["scores"], rows(mixed)["scores"])


def test_with_all_rows_it_is_the_llm_whatever_the_crm(corella):
    whole = corella({"routing.share": 1.0, "routing.curve": True})
    extra = whole.record.extra
    assert extra["share_routed"] == 1.0
    assert whole.metrics == pytest.approx(extra["llm"], abs=1e-6)
    assert set(extra["confidence"]) == {"crm", "llm"}
    points = extra["curve"]
    assert points[0]["AUC"] == extra["crm"]["AUC"] and points[-1]["AUC"] == extra["llm"]["AUC"]
    plain = corella({"routing.threshold": 0.0})
    assert plain.metrics == plain.record.extra["llm"] == pytest.approx(extra["llm"], abs=1e-6)


def test_groups_by_the_crms_confidence_are_those_of_what_was_scored(corella):
    by = {share: load(corella({"routing.share": share}).path) for share in (0.0, 1.0)}
    for share, model in ((0.0, "crm"), (1.0, "llm")):
        for part, found in by[1.0].extra["confidence"][model].items():
            assert by[share].group_metrics[f"crm_{part}"] == pytest.approx(found)


def test_tokens_are_those_of_the_rows_routed(corella):
    half, whole = (corella({"routing.share": share}) for share in (0.5, 1.0))
    assert half.record.artifacts["joint"] == whole.record.artifacts["joint"]
    assert half.record.artifacts["alone"] == whole.record.artifacts["alone"]
    count = half.record.extra["rows_routed"]
    assert count == int(half.record.extra["rows"] * 0.5 + 0.5)
    tokens = [each.record.cost["scores"].llm_tokens for each in (half, whole)]
    assert tokens[0] / tokens[1] == pytest.approx(0.5, abs=0.03)
    kept = rows(half)["scores"] == rows(corella({"routing.share": 0.0}))["scores"]
    assert kept.sum() == len(kept) - count
    assert rows(half)["scores"][~kept] == pytest.approx(rows(whole)["scores"][~kept], abs=1e-6)


def test_the_share_does_not_depend_on_the_test(corella, monkeypatch, tmp_path):
    before = corella(folder=tmp_path / "sound")
    part = PairSplit.part

    def poisoned(split, name):
        found = part(split, name)
        if name == "test":
            object.__setattr__(found, "labels", 1 - np.asarray(found.labels))
        return found

    monkeypatch.setattr(PairSplit, "part", poisoned)
    after = corella(folder=tmp_path / "poisoned")
    assert after.artifacts["routing"].summary == before.artifacts["routing"].summary
    assert np.array_equal(rows(after)["scores"], rows(before)["scores"])
    assert after.metrics["AUC"] == pytest.approx(1 - before.metrics["AUC"])


@pytest.mark.parametrize(
    ("off", "made"),
    [
        ("warm_up", {"joint", "alone"}),
        ("joint", {"alone"}),
        ("alone", {"joint"}),
    ],
)
def test_every_ablation_runs(corella, off, made):
    half = {"routing.share": 0.5}  # so that both models answer
    ablated, whole = corella({f"stages.{off}": False, **half}), corella(half)
    assert made == {"joint", "alone"} & ablated.artifacts.keys()
    assert ablated.record.artifacts["backbone"] == whole.record.artifacts["backbone"]
    assert not np.array_equal(rows(ablated)["scores"], rows(whole)["scores"])


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("FiBiNET", SMALL),
        ("DIN", {"backbone.mlp_hidden_size": [16, 8]}),
        ("FM", {"joint.crm_modules": ["fm"], "joint.crm_layers": [1], "joint.llm_layers": [4]}),
    ],
)
def test_other_models_with_hidden_layers_run(run, backbone, changes):
    own = {**OWN, **changes, "stages.alone": False, "routing.share": 0.1}
    result = run("CoReLLa", own, backbone=backbone, protocol="temporal_ratio")
    assert result.record.backbone == backbone
    assert result.artifacts["joint"].summary["crm_layers"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "GRU4Rec"}, "GRU4Rec learns to rank"),
        ({"backbone": "FM"}, "backbone FM has no hidden layers that can be found"),
        ({"routing.share": 0.1, "routing.threshold": 0.5}, "set one of them to null"),
        ({"stages.warm_up": False, "stages.joint": False}, "nothing trains the CRM"),
        ({"joint.crm_layers": [1]}, "layers are aligned in pairs"),
        ({"alone.rows": 0}, "alone: rows = 0: must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(run, settings, message):
    with pytest.raises(SettingsError, match=message):
        run("CoReLLa", {**OWN, **settings})


def test_samples_larger_than_the_training_rows_are_refused(corella):
    with pytest.raises(ValueError, match="draw fewer"):
        corella({"alone.rows": 100_000})
