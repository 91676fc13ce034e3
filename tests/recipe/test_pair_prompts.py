"""Short real runs of the methods that ask about labelled pairs: ICL, TALLRec and CoLLM on ml-100k rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole.api import plan
from llmbole.llm import backbone as language_models
from llmbole.llm.identity import LLMSpec
from llmbole.results import load, read_per_user
from llmbole.settings import SettingsError
from llmbole.verify import verify

FEW = {"steps": 2, "check_every": 1, "rows": 60, "valid_rows": 80, "batch_size": 8}
TEXT = {"prompt.history": 2, **{f"tune.{name}": value for name, value in FEW.items()}}
HYBRID = {**TEXT, **{f"hybrid.{name}": value for name, value in FEW.items()}, "backbone.epochs": 1}
METRICS = {"AUC", "UAUC", "LogLoss", "ACC", "ECE"}


@pytest.fixture
def ask(run, monkeypatch):
    """A short run of a method under labelled pairs: `ask("CoLLM", {"hybrid.tuning": "T1"})`."""

    def short(model, settings=None, **more):
        own = {"ICL": {"prompt.history": 2}, "TALLRec": TEXT, "CoLLM": HYBRID}[model]
        return run(model, {**own, **(settings or {})}, **{"protocol": "unified_ctr", **more})

    return short


def rows(result, stage="scores"):
    return np.load(result.artifacts[stage].folder / "rows.npz")


@pytest.mark.parametrize("model", ["ICL", "TALLRec", "CoLLM"])
def test_a_method_runs_from_raw_files_to_a_sealed_record(ask, model):
    result = ask(model)
    record = load(result.path)
    assert set(record.metrics) == METRICS
    assert record.metrics["LogLoss"] < 5
    found = rows(result)
    assert len(found["scores"]) == record.extra["rows"]
    assert found["scores"].min() > 0 and found["scores"].max() < 1
    groups = record.group_metrics
    assert groups["warm"]["count"] + groups["cold"]["count"] == record.extra["rows"]
    users, values = read_per_user(result.path.with_name(record.per_user.file))
    assert len(users) == record.extra["users"]
    assert {"UAUC", "user_LogLoss", "user_rows"} <= set(values)
    assert record.llm.name == "tiny" and record.llm.parameters == 1_581_696
    assert record.cost["scores"].llm_tokens > 0
    assert record.scoring == "answer_probability"
    assert not verify(result.path.parents[2])
    if model == "TALLRec":
        assert record.cost["lora"].trainable_parameters == 4 * 2 * 8 * (
            128 + 256
        )  # layers, projections, rank
        assert record.cost["lora"].llm_tokens > 0
    if model == "CoLLM":
        assert set(record.backbone_metrics) == METRICS
        assert record.cost["mapping"].llm_tokens > 0


@pytest.mark.parametrize("protocol", ["temporal_collm", "temporal_ratio", "loo_ctr"])
def test_other_protocols_of_pairs_run(ask, protocol):
    assert 0 <= ask("TALLRec", protocol=protocol).metrics["AUC"] <= 1


def test_the_gain_over_the_backbone_stands_in_the_record(ask):
    record = ask("CoLLM", protocol="loo_ctr").record
    auc, base = record.metrics["AUC"], record.backbone_metrics["AUC"]
    assert ("RelaImpr" in record.metrics) == (base > 0.5)
    if base > 0.5:
        assert record.metrics["RelaImpr"] == pytest.approx(((auc - 0.5) / (base - 0.5) - 1) * 100)
    assert "RelaImpr" not in ask("TALLRec", protocol="loo_ctr").metrics  # it has no backbone


def test_collm_and_tallrec_share_one_tuning(ask, raw_slice, shared):
    text, both = ask("TALLRec"), ask("CoLLM")
    assert text.record.artifacts["lora"] == both.record.artifacts["lora"]
    folders = {"raw": str(raw_slice), "store": str(shared / "store")}
    steps = plan("CoLLM", "ml-slice", settings={**HYBRID, **folders}, protocol="unified_ctr")
    tallrec = plan("TALLRec", "ml-slice", settings={**TEXT, **folders}, protocol="unified_ctr")
    keys = [{step.stage.makes: step.key for step in each} for each in (steps, tallrec)]
    assert keys[0]["lora"] == keys[1]["lora"]
    assert all(step.cached for step in (*steps, *tallrec))


def test_without_soft_tokens_collm_is_tallrec(ask):
    plain, ablated = ask("TALLRec"), ask("CoLLM", {"hybrid.encoding": "none"})
    assert ablated.metrics == plain.metrics
    assert np.array_equal(rows(ablated)["scores"], rows(plain)["scores"])


@pytest.mark.parametrize("tuning", ["T1", "T2", "T3"])
def test_every_tuning_trains_its_parts_and_no_others(ask, tuning):
    from llmbole.model import training

    result = ask("CoLLM", {"hybrid.tuning": tuning})
    learned = set(training.load_tensors(result.artifacts["mapping"], training.WEIGHTS))
    parts = {name.split(".")[1] if name.startswith("encoder") else name.split(".")[0] for name in learned}
    assert parts == {"mapping", "adapter" if tuning == "T3" else "backbone"}
    default = ask("CoLLM")
    assert set(training.load_tensors(default.artifacts["mapping"], training.WEIGHTS)) == {
        f"encoder.mapping.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    assert not np.array_equal(rows(result)["scores"], rows(default)["scores"])


def test_a_backbone_from_scratch_is_not_the_trained_one(ask):
    from llmbole.model import training

    states = {
        tuning: training.load_tensors(ask("CoLLM", {"hybrid.tuning": tuning}).artifacts["mapping"], "weights")
        for tuning in ("T1", "T2")
    }
    name = next(name for name in states["T1"] if "backbone" in name and "embedding" in name)
    assert not torch.allclose(states["T1"][name], states["T2"][name], atol=0.05)


def test_tokens_of_the_llms_own_are_one_per_user_and_item(ask):
    result = ask("CoLLM", {"hybrid.encoding": "ui_token"})
    data = result.record.dataset.counts
    trained = result.record.cost["mapping"].trainable_parameters
    assert trained == (data["users"] + data["items"] + 2) * 128


def test_several_soft_tokens_run(ask):
    result = ask("CoLLM", {"hybrid.tokens": 2, "hybrid.factor": 3})
    assert result.metrics != ask("CoLLM").metrics


def test_an_ensemble_is_the_mean_with_its_backbone(ask):
    alone, both = ask("CoLLM"), ask("CoLLM", {"ensemble": True})
    mean = (rows(alone)["scores"] + rows(alone, "backbone_scores")["scores"]) / 2
    assert rows(both)["scores"] == pytest.approx(mean, abs=1e-12)
    assert both.record.scoring == "mean_with_backbone"
    assert both.record.artifacts["mapping"] == alone.record.artifacts["mapping"]


@pytest.mark.parametrize("backbone", ["LightGCN", "SASRec", "DIN", "NeuMF"])
def test_every_backbone_gives_its_vectors(ask, backbone):
    result = ask("CoLLM", {"hybrid.tuning": "T1"}, backbone=backbone)
    assert result.record.backbone == backbone
    assert set(result.record.backbone_metrics) == METRICS


def test_tuning_leaves_the_language_model_as_it_was(ask):
    before = language_models.load(LLMSpec("tiny")).checksum()
    ask("CoLLM", {"seed": 5})
    assert language_models.load(LLMSpec("tiny")).checksum() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hybrid.encoding": "ui_token", "hybrid.tuning": "T1"}, "ui_token does not read"),
        ({"hybrid.factor": 0, "tune.steps": 0}, r"(?s)tune: steps = 0.*hybrid: factor = 0"),
        ({"backbone": "Pop"}, "Pop has no user and item vectors"),
        ({"backbone": "GRU4Rec"}, "GRU4Rec learns to rank"),
        ({"answer.score": "sum"}, "none of 'difference', 'yes'"),
        ({"lora.targets": None, "lora.r": 0}, "lora: r = 0"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(ask, settings, message):
    with pytest.raises(SettingsError, match=message):
        ask("CoLLM", settings)
